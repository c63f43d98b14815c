"""DPR's pickles: every protocol's arrays are read, nothing else is; a crafted file runs nothing."""

import os
import pickle
import pickletools
import subprocess

import numpy as np
import pytest

from rag_jax.data import dpr_pickle
from rag_jax.errors import UserError

VECTOR_NE = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
IDS = [str(number + 1) for number in range(5000)]


def write(path, records, protocol=4):
    path.write_bytes(pickle.dumps(records, protocol))
    return path


def read(path):
    return [name for chunk in dpr_pickle.ids(path) for name in chunk], np.concatenate(list(dpr_pickle.vectors(path)))


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.dtype(">f4")])
def test_ids_and_arrays(tmp_path, protocol, dtype):
    path = write(tmp_path / "p", list(zip(IDS, VECTOR_NE.astype(dtype), strict=True)), protocol)
    ids, vector_NE = read(path)
    assert ids == IDS and dpr_pickle.count(path) == 5000
    assert vector_NE.dtype.itemsize == np.dtype(dtype).itemsize
    np.testing.assert_array_equal(vector_NE, VECTOR_NE.astype(dtype))
    assert max(map(len, dpr_pickle.vectors(path))) == dpr_pickle.ROWS


@pytest.mark.parametrize("identity", [7, np.int64(7), np.str_("7")])
def test_ids_that_are_numbers_or_numpy_s_and_a_table_s_cells_behind(tmp_path, identity):
    ids, vector_NE = read(write(tmp_path / "p", [(identity, VECTOR_NE[0], "cell", ["cell"])]))
    assert ids == ["7"] and vector_NE.tobytes() == VECTOR_NE[0].tobytes()


def test_numpy_1_s_names_are_those_of_its_modules(tmp_path):
    records = pickle.dumps(list(zip(IDS[:2], VECTOR_NE, strict=False)), 3)
    path = tmp_path / "old"
    path.write_bytes(records.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert path.read_bytes() != records
    assert read(path)[1].tobytes() == VECTOR_NE[:2].tobytes()


class Runs:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ["touch {}"], r"(posix|nt)\.system"),
        (subprocess.Popen, [["touch", "{}"]], r"subprocess\.Popen"),
        (eval, ["open('{}', 'w')"], r"builtins\.eval"),
        (np.load, ["{}"], r"numpy\.load"),
        (np.save, ["{}", 1], r"numpy\.save"),
        (getattr, [np, "save"], r"builtins\.getattr"),
    ],
)
def test_a_crafted_pickle_runs_nothing(tmp_path, function, arguments, name):
    ran = tmp_path / "ran"
    arguments = [part.format(ran) if isinstance(part, str) else part for part in arguments]
    if function is subprocess.Popen:
        arguments = [["touch", str(ran)]]
    if function is getattr:
        arguments = ["text", "upper"]
    path = write(tmp_path / "crafted", [("1", VECTOR_NE[0]), ("2", Runs(function, *arguments))])
    with pytest.raises(UserError, match=rf"crafted: names {name}, which could run a program; nothing was run"):
        read(path)
    assert not ran.exists()
    if function is os.system:  # it would have run
        pickle.loads(path.read_bytes())
        assert ran.exists()


def test_neither_persistent_ids_nor_the_registry_of_extensions(tmp_path):
    path = tmp_path / "p"
    path.write_bytes(b"\x80\x04]\x94\x8c\x01x\x94Qa.")
    with pytest.raises(UserError, match="names a persistent id"):
        read(path)
    path.write_bytes(b"\x80\x04\x82\x01.")
    with pytest.raises(UserError, match=r"cannot be read as a pickle \(unregistered extension code 1\)"):
        read(path)


def test_what_is_admitted_is_not_changed_by_a_state_of_its_own(tmp_path):
    """BUILD on a class would set its attributes, were it not for __setstate__."""
    path = tmp_path / "p"
    for module, name in (("numpy", "dtype"), ("numpy", "ndarray"), ("numpy.core.multiarray", "scalar")):
        state = b"\x8c\x05value\x8c\x04evil"
        path.write_bytes(b"\x80\x04c" + f"{module}\n{name}\n".encode() + b"N}(" + state + b"u\x86b.")
        assert "BUILD" in {operation.name for operation, *_ in pickletools.genops(path.read_bytes())}
        with pytest.raises(UserError, match="cannot be read as a pickle"):
            read(path)
    assert callable(dpr_pickle._Array.value)


@pytest.mark.parametrize("at", [0, 1, 2, 0.3, 0.999])
def test_a_cut_file(tmp_path, at):
    whole = pickle.dumps(list(zip(IDS, VECTOR_NE, strict=True)))
    path = tmp_path / "cut"
    path.write_bytes(whole[: int(at * len(whole)) if isinstance(at, float) else at])
    with pytest.raises(UserError, match=r"cut: cannot be read as a pickle \(.*\); it is cut or damaged"):
        read(path)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"1": VECTOR_NE[0]}, "holds dict; expected a list"),
        (VECTOR_NE, "holds Array; expected a list"),
        ([("1", [1.0, 2.0])], "item 0 is not"),
        ([("1", VECTOR_NE[0]), ("2",)], "item 1 is not"),
        ([("1", np.array([1, "x"], object))], "item 0: an array of dtype 'O8'"),
        ([("1", np.array([1, 2]))], "item 0: an array of dtype 'i8'"),
        ([("1", VECTOR_NE[:2])], r"item 0: an array \[2, 3\]"),
        ([(None, VECTOR_NE[0])], "item 0: bad id null"),
        ([(1.5, VECTOR_NE[0])], "item 0: bad id 1.5"),
        ([("1", VECTOR_NE[0]), ("2", VECTOR_NE[0, :2])], "vectors of several widths"),
    ],
)
def test_lists_of_other_things(tmp_path, records, message):
    with pytest.raises(UserError, match=f"p: {message}"):
        read(write(tmp_path / "p", records))


class Shaped:
    """Pickled as an array of four bytes and any shape."""

    def __init__(self, *shape):
        self.shape = shape

    def __reduce__(self):
        call, empty, _ = np.zeros(1, np.float32).__reduce__()
        return call, empty, (1, self.shape, np.dtype(np.float32), False, b"1234")


@pytest.mark.parametrize("shape", [(3,), (1 << 40,), (1 << 90,), ("1",), (0,)])
def test_an_array_whose_bytes_do_not_fill_its_shape(tmp_path, shape):
    assert read(write(tmp_path / "p", [("1", Shaped(1))]))[1].shape == (1, 1)
    with pytest.raises(UserError, match=r"item 0: .*; expected an id and a vector"):
        read(write(tmp_path / "p", [("1", Shaped(*shape))]))
