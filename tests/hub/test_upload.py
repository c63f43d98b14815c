"""Uploads, as far as they come without a network."""

import pytest

from rag_jax.errors import UserError
from rag_jax.hub.source import check_name, upload

pytest.importorskip("huggingface_hub")


@pytest.mark.parametrize("name", ["", "demo", "/demo", "ada/", "ada/demo/2", "ada/de mo"])
def test_a_name_has_an_owner(name):
    with pytest.raises(UserError, match=f"^--push_to_hub: found '{name}', expected owner/name"):
        check_name(name, "--push_to_hub")
    check_name("ada/rag-demo_2.0", "--push_to_hub")


def test_without_a_network_the_folder_is_there_and_the_way_to_go_on_is_named(tmp_path, monkeypatch):
    """The tests run offline."""
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    with pytest.raises(UserError) as caught:
        upload(tmp_path, "ada/demo", "--push_to_hub")
    message = str(caught.value)
    assert message.startswith("--push_to_hub: ada/demo was not uploaded (") and "\n" not in message
    assert message.endswith(f"{tmp_path} is written; upload it later with `hf upload ada/demo {tmp_path}`")
