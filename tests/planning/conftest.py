"""A configuration small enough to be planned in a moment."""

import pytest

from rag_jax.command import find_config, load_config


@pytest.fixture(scope="session")
def small():
    """(changes by group) -> a configuration of one layer with one stage, whose encoders are given."""

    def configured(**groups):
        config = load_config(find_config("demo"))
        sizes = {"width": 32, "heads": 2, "ffn": 48}
        config.encoder.update(**sizes, layers=1)
        config.generator.update(**sizes, encoder_layers=1, decoder_layers=1)
        config.reader.steps = config.denoise.steps = 0
        config.parts.question_encoder = "some/encoder"
        for group, changes in groups.items():
            config[group].update(changes)
        return config

    return configured
