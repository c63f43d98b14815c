"""What is read is data: names that lead out of a folder are refused, and no text is a format, a command, a program."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rag_jax.data.formats import Passage
from rag_jax.data.passages import PassageStore, build_store
from rag_jax.data.tokenizer import train_byte_bpe
from rag_jax.errors import UserError
from rag_jax.files import MANIFEST, _seal, inside, read_json, read_manifest, read_object, write_json, write_manifest
from rag_jax.hub.sentence import read_sentence
from rag_jax.hub.tensors import open_tensors
from rag_jax.retrieve import check_questions

from .inputs import TEXT, WHOLE, as_bytes, as_file, as_json, damaged, nearly, told

pytestmark = pytest.mark.more
OUT = ("../outside.json", "/etc/hostname", "a/../../outside.json", "..")
# What a format string, a shell, a template or a path would take for its own.
TRAPS = (
    "{0}", "{}", "{question}", "{0.__class__.__mro__}", "%s %n %(a)s", "$(touch ran)", "`touch ran`", "; touch ran;",
    "| touch ran", "&& touch ran", "$HOME", "~", "*", "../../ran", "-rf", "\\", "'; touch ran; '", "${jndi:x}",
    "<script>", "{{7*7}}",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trust")


@given(st.sampled_from(OUT) | WHOLE)
def test_a_name_stays_in_its_folder(folder, name):
    path = told(lambda: inside(folder, name, "manifest.json"), "manifest.json")
    if path is not None and "\0" not in name:
        assert path.resolve().is_relative_to(folder.resolve())


@pytest.mark.parametrize("name", OUT)
def test_files_that_name_others_outside(tmp_path, name):
    """Manifests, shards of weights, the modules of a sentence encoder."""
    (tmp_path / "outside.json").write_text("{}")
    box = tmp_path / "box"
    box.mkdir()
    write_manifest(box, {"kind": "box"})
    manifest = {key: value for key, value in read_json(box / MANIFEST).items() if key != "seal"}
    manifest["files"] = {name: {"size": 2, "sha256": ""}}
    write_json(box / MANIFEST, {**manifest, "seal": _seal(manifest)})
    write_json(box / "model.safetensors.index.json", {"weight_map": {"w": name}})
    kinds = ("Transformer", "Pooling")
    write_json(box / "modules.json", [{"type": f"models.{kind}", "path": name} for kind in kinds])
    for read in (
        lambda: read_manifest(box, "box"),
        lambda: open_tensors(box),
        lambda: read_sentence(box),
    ):
        with pytest.raises(UserError, match="expected one inside"):
            read()


@pytest.fixture(scope="module")
def store(folder):
    tokenizer = train_byte_bpe(["a few words to begin with"] * 9, 300, folder / "tokenizer")
    passages = (Passage(str(n), trap, f"text {trap}") for n, trap in enumerate(TRAPS))
    return build_store(passages, folder / "store", tokenizer)


def test_texts_are_kept_as_they_are(store):
    assert [passage.title for passage in store] == list(TRAPS)
    assert [passage.text for passage in store] == [f"text {trap}" for trap in TRAPS]


@given(st.sampled_from(("passages.arrow", "blocks.npy", "rows.crc32", MANIFEST)), st.data())
def test_a_damaged_store_is_refused_or_as_it_was(folder, store, name, data):
    """Verified as a whole, and opened without and read; the manifest's name or the file's is in the message."""
    place = folder / "damaged"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(store.folder, place)
    whole = (store.folder / name).read_bytes()
    content = data.draw(damaged(whole))
    (place / name).write_bytes(content)
    verified = told(lambda: PassageStore.open(place, verify=True), place)
    assert verified is None or content == whole

    def read():
        opened = PassageStore.open(place)
        opened.check()
        return list(opened)

    read = told(read, place)
    assert read is None or read == list(store)


SAVED = (
    {"version": 1, "kind": "box", "files": {"a": {"size": 1, "sha256": "0"}}, "seal": "0"},
    [1],
    "text",
    {"a": None},
)


@given(nearly(SAVED), st.data())
def test_json_of_our_own(folder, value, data):
    suffix, content = data.draw(as_file(as_bytes(as_json(value))))
    box = folder / "json"
    box.mkdir(exist_ok=True)
    (box / MANIFEST).write_bytes(content)
    (box / "a").write_bytes(b"a")
    for read in (
        lambda: read_json(box / MANIFEST),
        lambda: read_object(box / MANIFEST),
        lambda: read_manifest(box, "box"),
    ):
        told(read, box)
    assert suffix in ("", ".gz")


@given(
    nearly((["Transformer", "Pooling"],)),
    nearly(({"pooling_mode_mean_tokens": True}, {"pooling_mode": "cls"})),
    st.data(),
)
def test_settings_of_a_sentence_encoder(folder, kinds, pooling, data):
    box = folder / "sentence"
    (box / "1_Pooling").mkdir(parents=True, exist_ok=True)
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = kinds
    if isinstance(kinds, list):
        modules = [{"type": f"m.{kind}", "path": paths.get(str(kind), kind)} for kind in kinds]
    prompts = data.draw(nearly(({"prompts": {"query": "q: ", "document": "p: "}, "default_prompt_name": "query"},)))
    for name, value in (("modules", modules), ("1_Pooling/config", pooling), ("config_sentence_transformers", prompts)):
        (box / f"{name}.json").write_bytes(as_bytes(as_json(value)))
    told(lambda: read_sentence(box), box)


@given(st.lists(TEXT, min_size=1, max_size=3))
@example(["\udcff"])
def test_questions_to_a_model(questions):
    told(lambda: check_questions(questions), "question ")
    halves = any("\ud800" <= letter <= "\udfff" for letter in "".join(questions))
    if halves or not all(question.strip() for question in questions):
        with pytest.raises(UserError):
            check_questions(questions)


@pytest.mark.long
def test_questions_that_are_traps(tiny_run):
    """Asked on the command line and read from standard input: each comes back as it was typed, and nothing is run."""
    asked = [trap for trap in TRAPS if not trap.startswith("-")]
    before = {path.name for path in tiny_run.folder.iterdir()}
    typed = tiny_run.command("answer", f"--workdir={tiny_run.workdir}", "--json", "--", *asked)
    piped = tiny_run.command("answer", f"--workdir={tiny_run.workdir}", "--json", stdin="\n".join(TRAPS) + "\n")
    for done, questions in ((typed, asked), (piped, TRAPS)):
        assert [json.loads(line)["question"] for line in done.stdout.splitlines()] == list(questions)
    assert {path.name for path in tiny_run.folder.iterdir()} == before


def test_questions_that_are_not_utf_8(tmp_path):
    command = sys.executable, "-m", "rag_jax.answer", f"--workdir={tmp_path}"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, input=b"who?\nwho \xff?\n", capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (2, b"error: standard input: not UTF-8 (byte 0xff); convert it\n")
