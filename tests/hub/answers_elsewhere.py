"""Opens an exported folder where there is only transformers, and counts the answers that are rag_jax's own.

    python -m tests.hub.answers_elsewhere --export=hf/demo --answers=runs/demo/predictions.jsonl

for an interpreter with transformers, torch, datasets and faiss: neither jax nor rag_jax is imported. The folder must be
exported --with_index. First the code of its model card answers, as it stands; then transformers' own way, in which
RagRetriever writes the question anew from the encoder's lower-cased tokens. --answers: predictions.jsonl of `evaluate`,
or what `answer --json` prints.
"""

import argparse
import contextlib
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

BATCH = 64
Answering = Callable[[list[str]], list[str]]


def code_of_card(folder: Path) -> str:
    """The card's code for transformers."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if "from transformers import" in block)


def run_card(folder: Path) -> dict:
    """What the card's code defines, run as it stands in the folder; 'printed' is what it prints."""
    names, printed, code = {}, io.StringIO(), code_of_card(folder)
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), names)
    return names | {"printed": printed.getvalue()}


def plain(folder: Path) -> Answering:
    """transformers' own way: question ids in, answers out."""
    import transformers

    settings = json.loads((folder / "config.json").read_text())
    model = getattr(transformers, settings["architectures"][0]).from_pretrained(folder).eval()
    tokenizer = transformers.RagTokenizer.from_pretrained(folder)
    paths = {"passages_path": f"{folder}/hf_dataset", "index_path": f"{folder}/hf_dataset_index.faiss"}
    model.set_retriever(transformers.RagRetriever.from_pretrained(folder, **paths))
    decoding = json.loads((folder / "generation_config.json").read_text())

    def answer(questions: list[str]) -> list[str]:
        inputs = tokenizer(questions, padding=True, return_tensors="pt")
        said = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **decoding)
        return [text.strip() for text in tokenizer.batch_decode(said, skip_special_tokens=True)]

    return answer


def same(answering: Answering, questions: list[str], expected: list[str]) -> list[bool]:
    """Which answers are the expected ones, letter by letter."""
    said = [text for at in range(0, len(questions), BATCH) for text in answering(questions[at : at + BATCH])]
    return [one == other for one, other in zip(said, expected, strict=True)]


def main() -> None:
    """Reads the flags; prints both counts, and the first questions that are answered otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path, required=True, help="the exported folder")
    parser.add_argument("--answers", type=Path, required=True, help="questions with rag_jax's answers, a .jsonl file")
    flags = parser.parse_args()
    records = [json.loads(line) for line in flags.answers.read_text(encoding="utf-8").splitlines()]
    questions = [record["question"] for record in records]
    expected = [record["prediction"] if "prediction" in record else record["text"] for record in records]
    ways = {"the card's code": run_card(flags.export)["answer"], "RagRetriever's question": plain(flags.export)}
    for name, answering in ways.items():
        verdicts = same(answering, questions, expected)
        print(f"{name}: {sum(verdicts)} of {len(verdicts)} answers are rag_jax's")
        others = [question for question, right in zip(questions, verdicts, strict=True) if not right]
        print("".join(f"  otherwise: {question}\n" for question in others[:5]), end="")
    print(f"imported here: {', '.join(sorted({'jax', 'rag_jax'} & set(sys.modules))) or 'neither jax nor rag_jax'}")


if __name__ == "__main__":
    main()
