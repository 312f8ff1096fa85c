"""The name table and the lazy readers: every format, every refusal."""

import re

import pytest
import torch
from released_layout import REDUCED, make_released
from small_checkpoint import (
    KINDS,
    edit_config,
    read_state,
    save_small,
    write_bin,
    write_shards,
    write_state,
)

from switch_export.checkpoint import open_checkpoint
from switch_export.errors import UnsupportedCheckpoint
from switch_export.weights import open_weights

TASKS = {"ForConditionalGeneration": "seq2seq", "Model": "hidden", "EncoderModel": "encoder"}
ROUTER = "encoder.block.1.layer.1.mlp.router.classifier.weight"
EXPERT = "decoder.block.1.layer.2.mlp.experts.expert_1.wo.weight"


@pytest.fixture
def small(tmp_path):
    return save_small(tmp_path / "small")


def table(path, task="seq2seq"):
    return open_weights(open_checkpoint(path, "the model"), task)


def refusal(path, task="seq2seq") -> str:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        table(path, task)
    return str(caught.value)


def assert_holds(path, state, task="seq2seq"):
    """Every weight of the table has the values of `state`, all of which are used."""
    found = table(path, task)
    used = set()
    for name, weight in found.weights.items():
        loaded = weight.load()
        assert loaded.dtype == torch.float32, name
        assert loaded.is_contiguous(), name
        assert tuple(loaded.shape) == weight.shape, name
        for i, part in enumerate(weight.parts):
            expected = state[part.name].to(torch.float32)
            assert torch.equal(weight.load_part(i), expected), part.name
            if len(weight.shape) == 3:
                assert torch.equal(loaded[i], expected), part.name
            used.add(part.name)
    return found, used


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_every_class_of_transformers_is_read(tmp_path, kind, tied):
    path = save_small(tmp_path / "model", kind, tie_word_embeddings=tied)
    state = read_state(path)
    _, used = assert_holds(path, state, TASKS[kind])
    assert set(state) - used == (set() if tied else {"shared.weight"})


@pytest.mark.parametrize("extension", ["safetensors", "bin"])
def test_shards_are_read(small, extension):
    state = read_state(small)
    write_shards(small, state, extension)
    _, used = assert_holds(small, state)
    assert used == set(state)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_bin_file_is_read_in_both_of_its_formats(small, new_format):
    state = read_state(small)
    write_bin(small, state, _use_new_zipfile_serialization=new_format)
    assert_holds(small, state)


def test_strides_offsets_and_half_types_of_a_bin_file_are_honoured(small):
    state = read_state(small)
    pair = torch.randn(16, 8, 2)  # as converters leave experts: views of one permuted tensor
    for e in range(2):
        state[EXPERT.replace("expert_1", f"expert_{e}")] = pair.permute(2, 0, 1)[e]
    state["encoder.final_layer_norm.weight"] = torch.randn(40)[7:23]
    state[ROUTER] = state[ROUTER].half()
    state["shared.weight"] = state["shared.weight"].bfloat16()
    write_bin(small, state)
    assert_holds(small, state)


def test_experts_are_one_weight_and_one_tensor_each(small):
    weights = table(small).weights
    experts = weights["encoder.block.1.layer.1.mlp.experts.wi"]
    assert experts.shape == (2, 8, 16)
    assert weights["decoder.block.1.layer.2.mlp.experts.wo"].shape == (2, 16, 8)
    assert [part.name[-24:] for part in experts.parts] == [
        "experts.expert_0.wi.weight"[-24:], "experts.expert_1.wi.weight"[-24:]
    ]


def test_the_released_layout_is_read(tmp_path):
    path = make_released(tmp_path / "released", **REDUCED)
    state = torch.load(path / "pytorch_model.bin", weights_only=True)
    kinds = [str(tensor.dtype) for tensor in state.values()]
    assert (kinds.count("torch.bfloat16"), kinds.count("torch.float32")) == (434, 6)
    found, used = assert_holds(path, state)
    assert set(found.embeddings.values()) == {"shared.weight"}
    assert len(used) == 437


@pytest.mark.parametrize("name", [
    "shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head",
])
def test_a_tied_embedding_may_have_any_of_its_names(small, name):
    state = read_state(small)
    state[f"{name}.weight"] = state.pop("shared.weight")
    assert set(table(write_state(small, state)).embeddings.values()) == {f"{name}.weight"}


def test_a_different_head_is_used_although_the_flag_ties(small):
    state = read_state(small) | {"lm_head.weight": torch.randn(40, 16)}
    found, _ = assert_holds(write_state(small, state), state)
    assert found.embeddings == {
        "encoder": "shared.weight", "decoder": "shared.weight", "head": "lm_head.weight"
    }


