"""Folders that are replaced whole."""

import os
import threading

import pytest

from rag_jax import folders
from rag_jax.errors import UserError
from rag_jax.files import write_atomically
from rag_jax.folders import build_folder, real, replace_folder
from rag_jax.hub.folder import new_folder
from rag_jax.index.builder import name_finished


def test_folder_is_replaced_whole(tmp_path):
    for content in ("old", "new"):
        build_folder(tmp_path / "out" / "x", lambda path, content=content: write_atomically(path / "f", content))
        assert (tmp_path / "out" / "x" / "f").read_text() == content
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["x"]


def test_failed_build_and_failed_rename_keep_the_old_folder(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "f").write_text("old")

    def fails(path):
        (path / "f").write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        build_folder(tmp_path / "x", fails)
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "none", tmp_path / "x")
    assert (tmp_path / "x" / "f").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_at_no_moment_is_there_none(tmp_path):
    """A reader always finds the old folder or the new one, where the file system can exchange names."""
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    if not folders._exchange(tmp_path / "x", tmp_path / "y"):
        pytest.skip("this file system cannot exchange two names")
    looks, missing, done = 0, 0, threading.Event()

    def look():
        nonlocal looks, missing
        while not done.is_set():
            looks, missing = looks + 1, missing + (not (tmp_path / "x").is_dir())

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(50):
        build_folder(tmp_path / "x", lambda path, number=number: write_atomically(path / "f", str(number)))
    done.set()
    reader.join()
    assert looks and not missing and (tmp_path / "x" / "f").read_text() == "49"


@pytest.mark.parametrize("exchanges", [True, False])
def test_what_a_killed_process_left_goes_with_the_next(exchanges, tmp_path, monkeypatch):
    if not exchanges:
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    for name in ("x", ".x.0123.old", ".xy.0123.old", "y"):
        (tmp_path / name).mkdir()
    build_folder(tmp_path / "x", lambda path: write_atomically(path / "f", "new"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".xy.0123.old", "x", "y"]
    assert (tmp_path / "x" / "f").read_text() == "new"


def test_a_folder_may_lie_elsewhere_than_its_name(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "x").symlink_to("disk/x")  # also before it is there
    assert real(tmp_path / "x") == tmp_path / "disk" / "x" and real(tmp_path / "disk") == tmp_path / "disk"


@pytest.mark.parametrize("asked", [name_finished, new_folder])
def test_a_mount_point_is_refused_before_any_work(asked, tmp_path, monkeypatch):
    """An empty disk, to which a link may lead: no folder beside it can change places with it."""
    disk, link = tmp_path / "disk", tmp_path / "index"
    disk.mkdir()
    link.symlink_to("disk")
    monkeypatch.setattr(os.path, "ismount", lambda path: path == disk)
    for name in (disk, link) if asked is name_finished else (disk,):
        with pytest.raises(UserError, match=rf"^{disk}: is a mount point, .*; give a folder in it$"):
            asked(name)
    asked(disk / "index")
