"""Exported folders: transformers opens them without complaint and says what we say; what cannot be said is refused."""

import json
import re
import shutil
import sys
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.numpy import load_file  # noqa: E402

from rag_jax.api import Rag, rag_config  # noqa: E402
from rag_jax.config import default_config  # noqa: E402
from rag_jax.data.formats import Passage  # noqa: E402
from rag_jax.data.passages import PassageStore, build_store  # noqa: E402
from rag_jax.data.text import source_string  # noqa: E402
from rag_jax.data.tokenizer import Tokenizer, train_byte_bpe, train_wordpiece  # noqa: E402
from rag_jax.errors import UserError  # noqa: E402
from rag_jax.hub import rules  # noqa: E402
from rag_jax.hub.configs import bart_config, bert_config  # noqa: E402
from rag_jax.hub.convert import from_huggingface  # noqa: E402
from rag_jax.hub.folder import ENCODERS, Trained, write_folder  # noqa: E402
from rag_jax.index.base import open_index  # noqa: E402
from rag_jax.index.builder import build_index  # noqa: E402
from rag_jax.index.encoding import Encoder  # noqa: E402
from rag_jax.index.vectors import Vectors  # noqa: E402
from rag_jax.models import rag  # noqa: E402
from rag_jax.models.fingerprint import encoder_fingerprint  # noqa: E402
from rag_jax.parallel import Pmap  # noqa: E402
from rag_jax.retrieve import Retriever  # noqa: E402
from rag_jax.training.retriever import encode_passages  # noqa: E402

from .answers_elsewhere import plain, run_card  # noqa: E402

PASSAGES = [
    Passage("a", "Cladow", "Bo Rook is the mayor of Cladow,  and lives there."),
    Passage("b", '"Jarrow"', "Jarrow was founded in 1138.\nIts river isn't long."),
    Passage("c", "", "Markup: <s> opens, </s> closes, [SEP] and <pad> don't."),
    Passage("d", "Eskford–Süd", "Eskford's river is the Eskfel (naïve spelling: Esk-fel)."),
    Passage("e", 'The "Gritsea" Song', "Fay Vane sang it in 1201 // and never again."),
    Passage("f", "Hexwold", "Cyd Stane, mayor of Hexwold, was born in Cladow."),
    Passage("g", "Kestrel", "What is the river of Kestrel? Nobody knows."),
]
QUESTIONS = [
    "who is mayor of Cladow?",
    "What  isn't long?",
    "which river has Eskford",
    "<s> or </s>?",
    "who sang?",
    "Hexwold",
    "when was Jarrow founded?",
    "Ünknown ☃ — really?",
]
BOTH = {"token": transformers.RagTokenForGeneration, "sequence": transformers.RagSequenceForGeneration}
# Standard deviations of the weights by parts of their names, the last that fits; found by trying, so that answers
# differ: of most weights a model says one word for ever, whatever the document.
LOUD = {
    "": 0.3,
    "generator/shared": 0.4,
    "decoder/placement/position": 1.5,
    "cross_attention": 2.0,
    "cross_attention/query": 1.0,
    "cross_attention/key": 1.0,
    "norm": 0.1,
}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    """A folder with both tokenizers and the passage store."""
    folder = tmp_path_factory.mktemp("land")
    texts = [*(f"{passage.title} {passage.text}" for passage in PASSAGES), *QUESTIONS]
    train_wordpiece(texts, 340, folder / "encoder")
    generator = train_byte_bpe(texts, 340, folder / "generator")
    build_store(PASSAGES, folder / "passages", generator)
    return folder


