"""The graphs to export: modules under fake tensors, tensor names, and the weights behind them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from switch_export.config import SwitchConfig
from switch_export.model.attention import bucket_table
from switch_export.model.decoder import Decoder
from switch_export.model.encoder import Encoder
from switch_export.model.names import Stored, decoder_names, encoder_names
from switch_export.moe.router import Capacity
from switch_export.quantize import Precision

#: The parameter of both graphs that is computed instead of read: PositionBias.buckets.
BUCKETS = "position.buckets"


@dataclass(frozen=True)
class GraphPlan:
    """One graph to export: its module, sample inputs, tensor names and weights.

    Attributes:
        arguments: sample arguments of the module's forward (under fake tensors: no memory).
        inputs, outputs: tensor name -> shape, letters of docs/model-directory.md and numbers.
        names: parameter -> what weights.bin holds of it.
    """

    name: str
    config: SwitchConfig
    precision: Precision
    module: torch.nn.Module
    arguments: tuple
    inputs: dict[str, tuple]
    outputs: dict[str, tuple]
    names: dict[str, Stored]
    buckets: Tensor


def plan_graphs(
    config: SwitchConfig,
    capacity: Capacity,
    task: str,
    embeddings: dict[str, str],
    precision: Precision,
) -> list[GraphPlan]:
    """Plan encoder.onnx and, unless the task is `encoder`, decoder.onnx.

    The modules hold fake tensors: nothing is allocated.
    """
    plans = [_plan_encoder(config, capacity, task, embeddings, precision)]
    if task != "encoder":
        plans.append(_plan_decoder(config, capacity, task, embeddings, precision))
    return plans


def _plan_encoder(
    config: SwitchConfig,
    capacity: Capacity,
    task: str,
    embeddings: dict[str, str],
    precision: Precision,
) -> GraphPlan:
    with FakeTensorMode():
        module = Encoder(config, capacity, task, precision).eval()
        # Two tensors: one passed twice would be traced as one input.
        arguments = tuple(torch.ones(2, 3, dtype=torch.long) for _ in range(2))
    heads, d_kv = config.num_heads, config.d_kv
    shapes = {
        "cross": ("B", heads, "S", d_kv), "last": ("B", "S", config.d_model),
        "expert": ("B", "S"), "gate": ("B", "S"),
    }
    return GraphPlan(
        name="encoder",
        config=config,
        precision=precision,
        module=module,
        arguments=arguments,
        inputs={"input_ids": ("B", "S"), "attention_mask": ("B", "S")},
        outputs=_with_shapes(module.output_names, shapes),
        names=encoder_names(config, embeddings, task, precision),
        buckets=bucket_table(config.num_buckets, config.max_distance, bidirectional=True),
    )


def _plan_decoder(
    config: SwitchConfig,
    capacity: Capacity,
    task: str,
    embeddings: dict[str, str],
    precision: Precision,
) -> GraphPlan:
    heads, d_kv, layers = config.num_heads, config.d_kv, config.num_decoder_layers
    with FakeTensorMode():
        module = Decoder(config, capacity, task, precision).eval()

        def caches(rows: int, length: int) -> list[tuple[Tensor, Tensor]]:
            size = (rows, heads, length, d_kv)
            return [(torch.zeros(size), torch.zeros(size)) for _ in range(layers)]

        arguments = (
            torch.ones(6, 4, dtype=torch.long), torch.ones((), dtype=torch.long),
            torch.ones(2, 3, dtype=torch.long), caches(6, 5), caches(2, 3),
        )
    self_shape, cross_shape = ("R", heads, "C", d_kv), ("B", heads, "S", d_kv)
    inputs = {"input_ids": ("R", "T"), "position": (), "attention_mask": ("B", "S")}
    for kind, shape in (("self", self_shape), ("cross", cross_shape)):
        inputs |= {f"{kind}_{part}.{i}": shape for i in range(layers) for part in ("key", "value")}
    shapes = {
        "logits": ("R", "T", config.vocab_size), "last": ("R", "T", config.d_model),
        "new": ("R", heads, "T", d_kv), "expert": ("R", "T"), "gate": ("R", "T"),
    }
    return GraphPlan(
        name="decoder",
        config=config,
        precision=precision,
        module=module,
        arguments=arguments,
        inputs=inputs,
        outputs=_with_shapes(module.output_names, shapes),
        names=decoder_names(config, embeddings, task, precision),
        buckets=bucket_table(config.num_buckets, config.max_distance, bidirectional=False),
    )


def _with_shapes(names: list[str], shapes: dict[str, tuple]) -> dict[str, tuple]:
    """Shape of each output by the first word of its name."""
    return {name: shapes[name.split("_")[0].split(".")[0]] for name in names}


def describe_graph(plan: GraphPlan) -> dict:
    """The `graphs` entry of switch.json."""
    integers = ("input_ids", "attention_mask", "position")

    def tensor(name: str, shape: tuple) -> dict:
        kind = "int64" if name in integers else "int32" if name.startswith("expert") else "float32"
        return {"name": name, "type": kind, "shape": list(shape)}

    return {
        "file": f"{plan.name}.onnx",
        "inputs": [tensor(*item) for item in plan.inputs.items()],
        "outputs": [tensor(*item) for item in plan.outputs.items()],
    }
