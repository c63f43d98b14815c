"""A plan in words and tables, for people."""

from collections import Counter
from collections.abc import Iterator

from ml_collections import ConfigDict

from rag_jax.config import STAGES
from rag_jax.planning import chips, fit, host, memory
from rag_jax.planning.advice import Adviser
from rag_jax.planning.chips import GIB
from rag_jax.planning.memory import Measured, Phase
from rag_jax.planning.planner import Plan, of_host
from rag_jax.planning.programs import BUILDING, RETRIEVER, TRAINING, encodes_apart, trains_retriever
from rag_jax.workdir import Workdir

REACHED = 0.4  # of the bound, for a second figure: what well-kept training programs reach
# Of nq's temporaries, with jax 0.10.2 and libtpu 0.0.42.1; a TPU pads a head's 64 channels to 128.
ESTIMATED = (
    "on v5e:2x4 the compiler needed 1.27 of the estimate for nq's step (1.35 without remat), 1.6 to 2.0 for its answers"
)


def report(plan: Plan, run: Workdir | None) -> Iterator[str]:
    """The lines of a plan."""
    yield ""
    yield from _head(plan)
    yield ""
    yield from _programs(plan)
    for phase in plan.phases:
        yield ""
        yield from _phase(plan, phase, run)
    if plan.tried:
        yield ""
        yield from _fit(plan)
    yield ""
    yield from _time(plan)
    yield ""
    yield from _host(plan)


def _head(plan: Plan) -> Iterator[str]:
    topology, chip, config = plan.place.topology, plan.place.topology.chip, plan.described.config
    peaks = ""
    if chip.half:
        peaks = f" of {chip.half / 1e12:,.0f} TFLOP/s in bf16 and {chip.bandwidth / 1e9:,.0f} GB/s"
    usable = f"{plan.place.limit / GIB:,.2f} GiB" + (" for programs" if plan.place.compiles else "")
    mode = "sharded" if plan.place.split else "pmap"
    yield f"{topology.name}: {topology.devices} {topology.device}s{peaks}, each with {usable}; {mode}"
    if not plan.place.compiles:
        yield f"ESTIMATES: there is no compiler for {topology.name} here; {ESTIMATED}"
    yield f"{config.kind} model, {config.index.kind} index; {plan.corpus.passages:,} passages ({plan.corpus.said_by})"
    for assumption in plan.described.assumed:
        yield f"assumed: {assumption}"


def _programs(plan: Plan) -> Iterator[str]:
    device, times = plan.place.topology.device, Counter(one.program.name for one in plan.measured)
    yield f"on one {device:<24}at a time  temporaries  (estimate)    TFLOP  compiler's    bound  a second  compiled"
    for one in plan.measured:
        seconds, program = memory.bound(one, plan.place), one.program
        name = program.name if times[program.name] == 1 else f"{program.name} ({program.phases[0]})"
        cells = (
            f"  {name:<29}{program.rows:>9,}",
            f"{one.temporaries / GIB:>9.2f} GiB",
            f"{one.estimate / GIB:>8.2f}   ",
            f"{one.work.total / 1e12:>7.3g}",
            f"{one.flops / 1e12:>10.3g}" if one.flops else f"{'':>10}",
            f"{1000 * seconds:>7.1f} ms" if seconds else f"{'':>10}",
            f"{_per_second(plan, one):>9,.0f}" if seconds else f"{'':>9}",
            f"{one.seconds:>6.0f} s" if one.fits else "   does not fit",
        )
        yield " ".join(cells if plan.place.compiles else cells[:-1]).rstrip()
    yield "  TFLOP: of all products, a layer as often as it runs; the compiler's count has a scanned layer once."
    yield "  bound: these at the chip's peak (slower for fp32 at HIGHEST), or their arrays once through its memory;"
    yield "  what devices exchange is not in it. a second: questions or passages, of all devices together."


def _phase(plan: Plan, phase: Phase, run: Workdir | None) -> Iterator[str]:
    limit, device = plan.place.limit, plan.place.topology.device
    fits = phase.total <= limit
    verdict = "fits" if fits else f"DOES NOT FIT, {(phase.total - limit) / GIB:,.2f} GiB too much"
    yield f"{phase.name}: {phase.total / GIB:,.2f} of {limit / GIB:,.2f} GiB a {device}: {verdict}"
    for name, size in phase.resident.items():
        yield f"  {name:<22}{size / GIB:>8.2f}"
    yield f"  {'temporaries':<22}{phase.temporaries / GIB:>8.2f}  the most that one program needs: {phase.largest}"
    if not fits:
        adviser = Adviser(phase, plan.measured, plan.described, plan.place, plan.corpus.passages, run)
        for advice in adviser.advise():
            then = "fits" if advice.total <= limit else "does not fit by itself"
            yield f"  {advice.change}: about {advice.total / GIB:,.2f} GiB, {then}"


def _fit(plan: Plan) -> Iterator[str]:
    config, devices, limit = plan.described.config, plan.place.topology.devices, plan.place.limit
    stage = [name for name in STAGES if config[name].steps][-1]
    for batch, total in plan.tried.items():
        verdict, a_device = "fits" if total <= limit else "does not fit", f"{batch} a {plan.place.topology.device}"
        yield f"{stage}.batch {batch * devices:,}, {a_device}: {total / GIB:,.2f} GiB, {verdict}"
    best = fit.largest(plan.tried, limit)
    found = f"--config.{stage}.batch={best * devices}" if best else "none; see above for what helps"
    by = "of those tried" if plan.place.compiles else "by this estimate"
    yield f"the largest batch that fits, {by}: {found}"


