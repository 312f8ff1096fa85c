"""Bodies of SwitchNorm and SwitchRouter against the float64 reference."""

import numpy as np
import one_node
import operator_reference
import pytest
from tolerances import assert_close

D, E = 12, 5
EPSILON = 0.25  # large, so that its place matters


def made(seed: int, shape: tuple) -> list[np.ndarray]:
    """x, delta [..., D] and weight [D]."""
    random = np.random.default_rng(seed)
    return [random.normal(size=size) + 0.5 for size in ((*shape, D), (*shape, D), (D,))]


@pytest.mark.parametrize("shape", [(0,), (2, 0), (1, 1), (2, 7)], ids=str)
def test_norm(shape):
    inputs = made(1, shape)
    found = one_node.run("SwitchNorm", inputs, {"epsilon": EPSILON})
    expected = operator_reference.norm(*inputs, EPSILON)
    for actual, value in zip(found, expected, strict=True):
        assert_close(actual, value)


def check_router(inputs: list[np.ndarray], capacity: int) -> np.ndarray:
    """Run and compare all outputs; gives the experts."""
    attributes = {"epsilon": EPSILON, "capacity": capacity}
    total, normed, expert, gate = one_node.run("SwitchRouter", inputs, attributes)
    expected = operator_reference.norm(*inputs[:3], EPSILON)
    assert_close(total, expected[0])
    assert_close(normed, expected[1])
    bias = inputs[4] if len(inputs) > 4 else None
    experts, gates = operator_reference.route(expected[1], inputs[3], bias, capacity)
    assert expert.dtype == np.int32
    assert np.array_equal(expert, experts)
    assert_close(gate, gates)
    return expert


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("capacity", [-1, 0, 1, 2, 100])
@pytest.mark.parametrize("shape", [(1, 1), (3, 11), (2, 0)], ids=str)
def test_router(shape, capacity, bias):
    random = np.random.default_rng(7)
    inputs = [*made(2, shape), random.normal(size=(E, D))]
    if bias:
        inputs.append(random.normal(size=E) * 3)
    expert = check_router(inputs, capacity)
    if shape == (3, 11) and capacity in (1, 2):
        assert -1 in expert
        assert (expert >= 0).any()


def test_ranks_are_counted_along_each_row_by_itself():
    inputs = [np.ones((3, 4, D)), np.zeros((3, 4, D)), np.ones(D), np.zeros((E, D))]
    inputs[3][2] = 1.0
    expert = check_router(inputs, 2)
    assert expert.tolist() == [[2, 2, -1, -1]] * 3


def test_a_tie_goes_to_the_lowest_index():
    inputs = [*made(3, (2, 3)), np.zeros((E, D))]
    assert (check_router(inputs, -1) == 0).all()