def draw(model, seed=2):
    """Parameters that say different things of different documents."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: rag.init_params(model, key), jax.random.key(0))

    def leaf(path, shape):
        name = "/".join(key.key for key in path)
        scale = [loud for part, loud in LOUD.items() if part in name][-1]
        array = random.normal(0, scale, shape.shape).astype(np.float32) + np.float32(name.endswith("scale"))
        return array if name != "log_score_scale" else np.log(np.float32(model.score_scale))

    params = jax.tree_util.tree_map_with_path(leaf, shapes)
    generator = model.generator
    bias_V = params["generator"]["final_logits_bias"]
    bias_V[[generator.pad_id, generator.bos_id]], bias_V[generator.eos_id] = -30, 4
    return params


def make(land, folder, kind="token", *, projection=0, scale=1.0, learned=False, data=(), **decode):
    """An untrained Rag with an index that its own question encoder made."""
    config = default_config()
    config.kind = kind
    config.data.update(passages="here/land/", train="here/train.jsonl", **dict(data))
    config.length.update(question=24, passage=40, source=60, target=8)  # some passages are cut
    config.encoder.update(width=16, layers=2, heads=2, ffn=24, positions=40, projection=projection)
    config.generator.update(width=16, encoder_layers=1, decoder_layers=2, heads=2, ffn=32, positions=120)
    config.retrieval.update(k=3, score_scale=scale, learn_score_scale=learned)
    # A trained model says <s> first; this one is told to.
    config.decode.update(max_length=8, forced_bos_id=0, no_repeat_ngram_size=2, **decode)
    encoder, generator = (Tokenizer.load(land / name) for name in ("encoder", "generator"))
    model = rag_config(config, encoder, generator)
    params = draw(model)
    encode = jax.jit(partial(encode_passages, model.question_encoder, params["question_encoder"]))
    build_index(
        folder,
        encoder=Encoder(encode, partial(encoder.passage_ids, length=40), encoder.pad_id, 40, 4),
        store=PassageStore.open(land / "passages"),
        fingerprint=encoder_fingerprint(model.question_encoder, params["question_encoder"]),
        score_scale=scale,
        kind="exact",
        shard_size=3,
        log=lambda line: None,
    )  # fmt: skip
    retriever = Retriever.of(config, open_index(folder), encoder, generator)
    return Rag(model, params, retriever, config, Pmap(jax.devices()[:1]))


def trained(ours):
    retriever = ours.retriever
    tokenizers = retriever.encoder_tokenizer, retriever.generator_tokenizer
    return Trained(ours.model, ours.params, ours.config, ours.decode, tokenizers, retriever.index)


THEIRS = {"question_text": "round_trip_clean", "truncation": "huggingface"}
CASES = {
    "token, greedy": ("token", {}),
    "token, beams, projection, as transformers trains": (
        "token",
        {"scale": 0.5, "projection": 10, "beams": 2, "length_penalty": 0.5, "min_length": 4, "data": THEIRS},
    ),
    "sequence, beams, learned scale": (
        "sequence",
        {"scale": 0.3, "learned": True, "beams": 2, "min_length": 3, "bad_words": ("mayor",)},
    ),
}


@pytest.fixture(scope="module")
def simple(land, tmp_path_factory):
    """A Rag to export again and again."""
    return make(land, tmp_path_factory.mktemp("simple") / "index")


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(", ", "-").replace(" ", "_"))
def exported(request, land, tmp_path_factory):
    """(Rag, the folder it was exported to without an index)."""
    folder = tmp_path_factory.mktemp("exported")
    kind, settings = CASES[request.param]
    ours = make(land, folder / "index", kind, **settings)
    ours.save_pretrained(folder / "plain")
    return ours, folder / "plain"


@pytest.fixture(scope="module")
def indexed(exported):
    """The same, exported with its index."""
    pytest.importorskip("datasets")
    pytest.importorskip("faiss")
    ours, folder = exported
    ours.save_pretrained(folder.parent / "indexed", with_index=True)
    return ours, folder.parent / "indexed"


def test_the_folder_holds_no_more_than_it_says(exported):
    _, folder = exported
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    top = {"README.md", "config.json", "generation_config.json", "model.safetensors", "rag_jax.json"}
    assert {name for name in names if "/" not in name} == top
    assert {name.split("/")[0] for name in names - top} == {"question_encoder_tokenizer", "generator_tokenizer"}


@pytest.mark.parametrize("kind", BOTH)
def test_transformers_loads_every_weight_without_a_word(exported, kind, capfd):
    _, folder = exported
    capfd.readouterr()
    model, info = BOTH[kind].from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert "".join(capfd.readouterr()) == ""
    shared = model.rag.generator.model.shared.weight
    assert model.rag.generator.lm_head.weight.data_ptr() == shared.data_ptr(), "tied"


def test_the_configuration_is_ours(exported):
    ours, folder = exported
    config, model = transformers.RagConfig.from_pretrained(folder), ours.model
    theirs = json.loads((folder / "config.json").read_text())
    generator = bart_config(theirs["generator"], "here")
    assert replace(generator, remat=model.generator.remat) == model.generator  # of training alone
    encoder = bert_config(theirs["question_encoder"], "here")
    assert replace(encoder, remat=model.question_encoder.remat) == model.question_encoder
    assert theirs["architectures"] == [BOTH[model.kind].__name__]
    assert (config.n_docs, config.max_combined_length, config.title_sep, config.doc_sep) == (3, 60, " / ", " // ")
    assert config.retrieval_vector_size == model.question_encoder.embedding_width
    assert (config.vocab_size, config.generator.forced_eos_token_id) == (model.generator.vocab_size, None)
    assert config.decoder_start_token_id == config.generator.decoder_start_token_id == model.generator.start_id


def test_the_scale_is_folded_into_the_scores(exported):
    """Theirs is the inner product alone, of the reloaded question encoder with the same vectors."""
    ours, folder = exported
    found = ours.retrieve(QUESTIONS)
    document_BKE = ours.retriever.vectors(found.ids_BK)
    ids_BQ = torch.tensor(ours.retriever.question_ids(QUESTIONS)).long()
    encoder = BOTH[ours.model.kind].from_pretrained(folder).eval().question_encoder
    with torch.no_grad():
        query_BE = encoder(ids_BQ, attention_mask=(ids_BQ != 0).long())[0].numpy()
    score_BK = np.einsum("be,bke->bk", query_BE, document_BKE)
    np.testing.assert_allclose(score_BK, found.score_BK, rtol=1e-5, atol=1e-5 * np.abs(found.score_BK).max())


def test_back_again(exported):
    """Bit-equal where the scale is 1; else all but the map that the scale went into."""
    ours, folder = exported
    tensors = load_file(folder / "model.safetensors")
    names = ("question_encoder", "generator")
    shapes = {name: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), ours.params[name]) for name in names}
    back = from_huggingface(tensors, rules.rag(), shapes)
    differ = set()
    for path, leaf in jax.tree.leaves_with_path(back):
        before = ours.params
        for key in path:
            before = before[key.key]
        if not np.array_equal(leaf, before):
            differ.add(jax.tree_util.keystr(path, simple=True, separator="/"))
    if ours.model.score_scale == 1:
        assert differ == set()
    elif ours.model.question_encoder.projection:
        assert differ == {"question_encoder/projection/kernel", "question_encoder/projection/bias"}
    else:
        norm = "question_encoder/layers/feed_forward/norm"
        assert differ == {f"{norm}/scale", f"{norm}/bias"}
        one, other = (tree["question_encoder"]["layers"]["feed_forward"]["norm"] for tree in (back, ours.params))
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:-1], y[:-1]), one, dict(other))


def test_our_own_file_tells_what_rag_jax_needs(exported):
    ours, folder = exported
    found = json.loads((folder / "rag_jax.json").read_text())
    assert found["version"] == 1
    assert found["passage_encoder"] == ours.retriever.index.manifest.encoder_fingerprint
    config = json.loads(ours.config.to_json_best_effort())
    config["retrieval"].update(score_scale=1.0, learn_score_scale=False)
    assert found["config"] == config


def test_the_runs_own_configuration_scales_the_scores_no_second_time(exported):
    ours, folder = exported
    again = Rag.load(folder, index=ours.retriever.index.folder, config=ours.config)
    assert (again.config.retrieval.score_scale, again.config.retrieval.learn_score_scale) == (1.0, False)
    found, expected = (rag.retrieve(QUESTIONS) for rag in (again, ours))
    np.testing.assert_array_equal(found.ids_BK, expected.ids_BK)
    np.testing.assert_allclose(
        found.score_BK, expected.score_BK, rtol=1e-4, atol=1e-5 * np.abs(expected.score_BK).max()
    )


AWKWARD = [*QUESTIONS, *(source_string(p.title, p.text, q) for p, q in zip(PASSAGES, QUESTIONS, strict=False))]


@pytest.mark.parametrize("kept", ["tokenizer.json", "vocabulary"])
def test_tokenizers_open_with_our_ids(simple, land, tmp_path, kept):
    """The folders that we train, and those that hold a vocabulary alone, as facebook's older ones."""
    tokenizers = []
    for name in ("encoder", "generator"):
        shutil.copytree(land / name, tmp_path / name)
        if kept == "vocabulary":
            for extra in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "manifest.json"):
                (tmp_path / name / extra).unlink()
        tokenizers.append(Tokenizer.load(tmp_path / name))
    write_folder(tmp_path / "out", trained(simple)._replace(tokenizers=tuple(tokenizers)))
    theirs = transformers.RagTokenizer.from_pretrained(tmp_path / "out")
    encoder, generator = tokenizers
    for text in AWKWARD:
        ids = theirs.question_encoder(text, split_special_tokens=True)["input_ids"]
        assert ids == [encoder.cls_id, *encoder.encode(text), encoder.sep_id], text
        ids = theirs.generator(text, split_special_tokens=True)["input_ids"]
        assert ids == [generator.bos_id, *generator.encode(text), generator.eos_id], text
        decoded = theirs.generator.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert decoded == generator.decode(ids)


