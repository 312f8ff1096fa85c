"""Gated MLPs in the exporter: what its modules compute, and the nodes that they emit."""

import numpy as np
import pytest
import reference
import torch
from tolerances import assert_close

from switch_export.config import SwitchConfig
from switch_export.graph import trace
from switch_export.model.layers import DenseMlp
from switch_export.moe.op import Experts
from switch_export.moe.router import Capacity
from switch_export.plan import plan_graphs
from switch_export.quantize import Precision

D, F, E = 12, 18, 3
FP32, INT8 = Precision("fp32"), Precision("int8")
ACTIVATIONS = ["gated-gelu", "gated-silu", "gated-relu"]


def config_of(activation: str) -> SwitchConfig:
    return SwitchConfig.from_dict({
        "model_type": "switch_transformers", "d_model": D, "d_ff": F, "num_experts": E,
        "num_layers": 2, "num_sparse_encoder_layers": 1, "num_heads": 2, "d_kv": 4,
        "vocab_size": 20, "dense_act_fn": activation,
    })


def matrices(seed: int, *leading: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """wi_0, wi_1 and wo as a checkpoint has them, apart."""
    random = np.random.default_rng(seed)
    return tuple(random.normal(size=(*leading, *shape)) for shape in ((F, D), (F, D), (D, F)))


def as_the_operator_has_it(wi_0, wi_1, wo) -> list[torch.Tensor]:
    """wi and wo: the rows of wi_0, then those of wi_1."""
    joined = np.concatenate((wi_0, wi_1), -2)
    return [torch.tensor(weight, dtype=torch.float32) for weight in (joined, wo)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_dense_module_computes_the_formula(activation):
    x, parts = np.random.default_rng(1).normal(size=(2, 5, D)), matrices(2)
    module = DenseMlp(config_of(activation), FP32)
    for name, weight in zip(("wi", "wo"), as_the_operator_has_it(*parts), strict=True):
        getattr(module, name).data.copy_(weight)
    y = module(torch.tensor(x, dtype=torch.float32))
    assert_close(y, reference.mlp(x, parts, activation))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_module_of_experts_computes_the_formula(activation):
    x, parts = np.random.default_rng(3).normal(size=(7, D)), matrices(4, E)
    expert, gate = np.array([0, 2, -1, 2, 0, 0, -1]), np.linspace(0.2, 1, 7)
    config = config_of(activation)
    module = Experts(config, Capacity("hf", config.expert_capacity), FP32)
    stacks = as_the_operator_has_it(*parts)
    module.load_expert = lambda index: tuple(stack[index] for stack in stacks)
    y = module(
        torch.tensor(x, dtype=torch.float32), torch.tensor(expert, dtype=torch.int32),
        torch.tensor(gate, dtype=torch.float32),
    )
    assert_close(y, reference.switch_moe(x, (expert, gate), parts, activation))


def attributes_and_shapes(activation: str) -> dict[str, tuple]:
    """Operator -> (activation, gated) of its node and shapes of its weights and scales."""
    config = config_of(activation)
    embeddings = dict.fromkeys(("encoder", "decoder", "head"), "shared.weight")
    capacity = Capacity("hf", config.expert_capacity)
    (plan,) = plan_graphs(config, capacity, "encoder", embeddings, INT8)
    found = {}
    for node in trace(plan).graph:
        if node.op_type in ("SwitchMLP", "SwitchMoE"):
            named = {name: attribute.value for name, attribute in node.attributes.items()}
            shapes = [tuple(value.shape) for value in node.inputs[-4:]]
            found[node.op_type] = named["activation"], named.get("gated"), shapes
    return found


def test_nodes_say_that_they_are_gated_and_weights_have_both_halves():
    dense = [(2 * F, D), (D, F), (2 * F,), (D,)]
    assert attributes_and_shapes("gated-gelu") == {
        "SwitchMLP": ("gelu_new", 1, dense),
        "SwitchMoE": ("gelu_new", 1, [(E, *shape) for shape in dense]),
    }


def test_nodes_of_other_models_say_nothing_of_it():
    assert {kind: found[:2] for kind, found in attributes_and_shapes("relu").items()} == {
        "SwitchMLP": ("relu", None), "SwitchMoE": ("relu", None),
    }
