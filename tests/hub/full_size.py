"""BERT-base and BART-large through a folder of transformers' and back: `python -m tests.hub.full_size`, some minutes.

Random weights, fp32, 4.2 GB of disk in a temporary folder. Each step runs in a process of its own, so that its peak of
memory is its own; 'import' is this package's reading of the folder before it computes anything.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

B, K, Q, S, T, E = 2, 2, 12, 64, 16, 768


def batch() -> tuple[np.ndarray, ...]:
    """question_BQ, source_BKS, labels_BT, document_BKE; of scores that leave both documents a say."""
    random = np.random.default_rng(0)
    question, source = random.integers(1000, 30000, (B, Q)), random.integers(100, 50000, (B, K, S))
    labels = random.integers(100, 50000, (B, T))
    labels[:, 0], labels[:, 1], labels[:, -1] = 2, 0, 2
    return question, source, labels, 0.05 * random.normal(size=(B, K, E)).astype(np.float32)


def peak() -> float:
    """The most resident memory of this process, GiB; pages of mapped files counted."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**20


def theirs(folder: Path) -> dict[str, Any]:
    """Writes the folder; transformers' losses."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.RagConfig.from_question_encoder_generator_configs(
        transformers.DPRConfig(), transformers.BartConfig()
    )
    model = transformers.RagTokenForGeneration(config).eval()
    with torch.no_grad():  # fresh weights hardly tell one word from another, and their biases are zero
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn(weight.shape))
            elif name.endswith("shared.weight"):
                weight.mul_(5)
    model.save_pretrained(folder)
    sequence = transformers.RagSequenceForGeneration(
        config=model.config, question_encoder=model.question_encoder, generator=model.generator
    ).eval()
    question, source, labels, document = map(torch.tensor, batch())
    with torch.no_grad():
        scores = torch.einsum("be,bke->bk", model.question_encoder(question)[0], document)
        inputs = {"context_input_ids": source.reshape(-1, S), "doc_scores": scores, "labels": labels, "n_docs": K}
        inputs["context_attention_mask"] = torch.ones_like(inputs["context_input_ids"])
        losses = {"token": model(**inputs).loss, "sequence": sequence(**inputs).loss}
    return {kind: loss.tolist() for kind, loss in losses.items()}


def ours(folder: Path) -> dict[str, Any]:
    """Reads the folder, computes the losses, and writes the tensors beside it."""
    import jax

    from rag_jax.core.loss import rag_loss
    from rag_jax.core.marginal import document_log_prior
    from rag_jax.hub import huggingface, rules
    from rag_jax.hub.convert import to_huggingface
    from rag_jax.hub.tensors import write_tensors
    from rag_jax.models import rag

    start = time.monotonic()
    config = rag.RagConfig(huggingface.encoder_config(folder, "question_encoder"), huggingface.generator_config(folder))
    params = huggingface.load_rag(folder, config)
    found = {"import_seconds": time.monotonic() - start, "import_peak": peak()}
    question, source, labels, document = batch()
    target = np.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=1)

    @jax.jit
    def losses(params: Any) -> tuple[jax.Array, jax.Array]:
        scores = rag.document_scores(rag.encode_questions(config, params, question), document)
        prior = document_log_prior(scores)
        likelihood = rag.token_likelihood(config, params, source, labels, target, prior)
        loss = partial(rag_loss, likelihood=likelihood, prior_BK=prior, target_BT=target, mask_BT=target != 1)
        return loss("token", compat="huggingface"), loss("sequence", compat="huggingface")

    found |= {kind: loss.tolist() for kind, loss in zip(("token", "sequence"), losses(params), strict=True)}
    start = time.monotonic()
    write_tensors(folder / "again" / "model.safetensors", to_huggingface(params, rules.rag()))
    return found | {"export_seconds": time.monotonic() - start}


def compare(folder: Path) -> dict[str, Any]:
    """How many tensors of theirs and of the export after it there are, and how many differ by a bit or by name."""
    from rag_jax.hub.tensors import open_tensors

    first, again = open_tensors(folder), open_tensors(folder / "again")
    differ = len(first.keys() ^ again.keys())
    for name in first.keys() & again.keys():
        differ += np.asarray(first[name]).tobytes() != np.asarray(again[name]).tobytes()
    return {"tensors": len(first), "differ": differ}


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {"theirs": theirs, "ours": ours, "compare": compare}


def step(name: str, folder: Path) -> dict[str, Any]:
    """Runs a step in a process of its own; what it found, its seconds and its peak."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", __spec__.name, name, folder], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: failed, see above")
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": time.monotonic() - start}


def main() -> None:
    """Prints the table."""
    if sys.argv[1:]:
        name, folder = sys.argv[1:]
        print(json.dumps(STEPS[name](Path(folder)) | {"peak": peak()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {name: step(name, Path(folder)) for name in STEPS}
    reading = found["ours"]
    print("| step | seconds | peak, GiB |\n|---|---|---|")
    print(f"| transformers: make, save, losses | {found['theirs']['seconds']:.0f} | {found['theirs']['peak']:.2f} |")
    print(f"| import | {reading['import_seconds']:.1f} | {reading['import_peak']:.2f} |")
    print(f"| export | {reading['export_seconds']:.1f} | |")
    print(f"| import, losses, export | {reading['seconds']:.0f} | {reading['peak']:.2f} |")
    print("\n| loss | ours | transformers | largest difference | relative |\n|---|---|---|---|---|")
    for kind in ("token", "sequence"):
        got, expected = np.array(reading[kind]), np.array(found["theirs"][kind])
        difference = np.abs(got - expected)
        shown = ", ".join(f"{x:.4f}" for x in got), ", ".join(f"{x:.4f}" for x in expected)
        print(f"| {kind} | {shown[0]} | {shown[1]} | {difference.max():.1e} | {(difference / expected).max():.1e} |")
    print(f"\n{found['compare']['tensors']} tensors, {found['compare']['differ']} of them differ after the way back")


if __name__ == "__main__":
    main()
