"""Tokenizers: loading, encoding, and training the encoder's WordPiece and the generator's byte-level BPE.

The folders are ordinary Hugging Face ones. They are read with the tokenizers library alone: importing
transformers costs seconds, and its tokenizers are this library underneath.
"""

import hashlib
import json
import shutil
import string
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from rag_jax.errors import UserError, fail
from rag_jax.files import check_own, read_object, write_json, write_manifest
from rag_jax.folders import build_folder

BERT_SPECIALS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
BART_SPECIALS = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
CONFIG, SPECIALS, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
FILES = ("tokenizer.json", CONFIG, SPECIALS, ADDED, "vocab.txt", "vocab.json", "merges.txt")
KIND = "tokenizer"
WORD_START = "▁"
SMALLEST = 300
FEW_LETTERS = 8192  # a batch of questions: waking the tokenizer's threads may take longer than the work


TITLE_ENDS = {"joined": " ", "sentence": ". "}  # what parts title and text that are one text


class Framing(NamedTuple):
    """The text that an encoder reads: what stands before every question and passage, as E5's 'query: '; and the title.

    title: 'pair' is `[CLS] title [SEP] text [SEP]` (DPR); 'joined' makes one text of both, 'title text', and 'sentence'
    makes it 'title. text', as sentence encoders are trained. The prefix stands before the title.
    """

    question_prefix: str = ""
    passage_prefix: str = ""
    title: str = "pair"


PLAIN = Framing()


