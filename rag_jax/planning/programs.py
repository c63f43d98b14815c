"""What is compiled: the programs that training, answering and building run, with the shapes they are given."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from ml_collections import ConfigDict

from rag_jax.api import decode_config, read_batch
from rag_jax.config import STAGES, closed_book
from rag_jax.core.bucket import bucket
from rag_jax.core.sources import Frame
from rag_jax.data import tasks
from rag_jax.data.labels import START
from rag_jax.decode import generate, rescoring
from rag_jax.index import exact
from rag_jax.index.on_devices import Rows, Texts
from rag_jax.index.searchers import has_vectors
from rag_jax.models import rag
from rag_jax.parallel import Across
from rag_jax.planning import layout
from rag_jax.planning.model import Described
from rag_jax.training import on_devices, retriever
from rag_jax.training.loop import trained
from rag_jax.training.on_devices import Asked, Search
from rag_jax.training.optim import optimizer
from rag_jax.training.step import Batch, Objective, TrainState, train_step

Shape = jax.ShapeDtypeStruct
TOKENS = 1.5  # of BART, of a word of a passage, with its share of the title
TRAINING, ANSWERING, BUILDING, RETRIEVER = "training", "answering", "building the index", "training the retriever"
BY_ITSELF = frozenset({ANSWERING, BUILDING})  # how a host does these, see api.Rag.load and training.indexing.build
WHOLE, SPLIT, OWN = "whole", "split", "own"  # over the devices; or a device's own, as it is


class Held(NamedTuple):
    """A tree of shapes that lies on the devices as long as a phase lasts. how: WHOLE, SPLIT or OWN."""

    how: str
    tree: Any


class Program(NamedTuple):
    """A program and where it runs.

    rows: the questions or passages of one call, over all devices. held: by name. rewrites: whether it replaces what
    is held WHOLE. lower: for the devices of `parallel`. trace: its equations on one device of so many. loops: how often
    its while loops run at most, as cost.count asks for.
    """

    name: str
    phases: tuple[str, ...]
    rows: int
    held: dict[str, Held]
    lower: Callable[[Any], jax.stages.Lowered]
    trace: Callable[[int], core.ClosedJaxpr]
    rewrites: bool = False
    loops: tuple[int, ...] = ()

    @property
    def by_itself(self) -> bool:
        """Whether every host runs it alone, with all parameters on each device, whatever config.parallel says."""
        return not BY_ITSELF.isdisjoint(self.phases)


def programs(described: Described, passages: int, devices: int, on_host: int) -> list[Program]:
    """All programs of a configuration for so many passages and devices, of which on_host are one process's."""
    config = described.config
    hosts, stages = devices // on_host, [name for name in STAGES if config[name].steps]
    found = [step(described, name, passages, devices) for name in stages]
    by_vector = not closed_book(config) and has_vectors(config.index.kind)
    batches = sorted({config[name].batch for name in stages if name != "denoise"})
    if by_vector:
        encoded = sorted({config[name].batch for name in stages if encodes_apart(config, name)})
        found += [encode_questions(described, batch, (TRAINING,)) for batch in encoded]
    asked = rows(config.evaluate.batch, on_host) * hosts  # of so many a host, which in training are the same ones
    together = [(TRAINING, ANSWERING)] if config.parallel == "pmap" else [(TRAINING,), (ANSWERING,)]
    found += [answer(described, asked, devices, phases) for phases in together]
    if by_vector:
        found.append(encode_questions(described, asked, (ANSWERING,)))
        found.append(encode_passages(described, config.index.batch * hosts))
    if config.index.kind == "exact":
        found += searches(described, passages, batches, hosts, on_host)
    if trains_retriever(config):
        found.append(retriever_step(described))
    return found


