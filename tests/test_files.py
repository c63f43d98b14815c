import errno
import json
import os
from pathlib import Path

import pytest

from rag_jax.errors import UserError
from rag_jax.files import (
    MANIFEST,
    check_own,
    checksum,
    read_json,
    read_manifest,
    read_sealed,
    read_sealed_line,
    sealed_line,
    visible_files,
    write_atomically,
    write_json,
    write_manifest,
    write_sealed,
    writing,
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


def flips(content):
    """The content with each of its bytes changed, in three ways."""
    for place in range(len(content)):
        for bit in (1, 1 << place % 8, 0x80 ^ place % 0x80):
            yield content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


def test_a_flipped_byte_of_a_sealed_object_is_named_or_changes_nothing(tmp_path):
    value, path = {"kind": "é", "nested": {"rate": 1e-05, "none": None}, "list": [1, True, "a b"]}, tmp_path / "x.json"
    write_sealed(path, value)
    assert read_sealed(path) == value and list(json.loads(path.read_text()))[-1] == "seal"
    content, found = path.read_bytes(), 0
    for damaged in flips(content):
        path.write_bytes(damaged)
        try:
            assert read_sealed(path) == value
        except UserError as error:
            assert str(error).startswith(str(path))
            found += 1
    assert found > 2 * len(content)  # spaces between values may be others


def test_an_object_edited_on_purpose_is_taken_once_its_seal_is_gone(tmp_path):
    path = tmp_path / "x.json"
    write_sealed(path, {"a": 1, "b": 2})
    path.write_text(path.read_text().replace('"a": 1', '"a": 5'))
    with pytest.raises(UserError, match=r'x\.json: differs .* edited on purpose, delete its last entry, "seal"'):
        read_sealed(path)
    edited = json.loads(path.read_text())
    del edited["seal"]
    write_json(path, edited)
    assert read_sealed(path) == {"a": 5, "b": 2}


def test_a_sealed_line_with_any_byte_flipped_or_cut_is_none():
    record = {"id": "7", "text": 'a "crc": "0" é\n', "score": -0.1}
    line = sealed_line(record).encode()
    assert read_sealed_line(line) == record and json.loads(line) == record | {"crc": line[-11:-3].decode()}
    assert not any(read_sealed_line(damaged) for damaged in flips(line))
    assert not any(read_sealed_line(line[:length]) for length in range(len(line)))


def test_only_folders_of_ones_own_are_compared(folder, tmp_path):
    check_own(folder, "thing")
    (folder / "a.bin").write_bytes(b"abd")
    with pytest.raises(UserError, match=r"a\.bin: differs from its checksum .* on purpose, delete \S+manifest\.json$"):
        check_own(folder, "thing")
    write_json(folder / MANIFEST, {"name": "of another program"})
    check_own(folder, "thing")
    check_own(tmp_path, "thing")


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), errno.ENOSPC),
        (RuntimeError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (OSError(errno.EFBIG, "x", "the temporary one"), errno.EFBIG),
    ],
)
def test_what_the_disk_refuses_names_the_file(tmp_path, error, number):
    path = tmp_path / "x"
    with pytest.raises(OSError) as caught, writing(path, "temporary"):
        raise error
    assert (caught.value.errno, caught.value.filename) == (number, str(path))


@pytest.mark.parametrize("error", [KeyError("x"), OSError(errno.EACCES, "x", "another file"), UserError("x")])
def test_another_error_stays_what_it_is(tmp_path, error):
    with pytest.raises(type(error)) as caught, writing(tmp_path / "x"):
        raise error
    assert caught.value is error


def test_linked_folders_count_where_a_person_hands_them_in(tmp_path):
    """But for those to what is read anyway, or lead back; the program's own folders do not follow any."""
    own, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    (own / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    (own / "sub" / "a.txt").touch()
    (own / ".hidden").touch()
    (elsewhere / "b.txt").touch()
    (own / "link").symlink_to(elsewhere)
    (own / "sub" / "back").symlink_to(own)
    (elsewhere / "back").symlink_to(own)
    (own / "gone").symlink_to(tmp_path / "nowhere")
    (own / "latest").symlink_to("sub")
    (own / ".store" / "part").mkdir(parents=True)
    (own / ".store" / "part" / "c.txt").touch()
    (own / "stored").symlink_to(own / ".store" / "part")
    names = ["link/b.txt", "stored/c.txt", "sub/a.txt"]
    assert visible_files(own) == [(name, own / name) for name in names]
    assert visible_files(own, links=False) == [("sub/a.txt", own / "sub" / "a.txt")]
    (tmp_path / "to own").symlink_to(own)
    assert [name for name, _ in visible_files(tmp_path / "to own")] == names


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").touch()
    listed = Path.iterdir

    def refuse(folder):
        if folder.name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)  # to root no folder is closed
    with pytest.raises(UserError, match=r"closed: cannot be read \(Permission denied\)"):
        visible_files(tmp_path)