def _time(plan: Plan) -> Iterator[str]:
    topology, chip = plan.place.topology, plan.place.topology.chip
    if not chip.half:
        yield "time: the peak of this machine is not known"
        return
    parts = dict(_seconds(plan))
    for name, seconds in parts.items():
        yield f"{name:<60}{seconds / 3600:>10,.2f} hours"
    hours = sum(parts.values()) / 3600
    dollars = hours * topology.chips * chip.dollars
    yield f"{'the whole run at that bound, which nothing reaches':<60}{hours:>10,.2f} hours{_price(dollars)}"
    slower = f"at {REACHED:.0%} of it"
    yield f"{slower:<60}{hours / REACHED:>10,.2f} hours{_price(dollars / REACHED)}"
    if chip.dollars:
        each = f"${chip.dollars:.2f} an hour on demand, {chip.region} ({chips.PRICES_OF})"
        yield f"  {topology.chips} chips, each {each}; disk and network are not in it"


def _price(dollars: float) -> str:
    return f"  ${dollars:,.2f}" if dollars else "  no price is known"


def _seconds(plan: Plan) -> Iterator[tuple[str, float]]:
    """What the run spends its time with: the name, and seconds at the bound."""
    config = plan.described.config
    by_name = {(one.program.name, phase): one for one in plan.measured for phase in one.program.phases}

    def seconds(name: str, phase: str) -> float:
        one = by_name.get((name, phase))
        return memory.bound(one, plan.place) if one else 0.0

    if trains_retriever(config):
        steps = config.retriever.steps
        yield f"train_retriever: {steps:,} steps", steps * seconds("retriever step", RETRIEVER)
    if (encode := by_name.get(("encode passages", BUILDING))) is not None:
        count = plan.corpus.passages
        yield f"build_index: {count:,} passages of {config.length.passage} tokens", count / _per_second(plan, encode)
    for name in STAGES:
        if steps := config[name].steps:
            apart = ("encode questions", "search") if encodes_apart(config, name) else ()
            each = sum(seconds(program, TRAINING) for program in (f"{name} step", *apart))
            yield f"train: {name}, {steps:,} steps", steps * each
    times = sum(config[name].steps for name in STAGES if name != "denoise") // config.evaluate.every
    batches = -(-config.evaluate.questions // config.evaluate.batch)
    answered = f"train: {times} times {config.evaluate.questions} questions answered, at the longest"
    yield answered, times * batches * seconds("answer", TRAINING)


def _per_second(plan: Plan, one: Measured) -> float:
    return one.program.rows / memory.bound(one, plan.place)


def _host(plan: Plan) -> Iterator[str]:
    topology, needed = plan.place.topology, plan.host
    there = topology.chip.host_memory
    memory_there = f" of {there / 1e9:,.0f} GB" if there else ""
    lines = {
        "memory, building the index": (needed.building, memory_there, there),
        "memory, training": (needed.training, memory_there, there),
        "memory, answering": (needed.answering, memory_there, there),
        "disk": (needed.disk, f"; a TPU VM boots with {host.BOOT_DISK / 1e9:.0f} GB", host.BOOT_DISK),
    }
    yield _which_host(topology)
    shares: dict[str, float] = {}
    for name, (held, beside, limit) in lines.items():
        if not held:
            continue
        total = sum(held.values())
        if name == "disk" and topology.kind != "tpu":
            beside, limit = "", 0.0
        each = ", ".join(f"{what} {size / 1e9:,.1f}" for what, size in held.items())
        over = " TOO MUCH" if limit and total > limit else ""
        yield f"  {name + ':':<28}{total / 1e9:>8,.1f} GB{beside}{over}: {each}"
        if over and held is needed.training:
            yield from _split(plan, total)
        shares |= {name: total / limit} if limit else {}
    for phase in plan.phases:
        shares[f"a {topology.device}'s memory, {phase.name}"] = phase.total / plan.place.limit
    first = max(shares, key=shares.__getitem__)
    yield f"what binds first: {first}, {shares[first]:.0%} of what is there"


def _which_host(topology: chips.Topology) -> str:
    if topology.hosts > 1:
        return f"each of {topology.hosts} hosts, of {topology.on_host} {topology.device}s"
    if topology.chips < topology.chip.on_host:
        return f"the host, the whole of one with {topology.chip.on_host} {topology.device}s"
    return "the host"


def _split(plan: Plan, total: float) -> Iterator[str]:
    """What training needs of each host if it splits the passages over them, where that is less."""
    config = ConfigDict(plan.described.config).copy_and_resolve_references().unlock()
    if config.index.kind not in ("scann", "exact") or plan.place.topology.hosts == 1:
        return
    config.index.split = True
    needed = of_host(plan.described._replace(config=config), plan.corpus, plan.measured, plan.place)
    if (then := sum(needed.training.values())) < total:
        verdict = "fits" if then <= plan.place.topology.chip.host_memory else "does not fit by itself"
        yield f"    --config.index.split=True: about {then / 1e9:,.1f} GB, {verdict}"