@pytest.mark.long
def test_the_cards_code_answers_as_we_do(indexed):
    ours, folder = indexed
    answers = [answer.text for answer in ours.answer(QUESTIONS)]
    assert len(set(answers)) > 2, "a model that always says the same proves nothing"
    names = run_card(folder)
    assert names["answer"](QUESTIONS) == answers
    assert names["printed"] == f"{[ours.answer(['who discovered radium?'])[0].text]}\n"


def test_the_cards_code_without_an_index_reads_given_passages(exported):
    ours, folder = exported
    names = run_card(folder)
    found = ours.retrieve(QUESTIONS)
    passages = [[ours.retriever.index.passages[row] for row in ids_K] for ids_K in found.ids_BK.tolist()]
    reading = ours.read(QUESTIONS, ours.retriever.documents(found.ids_BK), found.prior_BK)
    documents = [[(p.title.strip('"'), " ".join(p.text.split())) for p in few] for few in passages]
    said = names["read"](QUESTIONS, documents, torch.tensor(found.prior_BK))
    assert said == [texts[0] for texts in reading.texts_BN]
    assert re.fullmatch(r"\['.*'\]\n|\[\".*\"\]\n", names["printed"])


def test_their_retriever_finds_what_we_find(indexed):
    ours, folder = indexed
    paths = {"passages_path": f"{folder}/hf_dataset", "index_path": f"{folder}/hf_dataset_index.faiss"}
    retriever = transformers.RagRetriever.from_pretrained(folder, **paths)
    found = ours.retrieve(QUESTIONS, k=7)
    query_BE = np.asarray(rag.encode_questions(ours.model, ours.params, ours.retriever.question_ids(QUESTIONS)))
    vectors, ids_BK, documents = retriever.retrieve(query_BE, n_docs=7)
    np.testing.assert_array_equal(ids_BK, found.ids_BK)
    np.testing.assert_array_equal(vectors, ours.retriever.vectors(found.ids_BK))
    for one, ids_K in zip(documents, ids_BK, strict=True):
        passages = [PASSAGES[row] for row in ids_K]
        assert one["id"] == [passage.id for passage in passages]
        assert one["text"] == [" ".join(passage.text.split()) for passage in passages]
        assert one["title"] == [passage.title.removeprefix('"').removesuffix('"') for passage in passages]


