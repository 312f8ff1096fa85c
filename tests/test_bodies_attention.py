"""Bodies of the three attentions against the float64 reference."""

import numpy as np
import one_node
import operator_reference
import pytest
from tolerances import assert_close

H, K, M = one_node.HEADS, one_node.D_KV, one_node.MAX_DISTANCE


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def mask_of(lengths: list[int], width: int) -> np.ndarray:
    return (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)


@pytest.mark.parametrize(("lengths", "width"), [
    ([1], 1), ([4, 7, 1], 7), ([20, 3], 20),  # farther apart than the largest distance
    ([0, 3], 3), ([], 2),
], ids=str)
def test_self_attention(lengths, width):
    qkv, bias = normal(1, len(lengths), width, 3 * H * K), normal(2, 2 * M + 1, H)
    mask = mask_of(lengths, width) if lengths else np.zeros((0, width), np.int64)
    (y,) = one_node.run("SwitchSelfAttention", [qkv, mask, bias])
    assert_close(y, operator_reference.self_attention(qkv, mask, bias, K))


def test_self_attention_honours_a_mask_with_holes():
    qkv, bias = normal(1, 1, 6, 3 * H * K), normal(2, 2 * M + 1, H)
    mask = np.array([[1, 0, 1, 1, 0, 1]])
    (y,) = one_node.run("SwitchSelfAttention", [qkv, mask, bias])
    assert_close(y, operator_reference.self_attention(qkv, mask, bias, K))


@pytest.mark.parametrize(("position", "tokens", "capacity"), [
    (0, 1, 1), (0, 4, 1), (0, 3, 8), (3, 1, 3), (3, 2, 8), (14, 1, 20), (14, 9, 14), (2, 0, 4),
])
def test_cached_attention(position, tokens, capacity):
    rows = 3
    qkv, bias = normal(1, rows, tokens, 3 * H * K), normal(2, 2 * M + 1, H)
    cached = normal(3, rows, H, capacity, K), normal(4, rows, H, capacity, K)
    found = one_node.run("SwitchCachedAttention", [qkv, *cached, np.array(position), bias])
    expected = operator_reference.cached_attention(qkv, cached, position, bias)
    for actual, value in zip(found, expected, strict=True):
        assert_close(actual, value)


@pytest.mark.parametrize("tail", [-3e5, 3e5])
def test_cached_attention_does_not_see_rows_beyond_the_position(tail):
    qkv, bias = normal(1, 2, 2, 3 * H * K), normal(2, 2 * M + 1, H)
    cached = normal(3, 2, H, 6, K), normal(4, 2, H, 6, K)
    expected = operator_reference.cached_attention(qkv, cached, 4, bias)
    for part in cached:
        part[:, :, 4:] = tail
    found = one_node.run("SwitchCachedAttention", [qkv, *cached, np.array(4), bias])
    assert_close(found[0], expected[0])


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("tokens", [0, 1, 4])
@pytest.mark.parametrize("lengths", [[5], [6, 1, 0]], ids=str)
def test_cross_attention(lengths, tokens, beams):
    batch, width = len(lengths), 6
    q = normal(1, batch * beams, tokens, H * K)
    key, value = normal(2, batch, H, width, K), normal(3, batch, H, width, K)
    mask = mask_of(lengths, width)
    (y,) = one_node.run("SwitchCrossAttention", [q, key, value, mask])
    assert_close(y, operator_reference.cross_attention(q, key, value, mask))
