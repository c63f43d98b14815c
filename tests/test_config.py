"""Configurations: the shipped ones are right, a wrong one is told all that is wrong with it, a line a problem."""

from pathlib import Path

import pytest

from rag_jax.command import checked, find_config, load_config, parse_flags
from rag_jax.config import DEFAULTS, default_config, score_scale
from rag_jax.errors import UserError
from rag_jax.validation import validate
from rag_jax.workdir import Workdir

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.fixture
def config():
    config = default_config()
    config.data.passages = "demo:2016"
    return config


def problems(config):
    with pytest.raises(UserError) as caught:
        validate(config)
    lines = str(caught.value).split("\n")
    assert all(line.lstrip().startswith("config.") for line in lines)
    return [line.strip().removeprefix("config.") for line in lines]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_right(path):
    checked(load_config(str(path)))
    assert load_config(find_config(path.stem)).to_dict() == load_config(str(path)).to_dict()


def test_the_argument_after_a_colon_reaches_get_config(tmp_path):
    assert load_config(find_config("demo")).kind == "token"
    assert load_config(find_config("demo:sequence")).kind == "sequence"
    (tmp_path / "mine.py").write_text(
        "from rag_jax.config import ConfigDict\ndef get_config(a): return ConfigDict({'a': a})\n"
    )
    assert load_config(find_config(f"{tmp_path / 'mine.py'}:x:y")).a == "x:y"


def test_the_demo_s_words_combine_and_others_are_refused():
    demo, quick = (load_config(find_config(name)) for name in ("demo", "demo:sequence,quick"))
    assert (demo.kind, quick.kind, checked(quick)) == ("token", "sequence", quick)
    for stage in ("retriever", "reader", "joint"):
        assert 0 < quick[stage].steps < demo[stage].steps and quick[stage].batch < demo[stage].batch
    for words in ("fast", "token,sequence", "quick,"):
        with pytest.raises(UserError, match=f"--config=demo:{words}: found '{words}', expected one of token, sequence"):
            load_config(find_config(f"demo:{words}"))


def test_defaults_only_lack_the_passages(config):
    assert problems(default_config())[0].startswith("data.passages: empty")
    validate(config)


def test_the_score_scale_is_1_or_20_for_normalised_embeddings_unless_given(config):
    assert score_scale(config) == 1
    config.encoder.normalize = True
    assert score_scale(config) == 20
    config.retrieval.score_scale = 0.5
    assert score_scale(config) == 0.5


def test_a_changed_configuration_leaves_the_defaults_alone(config):
    config.reader.steps = 7
    assert config.joint.steps == default_config().reader.steps == DEFAULTS["reader"]["steps"] == 0


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("kind", "both", "found 'both', expected one of token, sequence"),
        ("data.overlap", 100, "found 100, expected less than data.words = 100"),
        ("data.minimum", 0, "found 0, expected 1 or more"),
        ("retrieval.lag", 2, "found 2, expected one of 0, 1"),
        ("retrieval.null_document", "one", "found 'one', expected one of none, embedding, bias, network"),
        ("seed", -1, "found -1, expected 0 or more"),
        ("encoder.heads", 0, "found 0, expected 1 or more"),
        ("encoder.width", 770, "found 770, expected a multiple of encoder.heads = 12"),
        ("encoder.dropout", 1.0, "found 1.0, expected 0 to below 1"),
        ("length.source", 2000, "found 2000, expected 4 to generator.positions = 1024"),
        ("retriever.steps", 0, "found 0, expected 1 or more"),
        ("retriever.inverse_cloze", 1.5, "found 1.5, expected 0 to 1"),
        ("reader.steps", -1, "found -1, expected 0 or more"),
        ("reader.substitution", -0.5, "found -0.5, expected 0 to 1"),
        ("joint.learning_rate", 0.0, "found 0.0, expected more than 0"),
        ("joint.accumulation", 5, None),
        ("index.bm25.tokenizer", "latin", "found 'latin', expected one of english, words"),
        ("index.bm25.b", 1.5, "found 1.5, expected 0 to 1"),
        ("decode.mode", "fast", "found 'fast', expected search or sample with kind = 'token'"),
        ("decode.early_stopping", "yes", "found 'yes', expected one of False, True, never"),
        ("decode.beams", 0, "found 0, expected 1 or more"),
        ("decode.num_return_sequences", 2, "found 2, expected at most decode.beams = 1"),
        ("decode.min_length", 25, "found 25, expected at most decode.max_length = 24"),
        ("decode.max_length", 1025, "found 1025, expected 4 to generator.positions = 1024"),
        ("decode.forced_bos_id", -2, "found -2, expected -1 (none) or more"),
        ("decode.temperature", 0.0, "found 0.0, expected more than 0"),
        ("decode.top_p", 0.0, "found 0.0, expected more than 0, at most 1"),
        ("parallel", "fsdp", "found 'fsdp', expected one of pmap, sharded"),
        ("index.recall_target", 0.9, "found 0.9, expected 1.0 but for index.kind = 'exact'"),
        ("evaluate.recall", (1, 0), "found (1, 0), expected 1 or more"),
        ("hot_swap.questions", ("one",), "found ('one',), expected two files, one an edition"),
    ],
)
def test_a_wrong_value_names_key_value_and_what_is_right(config, key, value, problem):
    config.update_from_flattened_dict({key: value})
    if key == "joint.accumulation":
        key, problem = "joint.batch", "found 64, expected a multiple of joint.accumulation = 5"
    assert problems(config) == [f"{key}: {problem}"]


