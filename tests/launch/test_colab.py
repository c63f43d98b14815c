"""The notebooks for Colab run from start to end; what they store is whole, and tells of nobody's machine."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types

import pytest

pytest.importorskip("nbclient")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from rag_jax.data import demo  # noqa: E402
from rag_jax.data.tokenizer import Tokenizer, train_byte_bpe, train_wordpiece  # noqa: E402

from ..decode.parity.worlds import SCALES  # noqa: E402
from ..hub.families import write_json, write_modules  # noqa: E402
from ..test_docs import PARSES, ROOT  # noqa: E402
from .colab import ENCODER, MODEL, NAMES, PROBLEM, REPLACED, code_cells, execute, offline, printed, read, tags  # noqa: E402

EVERY = pytest.mark.parametrize("name", NAMES)
ON_THE_HUB = re.compile(r"^\w+ = \"(?:facebook|sentence-transformers)/|^%pip |^!pip ", re.MULTILINE)
PRINTS = re.compile(r"^(?:!(?!.*>)|\s*print\(|\s*display\(|\s*plt\.show\(|ask\()", re.MULTILINE)
PLACE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|content|usr|opt|var|mnt|Users)\b|https?://(?!arxiv|github)")
COMMAND = re.compile(r"^!(python -m rag_jax\..*)", re.MULTILINE)
TINY_DEMO = """
from rag_jax.command import find_config, load_config


def get_config():
    config = load_config(find_config("demo:quick"))
    for part in ("encoder", "generator"):
        config[part].update(width=16, heads=2, ffn=32)
    config.encoder.layers = config.generator.encoder_layers = config.generator.decoder_layers = 1
    for stage in ("retriever", "reader", "joint"):
        config[stage].update(steps=2, batch=8, warmup=1)
    config.evaluate.update(questions=8, every=2)
    config.decode.max_length = 8
    return config
"""


def tokenizers(texts, encoder, generator):
    """Both, trained on texts, as transformers opens them."""
    train_wordpiece(texts, 400, encoder)
    train_byte_bpe(texts, 400, generator)
    return Tokenizer.load(encoder), Tokenizer.load(generator)


def sizes_of_bert(tokenizer, **changes):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    return sizes | {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": 128} | changes


def write_sentence_encoder(folder):
    """A random sentence encoder where the notebook looks for all-MiniLM-L6-v2."""
    texts = [passage.text for passage in demo.passages("2016")][:200]
    encoder, _ = tokenizers(texts, folder, folder.parent / "unused")
    transformers.BertModel(transformers.BertConfig(**sizes_of_bert(encoder))).save_pretrained(folder)
    write_modules(folder, "", "Transformer", "Pooling", "Normalize")
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})


def write_random_rag(folder):
    """A random model in the layout of facebook/rag-token-nq that says varied things, and a passage encoder."""
    model = folder / MODEL
    texts = [passage.text for passage in demo.passages("2016")][:200]
    places = model / "question_encoder_tokenizer", model / "generator_tokenizer"
    encoder, generator = tokenizers(texts, *places)
    question = transformers.DPRConfig(**sizes_of_bert(encoder))
    special = {name: getattr(generator, name.replace("token_", "")) for name in ("pad_token_id", "bos_token_id")}
    reader = transformers.BartConfig(
        vocab_size=generator.vocab_size, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=256, **special,
        eos_token_id=generator.eos_id, decoder_start_token_id=generator.eos_id,
    )  # fmt: skip
    config = transformers.RagConfig.from_question_encoder_generator_configs(question, reader, max_combined_length=96)
    rag, random = transformers.RagTokenForGeneration(config).eval(), torch.Generator().manual_seed(0)
    bias = rag.rag.generator.final_logits_bias
    for name, weight in [*rag.rag.generator.named_parameters(), ("bias", bias)]:
        if "norm" not in name:
            weight.data.normal_(0.0, [scale for part, scale in SCALES.items() if part in name][-1], generator=random)
    bias[0, [generator.pad_id, generator.bos_id]], bias[0, generator.eos_id] = -30, 4
    rag.generation_config.update(num_beams=3, max_length=12)
    rag.save_pretrained(model)
    transformers.DPRContextEncoder(question).save_pretrained(folder / ENCODER)


def prepare_quickstart(folder):
    (folder / "tiny.py").write_text(TINY_DEMO)
    return 'CONFIG, RUN, LIMIT = "tiny.py", "runs/quick", 8'


def prepare_your_corpus(folder):
    write_sentence_encoder(folder / "all-MiniLM-L6-v2")
    return "UPLOAD, RETRIEVER_STEPS, READER_STEPS = False, 10, 4"


def prepare_load_facebook_rag(folder):
    write_random_rag(folder)


def check_quickstart(cells, folder):
    assert "index 2, answers 2" in printed(cells["evaluate"])
    assert len(re.findall(r"^Who is .*\(\d\.\d{3}\)$", printed(cells["python"]), re.MULTILINE)) == 4
    for name in ("loss", "tokens", "sweep"):
        assert any("image/png" in output.get("data", {}) for output in cells[name].outputs), name


def check_your_corpus(cells, folder):
    assert "16 of 16 answers are the same in both" in printed(cells["python"])
    assert len(re.findall(r"^\w+ +recall@1 +[\d.]+ \[", printed(cells["compared"]), re.MULTILINE)) == 3
    asked = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert len(asked) == 28 and all(one["passage_ids"] for one in asked)
    assert "hf/mine: written" in printed(cells["export"])


def check_load_facebook_rag(cells, folder):
    said = re.findall(r"^(.*\?) (.*) same tokens: (\w+)$", printed(cells["same"]), re.MULTILINE)
    assert [same for _, _, same in said] == ["True"] * 4
    assert len({answer.strip() for _, answer, _ in said}) > 1, "a model that always says the same proves nothing"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "load_facebook_rag" else pytest.mark.long) for name in NAMES]
)
def test_every_notebook_runs_from_start_to_end(name, tmp_path):
    """With what its network would bring made here, of random weights, and with its parameters made small."""
    parameters = globals()[f"prepare_{name}"](tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # programs that run for moments
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    executed = execute(offline(read(name), parameters), tmp_path, environment, timeout=600)
    globals()[f"check_{name}"]({cell.id: cell for cell in code_cells(executed)}, tmp_path)


@EVERY
def test_what_prints_has_its_output_stored(name):
    cells = code_cells(read(name))
    for cell in cells:
        if PRINTS.search(cell.source) and "network" not in tags(cell):
            assert cell.outputs, f"{cell.id}: run `python -m tests.launch.colab --notebook={name} --store`"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@EVERY
def test_stored_outputs_hold_no_error_and_no_place_of_a_machine(name):
    notebook = read(name)
    assert not PLACE.search(json.dumps([cell.source for cell in notebook.cells]))
    for cell in code_cells(notebook):
        texts = [output.get("text", "") for output in cell.outputs]
        texts += [output.data.get("text/plain", "") for output in cell.outputs if "data" in output]
        assert not [output for output in cell.outputs if output.output_type == "error"], cell.id
        assert not PROBLEM.search("\n".join(texts)), cell.id
        assert not PLACE.search("\n".join(texts)), cell.id


@EVERY
def test_tags_say_what_needs_a_network_and_what_may_be_changed(name):
    notebook = read(name)
    for cell in code_cells(notebook):
        assert set(tags(cell)) <= {"network", "parameters"}
        needs = bool(ON_THE_HUB.search(cell.source))
        assert ("network" in tags(cell)) == needs, cell.id
        assert not needs or (cell.id in REPLACED and not cell.outputs), cell.id
    assert sum("parameters" in tags(cell) for cell in code_cells(notebook)) == (name != "load_facebook_rag")


@EVERY
def test_no_command_follows_what_takes_the_chips(name):
    """A TPU belongs to one process at a time."""
    cells = code_cells(read(name))
    [first] = [place for place, cell in enumerate(cells) if re.search(r"import Rag$", cell.source, re.MULTILINE)]
    assert not any("!python" in cell.source for cell in cells[first:])
    assert any("!python -m rag_jax" in cell.source for cell in cells[:first])
    assert not any(re.search(r"^\s*(?:import|from) jax\b", cell.source, re.MULTILINE) for cell in cells)


def values(notebook):
    """The names that its cells give to texts and numbers, as far as they can be told without running anything."""
    names = {}
    for cell in code_cells(notebook):
        for line in cell.source.splitlines():
            if re.match(r"[A-Z_, ]+ = ", line) and not line.endswith('"""'):
                assigned = ast.parse(line).body[0]
                if not any(isinstance(node, ast.Call) for node in ast.walk(assigned)):
                    exec(line, names)
    return names


