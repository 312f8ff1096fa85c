"""The kernels inside ONNX Runtime against the float64 reference, operator by operator.

tests/native/test_kernels_*.cc go through many more sizes; here it is about what the host hands
over.
tests/test_plugin_library.py runs this file once more on each instruction set.
"""

from concurrent.futures import ThreadPoolExecutor

import kernel_node
import numpy as np
import one_node
import operator_reference
import pytest
from operator_reference import PRECISIONS, random_weight
from tolerances import assert_close

D, F, V = 40, 70, 50  # the last block of 32 is shorter
H, K, M = 3, 4, 5
LEADING = [(0, 5), (1, 1), (2, 7), (9,), (2, 1, 3)]
BY_PRECISION = pytest.mark.parametrize("precision", PRECISIONS, ids=lambda p: f"{p[0]}-{p[1]}")
BY_LEADING = pytest.mark.parametrize("leading", LEADING, ids=str)


def states(seed: int, *shape: int) -> np.ndarray:
    """Values [...] of very different magnitudes along the axes before the last."""
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.integers(-3, 4, size=(*shape[:-1], 1))
    return (random.normal(size=shape) * sizes).astype(np.float32).astype(np.float64)


def normal(seed: int, *shape: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=shape)
    return values.astype(np.float32).astype(np.float64)


def whole(seed: int, *shape: int) -> np.ndarray:
    """Small integers [..., D] with one of 127 in each row, times powers of two.

    With `weights` a product of them is exact in float32. Hidden values that are not would be
    rounded to other int8 values wherever the last bit decides.
    """
    random = np.random.default_rng(seed)
    x = random.integers(-6, 7, shape).astype(np.float64)
    if x.size:
        x[..., random.integers(shape[-1])] = 127
    return x * 2.0 ** random.integers(-9, 10, size=(*shape[:-1], 1))


def weights(seed: int, precision: tuple, *shapes: tuple) -> list:
    """Random weights [..., O, I]; scales are powers of two."""
    random = np.random.default_rng(seed)
    made = [random_weight(random, *precision, shape) for shape in shapes]
    for weight in made:
        if weight.is_quantised:
            scale = np.sign(weight.scale) * 2.0 ** np.round(np.log2(np.abs(weight.scale)))
            weight.scale[...] = scale
    return made


