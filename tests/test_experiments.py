"""The paper's experiments that change what is read: no passages (a closed book), or the question alone beside them."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from rag_jax import Rag
from rag_jax.data import tasks
from rag_jax.errors import UserError
from rag_jax.evaluation.answers import predict
from rag_jax.evaluation.report import Asked, evaluate
from rag_jax.models import null_document
from rag_jax.workdir import Workdir

from .runs import begun, numbers
from .test_commands import DIES, same

QUESTIONS = ["who is mayor of Cladow?", "Jarrow: which year?", "why?"]
NAMES = ("exact_match", "f1", "gold_recall", "answer_recall")
NULLS = ("embedding", "bias", "network")
LONG = pytest.mark.long
QUICK = "--config.denoise.steps=0", "--config.reader.steps=0"
CLOSED = (
    "--config=tiny.py",
    "--config.index.kind=none",
    *QUICK,
    "--config.joint.train_question_encoder=False",
)


def drawn(model, seed=4):
    """A null document's parameters that say something else of every question."""
    rng = np.random.default_rng(seed)
    shapes = null_document.init(model.null_document, model.question_encoder.embedding_width, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 10, shapes)


@pytest.fixture(scope="module")
def with_null(tiny_rag):
    """(null document, settings) -> the tiny model that also reads the question alone; nobody has learned its logit."""

    def make(null="network", **decode):
        config = tiny_rag.config.copy_and_resolve_references().unlock()
        config.kind = decode.pop("kind", "token")
        config.retrieval.null_document = null
        config.decode.update(decode)
        model = replace(tiny_rag.model, null_document=null, kind=config.kind)
        params = tiny_rag.params | {"null_document": tiny_rag.parallel.put_state(drawn(model))}
        return Rag(model, params, tiny_rag.retriever._replace(alone=True), config, tiny_rag.parallel)

    return make


@pytest.fixture(scope="module")
def null_rag(with_null):
    return with_null()


def check_documents(answers, k):
    """k passages and the null document, with prior and posterior over all of them."""
    for answer in answers:
        (null,) = (document for document in answer.documents if not document.id)
        assert (null.title, null.text) == ("", "") and len(answer.documents) == k + 1
        for name in ("prior", "posterior"):
            assert sum(getattr(document, name) for document in answer.documents) == pytest.approx(1, abs=1e-5)
        weights = np.exp([document.score for document in answer.documents])
        np.testing.assert_allclose([d.prior for d in answer.documents], weights / weights.sum(), rtol=1e-4)
        assert [d.posterior for d in answer.documents] == sorted((d.posterior for d in answer.documents), reverse=True)
    assert len({next(d.prior for d in answer.documents if not d.id) for answer in answers}) == len(answers)


def test_an_answer_shows_what_the_question_alone_had_to_say(null_rag, tiny_rag):
    answers, plain = null_rag.answer(QUESTIONS, token_posterior=True), tiny_rag.answer(QUESTIONS)
    check_documents(answers, k=3)
    for answer, other in zip(answers, plain, strict=True):
        scores = {document.id: document.score for document in answer.documents}
        assert scores.keys() - {""} == {document.id for document in other.documents}
        for document in other.documents:
            assert document.score == pytest.approx(scores[document.id], abs=1e-4)
        assert {len(token.posterior) for token in answer.tokens} <= {4}
    query_BE = null_rag._embeddings(QUESTIONS)
    learned_B = null_document.learned("network", jax.device_get(null_rag.params["null_document"]), query_BE)
    found = null_rag.retrieve(QUESTIONS)
    np.testing.assert_allclose(found.score_BK[:, 3], found.score_BK[:, :3].mean(axis=1) + learned_B, rtol=1e-4)


def test_the_null_document_is_read_as_the_question_alone(null_rag):
    """With no prior for the passages an answer is that of the generator to the question."""
    found = null_rag.retrieve(QUESTIONS)
    documents = null_rag.retriever.documents(found.ids_BK)
    only = np.where(np.arange(4)[None] == 3, 0, -np.inf).astype(np.float32).repeat(3, axis=0)
    alone = null_rag.read(QUESTIONS, documents, only)
    others = null_rag.read(QUESTIONS, [documents_K[::-1] for documents_K in documents[::-1]], only)
    assert alone.texts_BN == others.texts_BN
    np.testing.assert_allclose(alone.generated.log_prob_BN, others.generated.log_prob_BN, rtol=1e-4)
    np.testing.assert_allclose(alone.generated.posterior_BNK[:, 0], np.exp(only), atol=1e-6)
    with pytest.raises(UserError, match="documents of question 1: found 2, expected 3"):
        null_rag.read(QUESTIONS, [documents_K[:2] for documents_K in documents], only)


