"""Each form of questions, as its publisher writes it and in one's own files, and what is wrong with a row."""

import json

import pytest

from rag_jax.data.corpus import read_passages
from rag_jax.data.formats import Question, read_questions
from rag_jax.errors import UserError


def test_ones_own(write, lines):
    records = [
        {"question": "who found radium?", "answers": ["Marie Curie", "Curie"], "passage_ids": [7, "8"]},
        {"id": "q", "question": "when?", "answer": "1898", "group": "dates"},
        {"question": "where?", "answer": ["Paris", "France"], "passage_id": 9, "anything": {"else": 1}},
    ]
    assert read_questions(write("q.jsonl", lines(*records))) == [
        Question("0", "who found radium?", ("Marie Curie", "Curie"), ("7", "8")),
        Question("q", "when?", ("1898",), (), "dates"),
        Question("2", "where?", ("Paris", "France"), ("9",)),
    ]


@pytest.mark.parametrize("key", ["input", "query", "claim", "output", "Question", "qText", "utterance", "qas"])
def test_ones_own_rows_may_have_another_form_s_key(write, lines, key):
    records = {"question": "who?", "answers": ["Ada"], key: "x"}, {"question": "when?", "answer": "1898", key: []}
    expected = [Question("0", "who?", ("Ada",)), Question("1", "when?", ("1898",))]
    assert read_questions(write("q.jsonl", lines(*records))) == expected


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"answer": "a"}, '"question" is missing'),
        ({"question": " ", "answer": "a"}, "empty question"),
        ({"question": "q"}, 'neither of "answer" and "answers"'),
        ({"question": "q", "answer": "a", "answers": ["a"]}, 'both of "answer" and "answers"'),
        ({"question": "q", "answers": []}, "no answer or an empty one"),
        ({"question": "q", "answer": []}, "no answer or an empty one"),
        ({"question": "q", "answers": ["a", " "]}, "no answer or an empty one"),
        ({"question": "q", "answers": "a"}, '"answers" is "a"; expected a list'),
        ({"question": "q", "answers": [1]}, r'"answers" is \[1\]; expected a list of strings'),
        ({"question": "q", "answer": 1}, '"answer" is not a string but 1'),
        ({"question": "q", "answer": "a", "passage_ids": [True]}, "bad id true; expected"),
        ({"question": "q", "answer": "a", "passage_id": None}, "bad id null; expected"),
        ({"question": "q", "answer": "a", "passage_id": 1, "passage_ids": [1]}, 'both of "passage_id" and'),
        ({"question": "q", "answer": "a", "group": 3}, '"group" is not a string but 3'),
        ({"question": "q", "answer": "a", "id": "0"}, "question id '0' stands on an earlier line"),
        ({"question": "q", "answers": ["a"], "positive_ctxs": [{"title": "t", "psg_id": None}]}, "bad id null"),
        ({"question": "q", "answers": ["a"], "positive_ctxs": ["p"]}, r'"positive_ctxs" is \["p"\]; expected'),
        ({"qText": "q", "answers": "a"}, '"answers" is "a"; expected a list'),
        ({"utterance": "q", "targetValue": "(list a)"}, r'bad "targetValue" "\(list a\)"; expected \(list'),
        ({"utterance": "q", "targetValue": "(list)"}, "no answer or an empty one"),
        ({"Question": "q", "Answer": "a"}, '"Answer" is "a"; expected an object'),
        ({"Question": "q", "Answer": {"Value": "a", "Aliases": None}}, '"Aliases" is null; expected a list'),
        ({"query": "q", "answers": "a"}, '"answers" is "a"; expected a list'),
        ({"claim": "c", "label": "MAYBE"}, '"label" is "MAYBE"; expected SUPPORTS, REFUTES, NOT ENOUGH INFO'),
        ({"claim": "c", "label": "REFUTES", "evidence": [["a"]]}, 'bad "evidence"'),
        ({"claim": "c", "label": "REFUTES", "evidence": [[[1, 2, 3, 4]]]}, r'bad "evidence" \[3\]; expected the names'),
        ({"input": "q", "output": [{"answer": 1}]}, '"answer" is not a string but 1'),
        ({"input": "q", "output": [{"provenance": [{"title": "t"}]}]}, "bad id null"),
        ({"id": "tc_1", "output": [{"answer": "a"}]}, '"input" is missing; KILT has TriviaQA without questions'),
    ],
)  # fmt: skip
def test_bad_rows_name_file_and_line(write, lines, record, message):
    path = write("q.jsonl", lines({"question": "first", "answer": "a"}, record))
    with pytest.raises(UserError, match=rf"q\.jsonl:2: {message}"):
        read_questions(path)


