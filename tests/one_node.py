"""One `ai.switch` node and its function body, run by ONNX Runtime without our library."""

from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from operator_reference import Weight

from switch_export import bodies
from switch_export.bodies.text import Form
from switch_export.quantize import Precision
from switch_plugins import spec

HEADS, D_KV, MAX_DISTANCE = 3, 4, 5
_TYPES = {
    "float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32,
}


def run(
    operator: str, inputs: list, attributes: dict | None = None, experts: str = "slots"
) -> list[np.ndarray]:
    """Run one node.

    Args:
        inputs: in the operator's order; float64 arrays are fed as float32, a Weight is an
            initializer in the stored type, as in an exported file.
        experts: kind of SwitchMoE's body.

    Returns:
        every output.
    """
    weights = [value for value in inputs if isinstance(value, Weight)]
    first = weights[0] if weights else Weight("fp32", 0, np.empty(0))
    attributes = dict(attributes or {})
    if weights:
        attributes["block"] = first.block
    form = Form(Precision(first.precision, first.block), HEADS, D_KV, MAX_DISTANCE, experts)
    feeds, initializers = _split(operator, inputs)
    names = [tensor.name for tensor in spec.OPERATORS[operator].outputs]
    model = _model(operator, attributes, form, inputs)
    model.graph.initializer.extend(initializers)
    described = [
        helper.make_tensor_value_info(name, _TYPES[array.dtype.name], [None] * array.ndim)
        for name, array in feeds.items()
    ]
    model.graph.input.extend(described)
    onnx.checker.check_model(model)
    return _session(model.SerializeToString()).run(names, feeds)


def _split(operator: str, inputs: list) -> tuple[dict[str, np.ndarray], list[TensorProto]]:
    """What is fed, and what is an initializer."""
    feeds, initializers = {}, []
    for tensor, value in zip(spec.OPERATORS[operator].inputs, inputs, strict=False):
        if not isinstance(value, Weight):
            array = np.asarray(value)
            feeds[tensor.name] = array.astype(np.float32) if array.dtype == np.float64 else array
            continue
        made = numpy_helper.from_array(value.values, tensor.name)
        if value.precision == "bf16":  # numpy has no such type: these are its bits
            made.data_type = TensorProto.BFLOAT16
        initializers.append(made)
        if value.is_quantised:
            name = f"{tensor.name}_scale".removeprefix("weight_")
            initializers.append(numpy_helper.from_array(value.scale, name))
    return feeds, initializers


def _model(operator: str, attributes: dict, form: Form, inputs: list) -> onnx.ModelProto:
    """The graph, without inputs and initializers."""
    rank = np.ndim(inputs[0])  # of outputs [..., D]
    scales = sum(isinstance(value, Weight) and value.is_quantised for value in inputs)
    function = bodies.function(operator, attributes, len(inputs) + scales, form)
    node = helper.make_node(
        operator, list(function.input), list(function.output), domain=spec.DOMAIN,
        **attributes,
    )
    outputs = [
        helper.make_tensor_value_info(
            tensor.name, _TYPES[tensor.types[0]],
            [None] * (rank if "..." in tensor.shape else len(tensor.shape)),
        )
        for tensor in spec.OPERATORS[operator].outputs
    ]
    return helper.make_model(
        helper.make_graph([node], "one", [], outputs), ir_version=10, functions=[function],
        opset_imports=[*function.opset_import, helper.make_opsetid(spec.DOMAIN, spec.VERSION)],
    )


@cache
def _session(model: bytes):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
