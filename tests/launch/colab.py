"""Runs a notebook of launch/colab as Colab does, from its first cell to its last, and stores what it printed.

    python -m tests.launch.colab --notebook=quickstart --folder=colab --store

Cells that need a network are replaced by REPLACED, which names folders that must lie in --folder: all-MiniLM-L6-v2;
and rag-token-small and ctx-encoder-small, facebook/rag-token-nq's layout, which --run=colab/runs/quick makes of a run.
"""

import argparse
import copy
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "launch" / "colab"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb")))
MODEL, ENCODER = "rag-token-small", "ctx-encoder-small"
REPLACED = {
    "install": "",
    "encoder": 'ENCODER = "all-MiniLM-L6-v2"',
    "checkpoint": f'MODEL, ENCODER = "{MODEL}", "{ENCODER}"',
}
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PROBLEM = re.compile(r"^error: |^Traceback ", re.MULTILINE)


def read(name: str) -> NotebookNode:
    """The notebook of that name."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def tags(cell: NotebookNode) -> list[str]:
    """'network', 'parameters' or none."""
    return cell.metadata.get("tags", [])


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Its cells of code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def offline(notebook: NotebookNode, parameters: str | None = None) -> NotebookNode:
    """A copy whose cells of the network are replaced, and its parameters where others are given."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if "network" in tags(cell):
            cell.source = REPLACED[cell.id]
        if parameters is not None and "parameters" in tags(cell):
            cell.source = parameters
    return notebook


def execute(notebook: NotebookNode, folder: Path, environment: Mapping[str, str], timeout: int) -> NotebookNode:
    """The notebook with its outputs, run in a folder by a kernel of its own; a cell or a command that fails raises.

    timeout: seconds for each cell.
    """
    own = {"IPYTHONDIR": str(folder / ".ipython"), "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"}
    notebook = copy.deepcopy(notebook)
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=where, record_timing=False)
    client.on_cell_executed = tidy
    try:
        client.execute(env={**environment, **own, "PYTHONPATH": str(ROOT)})
    finally:
        nbformat.write(notebook, folder / "executed.ipynb")
    return notebook


def tidy(cell: NotebookNode, **_: Any) -> None:
    """Makes a cell's outputs what a reader sees in the end; RuntimeError where a command of its failed.

    Of standard error, which is not the commands' but the libraries' in the kernel, nothing is kept.
    """
    kept = []
    for output in cell.outputs:
        if output.output_type == "stream" and kept and kept[-1].output_type == "stream" and output.name == "stdout":
            kept[-1].text += output.text
        elif output.get("name") != "stderr":
            kept.append(output)
    cell.outputs = [output for output in map(tidied, kept) if output is not None]
    if PROBLEM.search(printed(cell)):
        raise RuntimeError(f"cell {cell.id}: {printed(cell)}")


def printed(cell: NotebookNode) -> str:
    """The text among a cell's outputs."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def tidied(output: NotebookNode) -> NotebookNode | None:
    """An output without colours, lines that were written over, and what only some readers can show."""
    if output.output_type == "stream":
        lines = ANSI.sub("", output.text).replace("\r\n", "\n").split("\n")
        output.text = "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines)
        return output if output.text.strip() else None
    if "data" in output:
        output.data = {kind: value for kind, value in output.data.items() if kind in ("image/png", "text/plain")}
        output.metadata = {}
    return output


def store(name: str, executed: NotebookNode) -> None:
    """Writes outputs into the notebook, whose sources stay as they are; replaced cells count as run."""
    notebook = read(name)
    cells = zip(code_cells(notebook), code_cells(executed), strict=True)
    for count, (cell, run) in enumerate(cells, 1):
        cell.outputs, cell.execution_count = run.outputs, count
    nbformat.write(notebook, FOLDER / f"{name}.ipynb")


def stand_in(run: Path, folder: Path) -> None:
    """A trained run as facebook/rag-token-nq lies on the hub: the model's folder, and one of its passage encoder."""
    import transformers

    from rag_jax.api import Rag
    from rag_jax.training import encoders
    from rag_jax.workdir import Workdir

    rag = Rag.load(run)
    rag.save_pretrained(folder / MODEL)
    for name in ("rag_jax.json", "README.md"):
        (folder / MODEL / name).unlink()
    trained: dict[str, Any] = encoders.retriever_params(rag.config, Workdir(run), rag.model, rag.parallel)
    params = rag.params | {"question_encoder": trained["question_encoder"]}
    unscaled = Rag(replace(rag.model, score_scale=1.0), params, rag.retriever, rag.config, rag.parallel)
    unscaled.save_pretrained(folder / "unscaled")
    found = transformers.RagTokenForGeneration.from_pretrained(folder / "unscaled").rag.question_encoder
    encoder = transformers.DPRContextEncoder(found.config)
    encoder.ctx_encoder.load_state_dict(found.question_encoder.state_dict())
    encoder.save_pretrained(folder / ENCODER)
    shutil.rmtree(folder / "unscaled")


def main() -> None:
    """Reads the flags, runs the notebook, prints what it printed and stores it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebook", choices=NAMES, required=True, help="which one")
    parser.add_argument("--folder", type=Path, required=True, help="where it runs")
    parser.add_argument("--run", type=Path, help="a trained run, to be written as Facebook's model is")
    parser.add_argument("--store", action="store_true", help="write the outputs into the notebook")
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    if flags.run:
        stand_in(flags.run, flags.folder)
    executed = execute(offline(read(flags.notebook)), flags.folder.resolve(), os.environ, timeout=7200)
    for cell in code_cells(executed):
        print(f"--- {cell.id}\n{printed(cell)}", flush=True)
    if flags.store:
        store(flags.notebook, executed)


if __name__ == "__main__":
    main()
