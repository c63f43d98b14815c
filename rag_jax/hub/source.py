"""Where a checkpoint's files are: a folder of one's own, or the hub's under 'owner/name'; and how they get there.

Owns huggingface_hub.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, get_token, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from rag_jax.errors import UserError
from rag_jax.storage import is_remote, local

# Configurations and tokenizers, those in folders of their own included; the weights after them. A pattern's star
# stands for slashes too, but model.safetensors is only the one at the top.
TEXTS = ["*.json", "*.txt"]
WEIGHTS = (["model*.safetensors"], ["pytorch_model*.bin"])
NAME = r"[\w.-]+/[\w.-]+"
INDEX = "index"
RESULTS = ("metrics.json", ".metrics.json.owner", "sweep*.json", "predictions*.jsonl", "evaluate*.partial")
ELSEWHERE = ["onnx/*", "openvino/*", "hf_dataset/*", f"{INDEX}/*"]


def find(name: str, flag: str = "folder") -> Path:
    """The folder `name`, or the files of the hub's 'owner/name', downloaded once and then read from the cache.

    flag: what messages call the place where the name was given. Of two formats of weights, safetensors is taken.
    Raises UserError for a name that is neither, and for a hub that cannot be reached and left nothing in the cache.
    """
    if name and _is_folder(name):
        return local(name)
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"{flag}: found no folder '{name}'; expected one with a config.json, or a name of the hub, as "
            "facebook/rag-token-nq"
        )
    for weights in WEIGHTS:
        folder = _download(name, [*TEXTS, *weights], flag)
        if any(next(folder.glob(pattern), None) for pattern in weights):
            return folder
    return folder


def find_index(name: str, flag: str = "folder") -> Path | None:
    """The index that an export brings, downloaded where `name` is the hub's; None where there is none."""
    folder = local(name) if _is_folder(name) else _download(name, [f"{INDEX}/*"], flag, ignore=())
    return folder / INDEX if (folder / INDEX).is_dir() else None


def is_hubs(name: str) -> bool:
    """Whether 'owner/name' is to be looked up: no folder is there, or only what evaluate wrote of the hub's model."""
    folder = Path(name)
    mine = (folder / "config.json").is_file() or not any(next(folder.glob(result), None) for result in RESULTS)
    return bool(re.fullmatch(NAME, name)) and not (folder.is_dir() and mine)


def check_name(name: str, flag: str) -> None:
    """UserError for what is not owner/name."""
    if not re.fullmatch(NAME, name):
        raise UserError(f"{flag}: found {name!r}, expected owner/name, as ada/rag-demo")


def upload(folder: Path, name: str, flag: str) -> str:
    """Uploads a finished folder as one commit to the hub's model `name`, made if it is not there; returns its address.

    Raises UserError without a token, without a network, or when the hub refuses.
    """
    later = f"{folder} is written; upload it later with `hf upload {name} {folder}`"
    if get_token() is None:
        raise UserError(f"{flag}: found no token for {name}, expected one in HF_TOKEN or from `hf auth login`; {later}")
    try:
        api = HfApi()
        api.create_repo(name, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder).repo_url)
    except Exception as error:  # what the hub refuses, and what its client's network library says
        raise UserError(f"{flag}: {name} was not uploaded ({_reason(error)}); {later}") from error


def _is_folder(name: str) -> bool:
    return is_remote(name) or (Path(name).is_dir() and not is_hubs(name))


def _download(name: str, patterns: list[str], flag: str, ignore: Sequence[str] = ELSEWHERE) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=list(ignore)))
    except GatedRepoError as error:
        raise UserError(
            f"{flag}: '{name}' is shut to you; accept its conditions on its page and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{flag}: found neither a folder '{name}' nor that name on the hub; check the spelling, or log in with "
            "`hf auth login` if it is private"
        ) from error
    except Exception as error:  # the hub's client lets the errors of its network library through
        raise UserError(
            f"{flag}: found no folder '{name}', no copy of it in the hub's cache, and no way to the hub "
            f"({_reason(error)}); connect, or give a folder"
        ) from error


def _reason(error: BaseException) -> str:
    """The first cause's first line."""
    while error.__cause__:
        error = error.__cause__
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