@EVERY
def test_every_command_has_its_flags_keys_and_configurations(name, tmp_path):
    notebook = read(name)
    names, typed = values(notebook), []
    for cell in code_cells(notebook):
        if cell.source.startswith("%%writefile "):
            first, text = cell.source.split("\n", 1)
            (tmp_path / first.split()[1]).write_text(text)
        for line in COMMAND.findall(cell.source):
            line = re.sub(r"\{([^{}]+)\}", lambda found: str(eval(found[1], names)), line.partition(" > ")[0])
            _, _, module, *arguments = shlex.split(line)
            typed.append([module, *arguments])
    assert len(typed) >= 2
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r})\n{PARSES}"],
        input=json.dumps(typed), capture_output=True, text=True, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize(
    ("installed", "chips", "wanted"),
    [
        ("0.10.2", "gpu", "jax==0.10.2"),
        ("0.11.0", "tpu", "jax==0.11.0"),
        ("0.9.2", "gpu", "jax[cuda12]"),
        ("0.12.0", "tpu", "jax[tpu]"),
        ("0.7.2", "cpu", "jax"),
        (None, "cpu", "jax"),
    ],
)
@EVERY
def test_the_runtime_s_own_jax_stays_where_it_can_be_used(name, installed, chips, wanted, monkeypatch):
    there = {"jax": installed, "libtpu": chips == "tpu" or None}
    monkeypatch.setattr(importlib.metadata, "version", lambda package: {"jax": installed}[package])
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: there[package] and types.SimpleNamespace())
    monkeypatch.setattr(shutil, "which", lambda program: {"nvidia-smi": chips == "gpu" or None}[program])
    [cell] = [cell for cell in code_cells(read(name)) if cell.id == "install"]
    source, _, line = cell.source.rpartition("\n%pip ")
    exec(source, names := {})
    assert names["wanted"] == wanted and '"{wanted}"' in line and '"{SOURCE}"' in line
    assert '"jax>=0.10,<0.12"' in (ROOT / "setup.py").read_text(encoding="utf-8")