def assert_tokens_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Compare token by token, each relative to its own magnitude."""
    assert actual.shape == expected.shape
    for token in np.ndindex(expected.shape[:-1]):
        assert_close(actual[token], expected[token])


@BY_LEADING
@BY_PRECISION
def test_linear_agrees(precision, leading):
    x, (weight,) = states(1, *leading, D), weights(2, precision, (F, D))
    (y,) = kernel_node.run("SwitchLinear", [x, weight])
    assert_tokens_close(y, operator_reference.product(x, weight))


@BY_PRECISION
def test_embedding_agrees(precision):
    (table,) = weights(3, precision, (V, D))
    for shape in ((0, 3), (1, 1), (3, 5)):
        ids = np.random.default_rng(4).integers(0, V, shape)
        (y,) = kernel_node.run("SwitchEmbedding", [ids, table])
        assert_close(y, operator_reference.decode(table)[ids])


@BY_LEADING
@BY_PRECISION
def test_mlp_agrees(precision, leading):
    x, (wi, wo) = whole(5, *leading, D), weights(6, precision, (F, D), (D, F))
    (y,) = kernel_node.run("SwitchMLP", [x, wi, wo])
    assert_tokens_close(y, operator_reference.mlp(x, wi, wo, "relu"))


@pytest.mark.parametrize("dropped", ["zero", "pass"])
@BY_LEADING
@BY_PRECISION
def test_moe_agrees(precision, leading, dropped):
    random = np.random.default_rng(7)
    x, stacks = whole(8, *leading, D), weights(9, precision, (5, F, D), (5, D, F))
    expert = random.integers(-1, 4, leading).astype(np.int32)  # the last expert gets none
    gate = random.uniform(0.2, 1, leading).astype(np.float32)
    (y,) = kernel_node.run("SwitchMoE", [x, expert, gate, *stacks], {"dropped": dropped})
    expected = operator_reference.moe(x, (expert, gate), stacks, "relu", dropped)
    assert_tokens_close(y, expected)


@pytest.mark.parametrize(("name", "formula"), [
    ("gelu", "gelu"), ("gelu_new", "gelu_new"), ("gelu_pytorch_tanh", "gelu_new"),
    ("silu", "silu"), ("swish", "silu"),
])
def test_activations_agree(name, formula):
    x, (wi, wo) = normal(10, 2, 3, D), weights(11, ("fp32", 0), (1, F, D), (1, D, F))
    expert, gate = np.zeros((2, 3), np.int32), np.ones((2, 3), np.float32)
    (y,) = kernel_node.run("SwitchMLP", [x, wi[0], wo[0]], {"activation": name})
    assert_close(y, operator_reference.mlp(x, wi[0], wo[0], formula))
    (same,) = kernel_node.run("SwitchMoE", [x, expert, gate, wi, wo], {"activation": name})
    assert_close(same, y)


@BY_LEADING
@BY_PRECISION
def test_gated_mlp_agrees(precision, leading):
    x, (wi, wo) = whole(38, *leading, D), weights(39, precision, (2 * F, D), (D, F))
    (y,) = kernel_node.run("SwitchMLP", [x, wi, wo], {"gated": 1})
    assert_tokens_close(y, operator_reference.mlp(x, wi, wo, "relu", is_gated=True))


@BY_PRECISION
def test_gated_moe_agrees(precision):
    x, stacks = whole(40, 2, 7, D), weights(41, precision, (3, 2 * F, D), (3, D, F))
    expert = np.random.default_rng(42).integers(-1, 3, (2, 7)).astype(np.int32)
    gate = np.linspace(0.2, 1, 14, dtype=np.float32).reshape(2, 7)
    (y,) = kernel_node.run("SwitchMoE", [x, expert, gate, *stacks], {"gated": 1})
    expected = operator_reference.moe(x, (expert, gate), stacks, is_gated=True)
    assert_tokens_close(y, expected)


@BY_PRECISION
def test_gated_kernels_and_function_bodies_agree(precision):
    x, stacks = whole(45, 9, D), weights(46, precision, (3, 2 * F, D), (3, D, F))
    expert = np.random.default_rng(47).integers(-1, 3, 9).astype(np.int32)
    inputs = [x, expert, np.linspace(0.2, 1, 9, dtype=np.float32), *stacks]
    attributes = {"activation": "relu", "dropped": "zero", "gated": 1}
    (found,) = kernel_node.run("SwitchMoE", inputs, attributes)
    kind = "slots" if precision[0] == "fp32" else "loop"
    (expected,) = one_node.run("SwitchMoE", inputs, attributes, kind)
    assert_tokens_close(found, expected)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu"])
def test_gated_activations_agree(activation):
    x, (wi, wo) = normal(43, 2, 3, D), weights(44, ("fp32", 0), (2 * F, D), (D, F))
    (y,) = kernel_node.run("SwitchMLP", [x, wi, wo], {"activation": activation, "gated": 1})
    assert_close(y, operator_reference.mlp(x, wi, wo, activation, is_gated=True))


def test_dropped_token_of_infinities_gets_zero():
    x = normal(12, 3, D)
    x[1] = np.inf
    expert, gate = np.array([0, -1, 1], np.int32), np.array([1, np.nan, 1], np.float32)
    for precision in PRECISIONS:
        stacks = weights(13, precision, (2, F, D), (2, D, F))
        (y,) = kernel_node.run("SwitchMoE", [x, expert, gate, *stacks])
        assert not y[1].any()
        assert np.isfinite(y).all()


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_norm_agrees(epsilon):
    for leading in LEADING:
        x, delta, weight = normal(14, *leading, D), normal(15, *leading, D), normal(16, D)
        found = kernel_node.run("SwitchNorm", [x, delta, weight], {"epsilon": epsilon})
        for actual, value in zip(
            found, operator_reference.norm(x, delta, weight, epsilon), strict=True
        ):
            assert_close(actual, value)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("capacity", [-1, 0, 1, 2])
def test_router_agrees(capacity, biased):
    x, delta, weight = normal(17, 3, 9, D), normal(18, 3, 9, D), normal(19, D)
    classifier, bias = normal(20, 4, D), normal(21, 4) if biased else None
    found = kernel_node.run(
        "SwitchRouter", [x, delta, weight, classifier, bias], {"capacity": capacity}
    )
    total, normed = operator_reference.norm(x, delta, weight, 1e-6)
    expert, gate = operator_reference.route(normed, classifier, bias, capacity)
    assert_close(found[0], total)
    assert_close(found[1], normed)
    assert found[2].tolist() == expert.tolist()
    assert_close(found[3], gate)


def test_self_attention_agrees():
    for batch, tokens in ((1, 1), (2, 6), (3, 33), (2, 0)):
        qkv, bias = normal(22, batch, tokens, 3 * H * K), normal(23, 2 * M + 1, H)
        mask = np.random.default_rng(24).integers(0, 2, (batch, tokens))
        mask[:1] = 0  # no allowed key: uniform
        (y,) = kernel_node.run("SwitchSelfAttention", [qkv, mask, bias])
        assert_close(y, operator_reference.self_attention(qkv, mask, bias, K))


@pytest.mark.parametrize(("position", "tokens", "capacity"), [
    (0, 1, 1), (0, 4, 1), (3, 1, 3), (3, 2, 8), (14, 1, 20), (14, 9, 14), (2, 0, 4), (0, 2, 0),
])
def test_cached_attention_agrees(position, tokens, capacity):
    qkv, bias = normal(25, 3, tokens, 3 * H * K), normal(26, 2 * M + 1, H)
    cached = normal(27, 3, H, capacity, K), normal(28, 3, H, capacity, K)
    expected = operator_reference.cached_attention(qkv, cached, position, bias)
    for part in cached:
        part[:, :, position:] = np.nan  # not read
    found = kernel_node.run("SwitchCachedAttention", [qkv, *cached, np.array(position), bias])
    for actual, value in zip(found, expected, strict=True):
        assert_close(actual, value)


def test_cross_attention_agrees():
    for beams, tokens in ((1, 1), (3, 1), (2, 4), (1, 0)):
        q = normal(29, 2 * beams, tokens, H * K)
        key, value = normal(30, 2, H, 7, K), normal(31, 2, H, 7, K)
        mask = np.array([[1, 1, 1, 0, 0, 0, 0], [0] * 7])
        (y,) = kernel_node.run("SwitchCrossAttention", [q, key, value, mask])
        assert_close(y, operator_reference.cross_attention(q, key, value, mask))


@BY_PRECISION
def test_key_value_agrees(precision):
    (weight,) = weights(32, precision, (2 * H * K, D))
    for tokens in (0, 1, 6):
        x = normal(33, 2, tokens, D)
        both = operator_reference.product(x, weight).reshape(2, tokens, 2, H, K)
        found = kernel_node.run("SwitchKeyValue", [x, weight], {"heads": H})
        for actual, value in zip(found, both.transpose(2, 0, 3, 1, 4), strict=True):
            assert_close(actual, value)


@BY_PRECISION
def test_every_number_of_threads_agrees(precision):
    x, (weight,) = normal(34, 5, 256), weights(35, precision, (1000, 256))
    expected = operator_reference.product(x, weight)
    for threads in (1, 2, 3, 8):
        (y,) = kernel_node.run("SwitchLinear", [x, weight], threads=threads)
        assert_close(y, expected)


def test_one_session_runs_in_several_threads_at_once():
    x, (wi, wo) = whole(36, 9, D), weights(37, ("int8", 0), (F, D), (D, F))
    session, feeds = kernel_node.load("SwitchMLP", [x, wi, wo])
    expected = session.run(None, feeds)[0]
    with ThreadPoolExecutor(6) as pool:
        for y in pool.map(lambda _: session.run(None, feeds)[0], range(200)):
            np.testing.assert_array_equal(y, expected)
