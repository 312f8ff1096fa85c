"""The bodies of SwitchMoE, run by ONNX Runtime, against the float64 reference."""

import numpy as np
import one_node
import onnx
import operator_reference
import pytest
from operator_reference import PRECISIONS, Weight, random_weight
from tolerances import assert_close

from switch_export.bodies.moe import body_kind
from switch_export.config import SwitchConfig
from switch_export.quantize import Precision
from switch_plugins import spec

STANDARD = ("gather", "slots", "either")
KINDS = (*STANDARD, "cpu")
#: Kind of body and what it runs on: fp32 chooses among four, all else has one.
BODIES = [(kind, "fp32", 0) for kind in KINDS] + [
    ("loop", *precision) for precision in PRECISIONS if precision[0] != "fp32"
]
D, F = 40, 70
ROUTES = {
    "no token": [],
    "spread": [0, 1, 2, 3, 2, 1, 0, 0, 3],
    "an expert without tokens": [0, 3, 3, 0, 0, 3],
    "all on one expert": [2] * 7,
    "one token": [3],
    "one dropped token": [-1],
    "some dropped": [1, -1, 1, -1, 0, 2, -1],
    "the first dropped": [-1, 3, 0],
    "all dropped": [-1, -1, -1],
    "the last expert only, then dropped": [3, -1, -1],
}


def check(
    body: tuple, expert, attributes: tuple = ("relu", "zero"), experts: int = 4, gated: int = 0
) -> None:
    """Run a body on random weights and compare.

    Args:
        body: an entry of BODIES.
        expert: of any shape.
        attributes: activation, and what a dropped token gets.
    """
    kind, *precision = body
    expert = np.array(expert, np.int32)
    random = np.random.default_rng(expert.size)
    x = random.normal(size=(*expert.shape, D)).astype(np.float32).astype(np.float64)
    gate = random.uniform(0.2, 1, expert.shape)
    sizes = ((F << gated, D), (D, F))
    stacks = [random_weight(random, *precision, (experts, *size)) for size in sizes]
    names = dict(zip(("activation", "dropped"), attributes, strict=True))
    if gated:
        names["gated"] = gated
    (y,) = one_node.run("SwitchMoE", [x, expert, gate, *stacks], names, kind)
    assert_close(y, operator_reference.moe(x, (expert, gate), stacks, *attributes, bool(gated)))


@pytest.mark.parametrize("dropped", spec.DROPPED)
@pytest.mark.parametrize("body", BODIES, ids=str)
@pytest.mark.parametrize("name", ROUTES)
def test_body_gives_what_the_reference_gives(body, name, dropped):
    check(body, ROUTES[name], ("relu", dropped))


@pytest.mark.parametrize("body", BODIES, ids=str)
def test_body_takes_rows_of_tokens(body):
    check(body, np.random.default_rng(1).integers(-1, 4, (2, 5)))
    check(body, np.zeros((2, 0), np.int32))


@pytest.mark.parametrize("kind", STANDARD)
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu"])
def test_body_applies_the_activation(kind, activation):
    check((kind, "fp32", 0), ROUTES["spread"], (activation, "zero"))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu"])
def test_decoding_body_applies_the_activation(activation):
    check(("loop", "int8", 0), ROUTES["spread"], (activation, "zero"))


@pytest.mark.parametrize("name", ["no token", "spread", "some dropped", "one token"])
@pytest.mark.parametrize("body", [body for body in BODIES if body[0] != "cpu"], ids=str)
def test_body_multiplies_the_halves_of_gated_hidden_values(body, name):
    check(body, ROUTES[name], gated=1)


@pytest.mark.parametrize("kind", STANDARD)
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu"])
def test_body_applies_the_activation_to_the_first_half(kind, activation):
    check((kind, "fp32", 0), ROUTES["spread"], (activation, "zero"), gated=1)


@pytest.mark.parametrize(("dense_act_fn", "kind"), [("relu", "cpu"), ("gated-relu", "either")])
def test_gated_models_have_no_body_of_onnx_runtime_s_own(dense_act_fn, kind):
    config = SwitchConfig.from_dict(
        {"model_type": "switch_transformers", "dense_act_fn": dense_act_fn}
    )
    assert body_kind("cpu", config, Precision("fp32"), few_tokens=True) == kind


@pytest.mark.parametrize("tokens", [1, 2, 3, 8, 9, 10, 40])
def test_both_branches_agree_with_the_reference(tokens):
    routes = np.random.default_rng(tokens).integers(-1, 9, tokens)
    for kind in ("either", "cpu"):
        check((kind, "fp32", 0), routes, experts=9)


@pytest.mark.parametrize("kind", [*KINDS, "loop"])
def test_an_infinite_state_of_a_dropped_token_stays_out(kind):
    x = np.ones((2, D), np.float32)
    x[1] = np.inf
    precision, kind_of = ("fp16", np.float16) if kind == "loop" else ("fp32", np.float32)
    stacks = [Weight(precision, 0, np.ones((2, *size), kind_of)) for size in ((F, D), (D, F))]
    inputs = [x, np.array([0, -1], np.int32), np.full(2, 0.5, np.float32), *stacks]
    (y,) = one_node.run("SwitchMoE", inputs, {"activation": "relu", "dropped": "zero"}, kind)
    assert y[0] == pytest.approx(0.5 * D * F)
    assert (y[1] == 0).all()


def operators(nodes) -> set[tuple[str, str]]:
    """Domain and type of every node, those of branches too."""
    found = set()
    for node in nodes:
        found.add((node.domain, node.op_type))
        for attribute in node.attribute:
            found |= operators(attribute.g.node)
    return found


def test_target_onnx_holds_standard_operators_only(cases):
    for path in sorted(cases["capacity_zero"].directory().glob("*.onnx")):
        model = onnx.load(path, load_external_data=False)
        domains = {domain for domain, _ in operators(model.graph.node)}
        for function in model.functions:
            domains |= {domain for domain, _ in operators(function.node)}
        assert domains == {"", spec.DOMAIN}, path.name


def test_target_cpu_reads_a_token_s_expert_in_place(tiny_directory):
    for path in sorted(tiny_directory.glob("*.onnx")):
        functions = onnx.load(path, load_external_data=False).functions
        (function,) = (function for function in functions if function.name == "SwitchMoE")
        assert ("com.microsoft", "MoE") in operators(function.node), path.name
