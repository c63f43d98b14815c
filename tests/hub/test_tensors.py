"""Tensors on disk: what is read when, and what a damaged checkpoint says."""

import json

import numpy as np
import pytest
import torch

from rag_jax.errors import UserError
from rag_jax.hub import rules
from rag_jax.hub.convert import from_huggingface
from rag_jax.hub.huggingface import encoder_config, load_encoder
from rag_jax.hub.tensors import Tensor, open_tensors, write_tensors

from ..models.oracle import Oracle, state
from .families import OLD_DPR, bert, bert_like, dpr_question, write_bin

TABLE = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1.5, -2.0], np.float32)}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_other_floats_become_fp32(dtype, form, tmp_path):
    model = bert_like("BertModel").to(getattr(torch, dtype))
    config = {**OLD_DPR, "model_type": "bert", "architectures": ["BertModel"]}
    if form == "bin":
        write_bin(tmp_path, config, model.state_dict())
    else:
        model.save_pretrained(tmp_path)
    read = load_encoder(tmp_path, "question_encoder", encoder_config(tmp_path, "question_encoder"))
    expected = model.float().state_dict()["embeddings.word_embeddings.weight"].numpy()
    assert read["embeddings"]["token"].dtype == np.float32
    np.testing.assert_array_equal(read["embeddings"]["token"], expected)


def test_written_tensors_are_read_by_both_sides(tmp_path):
    from safetensors.torch import load_file

    path = tmp_path / "model.safetensors"
    write_tensors(path, TABLE | {"turned": TABLE["a.weight"].T})
    ours, theirs = open_tensors(tmp_path), load_file(path)
    for name, array in (TABLE | {"turned": TABLE["a.weight"].T}).items():
        assert ours[name].shape == array.shape
        np.testing.assert_array_equal(np.asarray(ours[name]), array)
        np.testing.assert_array_equal(theirs[name].numpy(), array)
    header = path.read_bytes()
    assert b'"format":"pt"' in header, "without it transformers refuses the file"
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_names_and_shapes_are_checked_before_a_tensor_is_read(tmp_path):
    family, read = dpr_question(tmp_path), []

    def told(name, tensor):
        def spy():
            read.append(name)
            return tensor.read()

        return Tensor(tensor.shape, spy)

    tensors = {name: told(name, tensor) for name, tensor in open_tensors(tmp_path).items()}
    table, like = rules.dpr("question_encoder"), load_encoder(tmp_path, "question_encoder", family.config)
    shorter = like | {"embeddings": like["embeddings"] | {"position": np.zeros((5, 16))}}
    with pytest.raises(UserError, match=r"position_embeddings\.weight has shape \(12, 16\), expected \(5, 16\)"):
        from_huggingface(tensors, table, shorter)
    with pytest.raises(UserError, match="tensor surplus has no place"):
        from_huggingface(tensors | {"surplus": told("surplus", tensors[min(tensors)])}, table, like)
    assert read == []
    from_huggingface(tensors, table, like)
    assert sorted(read) == sorted(family.model.state_dict()), "each once"


@pytest.mark.parametrize("cut", [4, 100, -1])
def test_truncated_safetensors_name_the_file(cut, tmp_path):
    path = tmp_path / "model.safetensors"
    write_tensors(path, TABLE)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"model\.safetensors: damaged \(.+\); restore it or download it again"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_bin_names_the_file(zipped, tmp_path):
    write_bin(tmp_path, {}, {name: torch.tensor(array) for name, array in TABLE.items()}, zipped)
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"pytorch_model\.bin: (damaged|holds more than tensors)"):
        open_tensors(tmp_path)


def test_quantised_tensors_are_refused(tmp_path):
    model = bert_like("BertModel")
    tensors = state(model) | {"embeddings.position_embeddings.weight": np.zeros((12, 16), np.int8)}
    write_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(UserError, match=r"tensor embeddings\.position_embeddings\.weight holds I8 numbers"):
        load_encoder(tmp_path, "question_encoder", Oracle.bert())


def test_a_missing_shard_is_named(tmp_path):
    bert(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(UserError, match=f"{shards[1].name}: missing, though model.safetensors.index.json lists it"):
        open_tensors(tmp_path)


def test_a_shard_without_its_tensor_is_named(tmp_path):
    index = {"weight_map": dict.fromkeys((*TABLE, "lost"), "part.safetensors")}
    write_tensors(tmp_path / "part.safetensors", TABLE)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"part\.safetensors: lacks lost, which model\.safetensors\.index\.json places"):
        open_tensors(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index\.json: found no weight_map"):
        open_tensors(tmp_path)


@pytest.mark.parametrize(("file", "found"), [("tf_model.h5", "found tf_model.h5"), ("x", "found no weights")])
def test_a_folder_without_weights(file, found, tmp_path):
    (tmp_path / file).touch()
    with pytest.raises(UserError, match=f"{found}.*; expected model.safetensors or pytorch_model.bin"):
        open_tensors(tmp_path)
