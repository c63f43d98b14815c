import pytest

from ..conftest import ROOT, Run

DEMO = f"--config={ROOT / 'configs' / 'demo.py'}"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A run of the demo's sizes whose retriever has hardly begun to train, with its index."""
    run = Run(tmp_path_factory.mktemp("demo"))
    run.environment["XLA_FLAGS"] = ""  # as a user has it: one device, programs optimised
    run.command("train_retriever", DEMO, f"--workdir={run.workdir}", "--config.retriever.steps=30")
    run.command("build_index", DEMO, f"--workdir={run.workdir}")
    return run
