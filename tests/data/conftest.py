"""One small corpus, and tokenizers trained on it, for the tests of data/."""

import random

import pytest

from rag_jax.data.tokenizer import train_byte_bpe, train_wordpiece

PLACES = ["Paris", "Berlin", "Warsaw", "Kyoto", "Lima", "Zürich", "Łódź", "São", "Dakar", "Quito", "Boston"]
PEOPLE = ["Marie", "Curie", "Ada", "Lovelace", "Niels", "Bohr", "Émile", "Zola", "Grace", "Alan", "Turing"]
VERBS = ["was", "found", "discovered", "wrote", "built", "saw", "made"]
WORDS = ["the", "a", "of", "in", "by", "who", "river", "element", "city", "old", "museum", "near", "and"]


def sentence(random_):
    words = [random_.choice(PLACES + PEOPLE + VERBS + WORDS) for _ in range(random_.randint(6, 25))]
    words.insert(3, str(random_.randint(1, 2024)))
    return " ".join(words) + random_.choice([".", "!", ", (as they say).", " – or 'not'?"])


@pytest.fixture(scope="session")
def corpus():
    random_ = random.Random(0)
    return [" ".join(sentence(random_) for _ in range(3)) for _ in range(300)]


@pytest.fixture(scope="session")
def bpe(corpus, tmp_path_factory):
    return train_byte_bpe(corpus, 700, tmp_path_factory.mktemp("tokenizers") / "generator")


@pytest.fixture(scope="session")
def wordpiece(corpus, tmp_path_factory):
    return train_wordpiece(corpus, 600, tmp_path_factory.mktemp("tokenizers") / "encoder")