def test_files_without_questions(write):
    with pytest.raises(UserError, match=r"q\.txt: unknown kind of file; expected \.json"):
        read_questions(write("q.txt", "who?"))
    for name, text in (("q.jsonl", "\n"), ("q.json", "[]"), ("q.tsv", ""), ("q.json", '{"data": []}')):
        with pytest.raises(UserError, match="holds no questions"):
            read_questions(write(name, text))
    for text, message in (('{"question": "q"\n', "not JSON"), ("[1]\n", "list; expected a JSON object")):
        with pytest.raises(UserError, match=rf"q\.jsonl:1: {message}"):
            read_questions(write("q.jsonl", text))
    with pytest.raises(UserError, match=r"none\.json: cannot be read"):
        read_questions("none.json")


def test_dpr_tables(write, zipped):
    """Quoted as csv, without a header; patterns keep their backslashes."""
    text = (
        "who sang it\t['Ada Quist']\n"
        '"what is ""X""?"\t"[\'it\'\'s\', ""y\'s""]"\n'
        "when\t['San\\s?Remo', 'a\\\\d']\r\n"
    )  # fmt: skip
    expected = [
        Question("0", "who sang it", ("Ada Quist",)),
        Question("1", 'what is "X"?', ("its", "y's")),
        Question("2", "when", (r"San\s?Remo", r"a\d")),
    ]
    for suffix in ("tsv", "csv"):
        assert read_questions(write(f"nq-dev.qa.{suffix}{zipped}", text)) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q", "1 columns; expected 2, question TAB list of answers"),
        ("q\ta\tb", "3 columns; expected 2"),
        ("q\tParis", 'bad list of answers "Paris"; expected a list in Python\'s form'),
        ("q\t[f()]", "bad list of answers"),
        ("q\t'Paris'", '"answers" is "Paris"; expected a list'),
        ("q\t" + 5000 * "[", "bad list of answers"),
        ("q\t[]", "no answer or an empty one"),
        ("\t['a']", "empty question"),
    ],
)
def test_bad_rows_of_dpr_tables(write, line, message):
    with pytest.raises(UserError, match=rf"q\.tsv:2: {message}"):
        read_questions(write("q.tsv", f"who\t['Ada']\n{line}\n"))


CONTEXT = {"title": "T", "text": "t", "score": 1.0}


def test_dpr_bi_encoder_files(write, lines):
    records = [
        {
            "question": "who",
            "answers": ["Ada", "Quist"],
            "positive_ctxs": [CONTEXT | {"passage_id": "3"}, CONTEXT | {"passage_id": "4"}],
            "negative_ctxs": [CONTEXT | {"passage_id": "5"}],
            "hard_negative_ctxs": [CONTEXT | {"passage_id": "6"}, CONTEXT | {"passage_id": "6"}],
        },
        {"question": "when", "answers": ["1898"], "positive_ctxs": [{**CONTEXT, "title": "U", "psg_id": 7}]},
    ]
    expected = [
        Question("0", "who", ("Ada", "Quist"), ("3", "4"), evidence=(("T",),), hard_negatives=("6",)),
        Question("1", "when", ("1898",), ("7",), evidence=(("U",),)),
    ]
    assert read_questions(write("a.json", json.dumps(records))) == expected
    assert read_questions(write("b.jsonl", lines(*records))) == expected


def test_dpr_s_documented_form_has_no_ids_and_a_title_may_be_empty(write):
    """As DPR's README has it; what is without an id is no gold passage, and no page without a title."""
    contexts = [CONTEXT, CONTEXT | {"passage_id": 4, "title": ""}, {"title": "", "text": "t"}]
    record = {"question": "who", "answers": ["Ada"], "positive_ctxs": contexts, "hard_negative_ctxs": [CONTEXT]}
    assert read_questions(write("a.json", json.dumps([record]))) == [
        Question("0", "who", ("Ada",), ("4",), evidence=(("T",),))
    ]
    with pytest.raises(UserError, match=r"a\.json: row 0: bad id null"):
        list(read_passages(write("a.json", json.dumps([record]))))


