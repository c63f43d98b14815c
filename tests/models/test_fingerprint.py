"""The name that an index remembers its passage encoder by."""

from dataclasses import replace

import numpy as np
import pytest

from rag_jax.models.bert import BertConfig
from rag_jax.models.fingerprint import encoder_fingerprint

PARAMS = {"layers": {"kernel": np.arange(6, dtype=np.float32)}, "token": np.ones((2, 2), np.float32)}


def test_the_names_in_the_indexes_that_there_are_stay():
    assert encoder_fingerprint(BertConfig(), PARAMS) == "136b28538649d2a2"


def test_weights_and_all_that_changes_a_passages_vector_have_names_of_their_own():
    config = BertConfig()
    changed = [
        replace(config, **change)
        for change in (
            {}, {"pooling": "mean"}, {"normalize": True}, {"heads": 6}, {"passage_prefix": "passage: "},
            {"passage_prefix": "passage:"}, {"title": "joined"}, {"passage_prefix": "joined"},
        )
    ]  # fmt: skip
    names = [encoder_fingerprint(other, PARAMS) for other in changed]
    names.append(encoder_fingerprint(config, PARAMS | {"token": np.zeros((2, 2), np.float32)}))
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("change", [{"question_prefix": "query: "}, {"dropout": 0.0}, {"dtype": "bfloat16"}])
def test_what_changes_no_vector_changes_no_name(change):
    assert encoder_fingerprint(replace(BertConfig(), **change), PARAMS) == encoder_fingerprint(BertConfig(), PARAMS)
