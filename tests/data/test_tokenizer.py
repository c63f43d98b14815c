import json
import shutil

import numpy as np
import pytest
from transformers import AutoTokenizer

from rag_jax.data.tokenizer import Framing, Tokenizer, train_byte_bpe, train_wordpiece
from rag_jax.errors import UserError
from rag_jax.files import MANIFEST

MAP = "special_tokens_map.json"
STRINGS = [
    "Marie Curie found radium in 1898.",
    " leading space, and  two spaces ",
    "it's don't WE'LL",
    "Łódź – naïve café № 5 東京 🙂 \u0301e",
    "tab\tnew\nline \u00a0\u2003end",
    "1,234.5 (a/b) // c / d",
    "",
]


def test_generator_folder_is_an_ordinary_bart_tokenizer(bpe, corpus):
    theirs = AutoTokenizer.from_pretrained(bpe.folder)
    assert type(theirs).__name__ in ("BartTokenizer", "BartTokenizerFast", "RobertaTokenizer")
    texts = STRINGS + corpus[:50]
    assert bpe.encode_batch(texts) == [theirs.encode(text, add_special_tokens=False) for text in texts]
    assert theirs.encode("a") == [0, *bpe.encode("a"), 2]
    assert [theirs.decode(ids) for ids in bpe.encode_batch(texts)] == texts
    specials = (theirs.bos_token_id, theirs.pad_token_id, theirs.eos_token_id, theirs.mask_token_id)
    assert specials == (bpe.bos_id, bpe.pad_id, bpe.eos_id, bpe.mask_id) == (0, 1, 2, 4)
    assert len(theirs) == bpe.vocab_size == 700


def test_words_that_are_to_be_whole_are_one_token_each_and_other_texts_stay(bpe, corpus, tmp_path):
    words = ["zyzzyva", "Curie", "qqqqqq", "the"]
    whole = train_byte_bpe(corpus, 700, tmp_path / "whole", words)
    assert [len(ids) for ids in whole.encode_batch([f" {word}" for word in words])] == [1] * 4
    assert whole.vocab_size <= 700
    theirs = AutoTokenizer.from_pretrained(whole.folder)
    for name in ("tokenizer.json", MANIFEST):
        (whole.folder / name).unlink()
    again = Tokenizer.load(whole.folder)
    for texts in (STRINGS, corpus[:50], words):
        ids = whole.encode_batch(texts)
        assert ids == again.encode_batch(texts) == [theirs.encode(text, add_special_tokens=False) for text in texts]
        assert [whole.decode(one) for one in ids] == texts
    fewer = train_byte_bpe(corpus, 700 - sum(map(len, words)), tmp_path / "fewer")
    assert whole.tokens()[: fewer.vocab_size] == fewer.tokens()
    assert whole.encode_batch(corpus[:50]) == fewer.encode_batch(corpus[:50])


def test_encoder_folder_is_an_ordinary_bert_tokenizer(wordpiece, corpus):
    theirs = AutoTokenizer.from_pretrained(wordpiece.folder)
    assert type(theirs).__name__ in ("BertTokenizer", "BertTokenizerFast")
    texts = STRINGS + corpus[:50]
    assert wordpiece.encode_batch(texts) == [theirs.encode(text, add_special_tokens=False) for text in texts]
    assert theirs.encode("a") == [wordpiece.cls_id, *wordpiece.encode("a"), wordpiece.sep_id]
    assert wordpiece.pad_id == theirs.pad_token_id == 0
    assert wordpiece.encode("PARIS") == wordpiece.encode("paris")
    assert len(theirs) == wordpiece.vocab_size <= 600


def test_byte_bpe_writes_and_reads_any_text(bpe):
    for text in STRINGS:
        assert bpe.decode(bpe.encode(text)) == text
        assert bpe.tokens().index("<unk>") not in bpe.encode(text)


def test_wordpiece_knows_ascii_and_the_corpus_letters(wordpiece):
    unknown = wordpiece.tokens().index("[UNK]")
    assert unknown not in wordpiece.encode("xylophone jazz: qwerty? #7 & 90% Łódź")
    assert wordpiece.encode("東") == [unknown]
    assert wordpiece.decode([wordpiece.cls_id, *wordpiece.encode("Unseenword"), wordpiece.sep_id]) == "unseenword"


