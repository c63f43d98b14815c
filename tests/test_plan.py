"""`python -m rag_jax.plan` on the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def command(*flags, code=0):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "rag_jax.plan", *flags], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config=demo"], "--topology: missing, expected a machine, as --topology=v5e:2x4"),
        (
            ["--config=demo", "--topology=v5e:9x9"],
            "--topology: found 'v5e:9x9', which does not exist; expected one of v3:",
        ),
        (["--topology=cpu:8"], "--config: missing"),
        (["--config=demo", "--topology=cpu:8", "--passages=0"], "--passages: found 0, expected 1 or more"),
    ],
)
def test_a_mistake_is_one_line(flags, said):
    done = command(*flags, code=2)
    assert done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.long
def test_the_demo_on_a_cpu_is_estimated():
    said = command("--config=demo", "--topology=cpu:8").stdout
    assert "3,176 passages (demo:2016)" in said and "ESTIMATES" in said
    assert "training: " in said and "what binds first: " in said


@pytest.mark.long
def test_the_demo_is_compiled_for_a_tpu():
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install 'rag_jax[plan]'")
    said = command("--config=demo", "--topology=v5e:2x4").stdout
    assert "joint step, 32 at a time: compiled in" in said and "ESTIMATES" not in said
    assert "of 15.75 GiB a chip: fits" in said
