"""Files of questions as their publishers write them, made up."""

import gzip
import json

import pytest


@pytest.fixture(params=["", ".gz"], ids=["plain", "gzipped"])
def zipped(request):
    return request.param


@pytest.fixture
def write(tmp_path):
    """(name, text) -> the path of a file with that text, gzipped if its name says so."""

    def write(name, text):
        data = text.encode()
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


@pytest.fixture(scope="session")
def lines():
    """Records as lines of JSON."""
    return lambda *records: "".join(json.dumps(record) + "\n" for record in records)
