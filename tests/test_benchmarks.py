"""A benchmark that is run by hand must run when it is needed: whole, at the smallest sizes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.long
def test_the_training_step_s_benchmark_runs_and_both_sides_have_one_loss():
    command = [sys.executable, "-m", "tests.benchmarks.train_step", "--shapes=tiny", "--repeats=1", "--dtype=bfloat16"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=1500)
    assert done.returncode == 0, done.stderr
    loss = dict(re.findall(r"^\| ([^|]+) \|.* ([\d.]+) \|$", done.stdout, re.MULTILINE))
    for kind in ("RAG-Token", "RAG-Sequence"):
        ours, theirs = float(loss[f"{kind}: ours"]), float(loss[f"{kind}: transformers"])
        assert abs(ours - theirs) < 2e-2
    for name in ("all kept", "whole logits"):
        assert abs(float(loss[f"RAG-Token: ours, {name}"]) - float(loss["RAG-Token: ours"])) < 2e-2
    assert "exact search of 16 questions in 20,000" in done.stdout
