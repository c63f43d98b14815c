"""Checkpoints: bit-equal round trips, which ones are kept, and damage of any file found by name."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1
from orbax.checkpoint.experimental.v1._src.saving import execution

from rag_jax import files
from rag_jax.checkpoint import Checkpoints
from rag_jax.errors import PassingError, UserError
from rag_jax.files import MANIFEST, write_manifest
from rag_jax.parallel import Pmap, Sharded

EXTRA = {"stage": "reader", "next_ids": [[3, -1], [0, 12]], "passage_encoder": "0123abcd"}


class Moments(NamedTuple):
    """Stands for an optimizer's state."""

    count: jax.Array
    mean: dict


def trees(seed=0):
    """Parameters and optimizer with the types that occur: fp32, bf16, int32 scalars, tuples, named tuples."""
    rng = np.random.default_rng(seed)
    params = {
        "question_encoder": {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)},
        "generator": {"layers": {"bias": jnp.asarray(rng.normal(size=5), jnp.bfloat16)}, "odd": jnp.float32(-0.0)},
    }
    optimizer = {"step": jnp.int32(7), "adam": (Moments(jnp.int32(3), params["generator"]), ())}
    return params, optimizer


def abstract(tree):
    """What is to be restored: the shapes, whole on every device."""
    return Pmap().abstract_state(jax.eval_shape(lambda: tree))


def more(tree):
    """What a step makes of it here."""
    return jax.tree.map(lambda leaf: leaf + 1, tree)


def size(path):
    return path.stat().st_size


