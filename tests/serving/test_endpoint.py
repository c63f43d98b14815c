"""The endpoint, asked in this process: its answers, its batches, and every refusal."""

import json
import re
from dataclasses import asdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rag_jax.errors import UserError
from rag_jax.serving.batching import Batcher
from rag_jax.serving.endpoint import MOST_BYTES, MOST_QUESTIONS, REFUSALS, make_app
from rag_jax.serving.views import MOST_LETTERS

from ..reliability.inputs import as_bytes, as_json, damaged, nearly

QUESTION = "who is mayor of Brimholt?"
JSON = {"content-type": "application/json"}


def test_answers_are_the_librarys(served, tiny_rag):
    questions = [QUESTION, "Eskford: which year?"]
    [response] = served.post({"questions": questions, "tokens": True})
    assert response.status_code == 200
    expected = tiny_rag.answer(questions, token_posterior=True)
    assert response.json()["answers"] == json.loads(json.dumps(list(map(asdict, expected))))
    assert response.json()["settings"] == {"index": "before", "kind": "token", "mode": "search", "beams": 1, "k": 3}


def test_tokens_come_when_asked_for(served):
    [response] = served.post({"questions": [QUESTION]})
    assert response.json()["answers"][0]["tokens"] == []


def test_an_index_is_chosen_for_one_request_alone(served, tiny_run, tiny_rag):
    asked = {"questions": [QUESTION], "k": 30}  # all there are, of which the mayors differ
    both = served.post(*({**asked, "index": name} for name in ("before", "after", "before")))
    before, after, again = ([found["text"] for found in r.json()["answers"][0]["documents"]] for r in both)
    assert before == again and set(before) != set(after)
    for name, texts in (("before", before), ("after", after)):
        assert set(texts) == {record["text"] for record in tiny_run.records(f"passages_{name}.jsonl")}
    assert tiny_rag.retriever.index.folder == tiny_run.workdir / "index"


def test_k_and_rag_sequence_are_chosen_for_one_request_alone(served, tiny_rag):
    asked = {"questions": [QUESTION], "kind": "sequence", "mode": "fast", "k": 2}
    sequence, token = served.post(asked, {"questions": [QUESTION]})
    [found] = sequence.json()["answers"]
    assert sequence.json()["settings"] == {"index": "before", "kind": "sequence", "mode": "fast", "beams": 1, "k": 2}
    assert found["lower_bound"] and len(found["documents"]) == 2
    assert sum(document["posterior"] for document in found["documents"]) == pytest.approx(1)
    assert not token.json()["answers"][0]["lower_bound"] and len(token.json()["answers"][0]["documents"]) == 3
    assert tiny_rag.decode.kind == "token"


