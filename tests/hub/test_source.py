"""Folders and names: the real client of the hub against a small hub on this machine, and against none."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rag_jax.errors import UserError
from rag_jax.hub.source import find, find_index

ROOT = Path(__file__).parents[2]
SHA = "0123456789abcdef0123456789abcdef01234567"
TEXTS = ["config.json", "generator_tokenizer/merges.txt", "generator_tokenizer/vocab.json", "1_Pooling/config.json"]
INDEX = ["index/manifest.json", "index/passages/data.arrow"]
OTHERS = ["tf_model.h5", "onnx/model.onnx", "onnx/config.json", "README.md", "2_Dense/model.safetensors"]
MODELS = {
    "me/both": [*TEXTS, "model.safetensors", "pytorch_model.bin", *OTHERS],
    "me/export": [*TEXTS, "model.safetensors", "rag_jax.json", *INDEX],
    "me/old": [*TEXTS, "pytorch_model.bin", *OTHERS],
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The few answers that a download asks for."""

    def do_GET(self):
        name, _, rest = self.path.split("?")[0].removeprefix("/api/models").removeprefix("/").partition("/")
        name, _, rest = f"{name}/{rest.partition('/')[0]}", "", rest.partition("/")[2]
        if name not in MODELS:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if rest.startswith("resolve/"):
            content = rest.encode()
            etag = hashlib.sha256(content).hexdigest()
            return self.answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": SHA})
        files = [
            {"type": "file", "path": file, "size": len(f"resolve/{SHA}/{file}"), "oid": SHA} for file in MODELS[name]
        ]
        siblings = [{"rfilename": file["path"]} for file in files]
        listing = files if rest.startswith("tree/") else {"id": name, "sha": SHA, "siblings": siblings}
        return self.answer(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    do_HEAD = do_GET

    def answer(self, status, content, headers):
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def ask(hub, tmp_path_factory):
    """find(name) in a process of its own, which has that hub, and a cache that stays; what it printed."""
    cache = tmp_path_factory.mktemp("cache")

    def run(name, function="find", **environment):
        code = (
            f"import sys\nfrom rag_jax.errors import UserError\nfrom rag_jax.hub.source import {function}\n"
            f"try: print({function}(sys.argv[1], '--config.init_from'))\nexcept UserError as error: print(error)"
        )
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HTTP", "http"))}
        given = {"HF_ENDPOINT": hub, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"} | environment
        done = subprocess.run(
            [sys.executable, "-c", code, name],
            capture_output=True,
            text=True,
            env=plain | given,
            check=True,
            timeout=60,
        )
        return done.stdout.splitlines()[-1]

    return run


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("name", "weights"), [("me/both", "model.safetensors"), ("me/old", "pytorch_model.bin")])
def test_texts_and_one_format_of_weights_are_fetched_and_kept(name, weights, ask, tmp_path):
    folder = Path(ask(name))
    assert files(folder) == sorted([*TEXTS, weights])
    assert (folder / "config.json").read_text() == f"resolve/{SHA}/config.json"
    assert ask(name, HF_ENDPOINT="http://127.0.0.1:9") == str(folder), "the hub is gone, the copy stays"
    assert ask(name, HF_HUB_OFFLINE="1") == str(folder)


def test_an_index_is_fetched_when_it_is_asked_for(ask, tmp_path):
    folder = Path(ask("me/export"))
    assert not (folder / "index").exists()
    assert ask("me/export", "find_index") == str(folder / "index")
    assert [name for name in files(folder) if name.startswith("index")] == INDEX
    assert ask("me/both", "find_index") == "None"
    assert find_index(str(tmp_path)) is None
    (tmp_path / "index").mkdir()
    assert find_index(str(tmp_path)) == tmp_path / "index"


@pytest.mark.parametrize("written", ["metrics.json", "evaluate_3.partial", "sweep_valid.json"])
def test_results_under_a_models_name_are_not_the_model(written, ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place = tmp_path / "me" / "both"
    place.mkdir(parents=True)
    assert ask("me/both") == "me/both", "an empty folder is no result"
    (place / written).touch()
    assert "model.safetensors" in files(Path(ask("me/both")))
    (place / "config.json").touch()
    assert ask("me/both") == "me/both", "one's own model"


def test_an_unknown_name(ask):
    assert ask("me/typo") == (
        "--config.init_from: found neither a folder 'me/typo' nor that name on the hub; check the spelling, or log in "
        "with `hf auth login` if it is private"
    )


@pytest.mark.parametrize(
    ("environment", "reason"),
    [({"HF_HUB_OFFLINE": "1"}, "offline mode is enabled"), ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "refused")],
)
def test_no_way_to_the_hub(environment, reason, ask):
    said = ask("me/other", **environment)
    assert said.startswith("--config.init_from: found no folder 'me/other', no copy of it in the hub's cache, and no")
    assert reason in said and said.endswith("connect, or give a folder")


def test_a_folder_is_itself(tmp_path):
    assert find(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["", "runs/a/b", "bert-base-uncased", "/no/such", "a b/c"])
def test_what_is_no_name_is_not_asked_for(name):
    with pytest.raises(UserError, match=f"^--x: found no folder '{name}'; expected one with a config.json, or a name"):
        find(name, "--x")
