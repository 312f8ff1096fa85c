"""What a kernel refuses: the message names the operator, what was found and what was expected."""

import kernel_node
import numpy as np
import pytest
from operator_reference import Weight, random_weight

D, F, H, K, M = 64, 96, 3, 4, 5


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def weight(*shape: int, precision: tuple = ("fp32", 0)) -> Weight:
    return random_weight(np.random.default_rng(1), *precision, shape)


def experts(*values: int) -> np.ndarray:
    return np.array([values], np.int32)


STACKS = [weight(2, F, D), weight(2, D, F)]
CACHE = zeros(2, H, 6, K)
BIAS = zeros(2 * M + 1, H)
# operator: (inputs that are right, [(place, wrong input, parts of the message)])
CASES = {
    "SwitchLinear": ([zeros(2, D), weight(F, D)], [
        (0, zeros(2, D + 1), ("last axis of x", "65", "64")),
    ]),
    "SwitchEmbedding": ([np.array([[1, 2]]), weight(4, D)], [
        (0, np.array([[1, 4]]), ("id 4", "token 1", "0 to 3")),
        (0, np.array([[-1, 0]]), ("id -1", "token 0", "0 to 3")),
    ]),
    "SwitchMoE": ([zeros(1, 3, D), experts(0, 1, -1), zeros(1, 3), *STACKS], [
        (1, experts(0, 2, 0), ("expert 2", "token 1", "-1 to 1")),
        (1, experts(0, 0, -2), ("expert -2", "token 2", "-1 to 1")),
        (1, experts(0, 0), ("expert", "2", "3")),
        (2, zeros(1, 4), ("gate", "4", "3")),
        (0, zeros(1, 3, D - 1), ("last axis of x", "63", "64")),
    ]),
    "SwitchMLP": ([zeros(2, D), weight(F, D), weight(D, F)], [
        (0, zeros(2, 1), ("last axis of x", "1", "64")),
    ]),
    "SwitchNorm": ([zeros(2, D), zeros(2, D), zeros(D)], [
        (1, zeros(3, D), ("delta", "192", "128")),
        (2, zeros(D + 2), ("weight", "66", "64")),
    ]),
    "SwitchRouter": ([zeros(1, 2, D), zeros(1, 2, D), zeros(D), zeros(4, D), zeros(4)], [
        (3, zeros(4, D + 1), ("classifier", "65", "64")),
        (4, zeros(3), ("bias", "3", "4")),
        (0, zeros(2, D), ("axes of x", "2", "3")),
    ]),
    "SwitchSelfAttention": ([zeros(2, 5, 3 * H * K), np.ones((2, 5), int), BIAS], [
        (1, np.ones((2, 4), int), ("mask", "8", "10")),
        (2, zeros(2 * M, H), ("bias", "0", "1")),
        (2, zeros(2 * M + 1, 5), ("heads",)),
    ]),
    "SwitchKeyValue": ([zeros(2, 5, D), weight(2 * H * K, D)], [
        (0, zeros(2, 5, D + 3), ("last axis of x", "67", "64")),
        (0, zeros(5, D), ("axes of x", "2", "3")),
    ]),
    "SwitchCachedAttention": (
        [zeros(2, 1, 3 * H * K), CACHE, CACHE, np.array(4), BIAS], [
            (3, np.array(7), ("position", "7", "6")),
            (3, np.array(-1), ("position", "-1", "0")),
            (1, zeros(3, H, 6, K), ("key",)),
            (2, zeros(2, H, 5, K), ("value",)),
        ],
    ),
    "SwitchCrossAttention": (
        [zeros(4, 1, H * K), CACHE, CACHE, np.ones((2, 6), int)], [
            (0, zeros(4, 1, H * K + 1), ("q", "13", "12")),
            (0, zeros(3, 1, H * K), ("rows", "1", "0")),
            (3, np.ones((2, 5), int), ("mask", "10", "12")),
        ],
    ),
}
ATTRIBUTES = {"SwitchKeyValue": {"heads": H}}
WRONG = [(operator, *wrong) for operator, (_, cases) in CASES.items() for wrong in cases]


