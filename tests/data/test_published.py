"""The paper's numbers, where a reader would look for them."""

from rag_jax.data.published import paper
from rag_jax.data.tasks import TASKS


def test_the_numbers_of_the_tables():
    assert paper("nq")["test"]["RAG-Sequence"] == {"exact_match": 44.5}
    assert paper("triviaqa")["test"]["RAG-Token"] == {"exact_match": 55.2}
    assert "T5-11B" not in paper("triviaqa")["test"]  # it is measured on the hidden test alone
    assert paper("webquestions")["valid"]["RAG-Token"] == {"exact_match": 46.5}
    assert paper("curatedtrec")["test"]["REALM"] == {"regex_match": 46.8}
    assert paper("msmarco")["valid"]["RAG-Sequence"] == {"rouge_l_coco": 57.2, "bleu_1": 47.5}
    assert paper("msmarco")["unstated"]["BART"] == {"distinct_3": 70.7}
    assert paper("jeopardy")["unstated"]["gold answers"] == {"distinct_3_gold": 90.0}
    assert paper("nq")["unstated"]["RAG"] == {"EM_where_no_passage_holds_the_answer": 11.8}
    assert paper("jeopardy")["test"]["RAG-Token"] == {"bleu_1": 17.3, "q_bleu_1": 22.2}
    assert paper("fever3")["unstated"]["RAG"] == {"gold_page@1": 71.0, "gold_page@10": 90.0}
    assert paper("fever2")["test"]["BART"] == {"accuracy": 81.1}
    assert paper("qa") == {}


def test_every_number_is_of_a_metric_that_its_task_measures():
    for task in TASKS.values():
        measured = {metric for systems in task.paper.values() for row in systems.values() for metric in row}
        labelled = {metric for metric in measured if metric.startswith(("gold_page", "EM_where"))}
        assert measured - labelled <= set(task.metrics)
        assert measured - labelled <= {task.metrics[0]} or task.name in ("msmarco", "jeopardy")
