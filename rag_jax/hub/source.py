"""The Hugging Face hub: uploads; owns the package huggingface_hub."""

import re
from pathlib import Path

from rag_jax.errors import fail

NAME = re.compile(r"[\w.-]+/[\w.-]+")


def check_name(name: str) -> None:
    """UserError for what is not owner/name."""
    if not NAME.fullmatch(name):
        fail(f"--push_to_hub: found '{name}', expected owner/name, as --push_to_hub=ada/rag-demo")


def upload(folder: Path, name: str) -> str:
    """Uploads a finished folder as one commit to the model `name`, made if it is not there; returns its address.

    Raises UserError without a token, without a network, or when the hub refuses.
    """
    from huggingface_hub import HfApi, get_token

    later = f"{folder} is written; upload it later with `hf upload {name} {folder}`"
    if get_token() is None:
        fail(f"--push_to_hub={name}: found no token, expected one in HF_TOKEN or from `hf auth login`; {later}")
    try:
        api = HfApi()
        api.create_repo(name, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder).repo_url)
    except Exception as error:  # what the hub refuses, and whatever its HTTP library raises without a network
        reason = " ".join(str(error).split()) or type(error).__name__
        fail(f"--push_to_hub={name}: the hub was not reached or refused ({reason}); {later}")
