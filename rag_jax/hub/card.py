"""The model card of an exported folder: what the model is, its scores, and code that answers with it as it stands."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rag_jax.hub.configs import ARCHITECTURES
from rag_jax.hub.knowledge import DATASET, FAISS
from rag_jax.models.rag import RagConfig

FINDS = {
    "bm25": "BM25 finds",
    "hybrid": "a DPR question encoder and BM25 find",
}
MARGINALS = {
    "token": "RAG-Token: every token of an answer is predicted by all passages together",
    "sequence": "RAG-Sequence: every passage predicts a whole answer, and the predictions are summed",
}
HEAD = """---
library_name: transformers
tags:
- rag
- retrieval-augmented-generation
- rag_jax
---

# {name}

Retrieval-augmented generation ([Lewis et al. 2020](https://arxiv.org/abs/2005.11401)): {finds}
{k} passages, a BART generator reads each of them. {marginal}.

Trained with rag_jax, in JAX; the files are transformers'.

| part | layers | width | heads | vocabulary |
|---|---|---|---|---|
| question encoder | {bert.layers} | {bert.width} | {bert.heads} | {bert.vocab_size} |
| generator | {bart.encoder_layers} + {bart.decoder_layers} | {bart.width} | {bart.heads} | {bart.vocab_size} |

Passages: `{data.passages}`. Questions: training `{data.train}`, validation `{data.valid}`, test `{data.test}`.
The whole configuration is in `rag_jax.json`.
"""
OURS = """
## In rag_jax

```python
from rag_jax import Rag

rag = Rag.load("."{index})  # this folder
for answer in rag.answer(["who discovered radium?"]):
    print(answer.text, answer.documents[0].title, answer.documents[0].posterior)
```
"""
LOADING = """
## In transformers

Run in this folder, or let `folder` be `huggingface_hub.snapshot_download("owner/name")`. Needs {needs}.

```python
import torch
from transformers import {classes}

folder = "."
tokenizer = RagTokenizer.from_pretrained(folder)
model = {model}.from_pretrained(folder).eval()
settings = {{
{settings}
}}
"""
SOURCES = '''

def source(title, text, question):
    """Token ids `<s> title / text // question </s>`, at most {source}; {cut}."""
    pieces = [f"{{title}} /", f" {{text}}", f" // {{' '.join(question.split())}}"]
    pieces = tokenizer.generator(pieces, add_special_tokens=False, split_special_tokens=True)
    title, text, question = pieces["input_ids"]
    ids = [*title, *text{kept}, *question]
    return torch.tensor([settings["bos_token_id"], *ids[:{room}], settings["eos_token_id"]])


@torch.no_grad()
def read(questions, documents, scores):
    """Answers to B questions, each from its K documents: pairs (title, text) and their scores [B, K]."""
{asked}    sources = [source(*pair, question) for question, pairs in zip(questions, documents) for pair in pairs]
    ids = torch.nn.utils.rnn.pad_sequence(sources, batch_first=True, padding_value=settings["pad_token_id"])
    mask = (ids != settings["pad_token_id"]).long()
'''
TOKEN = """    said = model.generate(
        context_input_ids=ids, context_attention_mask=mask, doc_scores=scores, n_docs=scores.shape[1], **settings
    )
"""
SEQUENCE = """    count = scores.shape[1]
    said = [best(*one) for one in zip(ids.split(count), mask.split(count), scores.split(1))]
"""
TEXTS = """    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return [text.strip() for text in tokenizer.generator.batch_decode(said, **plain)]
"""
BEST = '''

@torch.no_grad()
def best(ids, mask, scores):
    """The likeliest of the answers that K documents propose to one question, judged by all of them."""
    found = model.generator.generate(ids, attention_mask=mask, num_return_sequences=settings["num_beams"], **settings)
    found = torch.unique(found, dim=0)
    count, documents = len(found), len(ids)
    loss = model(
        context_input_ids=ids.repeat(count, 1),
        context_attention_mask=mask.repeat(count, 1),
        doc_scores=scores.repeat(count, 1),
        labels=found,
        exclude_bos_score=True,
        n_docs=documents,
    ).loss
    return found[loss.argmin()]
'''
FINDING = '''

@torch.no_grad()
def answer(questions):
    """Answers from the {k} best passages of the index."""
    whole = {{"padding": True, "truncation": True, "split_special_tokens": True}}
    inputs = tokenizer(questions, max_length={question}, return_tensors="pt", **whole)
    query = model.question_encoder(**inputs)[0]
    vectors, _, found = retriever.retrieve(query.numpy(), n_docs={k})
    scores = (query[:, None] * torch.tensor(vectors)).sum(dim=-1)
    return read(questions, [list(zip(one["title"], one["text"])) for one in found], scores)


print(answer(["who discovered radium?"]))
```
'''
READING = """

# Two passages of equal weight: this folder holds no index.
passages = [("Radium", "Marie Curie discovered radium."), ("Polonium", "Polonium was named after Poland.")]
print(read(["who discovered radium?"], [passages], torch.zeros(1, 2)))
```
"""
NOTES = """
- Lengths in `generation_config.json` count the start token.
"""
RAW_NOTE = """
- The generator reads the question as it was typed: so it was trained. `RagRetriever.__call__`, and with it
  `generate(input_ids)`, writes the question anew from the encoder's lower-cased tokens.
"""
ROUND_TRIP_NOTE = """
- The generator reads the question as the encoder's lower-cased tokens say it: so it was trained, by transformers.
"""
ROUND_TRIP = """    asked = tokenizer(questions, max_length={question}, truncation=True, split_special_tokens=True)
    plain = {{"skip_special_tokens": True, "clean_up_tokenization_spaces": {clean}}}
    questions = tokenizer.question_encoder.batch_decode(asked["input_ids"], **plain)
"""
SEQUENCE_NOTE = """
- `RagSequenceForGeneration.generate` of transformers 5 takes padding for text where it proposes answers, and does not
  read `generation_config.json`; `best` does the same with the padding masked.
"""
FAST_NOTE = """
- rag_jax was set to `decode.mode = 'fast'`, which transformers lacks: here all documents judge every answer.
"""
SAMPLE_NOTE = """
- Answers are drawn (`decode.mode = 'sample'`), and each library draws its own random numbers.
"""
BM25_NOTE = """
- BM25 found the passages in training, and its scores were the logits of their prior: the question encoder is not
  trained, and transformers has no such retriever. Give `read` BM25's passages and scores.
"""
HYBRID_NOTE = """
- The passages are chosen by fused ranks of vectors and of BM25; transformers searches the vectors alone.
"""
REPEAT_NOTE = """
- transformers counts the start token, `</s>`, among what `no_repeat_ngram_size` may not repeat; rag_jax does not.
"""


def card(
    name: str,
    model: RagConfig,
    config: ConfigDict,
    decode: Any,
    settings: Mapping[str, Any],
    index: str,
    *,
    with_index: bool,
    scores: Mapping[str, Mapping[str, Any]] | None,
) -> str:
    """The README.md of a folder.

    decode, settings: the same decoding, as DecodeConfig and as transformers' generate takes it. index: the kind of
    index that it answers from. scores: of the test, {name: {'percent', 'low'?, 'high'?}} in percent.
    """
    data = {key: _last_part(config.data[key]) for key in ("passages", "train", "valid", "test")}
    head = HEAD.format(
        name=name,
        k=config.retrieval.k,
        finds=FINDS.get(index, "a DPR question encoder finds"),
        marginal=MARGINALS[model.kind],
        bert=model.question_encoder,
        bart=model.generator,
        data=ConfigDict(data),
    )
    ours = OURS.format(index="" if with_index else ', index="an index of this model"')
    code = _code(model.kind, config, settings, with_index=with_index)
    return head + (_table(scores) if scores else "") + ours + code + _notes(model.kind, config, decode, index)


def _last_part(source: str) -> str:
    """A file's name without its folders, which tell of nobody's machine."""
    return source.rstrip("/").rpartition("/")[2] or "none"


def _table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The scores, with 95% intervals where evaluate knows them."""
    rows = ["", "## Scores", "", "On the test questions, by `python -m rag_jax.evaluate`.", ""]
    rows += ["| measure | percent | 95% interval |", "|---|---|---|"]
    for name, found in scores.items():
        if "percent" in found:
            between = f"{found['low']:.1f} to {found['high']:.1f}" if "low" in found else "–"
            rows.append(f"| {name} | {found['percent']:.1f} | {between} |")
    return "\n".join(rows) + "\n"


def _code(kind: str, config: ConfigDict, settings: Mapping[str, Any], *, with_index: bool) -> str:
    model = ARCHITECTURES[kind]
    length, asked = config.length, config.data.question_text
    room, keep = length.source - 2, config.data.truncation == "keep_question"
    rebuilt = ROUND_TRIP.format(question=length.question, clean=asked.endswith("clean"))
    numbers = {
        "source": length.source,
        "question": length.question,
        "k": config.retrieval.k,
        "room": room,
        "kept": f"[: max({room} - len(title) - len(question), 0)]" if keep else "",
        "asked": rebuilt if asked.startswith("round_trip") else "",
        "cut": "a long text is cut before the question is" if keep else "what is longer loses its end",
    }
    code = LOADING.format(
        needs="transformers, torch, datasets and faiss-cpu" if with_index else "transformers and torch",
        classes=", ".join([*(["RagRetriever"] if with_index else []), model, "RagTokenizer"]),
        model=model,
        settings="\n".join(f'    "{name}": {value!r},' for name, value in settings.items()),
    )
    if with_index:
        code += (
            "retriever = RagRetriever.from_pretrained(\n"
            f'    folder, passages_path=f"{{folder}}/{DATASET}", index_path=f"{{folder}}/{FAISS}"\n)\n'
        )
    code += BEST if kind == "sequence" else ""
    code += SOURCES.format(**numbers) + (SEQUENCE if kind == "sequence" else TOKEN) + TEXTS
    return code + (FINDING.format(**numbers) if with_index else READING)


def _notes(kind: str, config: ConfigDict, decode: Any, index: str) -> str:
    round_trip = config.data.question_text.startswith("round_trip")
    further = {
        RAW_NOTE: not round_trip,
        ROUND_TRIP_NOTE: round_trip,
        BM25_NOTE: index == "bm25",
        HYBRID_NOTE: index == "hybrid",
        SEQUENCE_NOTE: kind == "sequence",
        FAST_NOTE: decode.mode == "fast",
        SAMPLE_NOTE: decode.mode == "sample",
        REPEAT_NOTE: decode.no_repeat_ngram_size > 0,
    }
    notes = [note.removeprefix("\n") for note, applies in further.items() if applies]
    return NOTES + "".join(notes)