def test_web_questions_in_both_forms(write):
    array = json.dumps([{"qId": "wqr7", "qText": "who?", "answers": ["Ada", "Bo"]}], indent=1)
    assert read_questions(write("q.json", array)) == [Question("wqr7", "who?", ("Ada", "Bo"))]
    value = r'(list (description "Glass flute") (description Stilts) (description "a \"(b)\""))'
    array = json.dumps([{"url": "u", "targetValue": value, "utterance": "what?"}])
    expected = [Question("0", "what?", ("Glass flute", "Stilts", 'a "(b)"'))]
    assert read_questions(write("webquestions.examples.train.json", array)) == expected
    assert read_questions(write("blobtrain", array)) == expected


def test_curated_trec(write, zipped):
    text = '7\tfactoid\tWhat has a "name"?\tSan\\s?Remo|"x\n8\tfactoid\tWhat?\ta\\\tb|c\n'
    assert read_questions(write(f"trec.tsv{zipped}", text)) == [
        Question("7", 'What has a "name"?', ('San\\s?Remo|"x',)),
        Question("8", "What?", ("a\\\tb|c",)),
    ]
    with pytest.raises(UserError, match=r"trec\.tsv:3: 2 columns; expected 4: id, kind, question, pattern"):
        read_questions(write("trec.tsv", text + "9\tfactoid\n"))


def test_trivia_qa(write, zipped):
    answer = {"Value": "Lima", "Aliases": ["Lima, Peru", "Lima"], "NormalizedAliases": ["lima"]}
    rows = [{"Question": "where?", "QuestionId": "t_3", "Answer": answer, "SearchResults": [{"Rank": 0}]}]
    path = write(f"web-train.json{zipped}", json.dumps({"Data": rows, "Domain": "Web"}, indent=4))
    assert read_questions(path) == [Question("t_3", "where?", ("Lima", "Lima, Peru"))]
    hidden = write(
        f"web-test-without-answers.json{zipped}", json.dumps({"Data": [{"Question": "q", "QuestionId": "1"}]})
    )
    assert read_questions(hidden) == [Question("1", "q", ())]
    with pytest.raises(UserError, match=r'row 1: "Question" is not a string but 3'):
        read_questions(write("q.json", json.dumps({"Data": [*rows, {"Question": 3}]})))


def test_squad(write, zipped):
    answers = [{"text": "1898", "answer_start": 3}, {"text": "1898", "answer_start": 3}, {"text": "in 1898"}]
    paragraphs = [{"context": "In 1898 ..", "qas": [{"id": "a1", "question": "when?", "answers": answers}]}]
    text = json.dumps({"version": "1.1", "data": [{"title": "A_Red_Kite", "paragraphs": paragraphs}]})
    expected = [Question("a1", "when?", ("1898", "in 1898"), evidence=(("A Red Kite",),))]
    assert read_questions(write(f"train-v1.1.json{zipped}", text)) == expected
    for place, value, message in [
        (["data", 0], 3, r'articles: "data" is \[3\]; expected a list of objects'),
        (["data", 0], {"question": "q"}, 'article 0: "paragraphs" is missing'),
        (["data", 0, "paragraphs"], 3, r'article 0: "paragraphs" is 3; expected a list'),
        (
            ["data", 0, "paragraphs", 0, "qas"],
            [3],
            r'article 0, paragraph 0: "qas" is \[3\]; expected a list of objects',
        ),
        (["data", 0, "paragraphs", 0, "qas", 0, "answers"], [], "row 0: no answer or an empty one"),
        (["data", 0, "title"], None, 'row 0: "title" is not a string but null'),
    ]:
        damaged = json.loads(text)
        *way, last = place
        holder = damaged
        for step in way:
            holder = holder[step]
        holder[last] = value
        with pytest.raises(UserError, match=rf"q\.json: {message}"):
            read_questions(write("q.json", json.dumps(damaged)))


def test_squad_2_has_questions_without_answers_and_an_article_may_have_no_title(write):
    qas = [{"id": "a", "question": "when?", "answers": [], "is_impossible": True}]
    qas += [{"id": "b", "question": "who?", "answers": [{"text": "Ada"}], "is_impossible": False}]
    path = write("train-v2.0.json", json.dumps({"data": [{"paragraphs": [{"context": "..", "qas": qas}]}]}))
    assert read_questions(path) == [Question("a", "when?", ()), Question("b", "who?", ("Ada",))]


