"""Bodies of SwitchEmbedding, SwitchLinear, SwitchMLP and SwitchKeyValue against the reference."""

import numpy as np
import one_node
import operator_reference
import pytest
from operator_reference import PRECISIONS, random_weight
from tolerances import assert_close

D, F, V = 40, 70, 50  # the last block of 32 is shorter
SHAPES = [(0, 5), (2, 0), (1, 1), (2, 7), (9,)]
IDS = ["-".join(map(str, precision)) for precision in PRECISIONS]


def states(random, shape: tuple) -> np.ndarray:
    """Tokens [..., D] of very different magnitudes: one must not spoil another's rounding."""
    sizes = 10.0 ** random.integers(-3, 4, size=(*shape, 1))
    return random.normal(size=(*shape, D)).astype(np.float32).astype(np.float64) * sizes


def assert_tokens_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Compare token by token, each relative to its own magnitude."""
    assert actual.shape == expected.shape
    for token in np.ndindex(expected.shape[:-1]):
        assert_close(actual[token], expected[token])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", PRECISIONS, ids=IDS)
def test_linear(precision, shape):
    random = np.random.default_rng(sum(shape))
    x, weight = states(random, shape), random_weight(random, *precision, (F, D))
    (y,) = one_node.run("SwitchLinear", [x, weight])
    assert_tokens_close(y, operator_reference.product(x.astype(np.float32), weight))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", PRECISIONS, ids=IDS)
def test_mlp(precision, shape):
    random = np.random.default_rng(sum(shape))
    wi = random_weight(random, *precision, (F, D))
    wo = random_weight(random, *precision, (D, F))
    x = states(random, shape)
    (y,) = one_node.run("SwitchMLP", [x, wi, wo], {"activation": "relu"})
    assert_tokens_close(y, operator_reference.mlp(x.astype(np.float32), wi, wo, "relu"))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu"])
def test_mlp_applies_the_activation(activation):
    random = np.random.default_rng(3)
    wi, wo = (random_weight(random, "fp32", 0, shape) for shape in ((F, D), (D, F)))
    x = random.normal(size=(2, 3, D)).astype(np.float32)
    (y,) = one_node.run("SwitchMLP", [x, wi, wo], {"activation": activation})
    assert_close(y, operator_reference.mlp(x, wi, wo, activation))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", PRECISIONS, ids=IDS)
def test_gated_mlp(precision, shape):
    random = np.random.default_rng(sum(shape))
    wi = random_weight(random, *precision, (2 * F, D))
    wo = random_weight(random, *precision, (D, F))
    x = states(random, shape)
    (y,) = one_node.run("SwitchMLP", [x, wi, wo], {"activation": "relu", "gated": 1})
    expected = operator_reference.mlp(x.astype(np.float32), wi, wo, "relu", is_gated=True)
    assert_tokens_close(y, expected)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu"])
def test_gated_mlp_applies_the_activation_to_the_first_half(activation):
    random = np.random.default_rng(4)
    wi, wo = (random_weight(random, "fp32", 0, shape) for shape in ((2 * F, D), (D, F)))
    x = random.normal(size=(2, 3, D)).astype(np.float32)
    (y,) = one_node.run("SwitchMLP", [x, wi, wo], {"activation": activation, "gated": 1})
    assert_close(y, operator_reference.mlp(x, wi, wo, activation, is_gated=True))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1, 1), (3, 5)], ids=str)
@pytest.mark.parametrize("precision", PRECISIONS, ids=IDS)
def test_embedding(precision, shape):
    random = np.random.default_rng(sum(shape))
    weight = random_weight(random, *precision, (V, D))
    ids = random.integers(0, V, size=shape)
    (y,) = one_node.run("SwitchEmbedding", [ids, weight])
    assert_close(y, operator_reference.decode(weight)[ids])


@pytest.mark.parametrize("tokens", [0, 1, 6])
@pytest.mark.parametrize("precision", PRECISIONS, ids=IDS)
def test_key_value(precision, tokens):
    random = np.random.default_rng(tokens)
    heads, d_kv = one_node.HEADS, one_node.D_KV
    weight = random_weight(random, *precision, (2 * heads * d_kv, D))
    x = random.normal(size=(2, tokens, D)).astype(np.float32)
    found = one_node.run("SwitchKeyValue", [x, weight], {"heads": heads})
    joined = operator_reference.product(x, weight).reshape(2, tokens, 2, heads, d_kv)
    for part in range(2):
        assert_close(found[part], joined[:, :, part].transpose(0, 2, 1, 3))


def test_a_token_of_zeros_gives_zeros():
    weight = random_weight(np.random.default_rng(1), "int8", 0, (F, D))
    (y,) = one_node.run("SwitchLinear", [np.zeros((2, D), np.float32), weight])
    assert (y == 0).all()


@pytest.mark.parametrize("precision", [("int8", 0), ("int4", 32)], ids=str)
def test_half_a_step_rounds_to_the_even_code(precision):
    weight = random_weight(np.random.default_rng(2), *precision, (3, 4))
    x = np.array([[127.0, 0.5, 1.5, -2.5]])
    codes = np.array([[127.0, 0.0, 2.0, -2.0]])
    (y,) = one_node.run("SwitchLinear", [x, weight])
    assert_close(y, codes @ operator_reference.decode(weight).T)