@pytest.mark.parametrize(
    ("operator", "place", "value", "parts"), WRONG,
    ids=[f"{case[0]}-{'-'.join(case[3])}".replace(" ", "_") for case in WRONG],
)
def test_wrong_input_is_named_and_the_session_stays_usable(operator, place, value, parts):
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

    inputs = CASES[operator][0]
    session, feeds = _dynamic(operator, inputs, place, value)
    before = session.run(None, feeds)
    name = [tensor.name for tensor in kernel_node.spec.OPERATORS[operator].inputs][place]
    with pytest.raises(InvalidArgument) as raised:
        session.run(None, feeds | {name: value})
    for part in (operator, *parts):
        assert part in str(raised.value)
    after = session.run(None, feeds)
    for one, two in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, two)


def _dynamic(operator: str, inputs: list, place: int, value: np.ndarray) -> tuple:
    """A session that takes an input of another rank as well, and what is right to feed."""
    if np.ndim(inputs[place]) != np.ndim(value):
        return kernel_node.load(operator, inputs, ATTRIBUTES.get(operator), any_rank=True)
    return kernel_node.load(operator, inputs, ATTRIBUTES.get(operator))


@pytest.mark.parametrize(("operator", "inputs", "attributes", "parts"), [
    ("SwitchLinear", [zeros(2, D), weight(F, D)], {"block": 33}, ("block", "33", "32")),
    ("SwitchLinear", [zeros(2, D), weight(F, D)], {"block": 96}, ("block", "96", "32")),
    ("SwitchLinear", [zeros(2, D), weight(F, D)], {"block": -32}, ("block", "-32", "32")),
    ("SwitchLinear", [zeros(2, D), weight(F, D)], {"block": 16}, ("block", "16", "32")),
    ("SwitchLinear", [zeros(2, D), weight(F, D, precision=("int8", 32))], {"block": 64},
     ("scales", "192", "96")),
    ("SwitchMLP", [zeros(2, D), *STACKS], {"activation": "tanh"}, ("activation", "tanh", "relu")),
    ("SwitchMoE", [zeros(2, D), experts(0, 1)[0], zeros(2), *STACKS], {"dropped": "keep"},
     ("dropped", "keep", "zero or pass")),
    ("SwitchMLP", [zeros(2, D), weight(F, D), weight(D, F)], {"gated": 1},
     ("gated wi", "two for each input of wo", "96", "192")),
    ("SwitchMLP", [zeros(2, D), weight(2 * F, D), weight(D, F)], {}, ("inputs of wo", "96", "192")),
    ("SwitchMoE", [zeros(2, D), experts(0, 1)[0], zeros(2), *STACKS], {"gated": 1},
     ("gated wi", "96", "192")),
    ("SwitchMLP", [zeros(2, D), weight(F, D), weight(D, F)], {"gated": 2},
     ("gated is 2", "0 or 1")),
    ("SwitchKeyValue", [zeros(1, 2, D), weight(2 * H * K, D)], {"heads": 0}, ("heads", "0")),
    ("SwitchKeyValue", [zeros(1, 2, D), weight(2 * H * K, D)], {"heads": 5}, ("heads", "4", "0")),
    ("SwitchMLP", [zeros(2, D), weight(F, D), weight(D, F + 2)], {}, ("wo", "98", "96")),
    ("SwitchMoE", [zeros(2, D), experts(0, 1)[0], zeros(2), weight(2, F, D), weight(3, D, F)], {},
     ("experts of wo", "3", "2")),
])
def test_wrong_attribute_or_weight_is_named(operator, inputs, attributes, parts):
    with pytest.raises(Exception) as raised:  # at load or at run, as ONNX Runtime has it
        kernel_node.run(operator, inputs, attributes)
    for part in (operator, *parts):
        assert part in str(raised.value)