class Tokenizer:
    """A WordPiece (BERT) or byte-level BPE (BART) tokenizer; text that spells a special token stays text.

    framing: of an encoder's tokenizer, which makes the encoder's inputs, so that nobody can forget a prefix.
    """

    def __init__(self, backend: tokenizers.Tokenizer, folder: str | Path, framing: Framing = PLAIN) -> None:
        self.folder, self.framing = Path(folder), framing
        self._backend = backend
        backend.no_padding()
        backend.no_truncation()
        # A passage that spells "</s>" is text about markup, not an end of sequence.
        backend.encode_special_tokens = True
        names = BERT_SPECIALS if backend.token_to_id(BERT_SPECIALS["cls"]) is not None else BART_SPECIALS
        found = {role: backend.token_to_id(token) for role, token in names.items()}
        ids = {role: token_id for role, token_id in found.items() if token_id is not None}
        missing = [names[role] for role in names if role not in ids]
        if missing:
            fail(f"{folder}: no token {' '.join(missing)}; expected a BERT or BART tokenizer")
        self.pad_id, self.mask_id = ids["pad"], ids["mask"]
        self.bos_id = ids["bos"] if "bos" in ids else ids["cls"]
        self.eos_id = ids["eos"] if "eos" in ids else ids["sep"]
        self.cls_id, self.sep_id = self.bos_id, self.eos_id
        self.special_ids = frozenset(ids.values())
        self.vocab_size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary in the order of ids: what a store of token ids depends on."""
        return hashlib.sha256("\n".join(self.tokens()).encode()).hexdigest()

    @classmethod
    def load(cls, folder: str | Path, framing: Framing = PLAIN) -> "Tokenizer":
        """Loads a Hugging Face folder: tokenizer.json, else vocab.txt, else vocab.json with merges.txt.

        A run's own is compared with its manifest, `seal`; UserError that names the file which is damaged.
        """
        folder = Path(folder)
        check_own(folder, KIND)
        try:
            if (folder / "tokenizer.json").exists():
                return cls(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), folder, framing)
            if (folder / "vocab.txt").exists():
                return cls(_wordpiece_from_files(folder), folder, framing)
            if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
                return cls(_bpe_from_files(folder), folder, framing)
        except UserError:
            raise
        except Exception as error:  # what the tokenizers library raises for a file that it cannot parse
            fail(f"{folder}: damaged tokenizer ({error}); restore the folder")
        fail(f"{folder}: no tokenizer; expected tokenizer.json, vocab.txt, or vocab.json with merges.txt")

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        if sum(map(len, texts)) < FEW_LETTERS:
            return [self.encode(text) for text in texts]
        return [e.ids for e in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode(self, text: str) -> list[int]:
        """Token ids of one text, without special tokens."""
        return self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, special tokens skipped."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def tokens(self) -> list[str]:
        """The vocabulary as written in the files, in the order of ids; "" for an id that no token has."""
        return [self._backend.id_to_token(i) or "" for i in range(self.vocab_size)]

    def question_ids(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Encoder inputs `[CLS] question [SEP]`, cut on the right and padded: int32 [B, length]."""
        return self._pad([[self.cls_id, *ids] for ids in self._questions(texts)], length)

    def too_long(self, texts: Sequence[str], length: int) -> int:
        """How many questions do not fit into an encoder input whole."""
        return sum(len(ids) + 2 > length for ids in self._questions(texts))

    def passage_ids(self, titles: Sequence[str], texts: Sequence[str], length: int) -> np.ndarray:
        """Encoder inputs of passages with the title as the framing says: int32 [P, length].

        An empty title leaves `[CLS] text [SEP]`. Cut on the right, the last token kept [SEP]; token types are
        zero throughout.
        """
        return self._pad([[self.cls_id, *ids] for ids in self._passages(titles, texts)], length)

    def _questions(self, texts: Sequence[str]) -> list[list[int]]:
        return self.encode_batch([self.framing.question_prefix + text for text in texts])

    def _passages(self, titles: Sequence[str], texts: Sequence[str]) -> list[list[int]]:
        prefix = self.framing.passage_prefix
        both = [
            (prefix + title, text) if title.strip() else ("", prefix + text)
            for title, text in zip(titles, texts, strict=True)
        ]
        if self.framing.title in TITLE_ENDS:
            end = TITLE_ENDS[self.framing.title]
            return self.encode_batch([f"{head}{end}{body}" if head else body for head, body in both])
        heads, bodies = (self.encode_batch([pair[place] for pair in both]) for place in (0, 1))
        return [[*head, self.sep_id, *body] if head else body for head, body in zip(heads, bodies, strict=True)]

    def _pad(self, rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
        out = np.full((len(rows), length), self.pad_id, np.int32)
        for row, ids in zip(out, rows, strict=True):
            ids = ids[: length - 1]
            row[: len(ids)] = ids
            row[len(ids)] = self.sep_id
        return out


def seal(folder: Path) -> None:
    """Says of a run's own tokenizer what its files are, when all are there."""
    write_manifest(folder, {"kind": KIND})


def copy_files(source: Path, target: Path) -> None:
    """Copies what of a folder belongs to its tokenizer; it may hold a model's weights as well."""
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def train_wordpiece(texts: Iterable[str], vocab_size: int, folder: str | Path) -> Tokenizer:
    """Trains a lower-casing WordPiece vocabulary and writes the folder, which BertTokenizer loads.

    The same texts give the same file. The library's own WordPiece trainer breaks ties by hash order, so the
    pieces come from its byte-pair trainer on words with a start mark: a piece with the mark starts a word,
    the others continue one.
    """
    _check_size(vocab_size)
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, limit_alphabet=min(1000, vocab_size // 4), show_progress=False)
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.normalizer = normalizer = normalizers.BertNormalizer()
    mark = pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always", split=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), mark])
    bpe.train_from_iterator(texts, trainer)
    learned = [token for i in range(bpe.get_vocab_size()) if (token := bpe.id_to_token(i)) is not None]
    # Questions hold letters that a small corpus lacks: ASCII is always there.
    letters = sorted({*string.ascii_lowercase, *string.digits, *(t for t in learned if len(t) == 1)} - {WORD_START})
    pieces = [t[1:] if t.startswith(WORD_START) else "##" + t for t in learned if t != WORD_START]
    ordered = [
        *BERT_SPECIALS.values(),
        *string.punctuation,
        *letters,
        *("##" + letter for letter in letters),
        *pieces,
    ]
    vocab = {token: i for i, token in enumerate(list(dict.fromkeys(ordered))[:vocab_size])}
    _write_folder(folder, _wordpiece(vocab, normalizer), "BertTokenizer", BERT_SPECIALS, do_lower_case=True)
    return Tokenizer.load(folder)


def train_byte_bpe(texts: Iterable[str], vocab_size: int, folder: str | Path, whole: Collection[str] = ()) -> Tokenizer:
    """Trains a byte-level BPE vocabulary and writes the folder, which BartTokenizer loads.

    All 256 bytes are in it, so that any text can be written. The same texts give the same file. whole: words that are
    one token each after a space, however rare they are in the texts.
    """
    _check_size(vocab_size)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - sum(map(len, whole)),  # a word of n letters after a space is made by n merges at most
        special_tokens=list(BART_SPECIALS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend = _byte_bpe(models.BPE())
    backend.train_from_iterator(texts, trainer)
    for word in whole:
        _make_whole(backend, f" {word}")
    _frame(backend, BART_SPECIALS["bos"], BART_SPECIALS["eos"])
    _write_folder(folder, backend, "BartTokenizer", BART_SPECIALS, add_prefix_space=False)
    return Tokenizer.load(folder)


def _make_whole(backend: tokenizers.Tokenizer, text: str) -> None:
    """Makes a text one token, by merges that come after all others: hardly another text is cut otherwise."""
    while len(pieces := backend.encode(text, add_special_tokens=False).tokens) > 1:
        model = json.loads(backend.to_str())["model"]
        model["vocab"].setdefault("".join(pieces[:2]), len(model["vocab"]))
        merges = [*((left, right) for left, right in model["merges"]), (pieces[0], pieces[1])]
        backend.model = models.BPE(model["vocab"], merges)


def _check_size(vocab_size: int) -> None:
    if vocab_size < SMALLEST:
        fail(f"vocabulary size {vocab_size}; expected at least {SMALLEST}, to hold every byte or letter")


def _wordpiece(vocab: dict[str, int], normalizer: normalizers.Normalizer) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=BERT_SPECIALS["unk"]))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens([token for token in BERT_SPECIALS.values() if token in vocab])
    cls, sep = BERT_SPECIALS["cls"], BERT_SPECIALS["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
    )
    return backend


def _byte_bpe(model: models.Model, prefix_space: bool = False) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


def _frame(backend: tokenizers.Tokenizer, bos: str, eos: str) -> None:
    """Puts two special tokens, which it was trained with, around a text."""
    bos_id, eos_id = backend.token_to_id(bos), backend.token_to_id(eos)
    assert bos_id is not None and eos_id is not None
    backend.post_processor = processors.RobertaProcessing((eos, eos_id), (bos, bos_id), add_prefix_space=False)


def _wordpiece_from_files(folder: Path) -> tokenizers.Tokenizer:
    settings = _object(folder / CONFIG)
    normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
    )
    with open(folder / "vocab.txt", encoding="utf-8", newline="\n") as stream:
        vocab = {line.rstrip("\r\n"): i for i, line in enumerate(stream)}
    missing = [token for token in BERT_SPECIALS.values() if token not in vocab]
    if missing:
        fail(f"{folder / 'vocab.txt'}: no token {' '.join(missing)}; expected a BERT vocabulary")
    return _with_added(_wordpiece(vocab, normalizer), folder)