def test_requests_that_come_together_are_one_batch(served, tiny_rag):
    questions = [f"who is mayor of {town}?" for town in ("Cladow", "Dunmere", "Eskford", "Gritsea", "Hexwold")]
    before = served.batcher.counts
    bodies = [{"questions": [question]} for question in questions]
    responses = served.post(*bodies, {"questions": [QUESTION, QUESTION], "index": "after"})
    after = served.batcher.counts
    assert (after.questions - before.questions, after.batches - before.batches) == (7, 2)
    for response, expected in zip(responses, tiny_rag.answer(questions), strict=False):
        [found] = response.json()["answers"]
        assert (found["question"], found["text"]) == (expected.question, expected.text)
        assert [each["id"] for each in found["documents"]] == [each.id for each in expected.documents]


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ({}, ["questions: missing, expected an object as {"]),
        ([QUESTION], ["body: found ['who is mayor of Brimholt?'], expected an object as {"]),
        ("who?", ["body: found 'who?', expected an object as {"]),
        (None, ["body: found None, expected an object as {"]),
        ({"questions": QUESTION}, ["questions: found 'who is mayor of Brimholt?', expected a valid list"]),
        ({"questions": []}, ["questions: found 0 items, expected at least 1"]),
        ({"questions": [QUESTION] * (MOST_QUESTIONS + 1)}, ["questions: found 65 items, expected at most 64"]),
        ({"questions": [QUESTION, 7]}, ["questions[1]: found 7, expected a valid string"]),
        ({"questions": ["a" * (MOST_LETTERS + 1)]}, ["questions[0]: found 2001 characters, expected at most 2000"]),
        ({"questions": [QUESTION, " \n"]}, ["questions[1]: found no words, expected a question"]),
        ({"questions": ["mayor " * 30]}, ["questions[0]: found more tokens than the question encoder reads, expected"]),
        ({"questions": [QUESTION], "kk": 3}, ["kk: unknown, expected one of questions, index, kind, mode, beams, k"]),
        ({"questions": [QUESTION], "k": "5"}, ["k: found '5', expected a valid integer"]),
        ({"questions": [QUESTION], "k": True}, ["k: found True, expected a valid integer"]),
        ({"questions": [QUESTION], "k": 2.5}, ["k: found 2.5, expected a valid integer"]),
        ({"questions": [QUESTION], "k": 0}, ["k: found 0, expected 1 to 30 with index 'before'"]),
        ({"questions": [QUESTION], "k": 31}, ["k: found 31, expected 1 to 30 with index 'before'"]),
        ({"questions": [QUESTION], "beams": -1}, ["beams: found -1, expected 1 to 16 with mode 'search'"]),
        ({"questions": [QUESTION], "beams": 10**30}, ["beams: found 1000000000000000000000000000000, expected 1 to"]),
        ({"questions": [QUESTION], "mode": "sample", "beams": 2}, ["beams: found 2, expected 1 with mode 'sample'"]),
        ({"questions": [QUESTION], "mode": "fast"}, ["mode: found 'fast', expected 'search' or 'sample' with kind"]),
        ({"questions": [QUESTION], "kind": "both"}, ["kind: found 'both', expected 'token' or 'sequence'"]),
        ({"questions": [QUESTION], "index": "2018"}, ["index: found '2018', expected 'before' or 'after'"]),
        ({"questions": [QUESTION], "tokens": 1}, ["tokens: found 1, expected a valid boolean"]),
        (
            {"questions": [QUESTION], "kind": "sequence", "tokens": True},
            ["tokens: found true, expected false: here an answer has one posterior as a whole"],
        ),
        (
            {"questions": [QUESTION], "k": 99, "mode": "fast", "index": "before"},
            ["k: found 99, expected 1 to 30", "mode: found 'fast', expected 'search' or 'sample'"],
        ),
    ],
)
def test_a_wrong_field_is_named_with_what_was_found_and_expected(served, body, problems):
    [response] = served.post(content=json.dumps(body), headers=JSON)
    assert response.status_code == 422
    found = response.json()["problems"]
    assert len(found) == len(problems)
    for sentence, begins in zip(found, problems, strict=True):
        assert sentence.startswith(begins)


