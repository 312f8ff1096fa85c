"""PyTorch modules -> ONNX graphs whose weights are references into weights.bin."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from switch_export.config import SwitchConfig
from switch_export.errors import ExportError
from switch_export.model.attention import bucket_table
from switch_export.model.decoder import Decoder
from switch_export.model.encoder import Encoder
from switch_export.model.names import Stored, decoder_names, encoder_names
from switch_export.moe import bodies
from switch_export.moe.router import Capacity
from switch_plugins import spec

if TYPE_CHECKING:
    from switch_export.storage import WeightFile

#: The parameter of both graphs that is computed instead of read: RelativeBias.buckets.
BUCKETS = "position.buckets"


@dataclass(frozen=True)
class GraphPlan:
    """One graph to export: its module, sample inputs, tensor names and weights.

    Attributes:
        arguments: sample arguments of the module's forward (under fake tensors: no memory).
        inputs, outputs: tensor name -> shape, letters of docs/model-directory.md and numbers.
        names: parameter -> checkpoint weight.
        body: kind of the SwitchMoE function, see `moe.bodies`.
    """

    name: str
    module: torch.nn.Module
    arguments: tuple
    inputs: dict[str, tuple]
    outputs: dict[str, tuple]
    names: dict[str, Stored]
    buckets: Tensor
    body: str = "slots"


def plan_graphs(
    config: SwitchConfig,
    capacity: Capacity,
    task: str,
    embeddings: dict[str, str],
    target: str = "onnx",
) -> list[GraphPlan]:
    """Plan encoder.onnx and, unless the task is `encoder`, decoder.onnx.

    The modules hold fake tensors: nothing is allocated.
    """
    plans = [_plan_encoder(config, capacity, task, embeddings)]
    if task != "encoder":
        plans.append(_plan_decoder(config, capacity, task, embeddings))
    return [
        replace(plan, body=bodies.body_kind(target, config.activation, plan.name == "decoder"))
        for plan in plans
    ]


def _plan_encoder(
    config: SwitchConfig, capacity: Capacity, task: str, embeddings: dict[str, str]
) -> GraphPlan:
    with FakeTensorMode():
        module = Encoder(config, capacity, task).eval()
        # Two tensors: one passed twice would be traced as one input.
        arguments = tuple(torch.ones(2, 3, dtype=torch.long) for _ in range(2))
    heads, d_kv = config.num_heads, config.d_kv
    shapes = {
        "cross": ("B", heads, "S", d_kv), "last": ("B", "S", config.d_model),
        "expert": ("B", "S"), "gate": ("B", "S"),
    }
    return GraphPlan(
        name="encoder",
        module=module,
        arguments=arguments,
        inputs={"input_ids": ("B", "S"), "attention_mask": ("B", "S")},
        outputs=_with_shapes(module.output_names, shapes),
        names=encoder_names(config, embeddings, task),
        buckets=bucket_table(config.num_buckets, config.max_distance, bidirectional=True),
    )


def _plan_decoder(
    config: SwitchConfig, capacity: Capacity, task: str, embeddings: dict[str, str]
) -> GraphPlan:
    heads, d_kv, layers = config.num_heads, config.d_kv, config.num_decoder_layers
    with FakeTensorMode():
        module = Decoder(config, capacity, task).eval()

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
        module=module,
        arguments=arguments,
        inputs=inputs,
        outputs=_with_shapes(module.output_names, shapes),
        names=decoder_names(config, embeddings, task),
        buckets=bucket_table(config.num_buckets, config.max_distance, bidirectional=False),
    )


def _with_shapes(names: list[str], shapes: dict[str, tuple]) -> dict[str, tuple]:
    """Shape of each output by the first word of its name."""
    return {name: shapes[name.split("_")[0].split(".")[0]] for name in names}


def _dynamic(plan: GraphPlan) -> tuple:
    """The axes that the contract names by a letter, for torch.export."""
    letters = {
        letter: torch.export.Dim(letter)
        for shape in plan.inputs.values() for letter in shape if isinstance(letter, str)
    }
    axes = iter(
        {i: letters[letter] for i, letter in enumerate(shape) if isinstance(letter, str)}
        for shape in plan.inputs.values()
    )

    def of(argument):
        if isinstance(argument, list):
            return [(next(axes), next(axes)) for _ in argument]
        return next(axes)

    return tuple(of(argument) for argument in plan.arguments)


def trace(plan: GraphPlan) -> ir.Model:
    """Trace the module into an ONNX graph; its initializers have shapes but no data."""
    with plan.arguments[0].fake_mode, _quiet():
        exported = torch.export.export(
            plan.module, plan.arguments, dynamic_shapes=_dynamic(plan), strict=False
        )
        program = torch.onnx.export(
            exported, dynamo=True, optimize=False, verbose=False,
            input_names=list(plan.inputs), output_names=list(plan.outputs),
        )
    return program.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's notes about its own internals; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def save_graph(plan: GraphPlan, model: ir.Model, weights: "WeightFile", directory: Path) -> int:
    """Write DIRECTORY/NAME.onnx, its weights as references into `weights`.

    Returns:
        the number of nodes.
    """
    _attach(plan, model, weights)
    _name_axes(plan, model)
    proto = ir.to_proto(model)
    _strip(proto)
    nodes = {node.op_type: node for node in proto.graph.node}
    if spec.NAME in nodes:
        attributes = {a.name: a.s.decode() for a in nodes[spec.NAME].attribute}
        function = bodies.switch_moe_function(
            plan.body, attributes["activation"], attributes["dropped"]
        )
        known = {imported.domain for imported in proto.opset_import}
        new = [item for item in function.opset_import if item.domain not in known]
        proto.opset_import.extend(new)
        proto.functions.append(function)
    (directory / f"{plan.name}.onnx").write_bytes(proto.SerializeToString())
    return len(proto.graph.node)


def check_graph(plan: GraphPlan, directory: Path) -> None:
    """Check the written graph against the ONNX standard; its weights have to be written too."""
    onnx.checker.check_model(str(directory / f"{plan.name}.onnx"))


def _attach(plan: GraphPlan, model: ir.Model, weights: "WeightFile") -> None:
    """Give every initializer its place in the weight file, or its computed value."""
    unknown = []
    for name, value in model.graph.initializers.items():
        if name == BUCKETS:
            value.const_value = ir.tensor(plan.buckets.numpy(), name=name)
        elif name in plan.names:
            place = weights.place(plan.names[name])
            if tuple(value.shape) != place.shape:
                raise ExportError(
                    f"{name}: the graph has shape {tuple(value.shape)}, the weight "
                    f"{plan.names[name].name} has {place.shape}"
                )
            value.const_value = ir.ExternalTensor(
                weights.path.name, place.offset, place.bytes, ir.DataType.FLOAT,
                name=name, shape=ir.Shape(place.shape), base_dir=weights.path.parent,
            )
        else:
            unknown.append(name)
    missing = sorted(set(plan.names) - set(model.graph.initializers))
    if unknown or missing:
        raise ExportError(
            f"{plan.name} graph: initializers without a weight {unknown}, "
            f"weights without an initializer {missing}; this is a bug of switch-export"
        )


def _name_axes(plan: GraphPlan, model: ir.Model) -> None:
    """Name the axes of inputs and outputs by the contract's letters."""
    for values, shapes in ((model.graph.inputs, plan.inputs), (model.graph.outputs, plan.outputs)):
        if [value.name for value in values] != list(shapes):
            raise ExportError(
                f"{plan.name} graph: traced tensors {[value.name for value in values]} are not "
                f"{list(shapes)}; this is a bug of switch-export"
            )
        for value in values:
            value.shape = ir.Shape(shapes[value.name])


def _strip(proto: onnx.ModelProto) -> None:
    """Remove what only a debugger of torch would read, stack traces and paths among it."""
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]


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
