"""The package as it is published: what the wheel holds, and that its metadata and CITATION.cff say one thing."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from functools import partial
from importlib.metadata import metadata
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


def test_the_extras_for_tpus_and_gpus_are_jaxs_own():
    """Of one that jax has not, pip says so in a warning and installs the jax of a CPU."""
    asked = dict(re.findall(r'"(\w+)": \["jax\[([\w-]+)\]', SETUP))
    assert set(asked) == {"tpu", "cuda"}
    assert set(asked.values()) <= set(metadata("jax").get_all("Provides-Extra"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The package as pip gets it, and the sources that it was built from."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "rag_jax", source / "rag_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", source / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    make = "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"
    run(sys.executable, "-c", make, folder, cwd=source)
    [path] = folder.glob("*.whl")
    return path, source


def run(*words, cwd, **environment):
    """What a program prints, which must succeed."""
    told = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")} | environment
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=told, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.long
def test_the_wheel_holds_the_package_its_licence_and_the_demo(wheel):
    path, source = wheel
    with zipfile.ZipFile(path) as opened:
        files = set(opened.namelist())
        [place] = [name for name in files if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(opened.read(place).decode())
    assert place.replace("METADATA", "licenses/LICENSE") in files
    there = [path for path in (source / "rag_jax").rglob("*") if path.suffix in (".py", ".tsv", ".typed")]
    assert {path.relative_to(source).as_posix() for path in there} <= files
    assert {f"rag_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")} <= files
    assert not [name for name in files if not name.startswith("rag_jax")]
    assert metadata["Name"] == "rag_jax" and metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown" and "# rag_jax" in metadata.get_payload()


@pytest.mark.long
def test_what_pip_installed_trains_the_demo_without_the_repository(wheel, tmp_path):
    """In an empty folder; the packages that it needs are those of the tests."""
    site, place = tmp_path / "site", tmp_path / "empty"
    place.mkdir()
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", f"--target={site}", wheel[0], cwd=place)
    python = partial(run, sys.executable, cwd=place, PYTHONPATH=str(site))
    assert python("-c", "import rag_jax; print(rag_jax.__file__)").startswith(str(site))
    for command in ("train_retriever", "build_index", "train", "evaluate", "answer", "export", "plan", "serve"):
        assert f"python -m rag_jax.{command}" in python("-m", f"rag_jax.{command}", "--help")
    given = "--config=demo", "--workdir=run", "--config.retriever.steps=2", "--config.retriever.batch=16"
    assert "retriever step 2: loss " in python("-m", "rag_jax.train_retriever", *given)
    assert "run/index: 3,176 passages, scann index" in python("-m", "rag_jax.build_index", *given)
    assert [path.name for path in place.iterdir()] == ["run"]