def test_bm25_trains_no_question_encoder(config):
    config.index.kind = "bm25"
    config.reader.update(steps=3, train_question_encoder=False)
    config.joint.steps = 3
    assert problems(config) == ["joint.train_question_encoder: found True, expected False with index.kind = 'bm25'"]
    config.index.kind = "hybrid"
    validate(config)


def test_labels_are_told_where_there_are_some(config):
    for classify in ("token", "head"):
        config.data.classify = classify
        problem = f"data.classify: found {classify!r}, expected '' but for data.task = 'fever3' or 'fever2'"
        assert problems(config) == [problem]
    config.data.update(task="fever2", target_layout="huggingface_finetune")
    config.reader.substitution, config.joint.depth = 0.5, 7
    assert problems(config) == [
        "data.target_layout: found 'huggingface_finetune', expected 'generation' with data.classify",
        "reader.substitution: found 0.5, expected 0 with data.classify: no passage holds a label",
        "joint.depth: found 7, expected 0 with data.classify: no passage holds a label",
    ]


CLOSED = {"index.kind": "none", "joint.steps": 3, "joint.train_question_encoder": False}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("denoise.steps", 2, "0"),
        ("joint.train_question_encoder", True, "False"),
        ("joint.depth", 20, "0"),
        ("joint.substitution", 0.5, "0"),
        ("retrieval.null_document", "bias", "'none'"),
        ("retrieval.learn_score_scale", True, "False"),
        ("data.question_text", "round_trip", "'' or 'raw'"),
        ("parts.question_encoder", "bert", "''"),
    ],
)
def test_what_does_not_go_with_a_closed_book(config, key, value, expected):
    config.update_from_flattened_dict(CLOSED)
    config.denoise.train_question_encoder = False
    validate(config)
    config.update_from_flattened_dict({key: value})
    assert problems(config) == [f"{key}: found {value!r}, expected {expected} with index.kind = 'none'"]


def test_a_closed_book_needs_passages_for_a_tokenizer_of_its_own_alone(config):
    config.update_from_flattened_dict(CLOSED | {"data.passages": ""})
    assert problems(config) == ["data.passages: empty, expected a file or folder of passages, or 'demo:2016'"]
    config.parts.generator = "facebook/bart-large"
    validate(config)


def test_bm25_has_no_embedding_for_a_null_document(config):
    config.index.kind = "bm25"
    for kind, right in (("none", True), ("bias", True), ("embedding", False), ("network", False)):
        config.retrieval.null_document = kind
        if right:
            validate(config)
        else:
            expected = f"found {kind!r}, expected 'none' or 'bias' with index.kind = 'bm25'"
            assert problems(config) == [f"retrieval.null_document: {expected}"]


def test_a_null_document_that_no_stage_trains(config):
    config.retrieval.null_document = "network"
    config.reader.update(steps=3, train_question_encoder=False)
    expected = "expected a stage that trains the question encoder, and it beside"
    assert problems(config) == [f"retrieval.null_document: found 'network', {expected}"]
    config.joint.steps = 3
    validate(config)


def test_decoding_that_does_not_fit_together(config):
    config.decode.update(mode="sample", beams=2)
    assert problems(config) == ["decode.beams: found 2, expected 1 with decode.mode = 'sample'"]
    config.decode.update(mode="thorough", num_return_sequences=11)
    config.kind = "sequence"
    problem = "decode.num_return_sequences: found 11, expected at most decode.beams * retrieval.k = 10"
    assert problems(config) == [problem]
    config.retrieval.null_document = "bias"
    config.decode.num_return_sequences = 13
    assert problems(config) == [problem.replace("11", "13").replace("retrieval.k = 10", "(retrieval.k + 1) = 12")]
    config.retrieval.null_document, config.index.kind = "none", "none"
    assert problems(config) == [problem.replace("11", "13").replace(" * retrieval.k = 10", " = 2")]