@pytest.mark.parametrize("train", [train_wordpiece, train_byte_bpe])
def test_training_is_deterministic(train, corpus, tmp_path):
    vocabularies = [train(corpus, 500, tmp_path / str(i)).tokens() for i in range(3)]
    assert vocabularies[0] == vocabularies[1] == vocabularies[2]
    assert len({(tmp_path / str(i) / "tokenizer.json").read_bytes() for i in range(3)}) == 1


@pytest.mark.parametrize("train", [train_wordpiece, train_byte_bpe])
def test_too_small_a_vocabulary_is_refused(train, corpus, tmp_path):
    with pytest.raises(UserError, match="vocabulary size 100; expected at least 300"):
        train(corpus, 100, tmp_path / "x")


def test_folders_without_tokenizer_json_load_the_same(bpe, wordpiece, tmp_path):
    for tokenizer in (bpe, wordpiece):
        folder = tmp_path / tokenizer.folder.name
        shutil.copytree(tokenizer.folder, folder)
        for name in ("tokenizer.json", MANIFEST):
            (folder / name).unlink()
        other = Tokenizer.load(folder)
        assert other.encode_batch(STRINGS) == tokenizer.encode_batch(STRINGS)
        assert other.decode(other.encode("Marie, Curie!")) == tokenizer.decode(tokenizer.encode("Marie, Curie!"))
        assert other.fingerprint == tokenizer.fingerprint
    assert bpe.fingerprint != wordpiece.fingerprint


@pytest.fixture
def plain(bpe, wordpiece, tmp_path):
    """Makes a folder without tokenizer.json, of one of the two, with other settings and files."""

    def make(kind, settings, **objects):
        source, folder = (wordpiece if kind == "wordpiece" else bpe).folder, tmp_path / kind
        shutil.copytree(source, folder)
        for name in ("tokenizer.json", MANIFEST):
            (folder / name).unlink()
        objects["tokenizer_config"] = json.loads((folder / "tokenizer_config.json").read_text()) | settings
        for name, value in objects.items():
            (folder / f"{name}.json").write_text(json.dumps(value))
        return folder

    return make


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("wordpiece", {"strip_accents": False}),
        ("wordpiece", {"do_lower_case": False, "strip_accents": True}),
        ("wordpiece", {"tokenize_chinese_chars": False}),
        ("bpe", {"add_prefix_space": True}),
    ],
)
def test_settings_count_without_tokenizer_json(plain, kind, settings):
    folder, texts = plain(kind, settings), ["Ärzte in Café", "ab東京cd", "two words"]
    if kind == "wordpiece":
        with (folder / "vocab.txt").open("a", encoding="utf-8") as file:
            file.write("ärzte\narzte\nArzte\ncafé\ncafe\nCafe\nab東京cd\n")
    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    assert ours.encode_batch(texts) == [theirs.encode(text, add_special_tokens=False) for text in texts]


