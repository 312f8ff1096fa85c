"""PyTorch modules -> ONNX graphs whose weights are references into weights.bin."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import torch

from switch_export import bodies
from switch_export.bodies.moe import body_kind
from switch_export.bodies.text import Form
from switch_export.errors import ExportError
from switch_export.plan import BUCKETS, GraphPlan
from switch_plugins import spec

if TYPE_CHECKING:
    from switch_export.storage import WeightFile

_TYPES = {
    "float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16, "int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8,
}


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


def save_graph(
    plan: GraphPlan, model: ir.Model, weights: "WeightFile", target: str
) -> int:
    """Write NAME.onnx beside `weights`, its weights as references into those.

    Returns:
        the number of nodes.
    """
    _attach(plan, model, weights)
    _name_axes(plan, model)
    proto = ir.to_proto(model)
    _strip(proto)
    _forget_unused(proto)
    _add_functions(proto, _form(plan, target))
    (weights.path.parent / f"{plan.name}.onnx").write_bytes(proto.SerializeToString())
    return len(proto.graph.node)


def _form(plan: GraphPlan, target: str) -> Form:
    config = plan.config
    kind = body_kind(target, config, plan.precision, plan.name == "decoder")
    return Form(plan.precision, config.num_heads, config.d_kv, config.max_distance, kind)


def _forget_unused(proto: onnx.ModelProto) -> None:
    """Take the names from outputs that nothing reads: the last residual sum of a stack."""
    read = {value.name for value in proto.graph.output}
    read |= {name for node in proto.graph.node for name in node.input}
    for node in proto.graph.node:
        if node.domain == spec.DOMAIN:
            node.output[:] = [name if name in read else "" for name in node.output]


def _add_functions(proto: onnx.ModelProto, form: Form) -> None:
    """Add the function of every operator that the graph uses."""
    used: dict[str, tuple[dict, int]] = {}
    for node in proto.graph.node:
        if node.domain != spec.DOMAIN:
            continue
        found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        found = {name: v.decode() if isinstance(v, bytes) else v for name, v in found.items()}
        if used.setdefault(node.op_type, (found, len(node.input))) != (found, len(node.input)):
            raise ExportError(
                f"{node.op_type}: one function cannot serve nodes with {found} and with "
                f"{used[node.op_type][0]}; this is a bug of switch-export"
            )
    known = {imported.domain for imported in proto.opset_import}
    for operator, (attributes, inputs) in used.items():
        function = bodies.function(operator, attributes, inputs, form)
        new = [item for item in function.opset_import if item.domain not in known]
        known |= {item.domain for item in new}
        proto.opset_import.extend(new)
        proto.functions.append(function)


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
                    f"{', '.join(plan.names[name].weights)} has {place.shape}"
                )
            value.const_value = ir.ExternalTensor(
                weights.path.name, place.offset, place.bytes, _TYPES[place.type],
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