def bits(tree):
    """Structure, types and bytes."""
    return jax.tree.structure(tree), [
        (leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the one checkpoint 5."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder)
    checkpoints.save(5, *trees(), score=0.25, extra=EXTRA)
    checkpoints.close()
    return folder


def test_restores_the_same_bits(saved):
    checkpoints, (params, optimizer) = Checkpoints(saved), trees()
    restored = checkpoints.restore(checkpoints.latest(), params=abstract(params), optimizer=abstract(optimizer))
    assert bits(restored) == bits({"params": params, "optimizer": optimizer})
    assert checkpoints.extra(5) == EXTRA
    checkpoints.close()


def test_restores_one_tree_whole_onto_every_device(saved):
    checkpoints = Checkpoints(saved)
    restored = checkpoints.restore(5, params=abstract(trees()[0]))
    assert list(restored) == ["params"]
    for leaf in jax.tree.leaves(restored):
        assert leaf.sharding.is_fully_replicated and leaf.sharding.device_set == set(jax.devices())
    checkpoints.close()


def test_an_empty_folder_holds_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new")
    assert checkpoints.latest() is None and checkpoints.best() is None
    checkpoints.close()


@pytest.mark.parametrize(
    "scores, kept, best",
    [
        ([0.5, 0.6, 0.3, 0.1], [2, 3, 4], 2),
        ([0.5, 0.5, 0.2, 0.1], [2, 3, 4], 2),
        ([0.1, 0.2, 0.3], [2, 3], 3),
        ([-1.0], [1], 1),
    ],
)
def test_the_newest_two_and_the_best_are_kept(tmp_path, scores, kept, best):
    checkpoints = Checkpoints(tmp_path)
    for step, score in enumerate(scores, 1):
        checkpoints.save(step, {"a": jnp.full(2, step)}, {"b": jnp.zeros(1)}, score=score, extra={"score": score})
    assert (checkpoints.latest(), checkpoints.best()) == (len(scores), best)
    checkpoints.close()
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == kept
    again = Checkpoints(tmp_path)
    assert (again.latest(), again.best()) == (len(scores), best)
    assert again.extra(best) == {"score": scores[best - 1]}
    assert again.restore(best, params=abstract({"a": jnp.zeros(2, jnp.int32)}))["params"]["a"].tolist() == [best, best]
    again.close()


def test_only_those_of_the_newest_s_stage_can_be_the_best(tmp_path):
    """A run that is extended by a stage had its last one scored before."""
    checkpoints, best = Checkpoints(tmp_path), []
    scored = ("reader", 0.8), ("reader", 0.1), ("joint", 0.3), ("joint", 0.2), ("joint", 0.1), ("joint", 0.1)
    for step, (stage, score) in enumerate(scored, 1):
        checkpoints.save(step, {"a": jnp.ones(1)}, {"b": jnp.ones(1)}, score=score, extra={"stage": stage})
        best.append(checkpoints.best())
    assert best == [1, 1, 3, 3, 3, 3] and Checkpoints(tmp_path).best() == 3
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [3, 5, 6]


@pytest.mark.parametrize("place", range(22))
def test_a_flipped_bit_is_found_in_any_file(saved, tmp_path, place, capfd):
    folder = shutil.copytree(saved, tmp_path / "copy")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and size(path))
    assert 8 <= len(files) <= 22  # so that each is damaged once at least
    path, rng = files[place % len(files)], np.random.default_rng(place)
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        checkpoints = Checkpoints(folder)
        checkpoints.extra(checkpoints.latest())
    assert str(path) in str(error.value) and len(str(error.value).splitlines()) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_a_missing_file_is_named(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "copy")
    gone = next((folder / "5" / "params").rglob("d/*"))
    gone.unlink()
    checkpoints = Checkpoints(folder)
    with pytest.raises(UserError, match=gone.name):
        checkpoints.restore(5, params=abstract(trees()[0]))
    checkpoints.close()


def test_a_score_that_comes_later_writes_no_array_again(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    checkpoints, (params, optimizer) = Checkpoints(folder), trees(1)
    checkpoints.save(6, params, optimizer, score=-1.0, extra=EXTRA | {"unscored": True})
    assert checkpoints.best() == 5
    before = {path: path.stat().st_mtime_ns for path in (folder / "6").rglob("*") if path.name != MANIFEST}
    checkpoints.rescore(6, 0.5)
    assert checkpoints.best() == 6 and checkpoints.extra(6) == EXTRA | {"unscored": False}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = Checkpoints(folder)
    assert bits(again.restore(6, params=abstract(params))["params"]) == bits(params)


def test_what_is_saved_is_the_state_at_that_moment(tmp_path):
    """The next step gives the state's memory away while it is being written."""
    parallel = Pmap()
    state = parallel.put_state({"a": jnp.zeros((512, 512)), "b": jnp.zeros(3)})
    step = parallel.step(lambda state, batch, across: (jax.tree.map(lambda leaf: leaf + 1, state), {}))
    checkpoints, batch = Checkpoints(tmp_path), parallel.put_batch(np.zeros(8, np.float32))
    for number in range(4):
        checkpoints.save(number, state, {"step": state["b"]}, score=0.0, extra={})
        state, _ = step(state, batch)
        shapes = abstract(jax.tree.map(jnp.zeros_like, state))
        restored = checkpoints.restore(checkpoints.latest(), params=shapes)["params"]
        assert all((np.asarray(leaf) == number).all() for leaf in jax.tree.leaves(restored))
    checkpoints.close()


def test_saving_ends_before_anything_is_written(tmp_path, monkeypatch):
    """Training goes on meanwhile: the disk is as slow as can be."""
    write, go_on = execution._SaveResponse._finalize_save, threading.Event()

    async def slowly(response):
        assert go_on.wait(300)
        await write(response)

    monkeypatch.setattr(execution._SaveResponse, "_finalize_save", slowly)
    checkpoints = Checkpoints(tmp_path)
    with ThreadPoolExecutor(2) as threads:
        try:
            threads.submit(checkpoints.save, 1, *trees(), score=0.0, extra={}).result(timeout=60)
            whole = threads.submit(checkpoints.latest)
            with pytest.raises(TimeoutError):
                whole.result(timeout=0.2)
            assert not [*tmp_path.rglob(MANIFEST)]
        finally:
            go_on.set()
        assert whole.result() == 1
    assert bits(checkpoints.restore(1, params=abstract(trees()[0]))["params"]) == bits(trees()[0])


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("mode", [Pmap, Sharded])
def test_restores_onto_other_devices_in_another_mode_and_type(saved, mode, count, monkeypatch):
    monkeypatch.setattr("rag_jax.parallel.SMALL", 1)
    parallel, (params, _) = mode(jax.devices()[:count]), trees()
    other = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), params)
    found = Checkpoints(saved).restore(5, params=parallel.abstract_state(other))["params"]
    for leaf, expected in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        assert leaf.dtype == jnp.float32 and leaf.sharding.device_set == set(jax.devices()[:count])
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(expected, np.float32))