def test_measures_count_passages_and_predictions_list_the_null_document(null_rag, tiny_run, tmp_path, monkeypatch):
    """Recall is that of the passages, at every place that can be looked at; the page of nothing is in nobody's form."""
    monkeypatch.chdir(tiny_run.folder)
    asked = Asked(names=NAMES, kilt_out=str(tmp_path / "kilt.jsonl"))
    evaluate(null_rag, null_rag.config, tmp_path, asked)
    found = json.loads((tmp_path / "metrics.json").read_text())["test"]
    questions = tiny_run.records("test.jsonl")
    rows = null_rag.retrieve([question["question"] for question in questions]).ids_BK.tolist()
    names = [[null_rag.retriever.index.passages[row].id for row in ids] for ids in rows]
    hits = sum(question["passage_ids"][0] in ids for ids, question in zip(names, questions, strict=True))
    assert found["recall@3"]["sum"] == hits and found["recall@3"]["count"] == 10
    split = [found.get(f"EM where {which} passage holds the answer", {"count": 0})["count"] for which in ("a", "no")]
    assert sum(split) == 10
    for record, ids in zip(tiny_run.records(tmp_path / "predictions.jsonl"), names, strict=True):
        *passages, null = record["documents"]
        assert [passage["id"] for passage in passages] == ids
        assert (null["id"], null["title"], null["holds_answer"]) == ("", "", None)
        for name in ("prior", "posterior"):
            assert sum(document[name] for document in record["documents"]) == pytest.approx(1, abs=1e-5)
    for record in tiny_run.records(tmp_path / "kilt.jsonl"):
        assert "" not in {page["wikipedia_id"] for page in record["output"][0]["provenance"]}


@pytest.fixture(scope="module")
def closed_rag(tiny_rag):
    """The tiny generator without its passages."""
    config = tiny_rag.config.copy_and_resolve_references().unlock()
    config.index.kind = "none"
    retriever = tiny_rag.retriever._replace(index=None, encoder_tokenizer=None, alone=True)
    model = replace(tiny_rag.model, question_encoder=None)
    return Rag(model, {"generator": tiny_rag.params["generator"]}, retriever, config, tiny_rag.parallel)


def test_a_closed_book_answers_from_no_documents(closed_rag, null_rag):
    """As the null document does where it alone has a prior."""
    found = null_rag.retrieve(QUESTIONS)
    only = np.where(np.arange(4)[None] == 3, 0, -np.inf).astype(np.float32).repeat(3, axis=0)
    expected = null_rag.read(QUESTIONS, null_rag.retriever.documents(found.ids_BK), only)
    for row, answer in enumerate(closed_rag.answer(QUESTIONS)):
        assert answer.documents == () and answer.text == expected.texts_BN[row][0]
        assert answer.log_prob == pytest.approx(float(expected.generated.log_prob_BN[row, 0]), abs=1e-4)


def test_a_closed_book_is_measured_without_what_needs_passages(closed_rag, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_run.folder)
    evaluate(closed_rag, closed_rag.config, tmp_path, Asked(names=NAMES))
    found = json.loads((tmp_path / "metrics.json").read_text())["test"]
    assert {name for name in found if not name.startswith("EM ")} == {"EM", "F1"}
    assert all(record["documents"] == [] for record in tiny_run.records(tmp_path / "predictions.jsonl"))


def test_a_question_that_the_generator_does_not_read_whole_is_counted(closed_rag, tiny_rag):
    """Without an encoder it is the generator alone that may cut it; no encoder's length matters then."""
    assert (closed_rag.retriever.question_limit, tiny_rag.retriever.question_limit) == ("source", "question")
    room = closed_rag.retriever.length.source - 2
    longest = next(n for n in range(1, 500) if len(closed_rag.retriever.question_pieces(["mayor " * n])[0]) > room)
    counts = [closed_rag.retriever.too_long(["mayor " * n]) for n in (longest - 1, longest)]
    assert counts == [0, 1]
    with pytest.warns(UserWarning, match=f"1 of 1 questions exceed {room + 2} tokens"):
        closed_rag.answer(["mayor " * longest])


