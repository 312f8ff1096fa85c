"""The float64 reference against transformers: two implementations that share no code."""

import json

import numpy as np
import pytest
import reference
import torch
from checkpoints import EXACT, pad, random_rows
from safetensors.numpy import load_file
from tolerances import assert_close
from transformers import T5Config
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersAttention,
)
from transformers.models.t5.modeling_t5 import T5LayerFF


def reference_model(case) -> reference.Model:
    config = case.oracle.config.to_dict()
    tensors = load_file(case.checkpoint / "model.safetensors")
    return reference.Model(config, tensors, case.variant.export.get("capacity", "hf"))


@pytest.mark.parametrize("name", EXACT)
def test_hidden_states_and_logits_are_those_of_transformers(cases, sources, name):
    case = cases[name]
    model, oracle = reference_model(case), case.oracle
    ids, mask = pad(sources)
    target = np.array(random_rows(8, (11,) * len(sources)))
    with torch.no_grad():
        expected = oracle(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask),
            decoder_input_ids=torch.tensor(target),
        )
    encoded = model.encode(ids, mask)
    assert_close(encoded, expected.encoder_last_hidden_state)
    assert_close(model.logits(model.decode(target, encoded, mask, cached=False)), expected.logits)


@pytest.mark.parametrize("name", ["tiny", "capacity_zero"])
def test_greedy_ids_are_those_of_transformers(cases, sources, name):
    case = cases[name]
    ids, mask = pad(sources)
    sequences = case.oracle.generate(
        input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), max_new_tokens=12
    ).tolist()
    for ours, theirs in zip(reference_model(case).greedy(ids, mask, 12), sequences, strict=True):
        assert ours == theirs[1 : 1 + len(ours)]
        assert set(theirs[1 + len(ours) :]) <= {0}


@pytest.mark.parametrize("activation", ["gated-gelu", "gated-silu", "gated-relu"])
def test_a_gated_mlp_is_that_of_t5(activation):
    """transformers has none for this model, but T5's blocks without experts are the same."""
    config = T5Config(d_model=6, d_ff=10, feed_forward_proj=activation)
    oracle = T5LayerFF(config).DenseReluDense.eval()
    matrices = [
        getattr(oracle, part).weight.detach().double().numpy()
        for part in reference.mlp_parts(activation)
    ]
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = oracle(x)
    assert_close(reference.mlp(x.double().numpy(), matrices, activation), expected)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "limit"), [(32, 128), (12, 21), (64, 300)])
def test_buckets_are_those_of_transformers(bidirectional, buckets, limit):
    relative = torch.arange(-limit - 40, limit + 41)
    expected = SwitchTransformersAttention._relative_position_bucket(
        relative, bidirectional, buckets, limit
    )
    actual = [reference.bucket(r, bidirectional, buckets, limit) for r in relative.tolist()]
    assert actual == expected.tolist()


def test_the_bucket_of_distance_64_is_not_the_one_that_folded_constants_give():
    assert reference.bucket(-64, True, 32, 128) == 14
    assert reference.bucket(-63, True, 32, 128) == 13


def test_a_tie_goes_to_the_lowest_index_and_capacity_counts_in_row_order():
    logits = np.array([[[1.0, 3, 3], [0, 5, 5], [2, 2, 1], [0, 9, 0]]])
    expert, gate = reference.route(logits, capacity=2)
    assert expert.tolist() == [[1, 1, 0, -1]]
    assert gate[0, 3] == pytest.approx(np.exp(9) / (np.exp(9) + 2))


def test_config_keys_that_the_reference_reads_are_in_config_json(tiny_checkpoint):
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    assert config["encoder_sparse_step"] == config["decoder_sparse_step"] == 2