@pytest.mark.parametrize(
    "before, after", [((Pmap, 8), (Sharded, 4)), ((Sharded, 4), (Pmap, 2)), ((Sharded, 2), (Sharded, 4))]
)
def test_what_a_step_left_goes_on_in_another_mode_on_other_devices(tmp_path, before, after, monkeypatch):
    """Parameters and optimizer, as the step of one mode gives them; split where that is what the other mode does."""
    monkeypatch.setattr("rag_jax.parallel.SMALL", 1)
    writer, reader = (mode(jax.devices()[:count]) for mode, count in (before, after))
    first = jax.tree.map(np.array, trees())  # each leaf of its own: the step gives their memory away
    step = writer.step(lambda state, batch, across: (more(state), {}))
    state, _ = step(writer.put_state(first), writer.put_batch(np.zeros(8, np.float32)))
    expected = more(trees())
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, *state, score=0.0, extra={})
    shapes = dict(zip(("params", "optimizer"), jax.eval_shape(lambda: expected), strict=True))
    placed = {name: reader.abstract_state(tree) for name, tree in shapes.items()}
    found = checkpoints.restore(checkpoints.latest(), **placed)
    assert bits((found["params"], found["optimizer"])) == bits(expected)
    for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(placed), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
    split = [leaf for leaf in jax.tree.leaves(found) if not leaf.is_fully_replicated]
    assert bool(split) == (after[0] is Sharded)


def test_what_was_never_finished_counts_for_nothing(saved, tmp_path):
    folder, (params, optimizer) = shutil.copytree(saved, tmp_path / "copy"), trees()
    shutil.copytree(folder / "5", folder / "6")
    (folder / "6" / MANIFEST).unlink()
    shutil.copytree(folder / "6", folder / "7.orbax-checkpoint-tmp")
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest() == checkpoints.best() == 5
    checkpoints.save(8, params, optimizer, score=0.5, extra=EXTRA)
    checkpoints.close()
    assert sorted(path.name for path in folder.iterdir()) == ["5", "8"]


@pytest.mark.parametrize("name", ["params", MANIFEST])
def test_the_newest_where_it_is_damaged_is_set_aside(saved, tmp_path, name, capfd):
    folder, (params, optimizer) = shutil.copytree(saved, tmp_path / "copy"), trees()
    checkpoints = Checkpoints(folder)
    checkpoints.save(6, params, optimizer, score=0.5, extra=EXTRA)
    checkpoints.close()
    checkpoints.set_damaged_aside()
    assert checkpoints.latest() == 6 and not capfd.readouterr().err
    damaged = max((path for path in (folder / "6").rglob("*") if name in str(path) and path.is_file()), key=size)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    checkpoints = Checkpoints(folder)
    checkpoints.set_damaged_aside()
    said = capfd.readouterr().err
    assert said.startswith(f"warning: {damaged}") and "goes on from the newest one that is whole" in said
    assert checkpoints.latest() == 5 and (folder / ".6.damaged" / MANIFEST).exists()
    checkpoints.save(6, params, optimizer, score=0.5, extra=EXTRA)
    assert checkpoints.latest() == 6
    checkpoints.close()


def test_the_best_where_its_manifest_is_damaged_is_set_aside(tmp_path, capfd):
    """Its score is not to be had then; what comes later does not remove it in silence."""
    (params, optimizer), checkpoints = trees(), Checkpoints(tmp_path)
    for step, score in ((10, 0.5), (20, 0.1), (30, 0.1)):
        checkpoints.save(step, params, optimizer, score=score, extra=EXTRA)
    checkpoints.wait()
    manifest = tmp_path / "10" / MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b"0.5", b"0.7"))
    checkpoints.save(40, params, optimizer, score=0.1, extra=EXTRA)
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".10.damaged", "30", "40"]
    assert capfd.readouterr().err.startswith(f"warning: {manifest}")