def test_what_a_closed_book_cannot_do_is_told_in_one_line(closed_rag, null_rag, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_run.folder)
    for action, message in {
        lambda: closed_rag.answer(QUESTIONS, k=2): "k: found 2, expected none",
        lambda: closed_rag.answer(QUESTIONS, token_posterior=True): "token_posterior: found index.kind 'none'",
        lambda: closed_rag.swap_index("another"): "index: found another, but this is a closed book",
        lambda: closed_rag.save_pretrained(
            tmp_path / "out"
        ): "index.kind: found 'none', a closed book, expected passages",
        lambda: null_rag.save_pretrained(tmp_path / "out"): "retrieval.null_document: found 'network', expected 'none'",
        lambda: evaluate(
            closed_rag, closed_rag.config, tmp_path, Asked(("reading",))
        ): "--parts=reading: with index.kind",
        lambda: evaluate(closed_rag, closed_rag.config, tmp_path, Asked((), n_docs=(1,))): "--sweep: with index.kind",
    }.items():
        with pytest.raises(UserError) as caught:
            action()
        assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_two_models_that_differ_in_what_is_read_are_two(closed_rag, null_rag, tiny_rag, with_null):
    assert len({rag.identity() for rag in (closed_rag, null_rag, tiny_rag, with_null("bias"))}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build_index", *CLOSED), "a closed book: there is nothing to build; run `python -m rag_jax.train`"),
        pytest.param(("train_retriever", *CLOSED), "there is no retriever to train; run", marks=LONG),
    ],
)
def test_a_closed_book_needs_neither_retriever_nor_index(tiny_run, tmp_path, arguments, message):
    said = tiny_run.command(*arguments, f"--workdir={tmp_path / 'run'}", code=2).stderr
    assert said.startswith("error: config.index.kind: found 'none'") and message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@LONG
@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("mode", ["search", "sample", "thorough", "fast"])
def test_every_decoding_reads_the_null_document_too(with_null, null, mode):
    kind = "token" if mode in ("search", "sample") else "sequence"
    many = {"num_return_sequences": 2} | ({} if mode == "sample" else {"beams": 2})
    rag = with_null(null, kind=kind, mode=mode, **many)
    answers = rag.answer(QUESTIONS)
    check_documents(answers, k=3)
    for answer in answers:
        for one in (answer, *answer.others):
            assert len(one.documents) == 4
            assert sum(document.posterior for document in one.documents) == pytest.approx(1, abs=1e-5)


@LONG
def test_fewer_passages_and_another_index_beside_a_null_document(null_rag, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_run.folder)
    for k in (1, 2):
        check_documents(null_rag.answer(QUESTIONS, k=k), k=k)
    questions = tasks.TASKS["qa"].questions(str(tiny_run.folder / "test.jsonl"))
    evaluate(null_rag, null_rag.config, tmp_path, Asked((), n_docs=(1, 3), names=NAMES))
    swept = json.loads((tmp_path / "sweep.json").read_text())["n_docs"]
    said = [prediction.exact_match for prediction in predict(null_rag, questions, k=1)]
    assert swept["1"]["EM"]["sum"] == sum(said) and swept["1"]["recall@k"]["sum"] <= swept["3"]["recall@k"]["sum"]
    try:
        null_rag.swap_index(tiny_run.index_after)
        check_documents(null_rag.answer(QUESTIONS), k=3)
    finally:
        null_rag.swap_index(tiny_run.workdir / "index")


@LONG
def test_a_closed_book_is_trained_killed_measured_and_asked(tiny_run, tmp_path):
    """By its three commands; a run that was killed ends as one that was not."""
    places = {name: tmp_path / name for name in ("whole", "killed")}
    tiny_run.command("train", *CLOSED, f"--workdir={places['whole']}")
    tiny_run.command("train", *CLOSED, f"--workdir={places['killed']}", prelude=DIES.format(step=3), code=9)
    tiny_run.command("train", *CLOSED, f"--workdir={places['killed']}")
    whole, killed = (Rag.load(place, checkpoint="last") for place in places.values())
    same(killed.params, whole.params)
    assert set(whole.params) == {"generator"} and whole.model.question_encoder is None
    records = [numbers(place / "metrics.jsonl") for place in places.values()]
    assert records[0] == records[1] and all(record["loss"] > 0 for record in records[0])
    assert "distinct_passages" not in records[0][0]
    said = tiny_run.command("evaluate", f"--workdir={places['whole']}").stdout
    assert "  EM " in said and "recall" not in said
    answer = tiny_run.command("answer", f"--workdir={places['whole']}", "--nojson", QUESTIONS[0]).stdout
    assert answer.count("\n") == 3 and "posterior" not in answer
    said = tiny_run.command("export", f"--workdir={places['whole']}", f"--out={tmp_path / 'out'}", code=2).stderr
    assert "index.kind: found 'none', a closed book" in said and said.count("\n") == 1
    for name, more in (("train", QUICK), ("evaluate", ())):
        said = tiny_run.command(name, "--config=tiny.py", *more, f"--workdir={places['whole']}", code=2).stderr
        assert "index.kind" in said and said.count("\n") == 1, said
    from_it = *CLOSED, f"--config.init_from={places['whole']}", "--config.seed=3", f"--workdir={tmp_path / 'next'}"
    tiny_run.command("train", *from_it)
    assert set(Rag.load(tmp_path / "next").params) == {"generator"}
    said = tiny_run.command(
        "train", *CLOSED, f"--config.init_from={tiny_run.workdir}", f"--workdir={tmp_path / 'x'}", code=2
    )
    assert "was trained with passages" in said.stderr and said.stderr.count("\n") == 1


