"""config.json -> SwitchConfig: transformers' meaning, and every reason of a refusal."""

import pytest
from small_checkpoint import SIZES

from switch_export.config import ACTIVATIONS, SwitchConfig
from switch_export.errors import UnsupportedCheckpoint

BASE = SIZES | {"model_type": "switch_transformers"}


def read(**fields) -> SwitchConfig:
    return SwitchConfig.from_dict(BASE | fields, "the model")


def refusal(**fields) -> str:
    with pytest.raises(UnsupportedCheckpoint) as caught:
        read(**fields)
    return str(caught.value)


def oracle_sparse(fields: dict) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where transformers puts experts, from the modules that it makes."""
    import torch
    from transformers import SwitchTransformersConfig, SwitchTransformersModel

    with torch.device("meta"):
        model = SwitchTransformersModel(SwitchTransformersConfig.from_dict(BASE | fields))
    return tuple(
        tuple(i for i, block in enumerate(stack.block) if block.is_sparse)
        for stack in (model.encoder, model.decoder)
    )


@pytest.mark.parametrize("fields", [
    {"num_layers": 12, "num_sparse_encoder_layers": 3},
    {"num_layers": 5, "num_sparse_encoder_layers": 2},
    {"num_layers": 2, "num_sparse_encoder_layers": 3},
    {"num_layers": 4, "num_sparse_encoder_layers": 0},
    {"num_layers": 1, "num_sparse_encoder_layers": 0},
    {"num_layers": 6, "num_decoder_layers": 3, "num_sparse_decoder_layers": 3},
    *({"num_layers": 5, "num_decoder_layers": 6, "encoder_sparse_step": step,
       "decoder_sparse_step": (step + 2) % 5} for step in range(5)),
], ids=str)
def test_experts_are_where_transformers_puts_them(fields):
    config = read(**fields)
    assert (config.sparse_encoder_layers, config.sparse_decoder_layers) == oracle_sparse(fields)


def test_absent_fields_have_transformers_defaults():
    from transformers import SwitchTransformersConfig

    config = SwitchConfig.from_dict({"model_type": "switch_transformers"})
    defaults = SwitchTransformersConfig()
    for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers",
                 "num_decoder_layers", "num_experts", "expert_capacity", "router_bias",
                 "router_dtype", "layer_norm_epsilon", "tie_word_embeddings"):
        assert getattr(config, name) == getattr(defaults, name), name
    assert config.num_buckets == defaults.relative_attention_num_buckets
    assert config.max_distance == defaults.relative_attention_max_distance
    assert config.activation == defaults.dense_act_fn
    assert (config.pad_id, config.eos_ids) == (defaults.pad_token_id, (defaults.eos_token_id,))


def test_no_decoder_layers_means_as_many_as_in_the_encoder():
    assert read(num_layers=3, num_decoder_layers=None).num_decoder_layers == 3


@pytest.mark.parametrize(("alias", "name"), [
    ("hidden_size", "d_model"), ("num_attention_heads", "num_heads"),
    ("num_hidden_layers", "num_layers"),
])
def test_aliases_are_read(alias, name):
    fields = {key: value for key, value in BASE.items() if key != name} | {alias: 6}
    assert getattr(SwitchConfig.from_dict(fields), name) == 6
    assert f"{alias} is 6 but {name} is {BASE[name]}" in refusal(**{alias: 6})


@pytest.mark.parametrize(("fields", "start"), [
    ({"decoder_start_token_id": 3, "bos_token_id": 4}, 3),
    ({"bos_token_id": 4}, 4),
    ({"decoder_start_token_id": None, "bos_token_id": None}, 0),
    ({"pad_token_id": 2}, 2),
    ({}, 0),
])
def test_decoding_starts_with_start_then_bos_then_pad(fields, start):
    assert read(**fields).decoder_start_id == start


@pytest.mark.parametrize(("eos", "ids"), [(5, (5,)), ([5, 7, 5], (5, 7)), (None, ())])
def test_eos_may_be_one_or_several_or_none(eos, ids):
    assert read(eos_token_id=eos).eos_ids == ids


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_plain_activations_are_accepted(activation):
    assert read(dense_act_fn=activation).activation == activation


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_plain_activations_are_not_gated(activation):
    assert not read(dense_act_fn=activation).is_gated


@pytest.mark.parametrize(("name", "activation"), [
    ("gated-gelu", "gelu_new"), ("gated-silu", "silu"), ("gated-relu", "relu"),
    ("gated-gelu_new", "gelu_new"), ("gated-gelu_pytorch_tanh", "gelu_pytorch_tanh"),
])
def test_gated_names_mean_what_t5_means_by_them(name, activation):
    config = read(dense_act_fn=name)
    assert (config.activation, config.is_gated) == (activation, True)


@pytest.mark.parametrize("fields", [
    {"num_experts": 1}, {"router_bias": True}, {"router_dtype": "bfloat16"},
    {"expert_capacity": 0}, {"d_kv": 5}, {"num_decoder_layers": 0}, {"layer_norm_epsilon": 0},
    {"feed_forward_proj": "relu", "is_gated_act": False, "num_selected_experts": 1},
], ids=str)
def test_unusual_but_legal_configurations_are_accepted(fields):
    read(**fields)


@pytest.mark.parametrize(("fields", "reason"), [
    ({"model_type": "t5"}, "model_type is 't5', expected 'switch_transformers'"),
    ({"d_ff": 0}, "d_ff is 0, expected at least 1"),
    ({"num_layers": -2}, "num_layers is -2, expected at least 1"),
    ({"expert_capacity": 64.0}, "expert_capacity is 64.0, expected an integer"),
    ({"num_experts": True}, "num_experts is True, expected an integer"),
    ({"num_heads": "4"}, "num_heads is '4', expected an integer"),
    ({"encoder_sparse_step": None}, "encoder_sparse_step is None, expected an integer"),
    ({"router_dtype": "float64"}, "router_dtype is 'float64', expected one of float32"),
    ({"router_bias": 1}, "router_bias is 1, expected true or false"),
    ({"tie_word_embeddings": None}, "tie_word_embeddings is None, expected true or false"),
    ({"dense_act_fn": "gated-mish"}, "dense_act_fn is 'gated-mish', expected one of relu, gelu"),
    ({"dense_act_fn": "gated-"}, "dense_act_fn is 'gated-', expected one of relu, gelu"),
    ({"dense_act_fn": "mish"}, "dense_act_fn is 'mish', expected one of relu, gelu"),
    ({"dense_act_fn": ["relu"]}, "dense_act_fn is ['relu'], expected one of relu, gelu"),
    ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
    ({"pad_token_id": 40}, "pad_token_id is 40, expected an id from 0 to 39"),
    ({"eos_token_id": [1, -1]}, "eos_token_id is -1, expected an id from 0 to 39"),
    ({"eos_token_id": ["</s>"]}, "eos_token_id is '</s>'"),
    ({"relative_attention_num_buckets": 2}, "relative_attention_num_buckets is 2, expected at le"),
    ({"relative_attention_max_distance": 16}, "expected more than half of relative_attention_num"),
    ({"quantization_config": {"quant_method": "gptq"}}, "its weights are quantised ('gptq')"),
])
def test_a_wrong_field_is_named_with_what_was_expected(fields, reason):
    assert reason in refusal(**fields)


def test_all_reasons_come_at_once_with_the_known_names():
    message = refusal(model_type="t5", d_ff=0, expert_capacity=1.5, dense_act_fn="gated-mish")
    assert message.startswith("the model cannot be exported:\n")
    assert message.count("\n  - ") == 4
    assert "switch-base-8" in message
    assert "switch-c-2048" in message


def test_a_list_is_not_a_configuration():
    with pytest.raises(UnsupportedCheckpoint, match="not a JSON object"):
        SwitchConfig.from_dict([1])
