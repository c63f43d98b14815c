"""The model of a configuration without a network."""

import pytest

from rag_jax.command import find_config, load_config
from rag_jax.data.tokenizer import Tokenizer, train_wordpiece
from rag_jax.planning.model import describe
from rag_jax.workdir import Workdir


def configured(name, **groups):
    config = load_config(find_config(name))
    for group, changes in groups.items():
        config[group].update(changes)
    return config.lock()


def test_a_model_of_the_hub_has_the_configurations_sizes_and_the_published_vocabularies():
    config, model, assumed = describe(configured("nq"), None)
    assert (model.question_encoder.vocab_size, model.generator.vocab_size) == (30522, 50265)
    assert (model.question_encoder.width, model.generator.width) == (768, 1024)
    assert config.parts.generator == "facebook/bart-large"
    assert any("config.parts.generator = facebook/bart-large is not here" in line for line in assumed)
    assert any("30,522 tokens are assumed" in line for line in assumed)


def test_tokenizers_that_are_here_are_read(tmp_path):
    place, config = Workdir(tmp_path), configured("demo")
    train_wordpiece(["who wrote Dracula"] * 3, 300, place.tokenizers / "encoder")
    found = describe(config, place)
    assert found.model.question_encoder.vocab_size == Tokenizer.load(place.tokenizers / "encoder").vocab_size <= 300
    assert found.model.generator.vocab_size == config.tokenizer.generator_vocab == 2000
    assert [line for line in found.assumed if "tokenizer" in line] == [
        "the generator's tokenizer is not here: 2,000 tokens are assumed"
    ]


@pytest.mark.parametrize(("variant", "labels", "classes"), [("fever3:label", 3, 0), ("fever3:head", 0, 3)])
def test_labels_need_no_tokenizer(variant, labels, classes):
    model = describe(configured(variant), None).model
    assert (len(model.label_tokens), model.classes) == (labels, classes)


def test_a_closed_book_has_no_encoder():
    found = describe(configured("nq:closedbook"), None)
    assert found.model.question_encoder is None
    assert not any("encoder's" in line for line in found.assumed)
