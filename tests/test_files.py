import json

import pytest

from rag_jax.errors import UserError
from rag_jax.files import (
    MANIFEST,
    build_folder,
    checksum,
    read_json,
    read_manifest,
    replace_folder,
    write_atomically,
    write_json,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "thing"
    (path / "part").mkdir(parents=True)
    (path / "a.bin").write_bytes(b"abc")
    (path / "part" / "b.txt").write_text("hello")
    write_manifest(path, {"kind": "thing", "count": 2})
    return path


def test_written_file_is_whole_and_leaves_nothing_behind(tmp_path):
    for content in ("text é", b"bytes", lambda path: path.write_text("called")):
        write_atomically(tmp_path / "new" / "x", content)
    assert (tmp_path / "new" / "x").read_text() == "called"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x"]


def test_failed_write_keeps_the_old_file(tmp_path):
    write_atomically(tmp_path / "x", "old")

    def fails(path):
        path.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_atomically(tmp_path / "x", fails)
    assert (tmp_path / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_json_round_trip_and_damage(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": ["é"]})
    assert list(read_json(path).items()) == [("b", 1), ("a", ["é"])]
    path.write_text('{\n"a": 1,\n')
    with pytest.raises(UserError, match=r"x\.json:3: not JSON"):
        read_json(path)
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        read_json(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / "none.json")


def test_checksum_of_known_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert checksum(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_manifest_lists_the_files_and_keeps_what_it_was_given(folder):
    manifest = read_manifest(folder, "thing", verify=True)
    assert manifest["count"] == 2
    assert sorted(manifest["files"]) == ["a.bin", "part/b.txt"]


@pytest.mark.parametrize("verify", [False, True])
def test_changed_size_is_found_at_once_and_changed_bytes_by_verifying(folder, verify):
    (folder / "part" / "b.txt").write_text("hellO")
    if verify:
        with pytest.raises(UserError, match=r"b\.txt: differs from its checksum"):
            read_manifest(folder, "thing", verify=True)
    else:
        read_manifest(folder, "thing")
    (folder / "part" / "b.txt").write_text("hell")
    with pytest.raises(UserError, match=r"b\.txt: 4 bytes, expected 5"):
        read_manifest(folder, "thing", verify=verify)
    (folder / "part" / "b.txt").unlink()
    with pytest.raises(UserError, match=r"b\.txt: missing"):
        read_manifest(folder, "thing", verify=verify)


def test_wrong_folders_say_why(folder, tmp_path):
    with pytest.raises(UserError, match="holds 'thing'; expected 'index'"):
        read_manifest(folder, "index")
    with pytest.raises(UserError, match="no such folder"):
        read_manifest(tmp_path / "none", "thing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="never finished"):
        read_manifest(tmp_path / "empty", "thing")
    write_json(folder / MANIFEST, {"version": 99, "kind": "thing", "files": {}, "seal": ""})
    with pytest.raises(UserError, match="version 99; expected 1"):
        read_manifest(folder, "thing")
    for other in ([], {"kind": "thing"}):
        write_json(folder / MANIFEST, other)
        with pytest.raises(UserError, match="not a manifest"):
            read_manifest(folder, "thing")


def test_every_changed_value_of_the_manifest_is_found(folder):
    whole = json.loads((folder / MANIFEST).read_text())
    for key in ("count", "files", "seal"):
        write_json(folder / MANIFEST, {**whole, key: "other"})
        with pytest.raises(UserError, match="its own checksum"):
            read_manifest(folder, "thing")


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
