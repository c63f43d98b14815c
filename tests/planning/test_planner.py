"""A whole plan, on paper, in words, and with advice."""

import re

import pytest

from rag_jax.errors import UserError
from rag_jax.planning.advice import Adviser
from rag_jax.planning.chips import topology
from rag_jax.planning.host import Corpus
from rag_jax.planning.memory import bound
from rag_jax.planning.planner import of_host, plan
from rag_jax.planning.programs import ANSWERING, BUILDING, TRAINING
from rag_jax.planning.report import report

GPUS, TWO_HOSTS = topology("gpu:h100x8"), topology("gpu:h100x16")


def planned(config, machine=GPUS, fits=False):
    return plan(config, machine, None, 100_000, fits=fits, log=print)


def training(found):
    return named(found)[TRAINING]


def named(found):
    return {phase.name: phase for phase in found.phases}


def advised(found, limit, name=TRAINING):
    place = found.place._replace(limit=limit)
    return Adviser(named(found)[name], found.measured, found.described, place, 100_000, None).advise()


def with_memory(size):
    """The GPUs, had they so many bytes."""
    return GPUS._replace(chip=GPUS.chip._replace(memory=size))


@pytest.fixture(scope="module")
def found(small):
    return planned(small(index={"kind": "exact"}))


def test_a_plan_in_words(found):
    text = "\n".join(report(found, None))
    assert "gpu:h100x8: 8 GPUs of 989 TFLOP/s in bf16 and 3,350 GB/s, each with 74.51 GiB; pmap" in text
    assert "ESTIMATES: there is no compiler for gpu:h100x8 here" in text
    assert "100,000 passages (--passages)" in text
    assert "assumed: config.parts.question_encoder = some/encoder is not here" in text
    for name in ("training", "answering", "building the index"):
        assert re.search(rf"^{name}: \d+\.\d\d of 74\.51 GiB a GPU: fits$", text, re.M)
    assert re.search(r"^train: joint, [\d,]+ steps +\d+\.\d\d hours$", text, re.M)
    assert "8 chips, each $3.99 an hour on demand, Lambda (SkyPilot's catalog, read on 27 November 2026)" in text
    assert re.search(r"^what binds first: .*\d+% of what is there$", text, re.M)


def test_a_phase_holds_the_state_the_index_and_one_programs_temporaries(found):
    phase = training(found)
    assert phase.total == sum(phase.resident.values()) + phase.temporaries
    state = phase.resident["optimizer state"] / phase.resident["parameters"]
    assert state == pytest.approx(2, rel=0.01)  # AdamW
    assert phase.resident["index"] == pytest.approx(100_000 / 8 * 32 * 4, rel=0.4)  # shares are padded


def test_hosts_answer_and_build_with_all_parameters_on_each_device_though_training_splits_them(found, small):
    config = small(index={"kind": "exact"})
    config.parallel = "sharded"
    sharded = planned(config)
    assert training(sharded).resident["parameters"] == training(found).resident["parameters"] / 8
    for name in (ANSWERING, BUILDING):
        assert named(sharded)[name] == named(found)[name]
    text = "\n".join(report(sharded, None))
    assert re.search(r"^  answer \(training\) .*\n  answer \(answering\) ", text, re.M)


def test_answering_holds_the_index_on_one_host_that_the_step_has_on_all(small):
    config = small(index={"kind": "exact"}, retrieval={"lag": 0})
    found = named(planned(config, TWO_HOSTS))
    assert found[ANSWERING].resident["index"] == pytest.approx(2 * found[TRAINING].resident["index"], rel=0.4)


@pytest.mark.long
def test_an_index_that_does_not_fit_may_be_split_over_hosts_in_training(small):
    found = planned(small(index={"kind": "exact"}), TWO_HOSTS)
    changes = {
        name: [one.change for one in advised(found, 0.99 * named(found)[name].total, name)] for name in named(found)
    }
    assert "--config.index.split=True" in changes[TRAINING]
    assert "--config.index.split=True" not in changes[ANSWERING]
    assert "--config.parallel=sharded" in changes[TRAINING]
    assert not any("sharded" in change for change in changes[ANSWERING])


def test_a_host_whose_memory_does_not_hold_scann_is_told_to_split_it(small):
    chip = TWO_HOSTS.chip._replace(host_memory=60e9, on_host=2)
    found = planned(small(), TWO_HOSTS._replace(chip=chip))
    corpus = Corpus(10**9, "a test")
    needed = of_host(found.described, corpus, found.measured, found.place)
    text = "\n".join(report(found._replace(corpus=corpus, host=needed), None))
    assert re.search(r"^  memory, training: .* TOO MUCH: .*\n    --config.index.split=True: .* GB, fits$", text, re.M)


