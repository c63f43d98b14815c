"""Compiled programs on disk: found again as they were, or named, removed and made again."""

import pytest

from rag_jax.compiled import Programs


@pytest.fixture
def programs(tmp_path):
    return Programs(tmp_path / "programs")


def test_a_program_is_found_again(programs, tmp_path):
    assert programs.get("jit_step-1") is None
    programs.put("jit_step-1", b"machine code")
    programs.put("jit_step-2", b"")
    assert Programs(tmp_path / "programs").get("jit_step-1") == b"machine code" and programs.get("jit_step-2") == b""
    assert {path.name for path in (tmp_path / "programs").iterdir()} == {"jit_step-1", "jit_step-2"}


def test_one_that_is_damaged_or_cut_is_named_removed_and_may_be_made_again(programs, tmp_path, capsys):
    path = tmp_path / "programs" / "jit_step"
    programs.put("jit_step", b"machine code")
    whole = path.read_bytes()
    flipped = [whole[:n] + bytes([whole[n] ^ 1 << n % 8]) + whole[n + 1 :] for n in range(len(whole))]
    for content in (*flipped, *(whole[:n] for n in range(len(whole)))):
        path.write_bytes(content)
        assert programs.get("jit_step") is None and not path.exists()
        assert capsys.readouterr().err == f"warning: {path}: damaged; its program is compiled again\n"
    programs.put("jit_step", b"machine code")
    assert programs.get("jit_step") == b"machine code"


def test_without_a_place_to_keep_them_nothing_stops(tmp_path, capsys):
    (tmp_path / "programs").write_text("a file")
    programs = Programs(tmp_path / "programs")
    for key in "ab":
        programs.put(key, b"machine code")
        assert programs.get(key) is None
    assert capsys.readouterr().err.count("compiled programs are not kept") == 1