def test_fever(write, lines):
    sentence = [[11, 12, "Red_Kite_-LRB-song-RRB-", 7], [11, 13, "Owl_-LSB-a-RSB--COLON-_Cafe\u0301", 0]]
    records = [
        {"id": 7, "label": "SUPPORTS", "claim": "A claim.", "evidence": [sentence, [sentence[0]], [sentence[0]]]},
        {"id": 8, "label": "NOT ENOUGH INFO", "claim": "Another.", "evidence": [[[14, None, None, None]]]},
        {"id": 9, "claim": "A hidden one.", "evidence": [[[1, 2, "", 0]]]},
        {"id": "10", "label": "REFUTES", "claim": "Symmetric .", "evidence": "Its text ."},
    ]
    assert read_questions(write("dev.jsonl", lines(*records))) == [
        Question("7", "A claim.", ("SUPPORTS",), evidence=(("Red Kite (song)", "Owl [a]: Café"), ("Red Kite (song)",))),
        Question("8", "Another.", ("NOT ENOUGH INFO",)),
        Question("9", "A hidden one.", ()),
        Question("10", "Symmetric .", ("REFUTES",)),
    ]


def test_kilt(write, lines):
    first, second = {"wikipedia_id": "5", "title": "Five"}, {"wikipedia_id": 6, "title": "Six", "section": "s"}
    records = [
        {
            "id": "k1",
            "input": "Vistula [SEP] mouth",
            "output": [
                {"answer": "the Baltic", "provenance": [first, second, first]},
                {"answer": "the Baltic", "provenance": [second]},
                {"answer": "The Baltic"},
                {"answer": " ", "meta": {"score": 3}},
                {"provenance": [first, second]},
            ],
        },
        {"id": "k2", "input": "q", "output": [{"answer": "yes"}]},
        {"id": "k3", "input": "hidden"},
    ]
    assert read_questions(write("nq-dev-kilt.jsonl", lines(*records))) == [
        Question("k1", "Vistula [SEP] mouth", ("the Baltic", "The Baltic"), evidence=(("5", "6"), ("6",))),
        Question("k2", "q", ("yes",)),
        Question("k3", "hidden", ()),
    ]


def test_hugging_face_pairs(write, zipped):
    source = write(f"train.source{zipped}", "who?\nwhen ?\r\n")
    target = write(f"train.target{zipped}", "Ada Quist\n1898")
    expected = [Question("0", "who?", ("Ada Quist",)), Question("1", "when ?", ("1898",))]
    assert read_questions(source) == read_questions(target) == expected
    write(f"train.target{zipped}", "Ada\n\n")
    with pytest.raises(UserError, match=r"train\.source(\.gz)?:2: no answer or an empty one"):
        read_questions(source)
    write(f"train.target{zipped}", "Ada\n")
    with pytest.raises(UserError, match=r"target(\.gz)?: ends after line 1, .*source(\.gz)? goes on"):
        read_questions(source)
    write(f"train.target{zipped}", "a\nb\nc\n")
    with pytest.raises(UserError, match=r"source(\.gz)?: ends after line 2, .*target(\.gz)? goes on"):
        read_questions(source)


def test_a_folder_of_searchqa(write):
    for number, (clue, answer) in enumerate([("It glows", "radium"), ("A river", "Vistula")]):
        record = {"id": 30000 + number, "category": "C", "question": clue, "answer": answer, "search_results": []}
        write(f"train/0300{number}.json", json.dumps(record, indent=number))
    assert read_questions(write("train/x.txt", "").parent) == [
        Question("30000", "It glows", ("radium",)),
        Question("30001", "A river", ("Vistula",)),
    ]
    with pytest.raises(UserError, match=r"no \.json or \.jsonl file in this folder"):
        read_questions(write("other/x.txt", "").parent)


def test_rows_of_a_folder_are_numbered_together(write, lines):
    for name in ("a.jsonl", "b/c.jsonl.gz"):
        path = write(f"all/{name}", lines({"question": name, "answer": "x"}, {"question": "q", "answer": "y"}))
    assert [(q.id, q.text) for q in read_questions(path.parents[1])] == [
        ("0", "a.jsonl"), ("1", "q"), ("2", "b/c.jsonl.gz"), ("3", "q"),
    ]  # fmt: skip


def test_a_folder_of_questions_with_links_and_hidden_files(write, lines):
    path = write("all/a.jsonl", lines({"question": "a", "answer": "x"}))
    for name in ("._a.json", ".ipynb_checkpoints/a-checkpoint.jsonl", ".a.jsonl.twin.json"):
        write(f"all/{name}", lines({"question": "hidden", "answer": "x"}))
    linked = write("elsewhere/b.jsonl", lines({"question": "b", "answer": "x"}))
    (path.parent / "link").symlink_to(linked.parent)
    assert [question.text for question in read_questions(path.parent)] == ["a", "b"]