ADDED = {"content": "<hl>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
@pytest.mark.parametrize("form", ["added_tokens", "added_tokens_decoder"])
def test_added_tokens_count_without_tokenizer_json(bpe, wordpiece, plain, kind, form):
    size, special = {"wordpiece": wordpiece, "bpe": bpe}[kind].vocab_size, {"content": "<x>", "special": True}
    if form == "added_tokens":
        names = json.loads((wordpiece.folder if kind == "wordpiece" else bpe.folder).joinpath(MAP).read_text())
        specials = {**names, "additional_special_tokens": ["<x>"]}
        folder = plain(kind, {}, added_tokens={"<hl>": size + 1, "<x>": size}, special_tokens_map=specials)
    else:
        folder = plain(kind, {form: {str(size + 1): ADDED, str(size): special}})
    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    texts = ["some <hl> words <hl>", "a<hl>b"]
    assert ours.encode_batch(texts) == [theirs.encode(text, add_special_tokens=False) for text in texts]
    assert size + 1 in ours.encode("a <hl>") and ours.vocab_size == len(theirs) == size + 2
    assert size not in ours.encode("a <x>") and ours.tokens()[size:] == ["<x>", "<hl>"]  # a special one stays text


def test_an_added_token_without_its_own_id_is_refused(bpe, plain):
    folder = plain("bpe", {}, added_tokens={"<hl>": 705})
    with pytest.raises(UserError, match="the added token '<hl>' gets the id 700, expected 705; restore its vocabulary"):
        Tokenizer.load(folder)


def test_text_never_becomes_a_special_token(bpe, wordpiece):
    for tokenizer, text in ((bpe, "a</s> <mask><pad> <s>"), (wordpiece, "a [SEP] [PAD][MASK] [CLS]")):
        assert not tokenizer.special_ids & set(tokenizer.encode(text))


def test_bad_folders_say_what_is_wrong(bpe, wordpiece, tmp_path):
    with pytest.raises(UserError, match="no tokenizer; expected"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="damaged tokenizer"):
        Tokenizer.load(tmp_path)
    other = json.loads((bpe.folder / "tokenizer.json").read_text())
    other["added_tokens"] = [token for token in other["added_tokens"] if token["content"] != "<mask>"]
    del other["model"]["vocab"]["<mask>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="no token <mask>; expected a BERT or BART tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nthe\n")
    with pytest.raises(UserError, match=r"no token \[CLS\] \[SEP\] \[MASK\]"):
        Tokenizer.load(tmp_path)


def test_question_ids(wordpiece):
    a, b = wordpiece.encode("who found radium"), wordpiece.encode("who")
    cls, sep, pad = wordpiece.cls_id, wordpiece.sep_id, wordpiece.pad_id
    ids_BQ = wordpiece.question_ids(["who found radium", "who", ""], length=len(a) + 1)
    assert ids_BQ.dtype == np.int32
    assert ids_BQ.tolist() == [
        [cls, *a[:-1], sep],
        [cls, *b, sep] + [pad] * (len(a) - 1 - len(b)),
        [cls, sep] + [pad] * (len(a) - 1),
    ]


def test_passage_ids_follow_dpr(wordpiece):
    title, text = wordpiece.encode("Radium"), wordpiece.encode("an element found in paris")
    cls, sep, pad = wordpiece.cls_id, wordpiece.sep_id, wordpiece.pad_id
    whole = [cls, *title, sep, *text, sep]
    pair = (["Radium"], ["an element found in paris"])
    assert wordpiece.passage_ids(*pair, length=len(whole) + 2).tolist() == [[*whole, pad, pad]]
    assert wordpiece.passage_ids(*pair, length=len(whole)).tolist() == [whole]
    assert wordpiece.passage_ids(*pair, length=len(whole) - 2).tolist() == [[*whole[:-3], sep]]
    assert wordpiece.passage_ids([""], pair[1], length=len(text) + 2).tolist() == [[cls, *text, sep]]
    theirs = AutoTokenizer.from_pretrained(wordpiece.folder)
    for length in (8, 9, 30):
        expected = theirs("the", pair[1][0], truncation=True, max_length=length, padding="max_length")["input_ids"]
        assert wordpiece.passage_ids(["the"], pair[1], length=length).tolist() == [expected]


def test_prefixes_stand_before_questions_and_passages(wordpiece):
    framed = Tokenizer.load(wordpiece.folder, Framing("query: ", "passage: "))
    same = wordpiece.question_ids(["query: who found it", "query: "], length=20)
    np.testing.assert_array_equal(framed.question_ids(["who found it", ""], length=20), same)
    expected = wordpiece.passage_ids(["passage: Radium", ""], ["an element", "passage: in paris"], length=30)
    np.testing.assert_array_equal(framed.passage_ids(["Radium", ""], ["an element", "in paris"], length=30), expected)
    theirs = AutoTokenizer.from_pretrained(wordpiece.folder)("query: who found it")["input_ids"]
    assert same[0, : len(theirs)].tolist() == theirs


@pytest.mark.parametrize(("title", "head"), [("joined", "Radium "), ("sentence", "Radium. ")])
def test_title_and_passage_are_one_text(wordpiece, title, head):
    framed = Tokenizer.load(wordpiece.folder, Framing(passage_prefix="passage: ", title=title))
    theirs = AutoTokenizer.from_pretrained(wordpiece.folder)
    texts = [f"passage: {head}an element", "passage: in paris"]
    expected = theirs(texts, padding="max_length", max_length=30)["input_ids"]
    assert framed.passage_ids(["Radium", ""], ["an element", "in paris"], length=30).tolist() == expected
    shorter = theirs(texts, padding="max_length", max_length=6, truncation=True)["input_ids"]
    assert framed.passage_ids(["Radium", " "], ["an element", "in paris"], length=6).tolist() == shorter


def test_too_long_counts_the_prefix(wordpiece):
    question = "who found radium"
    length = len(wordpiece.encode(question)) + 2
    prefixed = Tokenizer.load(wordpiece.folder, Framing("query: "))
    assert [wordpiece.too_long([question, "who"], n) for n in (length, length - 1)] == [0, 1]
    longer = len(wordpiece.encode("query: ")) + length
    assert [prefixed.too_long([question, "who"], n) for n in (longer, longer - 1)] == [0, 1]