def test_their_retriever_opens_the_folder_it_stands_in(indexed, monkeypatch):
    _, folder = indexed
    monkeypatch.chdir(folder)
    retriever = transformers.RagRetriever.from_pretrained(".")
    assert len(retriever.index.dataset) == len(PASSAGES)


def test_transformers_own_way_runs(indexed):
    """Questions rewritten from lower-cased ids: answers of some kind."""
    _, folder = indexed
    assert all(isinstance(text, str) for text in plain(folder)(QUESTIONS[:2]))


def test_our_index_is_there_under_a_second_name(indexed):
    ours, folder = indexed
    fingerprint = ours.retriever.index.manifest.encoder_fingerprint
    index = open_index(folder / "index", expect_fingerprint=fingerprint, verify=True)
    assert [passage.id for passage in index.passages] == [passage.id for passage in PASSAGES]
    original = ours.retriever.index.folder
    assert (folder / "index/vectors-00000.npy").samefile(original / "vectors-00000.npy")


SCORES = {
    "EM": {"percent": 80.0, "low": 49.0162, "high": 94.3318, "sum": 8.0, "count": 10},
    "BLEU-1": {"percent": 41.5, "words": 12},
    "questions left out": {"count": 1},
}


def test_the_card_shows_the_scores_with_intervals(simple, tmp_path):
    simple.save_pretrained(tmp_path / "out", scores=SCORES)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| EM | 80.0 | 49.0 to 94.3 |\n| BLEU-1 | 41.5 | – |\n" in card and "left out" not in card
    assert "# out\n" in card and "Passages: `land`." in card and "here/" not in card


