"""Lines of any file: each is text or says what is wrong with it, and none stops the others."""

import gzip
import json

import pytest

from rag_jax.data import lines
from rag_jax.data.lines import (
    BadLine,
    Meter,
    first_line,
    identity,
    read_array,
    read_lines,
    read_records,
    read_value,
    string,
)
from rag_jax.errors import UserError


def read(path):
    return [(number, str(line), isinstance(line, BadLine)) for number, line in read_lines(path)]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_mark_at_the_beginning_goes_and_line_ends_stay(tmp_path, name):
    data = "\ufefföne\r\ntwo\n\nlast".encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    expected = [(1, "öne\r\n", False), (2, "two\n", False), (3, "\n", False), (4, "last", False)]
    assert read(tmp_path / name) == expected


def test_bad_lines_stand_between_good_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 1 << 20)
    long, longer = b"x" * ((1 << 20) - 1), b"y" * (3 << 20)
    (tmp_path / "a").write_bytes(b"\n".join([b"a", b"caf\xe9", b"b\0b", longer, long, b"c"]))
    found = read(tmp_path / "a")
    assert [number for number, _, bad in found if bad] == [2, 3, 4]
    assert found[1][1] == "not UTF-8 (byte 0xe9); convert the file to UTF-8"
    assert found[2][1].startswith("a NUL byte") and found[3][1] == "line too long, over 1 MiB"
    assert found[4][1] == long.decode() + "\n" and found[5] == (6, "c", False)


def test_a_cut_or_damaged_gzip_file_says_after_which_line(tmp_path):
    whole = gzip.compress("".join(f"line {i * 7919 % 10007}\n" for i in range(20_000)).encode())
    path = tmp_path / "a.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.gz: damaged gzip file after line [1-9]\d+ \(Compressed file ended"):
        read(path)
    for data in (b"not gzip", whole[:100] + bytes([whole[100] ^ 255]) + whole[101:], whole[:-6] + b"\0\0\0\0\0\0"):
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged gzip file after line"):
            read(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none: cannot be read \(No such file or directory\); check the path"):
        read(tmp_path / "none")


def test_records_are_numbered_without_blank_lines_and_keep_their_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"a": 1}\n  \n[1]\n{\n' + "[" * 100_000 + '\n{"a": 2}\n')
    found = [(place.rpartition(":")[2], number, record) for place, number, record in read_records(path)]
    assert [(place, number) for place, number, _ in found] == [("2", 0), ("4", 1), ("5", 2), ("6", 3), ("7", 4)]
    assert found[0][2] == {"a": 1} and found[4][2] == {"a": 2}
    assert str(found[1][2]) == "list; expected a JSON object"
    assert [found[place][2].reason for place in (2, 3)] == ["not JSON"] * 2


def test_fields():
    assert string({"a": "b"}, "a") == "b" and string({}, "a", "") == "" and identity(7) == identity("7") == "7"
    for call, said in [
        (lambda: string({}, "a"), '"a" is missing; expected a string'),
        (lambda: string({"a": None}, "a"), '"a" is not a string but null'),
        (lambda: identity(1.5), "bad id 1.5; expected a string or a whole number"),
        (lambda: identity(True), "bad id true;"),
        (lambda: identity(""), 'bad id "";'),
    ]:
        with pytest.raises(BadLine) as caught:
            call()
        assert str(caught.value).startswith(said)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_the_meter_counts_bytes_of_the_files(tmp_path, name):
    data = b"".join(b"%d\n" % (i * 7919 % 10_007) for i in range(100_000))
    data = gzip.compress(data) if name.endswith("gz") else data
    (tmp_path / name).write_bytes(data)
    meter = Meter()
    assert meter.share() == 0
    meter.total = 2 * len(data)
    shares = [meter.share() for _ in read_lines(tmp_path / name, meter)]
    assert shares == sorted(shares) and 0.05 < shares[25_000] < 0.3 and shares[-1] > 0.45
    shares = [meter.share() for _ in read_lines(tmp_path / name, meter)]
    assert shares[0] >= 0.5 and shares[-1] > 0.95 and meter.share() <= 1


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_an_array_element_by_element(tmp_path, monkeypatch, name, chunk):
    monkeypatch.setattr(lines, "CHUNK", chunk)
    values = [{"a": "ö]}, [{", "b": [1, {"c": None}]}, {}, None, [1], 12, {"d": "x" * 100}]
    for text in (
        json.dumps(values),
        " \ufeff [\n".strip() + json.dumps(values, indent=2, ensure_ascii=False)[1:] + " \n",
    ):
        data = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        found = list(read_array(tmp_path / name))
        assert [place for place, _, _ in found] == [f"{tmp_path / name}: row {n}" for n in range(6)]
        assert [n for _, n, _ in found] == list(range(6))
        assert [found[n][2] for n in (0, 1, 5)] == [values[n] for n in (0, 1, 5)]
        assert [str(found[n][2]).partition(";")[0] for n in (2, 3, 4)] == ["NoneType", "list", "int"]
    (tmp_path / name).write_bytes(gzip.compress(b"[ ]") if name.endswith("gz") else b"[ ]")
    assert list(read_array(tmp_path / name)) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found '', expected '\\['"),
        (b'{"a": 1}', "found '{', expected '\\['"),
        (b'[{"a": 1}, {"a": "x', "row 1: not JSON .* is the file cut?"),
        (b'[{"a": 1},', "row 1: not JSON"),
        (b'[{"a": 1}', "row 0: found '' behind it, expected ',' or '\\]'"),
        (b'[{"a": 1} {"a": 2}]', "row 0: found '{' behind it"),
        (b"[" * 100_000, "row 0: not JSON"),
        (b'[{"a": 1}]\n[{"a": 2}]', "found '\\[' behind the array"),
        (b'[{"a": 1}, {"a": "caf\xe9"}]', "not UTF-8 in row 0 .byte 0xe9"),
    ],
)
def test_what_is_no_array(tmp_path, data, message):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=f"a.json: {message}"):
        list(read_array(tmp_path / "a.json"))


def test_an_element_is_no_longer_than_a_line_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 1000)
    monkeypatch.setattr(lines, "CHUNK", 100)
    (tmp_path / "a.json").write_text('[{"a": "' + "x" * 10_000 + '"}]')
    with pytest.raises(UserError, match="row 0: not JSON"):
        list(read_array(tmp_path / "a.json"))


def test_a_value_with_objects_exchanged(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"a": [{"b": 1}, {"c": 2}]}', encoding="utf-8")
    assert read_value(path) == {"a": [{"b": 1}, {"c": 2}]}
    assert read_value(path, lambda record: None if "b" in record else record) == {"a": [None, {"c": 2}]}
    for data, message in (
        (b'{"a": 1,\n "b": }', r"a\.json:2: not JSON"),
        (b'"\xe9"', r"a\.json: byte 1 is not UTF-8"),
        (b"[" * 100_000, "not JSON"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=message):
            read_value(path)
    with pytest.raises(UserError, match="none: cannot be read"):
        read_value(tmp_path / "none")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"{}")[:-3])
    with pytest.raises(UserError, match=r"a\.gz: damaged gzip file"):
        read_value(tmp_path / "a.gz")


def test_the_first_line_that_is_not_blank(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 10)
    for data, expected in (
        (b"", ""),
        (b" \n\n", ""),
        ("\ufeff \n a b\nc".encode(), "a b"),
        (b"0123456789abc", "0123456789"),
    ):
        (tmp_path / "a").write_bytes(data)
        assert first_line(tmp_path / "a") == expected
