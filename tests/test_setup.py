"""The package as it is published: what the wheel holds, and that its metadata and CITATION.cff say one thing."""

import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")


def test_the_citation_is_of_this_version_and_of_the_paper():
    """Keys and values that the Citation File Format 1.2.0 asks for."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software" and citation["title"] == "rag_jax"
    for key, field in (("version", "version"), ("license", "license_expression")):
        assert f'{field}="{citation[key]}"' in SETUP
    [paper] = citation["references"]
    assert {"type", "title", "authors"} <= set(paper) and paper["url"].endswith("2005.11401")
    assert [author["family-names"] for author in paper["authors"]][::11] == ["Lewis", "Kiela"]


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert re.findall(r"^   (\d+)\. ", text, re.MULTILINE) == [str(number) for number in range(1, 10)]
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.long
def test_the_wheel_holds_the_package_its_licence_and_the_demo(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "rag_jax", source / "rag_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", source / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    make = "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", make, str(tmp_path)], cwd=source, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        files = set(wheel.namelist())
        [place] = [name for name in files if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(wheel.read(place).decode())
    assert place.replace("METADATA", "licenses/LICENSE") in files
    there = [path for path in (source / "rag_jax").rglob("*") if path.suffix in (".py", ".tsv", ".typed")]
    assert {path.relative_to(source).as_posix() for path in there} <= files
    assert {f"rag_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")} <= files
    assert not [name for name in files if not name.startswith("rag_jax")]
    assert metadata["Name"] == "rag_jax" and metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown" and "# rag_jax" in metadata.get_payload()