@LONG
@pytest.mark.parametrize(("kind", "null"), [("token", "embedding"), ("sequence", "bias"), ("token", "network")])
def test_a_null_document_is_learned_with_the_question_encoder(tiny_run, tmp_path, kind, null):
    """The denoising stage and the reader's leave it at its start; a checkpoint brings it back."""
    place = begun(tiny_run, tmp_path / "run", "retriever", "index", "tokenizers")
    common = (
        "--config=tiny.py",
        f"--config.kind={kind}",
        f"--config.retrieval.null_document={null}",
        f"--workdir={place}",
    )
    tiny_run.command("train", *common, prelude=DIES.format(step=6), code=9)
    before = Rag.load(place, checkpoint="last").params["null_document"]
    start = null_document.init(null, 16, jax.random.fold_in(jax.random.key(0), 3))
    learned = null_document.learned(null, before, np.ones((1, 16), np.float32))
    np.testing.assert_array_equal(learned, 0)
    same(jax.tree.map(np.shape, before), jax.tree.map(np.shape, start))
    tiny_run.command("train", *common)
    after = Rag.load(place, checkpoint="last")
    assert all((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(after.params["null_document"]))
    check_documents(after.answer(QUESTIONS), k=3)
    tiny_run.command("evaluate", f"--workdir={place}")
    found = json.loads((place / "metrics.json").read_text())["test"]
    assert found["recall@3"]["count"] == 10 and len(tiny_run.records(place / "predictions.jsonl")[0]["documents"]) == 4
    said = tiny_run.command("answer", f"--workdir={place}", "--nojson", QUESTIONS[0]).stdout
    assert said.count("no document") == 1
    assert len(Rag.load(place, config=without(place)).answer(QUESTIONS)[0].documents) == 3
    said = tiny_run.command("answer", f"--workdir={tiny_run.workdir}", *common[:3], "why?", code=2).stderr
    assert f"config.retrieval.null_document: found '{null}', but" in said and said.count("\n") == 1


def without(place):
    """The configuration of a run, without its null document."""
    config = Workdir(place).load_config()
    config.retrieval.null_document = "none"
    return config


@LONG
def test_beside_bm25_a_bias_is_learned_in_every_stage_that_reads_passages(tiny_run, tmp_path):
    pytest.importorskip("bm25s")
    frozen = [f"--config.{stage}.train_question_encoder=False" for stage in ("denoise", "reader", "joint")]
    words = "--config=tiny.py", "--config.index.kind=bm25", *frozen, "--config.retrieval.null_document=bias"
    for name in ("build_index", "train"):
        tiny_run.command(name, *words, "--config.joint.steps=0", f"--workdir={tmp_path / 'run'}")
    rag = Rag.load(tmp_path / "run", checkpoint="last")
    assert float(rag.params["null_document"]["bias"]) != 0
    for answer in rag.answer(QUESTIONS):
        (null,) = (document for document in answer.documents if not document.id)
        scores = [document.score for document in answer.documents if document.id]
        assert null.score == pytest.approx(np.mean(scores) + 30 * float(rag.params["null_document"]["bias"]), rel=1e-4)
    said = tiny_run.command(
        "train", *words[:-1], "--config.retrieval.null_document=network", f"--workdir={tmp_path}", code=2
    )
    assert "retrieval.null_document: found 'network', expected 'none' or 'bias'" in said.stderr


@LONG
def test_a_null_document_goes_on_from_another_run_s(tiny_run, tmp_path):
    """What is not named is taken over, another kind starts afresh, and a run without one may get one."""
    first = begun(tiny_run, tmp_path / "first", "retriever", "index", "tokenizers")
    common = "--config=tiny.py", *QUICK
    tiny_run.command("train", *common, "--config.retrieval.null_document=embedding", f"--workdir={first}")
    for name, source, null in (("same", first, ""), ("other", first, "bias"), ("new", tiny_run.workdir, "network")):
        place = begun(tiny_run, tmp_path / name, "index", "tokenizers")
        more = f"--config.init_from={source}", "--config.joint.learning_rate=1e-9", f"--workdir={place}"
        tiny_run.command("train", *common, *more, *([f"--config.retrieval.null_document={null}"] if null else []))
        rag, whole = Rag.load(place, checkpoint="last"), Rag.load(source)
        assert rag.model.null_document == (null or "embedding")
        if not null:
            np.testing.assert_allclose(
                rag.params["null_document"]["embedding"], whole.params["null_document"]["embedding"], atol=1e-7
            )
        learned = null_document.learned(
            rag.model.null_document, rag.params["null_document"], np.ones((1, 16), np.float32)
        )
        assert (abs(float(learned[0] if learned.ndim else learned)) < 1e-4) == bool(null)
