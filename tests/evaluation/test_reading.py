"""The proof of reading tells a reader from one that knows its answers by heart."""

import numpy as np
import pytest

from rag_jax.data.formats import Question
from rag_jax.errors import UserError
from rag_jax.evaluation.reading import _of_another, _renamed, reading_tests
from rag_jax.evaluation.sums import Rate
from rag_jax.evaluation.walks import Walks

WITHOUT, ANOTHERS, RENAMED = (
    "EM without passages",
    "EM with another question's passages",
    "EM after answers are renamed in the passages",
)


def test_one_that_reads_falls_without_passages_and_follows_new_names(walks, questions):
    assert dict(reading_tests(walks("copies"), questions)) == {
        WITHOUT: Rate(0.0, 4),
        ANOTHERS: Rate(0.0, 4),
        RENAMED: Rate(4.0, 4),
    }


def test_one_that_remembers_keeps_its_answers(walks, questions):
    assert dict(reading_tests(walks("remembers"), questions)) == {
        WITHOUT: Rate(4.0, 4),
        ANOTHERS: Rate(4.0, 4),
        RENAMED: Rate(0.0, 4),
    }


def first_titles(reader, documents_BK):
    return [reader.tokenizer.decode(documents_K[0][0]) for documents_K in documents_BK]


def test_passages_come_from_a_question_with_other_answers(reader, questions):
    """Half a list away is Dunmere for Brimholt; sharing an answer with it, Brimholt takes Eskford's."""
    fake = reader("copies")
    documents, answers = _of_another(fake, questions)([0, 3], None)
    assert first_titles(fake, documents) == ["Dunmere", "Cladow"]
    assert answers == [questions[0].answers, questions[3].answers]
    questions[0] = Question("0", questions[0].text, ("Someone", "the cyd stane!"))
    documents, _ = _of_another(fake, questions)([0, 2], None)
    assert first_titles(fake, documents) == ["Eskford", "Cladow"]


@pytest.mark.parametrize("count", [1, 2])
def test_questions_that_all_share_an_answer_are_an_error(reader, questions, count):
    same = [Question(q.id, q.text, ("Ada",)) for q in questions[:count]]
    with pytest.raises(UserError, match=r"answer with question 'Brimholt', expected .*; give another --split"):
        _of_another(reader("copies"), same)


def test_every_form_of_an_answer_gives_way_in_every_document(reader, tokenizer, questions):
    """Aliases too, titles too; the name is then the answer."""
    question = Question("0", questions[0].text, ("Ada Quist", "Quist", "Brimholt"))
    texts = ["Mayor Quist of Brimholt", " Ada Quist, or Quist, rules", "Brimholt", " Adam Quisty is no Ada"]
    pieces = [np.array(ids, np.int32) for ids in tokenizer.encode_batch(texts)]
    ((document, other),), ((name,),) = _renamed(reader("copies"), [question])(
        [0], [[tuple(pieces[:2]), tuple(pieces[2:])]]
    )
    read = [tokenizer.decode(ids) for ids in (*document, *other)]
    assert read == [f"Mayor {name} of {name}", f" {name}, or {name}, rules", name, texts[3]]
    assert {"ada", "quist", "brimholt"}.isdisjoint(name.lower().split())


def test_where_the_answer_does_not_stand_nothing_changes(reader, tokenizer, questions):
    pieces = tuple(np.array(ids, np.int32) for ids in tokenizer.encode_batch(["Cladow", " has no mayor"]))
    (((title, text),),), (answers,) = _renamed(reader("copies"), questions)([0], [[pieces]])
    assert tokenizer.decode(title) == "Cladow" and tokenizer.decode(text) == " has no mayor"
    assert answers == questions[0].answers


def test_names_are_the_same_every_time(reader, questions):
    fake = reader("copies")
    documents_BK = fake.retriever.documents(np.arange(4)[:, None])
    once, again = (_renamed(fake, questions)(range(4), documents_BK)[1] for _ in range(2))
    assert once == again and len(set(once)) == 4


def test_the_tiny_model_passes_through_all_three(tiny_rag, tiny_run, tmp_path):
    asked = [
        Question(str(number), record["question"], (record["answer"],))
        for number, record in enumerate(tiny_run.records("test.jsonl")[:3])
    ]
    rates = dict(reading_tests(Walks(tiny_rag, tmp_path / "kept", "model"), asked))
    assert list(rates) == [WITHOUT, ANOTHERS, RENAMED] and all(rate.count == 3 for rate in rates.values())
