"""Files of torch.save, in both of its forms, beside torch's own reader: the same numbers, and none of its programs."""

import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from rag_jax.errors import UserError
from rag_jax.hub.torch_bin import read_bin

FORMS = pytest.mark.parametrize("zipped", [True, False])
FLOATS = torch.float64, torch.float32, torch.float16, torch.bfloat16
WHOLE = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
VIEWS = {
    "whole": WHOLE,
    "again": WHOLE,  # tied, as a decoder's words
    "turned": WHOLE.T,
    "part": WHOLE[1:4, ::2],
    "last": WHOLE[4, 5],
    "none": WHOLE[:0],
    "parameter": torch.nn.Parameter(WHOLE[2]),
}


def saved(path, value, zipped=True):
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, (shape, read) in ours.items():
        array = read()
        assert array.shape == shape == tuple(theirs[name].shape)
        np.testing.assert_array_equal(array.astype(np.float64), theirs[name].detach().double().numpy())


@FORMS
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_view_of_every_float(dtype, zipped, tmp_path):
    table = {name: view.detach().to(dtype) for name, view in VIEWS.items()}
    same(read_bin(saved(tmp_path / "a.bin", table, zipped)), table)


@FORMS
def test_views_that_share_a_storage(zipped, tmp_path):
    same(read_bin(saved(tmp_path / "a.bin", VIEWS, zipped)), VIEWS)


@FORMS
def test_a_model_with_numbers_beside_its_weights(zipped, tmp_path):
    """The state of a module says its versions in an attribute, and has whole numbers that nobody reads."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    read = read_bin(saved(tmp_path / "a.bin", model.state_dict(), zipped))
    counted = read.pop("1.num_batches_tracked")
    with pytest.raises(
        UserError, match=r"a\.bin: tensor 1\.num_batches_tracked holds int64 numbers, expected floating"
    ):
        counted[1]()
    same(read, {name: value for name, value in model.state_dict().items() if name in read})


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    path = saved(tmp_path / "a.bin", {"a": torch.zeros(1000), "b": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    at = content.index(np.ones(1000, np.float32).tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    read = read_bin(path)
    assert not read["a"][1]().any()
    with pytest.raises(UserError, match=r"a\.bin: damaged \(Bad CRC-32 .*; restore it or download it again"):
        read["b"][1]()


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


@FORMS
def test_a_file_that_would_run_code_is_refused(zipped, tmp_path, capsys):
    with pytest.raises(UserError, match=r"a\.bin: holds more than tensors \(\S+\.print\), which is never run; give it"):
        read_bin(saved(tmp_path / "a.bin", {"a": torch.zeros(2), "b": Harmful()}, zipped))
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "other",
    [{}, [torch.zeros(2)], {"a": 1}, {1: torch.zeros(2)}, {"model": {"a": torch.zeros(2)}, "step": 3}, "a"],
)
def test_something_else_is_refused(other, tmp_path):
    with pytest.raises(UserError, match=r"a\.bin: found no table of tensors, expected a model's state"):
        read_bin(saved(tmp_path / "a.bin", other))


@pytest.mark.parametrize(
    "more", [(0, (3, 2), (2, 1)), (1, (5,), (1,)), (0, (9,), (0,)), (-1, (2,), (1,)), (0, (2,), ())]
)
def test_a_tensor_that_reaches_out_of_its_storage_is_refused(more, tmp_path):
    """Of five numbers; also one that repeats them, which could be of any size."""
    path, told = saved(tmp_path / "a.bin", {"a": torch.arange(5.0)}), torch._utils._rebuild_tensor_v2
    with zipfile.ZipFile(path) as archive:
        parts = {info: archive.read(info) for info in archive.infolist()}

    class Storage:
        pass

    class Writer(pickle.Pickler):
        def persistent_id(self, found):
            return ("storage", torch.FloatStorage, "0", "cpu", 5) if isinstance(found, Storage) else None

        def reducer_override(self, found):
            return (told, (Storage(), *more, False, OrderedDict())) if found is Ellipsis else NotImplemented

    with zipfile.ZipFile(path, "w") as archive:
        for info, content in parts.items():
            if info.filename.endswith("data.pkl"):
                with archive.open(info.filename, "w") as stream:
                    Writer(stream, 2).dump({"a": ...})
            else:
                archive.writestr(info.filename, content)
    with pytest.raises(UserError, match=r"a\.bin: damaged \("):
        read_bin(path)


def test_an_archive_of_another_kind_is_refused(tmp_path):
    """Packed again, of another byte order, without its pickle, without its numbers."""
    path = saved(tmp_path / "a.bin", {"a": torch.arange(5.0)})
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    packed = zipfile.ZIP_DEFLATED
    for name, content, how in (
        ("a/data/0", parts["a/data/0"], packed),
        ("a/data/0", parts["a/data/0"][:-4], 0),
        ("a/byteorder", b"big", 0),
        ("a/data.pkl", None, 0),
        ("a/data/0", None, 0),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for part, kept in parts.items():
                if part != name:
                    archive.writestr(part, kept)
            if content is not None:
                archive.writestr(name, content, how)
        with pytest.raises(UserError, match=r"a\.bin: damaged \("):
            for _, read in read_bin(path).values():
                read()


@FORMS
def test_a_file_that_was_cut_is_named(zipped, tmp_path):
    path = saved(tmp_path / "a.bin", VIEWS, zipped)
    content = path.read_bytes()
    for cut in (0, 1, 50, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(UserError, match=r"a\.bin: damaged \("):
            read_bin(path)
