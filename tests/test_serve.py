"""The command: mistakes are one line; a run is served until a signal, as a process of its own."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from rag_jax.serving import batching, endpoint, server, views

DOCS = (Path(__file__).parents[1] / "docs" / "serve.md").read_text(encoding="utf-8")
WITHOUT = "import sys\nsys.modules['gradio'] = None"


def test_without_the_extra_it_says_what_to_install(tiny_run):
    done = tiny_run.command("serve", f"--workdir={tiny_run.workdir}", prelude=WITHOUT, code=2)
    assert done.stderr == "error: found no package 'gradio', expected it installed; run `pip install rag_jax[ui]`\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "--workdir: missing, expected the folder of the run"),
        (["--workdir=run", "--index=a=x", "--index=a=y"], "--index: found 'a' for x and y, expected two names"),
        (["--workdir=run", "--index=a="], "--index: found 'a=', expected NAME=FOLDER"),
        (["--workdir=run", "--port=65536"], "command line: flag --port=65536"),
    ],
)
def test_flags_that_cannot_be_are_one_line(tiny_run, flags, problem):
    done = tiny_run.command("serve", *flags, code=2)
    assert done.stderr.startswith(f"error: {problem}") and done.stderr.count("\n") == 1 and done.stdout == ""


def test_its_page_names_every_field_refusal_and_limit():
    rows = dict(re.findall(r"^\| `?(\w+)`? \| (.*) \|$", DOCS, re.MULTILINE))
    fields, refusals = set(endpoint.Asked.model_fields), {str(status) for status in endpoint.REFUSALS}
    assert set(rows) == {"field", "status"} | fields | refusals
    assert f"1 to {endpoint.MOST_QUESTIONS} strings of at most {views.MOST_LETTERS:,} characters" in rows["questions"]
    assert rows["beams"] == f"1 to {views.MOST_BEAMS}" and rows["k"].endswith(f"1 to {views.MOST_K}")
    assert rows["413"].endswith(f"more than {endpoint.MOST_BYTES >> 20} MiB")
    assert rows["503"].startswith(f"{batching.MOST_WAITING:,} questions")
    assert f"within {1000 * batching.GATHER:.0f} milliseconds" in " ".join(DOCS.split())


@pytest.mark.long
def test_no_such_run_and_a_port_in_use_are_one_line(tiny_run):
    done = tiny_run.command("serve", "--workdir=nowhere", "--port=0", code=2)
    assert re.fullmatch(r"error: .*nowhere.*\n", done.stderr) and done.stdout == ""
    with server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        done = tiny_run.command("serve", f"--workdir={tiny_run.workdir}", f"--port={port}", code=2)
    assert done.stderr.startswith(f"error: --port: found {port} in use") and done.stderr.count("\n") == 1


@pytest.mark.long
def test_a_run_is_served_until_a_signal(tiny_run):
    with tiny_run.served("--index=before=run/index", "--index=index_after") as where:
        assert httpx.get(f"{where}/healthz", timeout=300).json()["indexes"] == ["before", "index_after"]
        asked = {"questions": ["who is mayor of Brimholt?"], "index": "index_after"}
        assert httpx.post(f"{where}/answer", json=asked, timeout=300).json()["settings"]["index"] == "index_after"
        if shutil.which("curl"):
            curl = re.search(r"^    (curl .*)$", DOCS, re.MULTILINE)[1].replace("http://127.0.0.1:7860", where)
            curl = curl.replace("who wrote Dracula?", "river of Cladow?")  # of words that the tiny vocabulary has
            printed = subprocess.run(shlex.split(curl), capture_output=True, text=True, check=True).stdout
            assert len(json.loads(printed)["answers"][0]["documents"]) == 3