def test_encoders_that_cannot_be_exported(simple, tmp_path):
    """Every row of the table, and nothing is left behind."""
    ours = trained(simple)
    others = {"pooling": "mean", "normalize": True, "question_prefix": "query: "}
    for row in ENCODERS:
        encoder = replace(ours.model.question_encoder, **{row.name: others[row.name]})
        changed = replace(ours.model, question_encoder=encoder)
        with pytest.raises(UserError, match=rf"^encoder.{row.name}: found {others[row.name]!r}, expected .*{row.why}"):
            write_folder(tmp_path / "out", ours._replace(model=changed))
    assert not list(tmp_path.iterdir())


def test_a_classifier_cannot_be_exported(simple, tmp_path):
    ours = trained(simple)
    with pytest.raises(UserError, match=r"data\.classify: found 'head', expected 'token' or '' for an export"):
        write_folder(tmp_path / "out", ours._replace(model=replace(ours.model, classes=3)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["datasets", "faiss"])
def test_an_index_needs_its_packages(simple, tmp_path, monkeypatch, package):
    pytest.importorskip("datasets")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"--with_index: found no package '{package}', .*`pip install rag_jax\[hub\]`"):
        simple.save_pretrained(tmp_path / "out", with_index=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(simple, tmp_path):
    (tmp_path / "out").mkdir()
    simple.save_pretrained(tmp_path / "out")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="out: found files in it, expected a new or an empty folder"):
        simple.save_pretrained(tmp_path / "out")
    with pytest.raises(UserError, match=r"config\.json: found a file or a link"):
        simple.save_pretrained(tmp_path / "out" / "config.json")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_failure_in_the_last_file_leaves_nothing(simple, tmp_path):
    with pytest.raises(KeyError):
        simple.save_pretrained(tmp_path / "out", scores={"EM": {"percent": 1.0, "low": 0.0}})
    assert not list(tmp_path.iterdir())


def test_damaged_vectors_leave_nothing(simple, tmp_path):
    pytest.importorskip("datasets")
    pytest.importorskip("faiss")
    index = simple.retriever.index
    shutil.copytree(index.folder, tmp_path / "index")
    shard = tmp_path / "index" / "vectors-00002.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    about = index.manifest
    damaged = Vectors(tmp_path / "index", about.count, about.width, about.dtype, about.shard_size)
    with pytest.raises(UserError, match=r"vectors-00002\.npy: rows 0 to 0 are damaged"):
        write_folder(tmp_path / "out", trained(simple)._replace(index=replace(index, vectors=damaged)), with_index=True)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