def test_the_edges_of_the_ranges_are_right(config):
    config.update_from_flattened_dict(
        {
            "reader.substitution": 1.0,
            "encoder.dropout": 0.0,
            "joint.steps": 0,
            "seed": 0,
            "length.source": 1024,
            "decode.length_penalty": -1.0,
            "decode.forced_eos_id": 2,
            "decode.top_p": 1.0,
            "decode.bad_words": ("a b",),
        }
    )
    validate(config)


def test_unknown_keys_are_told_the_nearest_known_one(config):
    config.reader.stps = 3
    config.batch_size = 64
    config.joint.lr = 1.0
    found = problems(config)
    assert "reader.stps: unknown, did you mean reader.steps?" in found
    assert any(line.startswith("batch_size: unknown, expected one of ") and "retrieval" in line for line in found)
    assert any(line.startswith("joint.lr: unknown") and "joint.learning_rate" in line for line in found)


def test_wrong_types_are_problems_too(config):
    config.reader.k = None
    config.evaluate.recall = ("1", "5")
    del config.joint.clip
    assert sorted(problems(config)) == [
        "evaluate.recall: found ('1', '5'), expected a whole number at every place",
        "joint.clip: missing, expected a value like 1.0",
        "reader.k: found None, expected a whole number",
    ]


def test_all_problems_come_at_once(config):
    config.update_from_flattened_dict({"kind": "both", "reader.batch": 0, "joint.k": 0, "index.kind": "faiss"})
    config.extra = 1
    keys = [line.split(":")[0] for line in problems(config)]
    assert sorted(keys) == ["extra", "index.kind", "joint.k", "kind", "reader.batch"]


def test_a_checked_configuration_takes_no_new_keys(config):
    with pytest.raises(AttributeError, match="stps"):
        checked(config).reader.stps = 3


def test_a_missing_configuration_says_how_to_name_one():
    with pytest.raises(UserError, match=r"--config: missing.*--config=demo"):
        checked(None)


@pytest.mark.parametrize("name", ["dmo", "configs/nothing.py"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(UserError, match=f"neither a file '{name}' nor a configuration.*demo"):
        find_config(name)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--config=demo", "--config.lrr=1"], "--config.lrr: unknown, expected one of data, "),
        (["--config", "demo", "--config.reader.stps=1"], "--config.reader.stps: unknown, did you mean reader.steps?"),
        (
            ["--config=demo", "--noconfig.retriever.share"],
            "did you mean retriever.shared?",
        ),
        (
            ["--config=demo", "--config.steps=1"],
            "did you mean denoise.steps or joint.steps or reader.steps or",
        ),
        (["--config=demo", "--config.retriver.steps=1"], "did you mean retriever.steps?"),
    ],
)
def test_a_typing_error_on_the_command_line_gets_a_suggestion(words, problem):
    with pytest.raises(UserError) as caught:
        parse_flags(["train", *words])
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_several_typing_errors_get_a_line_each():
    with pytest.raises(UserError) as caught:
        parse_flags(["train", "--config=demo", "--config.reader.stps=1", "--config.index.knd=exact"])
    assert [line.split(":")[0].strip() for line in str(caught.value).split("\n")] == [
        "--config.reader.stps",
        "--config.index.knd",
    ]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def get_config(:\n", "2: SyntaxError"),
        ("x = 1\n", "1: AttributeError: .*get_config"),
        ("def get_config():\n    return undefined\n", "3: NameError: .*undefined"),
        ("def get_config():\n    c = default_config()\n    c.reader.steps = 'x'\n", "4: TypeError: .*'steps'"),
        ("def get_config():\n    c = default_config()\n    c.reader = 3\n", "4: TypeError: .*'reader'"),
        ("def get_config():\n    return {}\n", " get_config returns dict, expected what"),
    ],
)
def test_a_broken_file_is_told_its_line(tmp_path, monkeypatch, source, problem):
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("from rag_jax.config import default_config\n" + source, encoding="utf-8")
    with pytest.raises(UserError, match=f"^broken.py:{problem}") as caught:
        load_config("broken.py")
    assert "\n" not in str(caught.value)


def test_a_run_remembers_its_configuration(tmp_path, config):
    config.evaluate.recall = (1, 2, 3)
    place = Workdir(tmp_path / "run")
    with pytest.raises(UserError, match="holds no trained model"):
        place.load_config()
    place.save_config(config)
    assert place.load_config().to_dict() == config.to_dict()


@pytest.mark.parametrize("text", ["[1]", '{"reader": 3}', '{"reader": {"steps": "x"}}', '{"readr": {}}', "{"])
def test_a_damaged_configuration_of_a_run_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json|config\.readr: unknown"):
        Workdir(tmp_path).load_config()


def test_a_run_needs_a_folder():
    with pytest.raises(UserError, match="--workdir: missing"):
        Workdir(None)