def searches(described: Described, passages: int, batches: list[int], hosts: int, on_host: int) -> list[Program]:
    """Exact search apart from a step, which in training asks for `batches` of questions over all hosts."""
    config = described.config
    parts, asked = layout.parts(config, hosts), config.evaluate.batch
    answering = search(described, passages, asked, on_host, (ANSWERING,))._replace(rows=asked * hosts)
    if layout.inside(config):
        return [answering]
    most = max([asked, *(batch // hosts for batch in batches)])
    # A part is asked the questions of all hosts, all passages those of one.
    training = search(described, layout.share(passages, parts), most * parts, on_host, (TRAINING,))
    training = training._replace(rows=most * hosts)
    return [training, answering] if parts > 1 else [training._replace(phases=(TRAINING, ANSWERING))]


def encodes_apart(config: ConfigDict, name: str) -> bool:
    """Whether a stage's questions are encoded by a program of their own, and not inside its step or not at all."""
    return name != "denoise" and not on_devices.possible(config, config[name])


def trains_retriever(config: ConfigDict) -> bool:
    """Whether train_retriever is a command of this configuration: no encoder is given."""
    given = config.init_from or config.parts.question_encoder
    return not given and not closed_book(config) and has_vectors(config.index.kind)


def rows(count: int, devices: int) -> int:
    """The rows that so many questions are padded to, see api.Rag."""
    return -(-bucket(count) // devices) * devices


def fellow(devices: int) -> Across:
    """What one of so many devices knows of its fellows, for its equations alone: that all are like itself."""
    return Across(
        sum=lambda tree: tree,
        gather=lambda tree: jnp.concatenate([tree] * devices),
        index=lambda: 0,
        each=lambda function, *arrays: function(fellow(devices), *arrays),
    )


def step(described: Described, name: str, passages: int, devices: int) -> Program:
    """The training step of a stage, see training.loop.train_stage."""
    config, model, _ = described
    stage = config[name]
    if on_devices.possible(config, stage):
        return searching_step(described, name, passages, devices)
    tx = optimizer(stage, trained(config, name))
    objective = Objective(stage.train_question_encoder, stage.label_smoothing, stage.accumulation, config.seed)
    function = partial(train_step, config=model, optimizer=tx, objective=objective)
    batch = holed(config, stage.batch) if name == "denoise" else asked(described, stage.batch, stage.k)
    return _step(f"{name} step", TRAINING, function, params(model), tx, batch, stage.batch)


def searching_step(described: Described, name: str, passages: int, devices: int) -> Program:
    """The training step of a stage that searches for itself, see training.on_devices."""
    config, model, _ = described
    stage, length, generator = config[name], config.length, model.generator
    tx, scalar = optimizer(stage, trained(config, name)), Shape((), jnp.int32)
    held = exact.padded(layout.share(passages, devices))
    per_passage, tokens = Shape((held,), jnp.int32), min(round(TOKENS * config.data.words), length.source)
    narrow = jnp.uint16 if generator.vocab_size <= 1 << 16 else jnp.int32
    vector_NE = Shape((held, model.encoder.embedding_width), jnp.dtype(config.index.dtype))
    own = Rows(scalar, scalar, vector_NE), Texts(Shape((held * tokens,), narrow), *[per_passage] * 3)
    frame = Frame(generator.bos_id, generator.eos_id, generator.pad_id, (0,), (0,))  # of separators of one token
    settings = {
        "config": model, "optimizer": tx,
        "objective": Objective(True, stage.label_smoothing, stage.accumulation, config.seed),
        "search": Search(stage.k, config.index.recall_target, length.source, frame, True),
    }  # fmt: skip
    whole, B = asked(described, stage.batch, stage.k), stage.batch
    assert whole.question_BQ is not None  # exact search is by vector
    batch = Asked(
        whole.question_BQ, Shape((B, length.source), jnp.int32), Shape((B,), jnp.int32),
        whole.token_BT, whole.target_BT, whole.weight_B, whole.label_B,
    )  # fmt: skip
    shapes = params(model)
    state = TrainState(Shape((), jnp.int32), shapes, jax.eval_shape(tx.init, shapes))

    def lower(parallel: Any) -> jax.stages.Lowered:
        given = parallel.abstract_batch(batch), *parallel.abstract_parts(own)
        return parallel.step(on_devices.search_step, **settings).lower(parallel.abstract_state(state), given)

    def trace(devices: int) -> core.ClosedJaxpr:
        share = jax.tree.map(lambda leaf: Shape((leaf.shape[0] // devices, *leaf.shape[1:]), leaf.dtype), batch)
        function = partial(on_devices.search_step, across=fellow(devices), **settings)
        return jax.make_jaxpr(function)(state, (share, *own))

    lies = {"parameters": Held(WHOLE, shapes), "optimizer state": Held(WHOLE, state.opt_state)}
    lies |= {"batches": Held(SPLIT, (batch, batch)), "index": Held(OWN, own[0]), "passages": Held(OWN, own[1])}
    return Program(f"{name} step", (TRAINING,), B, lies, lower, trace, rewrites=True)


def retriever_step(described: Described) -> Program:
    """A step of train_retriever."""
    config, model, _ = described
    settings, length = config.retriever, config.length
    shapes = retriever_params(model, settings.shared)
    tx, B, N = optimizer(settings, tuple(shapes)), settings.batch, 1 + settings.hard_negatives
    function = partial(
        retriever.retriever_step,
        config=model.encoder, optimizer=tx, scale=model.score_scale, seed=config.seed,
    )  # fmt: skip
    batch = retriever.PairBatch(
        Shape((B, length.question), jnp.int32), Shape((B, N, length.passage), jnp.int32), Shape((B, B * N), bool)
    )
    return _step("retriever step", RETRIEVER, function, shapes, tx, batch, B)


def _step(name: str, phase: str, function: Callable, shapes: Any, tx: Any, batch: Any, count: int) -> Program:
    state = TrainState(Shape((), jnp.int32), shapes, jax.eval_shape(tx.init, shapes))

    def lower(parallel: Any) -> jax.stages.Lowered:
        return parallel.step(function).lower(parallel.abstract_state(state), parallel.abstract_batch(batch))

    held = {"parameters": Held(WHOLE, shapes), "optimizer state": Held(WHOLE, state.opt_state)}
    held["batches"] = Held(SPLIT, (batch, batch))  # the next one is put there while a step runs
    trace = _trace(lambda across: partial(function, across=across), state, batch)
    return Program(name, (phase,), count, held, lower, trace, rewrites=True)


def encode_questions(described: Described, count: int, phases: tuple[str, ...]) -> Program:
    """The question encoder."""
    batch = Shape((count, described.config.length.question), jnp.int32)
    function = partial(rag.encode_questions, described.model)
    return _batch("encode questions", phases, function, params(described.model), batch, count)


def encode_passages(described: Described, count: int) -> Program:
    """The passage encoder at its greatest width."""
    config, model, _ = described
    shapes, batch = params(model)["question_encoder"], Shape((count, config.length.passage), jnp.int32)
    function = partial(retriever.encode_passages, model.encoder)
    program = _batch("encode passages", (BUILDING,), function, shapes, batch, count)
    both = Held(WHOLE, retriever_params(model, config.retriever.shared))
    return program._replace(held=program.held | {"parameters": both})


def answer(described: Described, count: int, devices: int, phases: tuple[str, ...]) -> Program:
    """Reading and decoding, see api.Rag: of `count` questions and retrieval.k passages, in the longest case."""
    config, model, _ = described
    decode, labels = decode_config(config), tasks.labels(config.data)
    K, S = documents(config, config.retrieval.k), config.length.source
    batch: tuple[Shape, ...] = Shape((count, K, S), jnp.int32), Shape((count, K), jnp.float32)
    last = (config.length.target if model.classes else START,) if labels else ()
    batch = *batch, Shape((count, *last), jnp.int32)
    function = partial(read_batch, model, decode, bool(labels))
    program = _batch("answer", phases, function, params(model), batch, count)
    return program._replace(loops=() if labels else _loops(model, decode, count // devices, K))


def _loops(model: rag.RagConfig, decode: generate.DecodeConfig, questions: int, K: int) -> tuple[int, ...]:
    """How often decoding's loops run at most: for every token, and over the candidates that documents judge."""
    most = (K if decode.compat else K - 1) * decode.beams
    if decode.kind == "token" or decode.mode == "fast" or not most:
        return (decode.max_length,)
    at_once = rescoring.together(questions * K, generate.room(model.generator, decode.max_length), most)
    return decode.max_length, -(-most // at_once)


def search(described: Described, passages: int, asked: int, on_host: int, phases: tuple[str, ...]) -> Program:
    """Exact search in one device's share of a process's passages."""
    config, model, _ = described
    E, k = model.encoder.embedding_width, max(config.retrieval.k, *(config[name].k for name in STAGES))
    share = layout.of_device(passages, on_host)
    held = exact.padded(share)
    shard_NE, scalar = Shape((held, E), jnp.dtype(config.index.dtype)), Shape((), jnp.int32)
    arguments = Shape((bucket(asked), E), jnp.float32), shard_NE, scalar, scalar
    settings = {"k": k, "block": exact.BLOCK, "recall": config.index.recall_target, "of": held * -(-passages // share)}

    def lower(parallel: Any) -> jax.stages.Lowered:
        alone = jax.sharding.SingleDeviceSharding(parallel.devices[0])
        placed = [Shape(leaf.shape, leaf.dtype, sharding=alone) for leaf in arguments]
        return exact.search_shard.lower(*placed, **settings)

    return Program(
        "search", phases, asked, {"index": Held(OWN, shard_NE)}, lower,
        lambda devices: jax.make_jaxpr(partial(exact.search_shard, **settings))(*arguments),
    )  # fmt: skip


def _batch(name: str, phases: tuple[str, ...], function: Callable, shapes: Any, batch: Any, count: int) -> Program:
    def lower(parallel: Any) -> jax.stages.Lowered:
        return parallel.batch(function).lower(parallel.abstract_state(shapes), parallel.abstract_batch(batch))

    held = {"parameters": Held(WHOLE, shapes), "batches": Held(SPLIT, (batch, batch))}
    return Program(name, phases, count, held, lower, _trace(lambda across: function, shapes, batch))


def _trace(function: Callable[[Across], Callable], state: Any, batch: Any) -> Callable[[int], core.ClosedJaxpr]:
    def trace(devices: int) -> core.ClosedJaxpr:
        share = jax.tree.map(lambda leaf: Shape((leaf.shape[0] // devices, *leaf.shape[1:]), leaf.dtype), batch)
        return jax.make_jaxpr(function(fellow(devices)))(state, share)

    return trace


@cache
def params(model: rag.RagConfig) -> dict[str, Any]:
    """The parameters' shapes."""
    return jax.eval_shape(partial(rag.init_params, model), jax.random.key(0))


@cache
def retriever_params(model: rag.RagConfig, shared: bool) -> dict[str, Any]:
    """Those of the bi-encoder."""
    return jax.eval_shape(partial(retriever.init_params, model, shared=shared), jax.random.key(0))


def documents(config: ConfigDict, k: int) -> int:
    """How many sources the generator reads for a question: the null document, or a closed book's question, is one."""
    return 1 if closed_book(config) else k + (config.retrieval.null_document != "none")


def asked(described: Described, B: int, k: int) -> Batch[Shape]:
    """The shapes of training.sources.QuestionSource.batch."""
    config, model, _ = described
    length, by_vector = config.length, not closed_book(config) and has_vectors(config.index.kind)
    k = 1 if closed_book(config) else k
    token_BT = Shape((B, length.target), jnp.int32)
    return Batch(
        question_BQ=Shape((B, length.question), jnp.int32) if by_vector else None,
        document_BKE=Shape((B, k, model.encoder.embedding_width), jnp.float32) if by_vector else None,
        mask_BK=Shape((B, k), bool),
        source_BKS=Shape((B, documents(config, k), length.source), jnp.int32),
        token_BT=token_BT,
        target_BT=None if model.classes else token_BT,
        weight_B=Shape((B,), jnp.float32),
        score_BK=None if by_vector else Shape((B, k), jnp.float32),
        label_B=Shape((B,), jnp.int32) if model.classes else None,
    )


def holed(config: ConfigDict, B: int) -> Batch[Shape]:
    """The shapes of training.sources.PassageSource.batch."""
    whole_BS, score_BK = Shape((B, config.length.source), jnp.int32), Shape((B, 1), jnp.float32)
    source_BKS = Shape((B, 1, config.length.source), jnp.int32)
    return Batch(None, None, Shape((B, 1), bool), source_BKS, whole_BS, whole_BS, Shape((B,), jnp.float32), score_BK)