def test_a_step_that_searches_is_charged_once(small):
    found = planned(small(index={"kind": "exact"}, retrieval={"lag": 0}))
    steps = found.described.config.joint.steps = 10**9
    step = next(one for one in found.measured if one.program.name == "joint step")
    text = "\n".join(report(found, None))
    hours = float(re.search(r"^train: joint, .* ([\d.,]+) hours$", text, re.M)[1].replace(",", ""))
    assert hours == pytest.approx(steps * bound(step, found.place) / 3600, abs=0.01)


def test_gpus_of_a_host_have_its_whole_memory_as_is_said(found):
    few = found._replace(place=found.place._replace(topology=topology("gpu:h100x4")))
    text = "\n".join(report(few, None))
    assert "\nthe host, the whole of one with 8 GPUs\n" in text


def test_dollars_are_the_hours_of_all_parts_at_the_price(found):
    text = "\n".join(report(found._replace(corpus=Corpus(10**12, "a test")), None))
    parts = [
        float(part.replace(",", "")) for part in re.findall(r"^(?:train|build_index):.* ([\d.,]+) hours$", text, re.M)
    ]
    whole, dollars = re.search(r"the whole run .* ([\d.,]+) hours  \$([\d.,]+)", text).groups()
    whole, dollars = (float(number.replace(",", "")) for number in (whole, dollars))
    assert whole > 1 and whole == pytest.approx(sum(parts), abs=0.02)
    assert dollars == pytest.approx(whole * 8 * 3.99, rel=0.01)


def test_what_does_not_fit_is_told_with_what_would_help(found):
    building = named(found)[BUILDING]
    tight = found._replace(place=found.place._replace(limit=0.9 * building.total), phases=[building])
    text = "\n".join(report(tight, None))
    assert re.search(r"^building the index: .*: DOES NOT FIT, \d+\.\d\d GiB too much$", text, re.M)
    assert "\n  --config.index.batch=128: about 0.00 GiB, fits\n" in text
    assert "index.batch=64" not in text


@pytest.mark.long
def test_all_that_helps_training_is_told_what_fits_first(found):
    limit = training(found).total - training(found).temporaries / 3
    advices = advised(found, limit)
    changes = [one.change for one in advices]
    assert "--config.joint.accumulation=2" in changes
    assert "--config.encoder.dtype=bfloat16 --config.generator.dtype=bfloat16" in changes
    assert "--config.index.dtype=bfloat16" in changes and "--config.index.kind=scann" in changes
    fitting = [one.total <= limit for one in advices]
    assert any(fitting) and fitting == sorted(fitting, reverse=True)
    assert all(one.total < training(found).total for one in advices)
    several = advised(found, 0.99 * min(one.total for one in advices if one.change.count("--config.") == 1))[0]
    assert several.change.count("--config.") > 1


@pytest.mark.long
def test_advice_fits_the_rest_of_the_configuration(small):
    """Where the search was allowed to miss some, another kind of index is not; k may have a least."""
    index, decode = {"kind": "exact", "recall_target": 0.95}, {"beams": 1, "num_return_sequences": 5}
    config = small(index=index, decode=decode, retrieval={"k": 5})
    config.kind = "sequence"
    found = planned(config)
    changes = " ".join(one.change for name in named(found) for one in advised(found, 1.0, name))
    assert "--config.index.kind=scann --config.index.recall_target=1.0" in changes and "retrieval.k=2" not in changes


def test_another_kind_of_index_is_advised_where_the_search_needs_most(small):
    config = small(index={"kind": "exact"}, evaluate={"batch": 1})
    found = plan(config, topology("gpu:h100x1"), None, 300_000_000, fits=False, log=print)
    answering = named(found)[ANSWERING]
    assert answering.largest == "search"
    place = found.place._replace(limit=answering.total / 3)
    advices = Adviser(answering, found.measured, found.described, place, 300_000_000, None).advise()
    scann = next(one for one in advices if one.change == "--config.index.kind=scann")
    assert scann.total < place.limit and scann.total < answering.total - answering.resident["index"]


@pytest.mark.long
def test_advice_is_what_a_plan_of_the_changed_configuration_needs(found, small):
    advices = advised(found, 1.0)
    changed = planned(small(index={"kind": "exact"}, joint={"accumulation": 2}))
    halved = next(one.total for one in advices if one.change == "--config.joint.accumulation=2")
    assert halved == pytest.approx(training(changed).total)


@pytest.mark.long
def test_the_largest_batch_is_sought(found, small):
    limit = 3 * training(found).total
    sought = planned(small(index={"kind": "exact"}), with_memory(limit), fits=True)
    fitting = max(batch for batch, total in sought.tried.items() if total <= limit)
    assert fitting > 4 in sought.tried
    assert f"--config.joint.batch={8 * fitting}" in "\n".join(report(sought, None))


@pytest.mark.parametrize("key", ["joint", "index"])
def test_a_batch_that_does_not_divide_is_an_error(small, key):
    with pytest.raises(UserError, match=rf"config\.{key}\.batch: found 20, expected a multiple of 8 devices"):
        planned(small(**{key: {"batch": 20}}))