def test_an_equal_head_is_stored_once(small):
    state = read_state(small)
    write_state(small, state | {"lm_head.weight": state["shared.weight"].clone()})
    assert set(table(small).embeddings.values()) == {"shared.weight"}


def test_untied_stacks_without_their_own_embedding_use_shared(tmp_path):
    path = save_small(tmp_path / "untied", tie_word_embeddings=False)
    state = read_state(path)
    del state["encoder.embed_tokens.weight"], state["decoder.embed_tokens.weight"]
    assert table(write_state(path, state)).embeddings == {
        "encoder": "shared.weight", "decoder": "shared.weight", "head": "lm_head.weight"
    }


def test_an_untied_head_must_be_there(tmp_path):
    path = save_small(tmp_path / "untied", tie_word_embeddings=False)
    state = read_state(path)
    del state["lm_head.weight"]
    assert "lm_head.weight is missing, expected shape [40, 16]" in refusal(
        write_state(path, state)
    )


@pytest.mark.parametrize("task", ["encoder", "hidden"])
def test_a_whole_model_serves_smaller_tasks(small, task):
    weights = table(small, task).weights
    assert any(name.startswith("decoder") for name in weights) == (task == "hidden")


def test_an_encoder_asked_for_logits_names_the_task_for_it(tmp_path):
    path = save_small(tmp_path / "encoder", "EncoderModel")
    assert refusal(path).endswith("export it with --task encoder")


def test_missing_unused_and_misshapen_tensors_come_in_one_message(small):
    state = read_state(small)
    del state[EXPERT]
    state["encoder.block.2.layer.0.layer_norm.weight"] = torch.ones(16)
    state[ROUTER] = torch.ones(3, 16)
    state["shared.weight"] = torch.ones(41, 16)
    state["decoder.final_layer_norm.weight"] = torch.ones(16, dtype=torch.int8)
    message = refusal(write_state(small, state))
    assert f"{EXPERT} is missing, expected shape [16, 8]" in message
    assert "encoder.block.2.layer.0.layer_norm.weight [16] is not used" in message
    assert f"{ROUTER} has shape [3, 16], config.json makes it [2, 16]" in message
    assert "shared.weight has shape [41, 16], config.json makes it [40, 16]" in message
    assert "decoder.final_layer_norm.weight is I8, expected one of float64" in message
    assert message.count("\n  - ") == 5


def test_a_resized_vocabulary_is_read_when_the_configuration_says_so(small):
    state = read_state(small) | {"shared.weight": torch.randn(43, 16)}
    edit_config(write_state(small, state), vocab_size=43)
    assert_holds(small, state)


def test_a_router_bias_is_expected_and_only_then(small):
    name = ROUTER.replace("weight", "bias")
    state = read_state(small) | {name: torch.randn(2)}
    assert f"{name} [2] is not used" in refusal(write_state(small, state))
    edit_config(small, router_bias=True)
    other = name.replace("encoder", "decoder").replace("layer.1", "layer.2")
    assert refusal(small).count("\n  - ") == 1
    state[other] = torch.randn(2)
    assert_holds(write_state(small, state), state)


@pytest.mark.parametrize("name", [
    "decoder.lm_head.weight", "encoder.block.0.layer.1.mlp.wi_0.weight",
])
def test_the_layouts_of_xxl_and_c_are_explained(small, name):
    state = read_state(small) | {name: torch.randn(8, 16)}
    assert "config.json does not describe its tensors" in refusal(write_state(small, state))


@pytest.mark.parametrize(("values", "count"), [
    ([float("nan")], "1 NaN and 0 infinite values of 32"),
    ([float("inf"), float("-inf")], "0 NaN and 2 infinite values of 32"),
    ([float("nan"), float("inf")], "1 NaN and 1 infinite values of 32"),
])
def test_values_that_are_not_finite_are_named_and_counted(small, values, count):
    state = read_state(small)
    state[ROUTER].view(-1)[: len(values)] = torch.tensor(values)
    weight = table(write_state(small, state)).weights[ROUTER]
    with pytest.raises(UnsupportedCheckpoint, match=re.escape(f"{ROUTER} in model.safetensors")) \
            as caught:
        weight.load()
    assert count in str(caught.value)


def test_float64_values_beyond_float32_are_infinite(small):
    state = read_state(small)
    state[ROUTER] = state[ROUTER].double() * 1e300
    with pytest.raises(UnsupportedCheckpoint, match="32 infinite values of 32"):
        table(write_state(small, state)).weights[ROUTER].load()
