"""The exporter's own layers against the float64 reference, where mistakes are easy to make."""

import numpy as np
import pytest
import reference
import torch
from tolerances import assert_close

from switch_export.config import SwitchConfig
from switch_export.model.attention import LOWEST, attend, bucket_table
from switch_export.model.decoder import Decoder
from switch_export.model.layers import Head, Norm
from switch_export.moe.op import Experts
from switch_export.moe.router import Capacity, Router
from switch_export.quantize import Precision

FIELDS = {
    "model_type": "switch_transformers", "vocab_size": 23, "d_model": 12, "d_kv": 4, "d_ff": 10,
    "num_heads": 2, "num_layers": 2, "num_decoder_layers": 2, "num_experts": 3,
    "expert_capacity": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
}


def config(**fields) -> SwitchConfig:
    return SwitchConfig.from_dict(FIELDS | fields)


def router(weight: np.ndarray, policy: str = "hf", tokens: int = 2, **fields) -> Router:
    """A router with weight [E, D]."""
    sizes = {"d_model": weight.shape[1], "num_experts": weight.shape[0]}
    made = Router(config(**sizes | fields), Capacity(policy, tokens))
    made.weight.data = torch.tensor(weight, dtype=torch.float32)
    return made


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "limit"), [(32, 128), (12, 21), (64, 300)])
def test_the_bucket_table_is_that_of_the_reference_in_both_directions(
    bidirectional, buckets, limit
):
    table = bucket_table(buckets, limit, bidirectional).tolist()
    expected = [
        reference.bucket(r, bidirectional, buckets, limit) for r in range(-limit, limit + 1)
    ]
    assert table == expected
    for far in (limit + 1, 5 * limit):
        assert reference.bucket(-far, bidirectional, buckets, limit) == table[0]
        assert reference.bucket(far, bidirectional, buckets, limit) == table[-1]


@pytest.mark.parametrize("policy", ["hf", "none", "legacy"])
@pytest.mark.parametrize("tokens", [0, 1, 2, 100])
def test_routes_are_those_of_the_reference(policy, tokens):
    random = np.random.default_rng(tokens)
    weight, x = random.normal(size=(3, 12)), random.normal(size=(4, 11, 12))
    computed = router(weight, policy, tokens).route(torch.tensor(x, dtype=torch.float32))
    expected = reference.route(x @ weight.T, None if policy == "none" else tokens)
    assert np.array_equal(computed[0], expected[0])
    assert computed[0].dtype == torch.int32
    assert_close(computed[1], expected[1])


def test_capacity_is_counted_per_row_from_its_first_token():
    x = torch.tensor([[[1.0, 0]] * 3, [[1.0, 0]] * 3])
    expert, gate = router(np.array([[5.0, 0], [0, 5]]), tokens=2).route(x)
    assert expert.tolist() == [[0, 0, -1], [0, 0, -1]]
    assert (gate > 0.9).all()


def test_a_tie_goes_to_the_lowest_index():
    expert, gate = router(np.zeros((4, 2))).route(torch.ones(1, 1, 2))
    assert expert.tolist() == [[0]]
    assert gate.tolist() == [[0.25]]


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_a_half_router_rounds_its_probabilities_before_it_chooses(kind):
    # These logits differ by less than half a step of the type's probabilities near 1/2.
    weight = np.array([[0.0], [2**-12]])
    made = router(weight, router_dtype=kind)
    expert, gate = made.route(torch.ones(1, 1, 1))
    assert expert.tolist() == [[0]]
    assert gate.tolist() == [[0.5]]


@pytest.mark.parametrize("dropped", ["zero", "pass"])
def test_experts_run_by_the_exporter_are_those_of_the_reference(dropped):
    random = np.random.default_rng(1)
    experts = Experts(config(dense_act_fn="gelu"), Capacity(
        "legacy" if dropped == "pass" else "hf", 2), Precision())
    stacks = random.normal(size=(3, 10, 12)), random.normal(size=(3, 12, 10))
    wi, wo = (torch.tensor(stack, dtype=torch.float32) for stack in stacks)
    experts.load_expert = lambda index: (wi[index], wo[index])
    x, expert = random.normal(size=(7, 12)), np.array([2, -1, 0, 0, -1, 2, 2], np.int32)
    gate = random.uniform(size=7)
    computed = experts(
        torch.tensor(x, dtype=torch.float32), torch.tensor(expert),
        torch.tensor(gate, dtype=torch.float32),
    )
    assert_close(computed, reference.switch_moe(x, (expert, gate), stacks, "gelu", dropped))


def test_a_dropped_token_gives_zero_even_where_its_state_is_infinite():
    experts = Experts(config(), Capacity("hf", 2), Precision())
    experts.load_expert = lambda _: (torch.ones(10, 12), torch.ones(12, 10))
    y = experts(torch.full((1, 12), torch.inf), torch.tensor([-1]), torch.tensor([0.5]))
    assert y.tolist() == [[0.0] * 12]


def test_the_norm_subtracts_no_mean_and_adds_epsilon_under_the_root():
    random = np.random.default_rng(2)
    x, weight = random.normal(size=(3, 12)) + 4, random.normal(size=12)
    norm = Norm(12, 0.3)
    norm.weight.data = torch.tensor(weight, dtype=torch.float32)
    single, delta = torch.tensor(x, dtype=torch.float32), torch.ones(3, 12)
    for added in (None, delta):
        total, normed = norm(single, added)
        expected = x if added is None else x + 1
        assert_close(total, expected)
        assert_close(normed.detach(), reference.rms_norm(expected, weight, 0.3))


def test_a_query_with_nothing_to_attend_to_takes_the_mean():
    values = torch.tensor([[1.0], [3.0]])
    query, allowed = torch.tensor([[5.0]]), torch.tensor([[False, False]])
    assert attend(query, values, values, torch.zeros(()), allowed).tolist() == [[2.0]]
    only_first = torch.tensor([[True, False]])
    assert attend(query, values, values, torch.zeros(()), only_first).tolist() == [[1.0]]
    assert np.isfinite(LOWEST)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_scales_if_and_only_if_the_flag_says_tied(tied):
    head = Decoder(
        config(tie_word_embeddings=tied), Capacity("hf", 2), "seq2seq", Precision()
    ).head
    assert isinstance(head, Head)
    assert head.scale == (pytest.approx(12**-0.5) if tied else 1.0)
