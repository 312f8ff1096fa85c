"""The body of the SwitchMoE function, run by ONNX Runtime, against the float64 reference."""

import numpy as np
import onnx
import pytest
import reference
from onnx import TensorProto, helper
from tolerances import assert_close

from switch_export.moe.bodies import switch_moe_function
from switch_plugins import spec

STANDARD = ("gather", "slots", "either")
KINDS = (*STANDARD, "cpu")
D, F = 6, 10
ROUTES = {
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


def session(kind: str, activation: str = "relu", dropped: str = "zero"):
    """A graph that is one SwitchMoE node."""
    import onnxruntime

    def value(name: str, shape: list, kind: int = TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, kind, shape)

    node = helper.make_node(
        spec.NAME, ["x", "expert", "gate", "wi", "wo"], ["y"], domain=spec.DOMAIN,
        activation=activation, dropped=dropped,
    )
    inputs = [
        value("x", ["T", D]), value("expert", ["T"], TensorProto.INT32), value("gate", ["T"]),
        value("wi", ["E", F, D]), value("wo", ["E", D, F]),
    ]
    function = switch_moe_function(kind, activation, dropped)
    imports = [*function.opset_import, helper.make_opsetid(spec.DOMAIN, spec.VERSION)]
    graph = helper.make_graph([node], "one", inputs, [value("y", ["T", D])])
    model = helper.make_model(
        graph, opset_imports=imports, ir_version=10,
        functions=[function],
    )
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


@pytest.fixture(scope="module")
def bodies() -> dict:
    """One session for every body, activation and policy that a test asks for."""
    return {}


def check(bodies: dict, routes: list[int], body: tuple, experts: int = 4) -> None:
    """Run a body on random weights and compare."""
    random = np.random.default_rng(len(routes))
    x = random.normal(size=(len(routes), D))
    gate = random.uniform(0.2, 1, len(routes))
    stacks = random.normal(size=(experts, F, D)), random.normal(size=(experts, D, F))
    expert = np.array(routes, np.int32)
    expected = reference.switch_moe(x, (expert, gate), stacks, *body[1:])
    if body not in bodies:
        bodies[body] = session(*body)
    feeds = {"x": x, "gate": gate, "wi": stacks[0], "wo": stacks[1]}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()} | {"expert": expert}
    assert_close(bodies[body].run(["y"], feeds)[0], expected)


@pytest.mark.parametrize("dropped", spec.DROPPED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ROUTES)
def test_body_gives_what_the_reference_gives(bodies, kind, name, dropped):
    check(bodies, ROUTES[name], (kind, "relu", dropped))


@pytest.mark.parametrize("kind", STANDARD)
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu"])
def test_body_applies_the_activation(bodies, kind, activation):
    check(bodies, ROUTES["spread"], (kind, activation, "zero"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 2, 25])
def test_one_expert_serves_any_number_of_tokens(bodies, kind, tokens):
    check(bodies, [0] * tokens, (kind, "relu", "zero"), experts=1)


@pytest.mark.parametrize("tokens", range(1, 41, 3))
def test_both_branches_of_the_decoders_body_agree_with_the_reference(bodies, tokens):
    routes = np.random.default_rng(tokens).integers(-1, 9, tokens).tolist()
    check(bodies, routes, ("either", "relu", "zero"), experts=9)
    check(bodies, routes, ("cpu", "relu", "zero"), experts=9)


@pytest.mark.parametrize("kind", KINDS)
def test_an_infinite_state_of_a_dropped_token_stays_out(bodies, kind):
    body = (kind, "relu", "zero")
    bodies.setdefault(body, session(*body))
    x = np.ones((2, D), np.float32)
    x[1] = np.inf
    feeds = {
        "x": x, "expert": np.array([0, -1], np.int32), "gate": np.full(2, 0.5, np.float32),
        "wi": np.ones((2, F, D), np.float32), "wo": np.ones((2, D, F), np.float32),
    }
    y = bodies[body].run(["y"], feeds)[0]
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
        (function,) = onnx.load(path, load_external_data=False).functions
        assert ("com.microsoft", "MoE") in operators(function.node), path.name