def _bpe_from_files(folder: Path) -> tokenizers.Tokenizer:
    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    backend = _byte_bpe(model, _object(folder / CONFIG).get("add_prefix_space", False))
    backend.add_special_tokens([t for t in BART_SPECIALS.values() if model.token_to_id(t) is not None])
    return _with_added(backend, folder)


def _with_added(backend: tokenizers.Tokenizer, folder: Path) -> tokenizers.Tokenizer:
    """Adds the tokens that the folder's files have beside the vocabulary, in the order of their ids."""
    told: dict[int, dict[str, Any]]
    if decoder := _object(folder / CONFIG).get("added_tokens_decoder"):  # of today, without need of the older files
        told = {int(number): token for number, token in decoder.items()}
    else:
        special = set(_contents(list(_object(folder / SPECIALS).values())))
        told = {
            token_id: {"content": token, "special": token in special, "normalized": token not in special}
            for token, token_id in _object(folder / ADDED).items()
        }
    for token_id, token in sorted(told.items()):
        add = backend.add_special_tokens if token.get("special") else backend.add_tokens
        add([tokenizers.AddedToken(**token)])
        if (found := backend.token_to_id(token["content"])) != token_id:
            what = f"the added token {token['content']!r} gets the id {found}, expected {token_id}"
            fail(f"{folder}: {what}; restore its vocabulary and its added tokens")
    return backend


def _contents(value: Any) -> Iterator[Any]:
    """The tokens in what special_tokens_map.json holds: strings, objects of one's "content", lists of both."""
    if isinstance(value, list):
        for one in value:
            yield from _contents(one)
    else:
        yield value.get("content") if isinstance(value, dict) else value


def _object(path: Path) -> dict[str, Any]:
    """What a file that may be missing says."""
    return read_object(path) if path.exists() else {}


def _write_folder(
    folder: str | Path, backend: tokenizers.Tokenizer, kind: str, specials: dict[str, str], **settings: bool
) -> None:
    names = {f"{role}_token": token for role, token in specials.items()}
    if "bos" in specials:
        names |= {"cls_token": specials["bos"], "sep_token": specials["eos"]}

    def write(temporary: Path) -> None:
        backend.save(str(temporary / "tokenizer.json"))
        backend.model.save(str(temporary))
        # No clean-up: decoding is the inverse of encoding, spaces before punctuation included.
        config = {"tokenizer_class": kind, "clean_up_tokenization_spaces": False, **settings, **names}
        write_json(temporary / CONFIG, config)
        write_json(temporary / SPECIALS, names)
        seal(temporary)

    build_folder(folder, write)
