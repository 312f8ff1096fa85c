"""SwitchMoE against float64: types, routes, activations, sizes, refusals."""

import pytest
import torch
from moe_layers import Layer, Size, assert_close, layer

from switch_export.quantize import Precision
from switch_gpu_bench.ops import Mlp, moe_call
from switch_gpu_bench.timing import DEVICE, synchronize

WEIGHTS = [
    Precision(name, block) for name, block in (
        ("fp32", 0), ("fp16", 0), ("bf16", 0), ("int8", 0), ("int8", 32), ("int8", 128),
        ("int4", 0), ("int4", 32), ("int4", 128),
    )
]
# One for every kernel: vectors up to 16 tokens, small tiles, large ones.
TOKENS = (1, 9, 16, 17, 64, 300)


def names(precision: Precision) -> str:
    return f"{precision.name}/{precision.block}"


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("weight", WEIGHTS, ids=names)
@pytest.mark.parametrize("x", ["fp32", "fp16", "bf16"])
def test_every_pair_of_types(ops, x, weight, tokens):
    made = layer(Size(tokens), x, weight)
    assert_close(made.run(ops), made.expected(), made.tolerance)


ROUTINGS = {
    "all on the last expert": lambda expert: expert.fill_(3),
    "an empty expert": lambda expert: expert.masked_fill_(expert == 1, 2),
    "one expert has most": lambda expert: expert[: len(expert) * 3 // 5].fill_(2),
    "some dropped": lambda expert: expert[::3].fill_(-1),
    "all dropped": lambda expert: expert.fill_(-1),
}


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("routing", ROUTINGS)
def test_skewed_routes(ops, routing, tokens):
    made = layer(Size(tokens))
    ROUTINGS[routing](made.expert)
    found, expected = made.run(ops), made.expected()
    if routing == "all dropped":
        assert torch.equal(found, torch.zeros_like(found))
    else:
        assert_close(found, expected, made.tolerance)
    assert not bool(found[made.expert < 0].any())


@pytest.mark.parametrize("tokens", [2, 40, 300])
def test_an_expert_that_is_none_counts_as_dropped(ops, tokens, place):
    if place == "plain PyTorch":
        pytest.skip("the stand-in knows no such experts")
    made = layer(Size(tokens))
    made.expert[0], made.expert[1] = 4, -7
    found = made.run(ops)
    assert not bool(found[:2].any())
    made.expert[:2] = -1
    assert_close(found, made.expected(), made.tolerance)


@pytest.mark.parametrize("tokens", [1, 40, 300])
@pytest.mark.parametrize("weight", [Precision("bf16"), Precision("int8")], ids=names)
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_new", "silu"])
@pytest.mark.parametrize("is_gated", [False, True])
def test_activations(ops, activation, is_gated, weight, tokens):
    made = layer(Size(tokens), "bf16", weight, Mlp(activation, is_gated, "pass"))
    made.expert[::4] = -1
    assert_close(made.run(ops), made.expected(), made.tolerance)


@pytest.mark.parametrize("tokens", [1, 40, 300])
def test_one_mlp_without_routes_and_gates(ops, tokens):
    made = layer(Size(tokens, experts=1))
    made.expert = made.gate = None
    assert_close(made.run(ops), made.expected(), made.tolerance)


@pytest.mark.parametrize("tokens", TOKENS)
def test_accumulating_adds_to_what_is_there(ops, tokens):
    made = layer(Size(tokens))
    made.expert[::5] = -1
    before = torch.randn(made.x.shape, device=DEVICE)
    y = before.clone()
    ops.moe(made.x, made.expert, made.gate, made.experts, y, accumulate=True)
    assert_close(y, made.expected() + before.double(), made.tolerance)
    assert torch.equal(y[::5], before[::5])


def test_no_token(ops):
    assert layer(Size(0)).run(ops).shape == (0, 96)


# Those of switch-base: what goals are about, and every path for tensor cores.
@pytest.mark.parametrize("experts", [8, 128])
@pytest.mark.parametrize("tokens", [1, 8, 32, 128, 512, 4096])
@pytest.mark.parametrize("form", ["bf16", "fp16", "int8"])
def test_base_sizes(ops, form, tokens, experts, place):
    if place != "a GPU" and (tokens > 8 or experts > 8):
        pytest.skip(f"too much for {place}")
    x = "bf16" if form == "int8" else form
    made = layer(Size(tokens, experts, 768, 3072), x, Precision(form))
    found = made.run(ops)
    assert bool(torch.isfinite(found).all())
    some = torch.linspace(0, tokens - 1, min(tokens, 48), device=DEVICE).long()
    assert_close(found[some], made.expected(some), made.tolerance)


def test_a_wrong_call_is_refused_and_starts_nothing(make_ops, place):
    if place == "plain PyTorch":
        pytest.skip("the stand-in checks nothing")
    from switch_plugins.cuda import CudaError, Stream

    ops, made = make_ops(), layer(Size(40))
    y = torch.full(made.x.shape, float("nan"), device=DEVICE)
    workspace = torch.empty(1 << 24, dtype=torch.uint8, device=DEVICE)

    def call(**wrong):
        moe = moe_call(made.x, made.experts)
        size = ops.kernels.moe_workspace(moe)
        moe.expert, moe.gate, moe.y = (
            part.data_ptr() for part in (made.expert, made.gate, y)
        )
        moe.workspace, moe.workspace_bytes = workspace.data_ptr(), size
        for name, value in wrong.items():
            setattr(moe, name, value(getattr(moe, name)))
        ops.kernels.moe(Stream(), moe)

    def narrower(weight):
        weight.columns -= 32
        return weight

    for wrong in (
        {"workspace_bytes": lambda size: size - 1}, {"workspace": lambda _: None},
        {"x": lambda _: None}, {"wo": narrower}, {"x_type": lambda _: 3}, {"tokens": lambda _: -1},
    ):
        with pytest.raises(CudaError):
            call(**wrong)
    synchronize()
    assert bool(y.isnan().all())
    call()
    assert_close(y, made.expected(), made.tolerance)


def test_layers_of_a_checkpoint_are_not_changed(ops):
    made: Layer = layer(Size(40), "bf16", Precision("int8"))
    kept = [made.experts.wi.values.clone(), made.experts.wo.values.clone(), made.x.clone()]
    made.run(ops)
    now = (made.experts.wi.values, made.experts.wo.values, made.x)
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))
