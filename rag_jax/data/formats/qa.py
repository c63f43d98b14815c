"""Rows of question answering: one's own, DPR's, WebQuestions', TriviaQA's, SQuAD's; TriviaQA's file of answers."""

import json
import re
from collections.abc import Iterable
from typing import Any

from rag_jax.data.formats.records import Question, distinct
from rag_jax.data.lines import BadLine, brief, identity, items, objects, string, strings

_IDS = {"passage_id", "psg_id"}
_DESCRIPTION = re.compile(r'\(description (?:"((?:[^"\\]|\\.)*)"|([^()"]*))\)')


def own(record: dict[str, Any], number: int) -> Question:
    """{"question", "answer" | "answers", "id"?, "passage_id" | "passage_ids"?, "group"?}."""
    text, key = string(record, "question"), _one_of(record, "answer", "answers")
    answers = strings(record, key) if key == "answers" or isinstance(record[key], list) else (string(record, key),)
    single = "passage_id" in record and _one_of(record, "passage_id", "passage_ids")
    return Question(
        id=identity(record.get("id", number)),
        text=text,
        answers=some(answers),
        passage_ids=tuple(map(identity, [record["passage_id"]] if single else items(record, "passage_ids"))),
        group=string(record, "group", ""),
    )


def biencoder(record: dict[str, Any], number: int) -> Question:
    """DPR's training files (Karpukhin et al. 2020): gold passages first in positive_ctxs, then hard negatives."""
    positive, negative = objects(record, "positive_ctxs"), objects(record, "hard_negative_ctxs")
    return Question(
        id=str(number),
        text=string(record, "question"),
        answers=some(strings(record, "answers")),
        passage_ids=_context_ids(positive),
        evidence=distinct((title,) for context in positive if (title := string(context, "title"))),
        hard_negatives=_context_ids(negative),
    )


def context_id(context: dict[str, Any]) -> str:
    """The id of one of DPR's contexts, which has one of two names."""
    return identity(context.get("passage_id", context.get("psg_id")))


def _context_ids(contexts: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """The ids of the contexts that have one; in DPR's documented form, unlike its files, none has."""
    return distinct(context_id(context) for context in contexts if not _IDS.isdisjoint(context))


def web_questions(record: dict[str, Any], number: int) -> Question:
    """WebQuestions as DPR and DrQA split it: {"qId", "qText", "answers"}."""
    return Question(identity(record.get("qId", number)), string(record, "qText"), some(strings(record, "answers")))


def web_questions_freebase(record: dict[str, Any], number: int) -> Question:
    """WebQuestions as published (Berant et al. 2013): "targetValue" is '(list (description "A") (description B))'."""
    value = string(record, "targetValue")
    found = [(re.sub(r"\\(.)", r"\1", quoted) or plain).strip() for quoted, plain in _DESCRIPTION.findall(value)]
    if not re.fullmatch(r"\(list\s*\)", _DESCRIPTION.sub("", value).strip()):
        raise BadLine('bad "targetValue"', f' {brief(value)}; expected (list (description "A") (description B))')
    return Question(str(number), string(record, "utterance"), some(tuple(found)))


def trivia_qa(record: dict[str, Any], number: int) -> Question:
    """TriviaQA (Joshi et al. 2017): the answer's value, then its aliases; no answer in the tests."""
    question = Question(identity(record.get("QuestionId", number)), string(record, "Question"), ())
    if "Answer" not in record:
        return question
    answer = record["Answer"]
    if not isinstance(answer, dict):
        raise BadLine(f'"Answer" is {brief(answer)}', "; expected an object")
    return Question(question.id, question.text, some(distinct([string(answer, "Value"), *strings(answer, "Aliases")])))


def trivia_qa_submission(answers: Iterable[tuple[str, str]]) -> str:
    """What TriviaQA's evaluator takes for its hidden test on Wikipedia: {QuestionId: answer} (Joshi et al. 2017)."""
    return json.dumps(dict(answers), ensure_ascii=False, indent=0) + "\n"


def squad(record: dict[str, Any], number: int) -> Question:
    """SQuAD (Rajpurkar et al. 2016, 2018): {"qas": a question, "title": its article's}; in 2.0 some have no answer."""
    question = record["qas"]
    if not isinstance(question, dict):
        raise BadLine(f'"qas" is {brief(question)}', "; expected one question, an object")
    answers = distinct(string(answer, "text") for answer in objects(question, "answers"))
    title = string(record, "title").replace("_", " ")
    return Question(
        id=identity(question.get("id", number)),
        text=string(question, "question"),
        answers=() if question.get("is_impossible") is True else some(answers),
        evidence=((title,),) if title else (),
    )


def some(answers: tuple[str, ...]) -> tuple[str, ...]:
    """The answers; BadLine if there are none, or an empty one."""
    if not answers or not all(answer.strip() for answer in answers):
        raise BadLine("no answer or an empty one", "; expected at least one answer, each with some text")
    return answers


def _one_of(record: dict[str, Any], one: str, other: str) -> str:
    """Which of two keys there is; BadLine for both and for neither."""
    if (one in record) == (other in record):
        found = "both" if one in record else "neither"
        raise BadLine(f'{found} of "{one}" and "{other}"', "; expected one of them")
    return one if one in record else other
