"""The fused operators of a decoder step against float64."""

import pytest
import torch
from moe_layers import EXACT, HALF, QUANTISED, assert_close

from switch_export.quantize import Precision
from switch_gpu_bench.ops import Classifier, Mlp, Norm, Routes
from switch_gpu_bench.packed import FLOATS, random_stack
from switch_gpu_bench.timing import DEVICE
from switch_gpu_bench.torch_ops import TorchOps

REFERENCE = TorchOps(torch.float64)
TYPES = ["fp32", "fp16", "bf16"]
# What is rounded last, beside sums: outputs of a half type have its precision.
OUTPUT = {"fp32": EXACT, "fp16": 1e-3, "bf16": 4e-3}


def random(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32):
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=DEVICE).to(dtype)


@pytest.mark.parametrize("tokens", [1, 3, 16, 33])
@pytest.mark.parametrize("weight", ["fp32", "fp16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("x", TYPES)
def test_linear(ops, x, weight, tokens):
    form = Precision(weight, 32 if weight == "int4" else 0)
    packed = random_stack((1, 200, 96), form, 2, DEVICE)
    values = random(tokens, 96, dtype=FLOATS[x])
    y = torch.full((tokens, 200), float("nan"), device=DEVICE)
    ops.linear(values, packed, y)
    wide = torch.empty(tokens, 200, dtype=torch.float64, device=DEVICE)
    REFERENCE.linear(values, packed, wide)
    assert_close(y, wide, EXACT)


@pytest.mark.parametrize("tokens", [1, 8, 33])
@pytest.mark.parametrize("normed", TYPES)
@pytest.mark.parametrize("weight", ["fp32", "fp16", "bf16", "int8"])
def test_linear_with_norm_and_activation(ops, weight, normed, tokens):
    packed = random_stack((1, 320, 768), Precision(weight), 2, DEVICE)
    norm = Norm(random(768, seed=3).abs(), 1e-6, FLOATS[normed])
    x, mlp = random(tokens, 768) * 3, Mlp("gelu_new", is_gated=True)
    y = torch.full((tokens, 160), float("nan"), device=DEVICE, dtype=FLOATS[normed])
    ops.linear(x, packed, y, norm, mlp)
    exact = torch.empty(tokens, 160, dtype=torch.float64, device=DEVICE)
    REFERENCE.linear(x, packed, exact, norm, mlp)
    assert_close(y, exact, max(OUTPUT[normed], QUANTISED if weight == "int8" else 0))


@pytest.mark.parametrize("tokens", [1, 8, 33])
def test_linear_accumulates_in_place(ops, tokens):
    packed = random_stack((1, 96, 256), Precision("bf16"), 2, DEVICE)
    x, before = random(tokens, 256, dtype=torch.bfloat16), random(tokens, 96, seed=5)
    y, exact = before.clone(), before.double()
    ops.linear(x, packed, y, accumulate=True)
    REFERENCE.linear(x, packed, exact, accumulate=True)
    assert_close(y, exact, EXACT)


@pytest.mark.parametrize("capacity", [-1, 1, 4])
@pytest.mark.parametrize("experts", [1, 8, 128, 256])
@pytest.mark.parametrize("shape", [(1, 1), (8, 1), (3, 40)])
@pytest.mark.parametrize("normed", TYPES)
def test_router(ops, normed, shape, experts, capacity):
    dtype = FLOATS[normed]
    x, norm = random(*shape, 96) * 2, Norm(random(96, seed=2).abs(), 1e-6, dtype)
    classifier = Classifier(random(experts, 96, seed=3), random(experts, seed=4), capacity)

    def empty() -> Routes:
        return Routes(
            torch.full((*shape, 96), float("nan"), device=DEVICE, dtype=dtype),
            torch.full(shape, -9, device=DEVICE, dtype=torch.int32),
            torch.full(shape, float("nan"), device=DEVICE),
        )

    found, expected = empty(), empty()
    ops.router(x, norm, classifier, found)
    REFERENCE.router(x, norm, classifier, expected)
    # A value whose last bit falls to the other side may move a near tie: none of these is one.
    assert torch.equal(found.expert, expected.expert)
    assert_close(found.normed, expected.normed, EXACT if normed == "fp32" else HALF)
    assert_close(found.gate, expected.gate, OUTPUT[normed])


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize(("tokens", "position"), [(1, 0), (1, 31), (1, 300), (4, 17)])
@pytest.mark.parametrize(("heads", "size"), [(12, 64), (4, 32)])
def test_cached_attention(ops, heads, size, tokens, position, rows, kind):
    capacity, dtype = 320, FLOATS[kind]
    qkv = random(rows, tokens, 3 * heads * size, dtype=dtype)
    bias, place = random(257, heads, seed=2), torch.tensor([position], device=DEVICE)
    caches = [random(rows, heads, capacity, size, seed=s, dtype=dtype) for s in (3, 4)]
    for cache in caches:
        cache[:, :, position:] = float("nan")  # not set yet
    theirs = [cache.clone() for cache in caches]
    y = torch.full((rows, tokens, heads * size), float("nan"), device=DEVICE, dtype=dtype)
    exact = torch.empty(y.shape, dtype=torch.float64, device=DEVICE)
    ops.cached_attention(qkv, *caches, place, bias, y)
    REFERENCE.cached_attention(qkv, *theirs, place, bias, exact)
    assert_close(y, exact, OUTPUT[kind])
    for cache, other in zip(caches, theirs, strict=True):
        assert torch.equal(cache.nan_to_num(7), other.nan_to_num(7))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("batch", "beams"), [(1, 1), (3, 1), (2, 4)])
@pytest.mark.parametrize("source", [1, 33, 200])
@pytest.mark.parametrize("tokens", [1, 3])
def test_cross_attention(ops, tokens, source, batch, beams, kind):
    heads, size, dtype = 4, 64, FLOATS[kind]
    q = random(batch * beams, tokens, heads * size, dtype=dtype) / 8
    keys, values = (random(batch, heads, source, size, seed=s, dtype=dtype) for s in (2, 3))
    mask = torch.ones(batch, source, dtype=torch.int64, device=DEVICE)
    mask[0, source // 2 :] = 0  # with one source token: a row without any key
    y = torch.full(q.shape, float("nan"), device=DEVICE, dtype=dtype)
    exact = torch.empty(q.shape, dtype=torch.float64, device=DEVICE)
    ops.cross_attention(q, keys, values, mask, y)
    REFERENCE.cross_attention(q, keys, values, mask, exact)
    assert_close(y, exact, OUTPUT[kind])