@pytest.mark.parametrize(
    ("content", "headers", "status", "begins"),
    [
        (
            b'{"questions": ',
            JSON,
            400,
            "body: found no JSON (Expecting value at character 14), expected an object",
        ),
        (b'{"questions": ["\xff"]}', JSON, 400, "body: found no JSON in UTF-8, expected an object as {"),
        (b"[" * 200_000, JSON, 400, "body: found no JSON in UTF-8, expected an object as {"),
        (b'{"questions": ["\\ud800"]}', JSON, 422, "questions[0]: found '\\ud800', expected a valid string"),
        (b"{}", {}, 415, "Content-Type: found '', expected application/json"),
        (b"a=b", {"content-type": "text/plain"}, 415, "Content-Type: found 'text/plain', expected application/json"),
        (b" " * (MOST_BYTES + 1), JSON, 413, "body: found 1048577 bytes or more, expected at most 1048576"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(served, content, headers, status, begins):
    [response] = served.post(content=content, headers=headers)
    assert response.status_code == status
    assert response.json()["problems"][0].startswith(begins)


# Of what can be answered all is answered in one way, so that one program is compiled.
BODIES = (
    {"questions": [QUESTION], "index": "after", "kind": "token", "mode": "search", "beams": 1, "k": 3, "tokens": True},
    {"questions": [QUESTION, "Eskford: which year?"]},
    [QUESTION],
)


@st.composite
def bodies(draw):
    """(content, headers) of a request that is nearly right."""
    content = as_bytes(as_json(draw(nearly(BODIES)), ensure_ascii=draw(st.booleans())))
    if draw(st.integers(0, 2)) == 0:
        content = draw(damaged(json.dumps(BODIES[1]).encode()))
    kinds = ("application/json",) * 5 + ("application/json; charset=utf-16", "text/plain", "application/jsonx", "")
    return content, {"content-type": draw(st.sampled_from(kinds))}


@pytest.fixture(scope="module")
def at_once(views, served):
    """The same, whose questions do not wait for each other."""
    with Batcher(views.answer, views.batch, gather=0) as batcher:
        yield served._replace(batcher=batcher, app=make_app(views, batcher, title="tiny"))


@pytest.mark.more
@given(bodies())
@example((rb'{"questions": ["who?"], "\ud800": 1}', JSON))
@example((rb'{"questions": ["who?"], "index": "\ud800"}', JSON))
def test_whatever_is_posted_is_answered_or_told_what_is_wrong_with_it(at_once, posted):
    content, headers = posted
    [response] = at_once.post(content=content, headers=headers)
    said = response.json()
    if response.status_code == 200:
        assert [answer["question"] for answer in said["answers"]] == json.loads(content)["questions"]
    else:
        assert response.status_code in REFUSALS.keys() - {500}
        assert said["problems"] and all(map(str.strip, said["problems"]))


def test_a_body_that_does_not_tell_its_size_is_read_no_further_than_the_limit(served):
    sent = []

    async def endless():
        while True:
            sent.append(100_000)
            yield b" " * sent[-1]

    [response] = served.post(content=endless(), headers=JSON)
    assert response.status_code == 413 and sum(sent) < MOST_BYTES + 2 * sent[-1]


def test_what_is_damaged_here_is_not_the_clients_mistake(served, views, capsys):
    def damaged(settings, questions):
        raise UserError("passages: tokens of row 3 are damaged; restore the file")

    with Batcher(damaged, views.batch, gather=0) as batcher:
        broken = served._replace(batcher=batcher, app=make_app(views, batcher, title="tiny"))
        [response] = broken.post({"questions": [QUESTION]})
    said = "passages: tokens of row 3 are damaged; restore the file"
    assert (response.status_code, response.json()) == (500, {"problems": [said]})
    assert capsys.readouterr().err == f"error: {said}\n"


def test_other_ways_and_places_are_refused(served):
    wrong_way, nowhere = served.get("/answer"), served.get("/answers")
    assert (wrong_way.status_code, wrong_way.json()) == (405, {"problems": ["GET /answer: Method Not Allowed"]})
    assert (nowhere.status_code, nowhere.json()) == (404, {"problems": ["GET /answers: Not Found"]})


def test_health_tells_what_is_served(served):
    found = served.get("/healthz").json()
    assert found["status"] == "ok" and found["indexes"] == ["before", "after"] and found["waiting"] == 0
    assert found["settings"]["index"] == "before"


def test_the_description_needs_no_network_and_names_every_field_and_refusal(served):
    page = served.get("/docs").text
    needed = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(needed) == 3 and not re.search(r"//\w", page)
    assert all(served.get(path).status_code == 200 for path in needed)
    described = served.get("/openapi.json").json()
    assert set(described["paths"]) >= {"/answer", "/healthz"}
    assert set(described["paths"]["/answer"]["post"]["responses"]) == {"200", "400", "413", "415", "422", "500", "503"}
    fields = described["components"]["schemas"]["Asked"]["properties"]
    assert set(fields) == {"questions", "index", "kind", "mode", "beams", "k", "tokens"}
    assert all("description" in field for field in fields.values())