def test_one_that_was_removed_meanwhile_is_not_called_damaged(saved, tmp_path):
    """By a run that goes on while its model is read."""
    folder = shutil.copytree(saved, tmp_path / "copy")
    checkpoints, (params, _) = Checkpoints(folder), trees()
    assert checkpoints.latest() == 5 and checkpoints.extra(5)
    shutil.rmtree(folder / "5")
    for read in (lambda: checkpoints.extra(5), lambda: checkpoints.restore(5, params=abstract(params))):
        with pytest.raises(PassingError, match=r"5: gone.*same command again"):
            read()


@pytest.mark.parametrize("when", ["before", "while its files are compared", "before it is restored", "meanwhile"])
def test_one_that_is_being_removed_is_not_called_damaged(saved, tmp_path, when, monkeypatch):
    """Its manifest is gone first; then its files, one after the other."""
    folder = shutil.copytree(saved, tmp_path / "copy")
    checkpoints, (params, _) = Checkpoints(folder), trees()
    assert checkpoints.best() == 5

    def removed(before, whole=True):
        def call(*arguments, **settings):
            (folder / "5" / MANIFEST).unlink()
            if whole:
                shutil.rmtree(folder / "5")
            return before(*arguments, **settings)

        return call

    if when == "before":
        (folder / "5" / MANIFEST).unlink()
    elif when == "while its files are compared":
        monkeypatch.setattr(files, "checksum", removed(files.checksum))
    elif when == "before it is restored":
        monkeypatch.setattr(v1, "checkpointables_metadata", removed(v1.checkpointables_metadata))
    else:  # what was read of it may not be the whole
        monkeypatch.setattr(v1, "load_checkpointables", removed(v1.load_checkpointables, whole=False))
    with pytest.raises(PassingError, match=r"5: gone.*same command again"):
        checkpoints.restore(5, params=abstract(params))


@pytest.mark.parametrize("while_waiting", [False, True])
def test_what_was_saved_is_whole_though_the_run_is_interrupted(tmp_path, while_waiting, monkeypatch):
    slow = threading.Event()

    def slowly(*arguments):
        slow.wait(0.5)
        write_manifest(*arguments)

    def interrupted(*_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("rag_jax.checkpoint.write_manifest", slowly)
    with pytest.raises(KeyboardInterrupt), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, *trees(), score=0.0, extra={})
        if while_waiting:
            monkeypatch.setattr("concurrent.futures.wait", interrupted)
            checkpoints.wait()
        raise KeyboardInterrupt
    assert [*tmp_path.glob(f"1/{MANIFEST}")]


def test_where_all_are_damaged_none_is_touched(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "copy")
    (folder / "5" / MANIFEST).write_text("{}")
    with pytest.raises(UserError, match=rf"{folder / '5'}.*delete the folder"):
        Checkpoints(folder).set_damaged_aside()
    assert [path.name for path in folder.iterdir()] == ["5"]


def test_a_save_that_fails_is_told_by_its_step(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match=r"taken/1: the checkpoint could not be written .* those before it are whole"):
        Checkpoints(tmp_path / "taken").save(1, *trees(), score=0.0, extra={})


def test_another_configuration_is_told_by_its_differences(saved):
    params, _ = trees()
    params["question_encoder"]["kernel"] = jnp.zeros((3, 8))
    params["generator"]["new"] = jnp.zeros(2)
    del params["generator"]["odd"]
    checkpoints = Checkpoints(saved)
    with pytest.raises(UserError) as error:
        checkpoints.restore(5, params=abstract(params))
    first, *differences = str(error.value).splitlines()
    assert str(saved / "5") in first and "another configuration" in first
    assert [line.strip() for line in differences] == [
        "params/generator/new: found nothing, expected (2,)",
        "params/generator/odd: found (), expected nothing",
        "params/question_encoder/kernel: found (3, 4), expected (3, 8)",
    ]
    checkpoints.close()
