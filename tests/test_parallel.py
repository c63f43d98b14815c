"""Replicated data parallelism: global arrays go in and come out, a step sees every device, its state is donated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compilation_cache

from rag_jax.errors import UserError
from rag_jax.parallel import ALONE, Pmap, keep_programs

COUNTS = (1, 2, 8)


@pytest.fixture(scope="module")
def parallel_on():
    made = {count: Pmap(jax.devices()[:count]) for count in COUNTS}
    return made.__getitem__


@pytest.mark.parametrize("count", COUNTS)
def test_a_batch_goes_onto_the_devices_in_order_and_comes_back(parallel_on, count):
    parallel = parallel_on(count)
    batch = {"ids": np.arange(48, dtype=np.int32).reshape(16, 3), "weight": np.linspace(0, 1, 16, dtype=np.float32)}
    put = parallel.put_batch(batch)
    assert put["ids"].shape == (count, 16 // count, 3) and put["weight"].shape == (count, 16 // count)
    for number, shard in enumerate(sorted(put["ids"].addressable_shards, key=lambda shard: shard.index[0].start or 0)):
        assert shard.device == parallel.devices[number]
        np.testing.assert_array_equal(shard.data[0], np.split(batch["ids"], count)[number])
    back = parallel.to_host(put)
    assert all(isinstance(array, np.ndarray) for array in back.values())
    assert jax.tree.all(jax.tree.map(np.array_equal, back, batch))


def test_a_batch_that_does_not_divide_is_a_users_mistake(parallel_on):
    with pytest.raises(UserError, match="batch: 12 questions do not divide over 8 devices; use a multiple of 8"):
        parallel_on(8).put_batch(np.zeros((12, 2)))


def test_whole_trees_lie_on_every_device(parallel_on):
    parallel, tree = parallel_on(8), {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": jnp.int32(4)}
    put, abstract = parallel.put_state(tree), parallel.abstract_state(tree)
    for name, array in put.items():
        assert array.is_fully_replicated and array.sharding.device_set == set(jax.devices())
        assert (array.shape, array.dtype) == (abstract[name].shape, abstract[name].dtype)
        assert array.sharding == abstract[name].sharding
        np.testing.assert_array_equal(array, tree[name])


def tell(state, batch, *, across):
    """Everything that a step may do: sums, gathered rows, the device's own number."""
    gathered = across.gather(batch)
    numbers = across.gather(across.index() + jnp.zeros(batch.shape[0], jnp.int32))
    sums = across.sum({"rows": jnp.asarray(batch.shape[0]), "total": batch.sum()})
    return jax.tree.map(lambda leaf: leaf + sums["total"], state), (gathered, numbers, sums["rows"])


@pytest.mark.parametrize("count", COUNTS)
def test_a_step_sees_all_devices_and_returns_one_global_state(parallel_on, count):
    parallel, batch = parallel_on(count), np.arange(16, dtype=np.float32).reshape(8, 2)
    state = parallel.put_state({"a": np.zeros((2, 3), np.float32), "b": np.float32(1)})
    traces = []
    step = parallel.step(lambda *inputs, across: traces.append(1) or tell(*inputs, across=across))
    after, (gathered, numbers, rows) = step(state, parallel.put_batch(batch))
    assert (after["a"].shape, after["b"].shape) == ((2, 3), ())
    assert float(after["b"]) == 1 + batch.sum() and (after["a"] == batch.sum()).all()
    np.testing.assert_array_equal(gathered, batch)
    np.testing.assert_array_equal(numbers, np.repeat(np.arange(count), 8 // count))
    assert int(rows) == 8
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(after))
    again, _ = step(after, parallel.put_batch(batch))  # what came out goes in again
    assert float(again["b"]) == 1 + 2 * batch.sum()
    assert len(traces) == 1


def test_alone_is_the_same_without_a_mesh():
    batch = jnp.arange(16.0).reshape(8, 2)
    state, (gathered, numbers, rows) = tell({"b": jnp.float32(1)}, batch, across=ALONE)
    assert float(state["b"]) == 1 + batch.sum() and int(rows) == 8
    assert (gathered == batch).all() and not numbers.any()


@pytest.mark.parametrize("count", COUNTS)
def test_the_gradient_of_a_sum_over_gathered_rows_is_that_of_one_device(parallel_on, count):
    """Each device differentiates its own rows of a loss that reads the rows of all: the sum is the whole gradient."""
    rng = np.random.default_rng(0)
    weight, batch = rng.normal(size=3).astype(np.float32), rng.normal(size=(8, 3)).astype(np.float32)

    def loss(weight, rows, across):
        mine, others = jnp.tanh(rows * weight[None]), across.gather(jnp.sin(rows * weight[None]))
        return jnp.sum(mine @ others.T)

    def step(state, rows, *, across):
        return state, across.sum(jax.grad(loss)(state, rows, across))

    parallel = parallel_on(count)
    _, gradient = parallel.step(step)(parallel.put_state(weight), parallel.put_batch(batch))
    np.testing.assert_allclose(gradient, jax.grad(loss)(weight, batch, ALONE), rtol=1e-5)


@pytest.mark.parametrize("count", COUNTS)
def test_a_batch_function_keeps_rows_apart_and_parameters_alive(parallel_on, count):
    parallel, batch = parallel_on(count), np.arange(24, dtype=np.float32).reshape(8, 3)
    params = parallel.put_state({"scale": np.float32(2)})
    found = parallel.batch(lambda params, rows: (rows * params["scale"], rows.sum(axis=1)))(
        params, parallel.put_batch(batch)
    )
    doubled, total = parallel.to_host(found)
    np.testing.assert_array_equal(doubled, 2 * batch)
    np.testing.assert_array_equal(total, batch.sum(axis=1))
    assert not params["scale"].is_deleted()


@pytest.fixture
def no_cache():
    """jax as a command finds it: no folder for programs; every program is worth keeping."""
    settings = {"jax_compilation_cache_dir": None, "jax_persistent_cache_min_compile_time_secs": 0}
    settings |= {"jax_persistent_cache_enable_xla_caches": "none"}
    before, file_cache = {name: getattr(jax.config, name) for name in settings}, compilation_cache.get_file_cache
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.get_file_cache = file_cache
    compilation_cache.reset_cache()


def test_programs_are_compiled_once_and_found_again(tmp_path, no_cache):
    hits = []
    listen = lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None  # noqa: E731
    jax.monitoring.register_event_listener(listen)
    keep_programs(tmp_path / "programs")
    for expected in (0, 1):  # the second as in another process: nothing is in memory
        jax.block_until_ready(jax.jit(lambda x: jnp.sin(x) @ x.T)(np.ones((3, 4), np.float32)))
        assert len(hits) == expected
        jax.clear_caches()
    assert list((tmp_path / "programs").iterdir())
    keep_programs(tmp_path / "elsewhere")  # the first is kept, as one that the user has named is
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "programs")
    jax.monitoring.unregister_event_listener(listen)
