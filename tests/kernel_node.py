"""One `ai.switch` node without a function body, run by the kernels of our library.

Where the library did not bring an operator, the model does not load.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from operator_reference import Weight

from switch_plugins import register, spec

_TYPES = {name: getattr(TensorProto, name.upper()) for name in ("int64", "int32", "uint8", "int8")}
_TYPES |= {"float32": TensorProto.FLOAT, "float64": TensorProto.FLOAT}


def run(operator: str, inputs: list, attributes: dict | None = None, threads: int = 2) -> list:
    """Run one node; arguments as `load`. Gives every output."""
    session, feeds = load(operator, inputs, attributes, threads)
    return session.run(None, feeds)


def load(
    operator: str, inputs: list, attributes: dict | None = None, threads: int = 2, *,
    any_rank: bool = False,
) -> tuple:
    """Make a session of one node.

    Args:
        inputs: in the operator's order; None is an absent one, a Weight becomes an initializer in
            its stored type and float64 arrays are fed as float32.
        any_rank: take inputs of any number of axes.

    Returns:
        the session, and what to feed.
    """
    import onnxruntime

    tensors = spec.OPERATORS[operator].inputs
    feeds, initializers, names, scales = {}, [], [], []
    attributes = dict(attributes or {})
    for tensor, value in zip(tensors, inputs, strict=False):
        names.append("" if value is None else tensor.name)
        if isinstance(value, Weight):
            attributes.setdefault("block", value.block)
            initializers.append(_stored(value, tensor.name))
            if value.scale is not None:
                scales.append(f"{tensor.name}_scale")
                initializers.append(numpy_helper.from_array(value.scale, scales[-1]))
        elif value is not None:
            array = np.asarray(value)
            feeds[tensor.name] = array.astype(np.float32) if array.dtype == np.float64 else array
    names += [""] * (len(tensors) - len(names) if scales else 0) + scales
    outputs = spec.OPERATORS[operator].outputs
    node = helper.make_node(
        operator, names, [output.name for output in outputs], domain=spec.DOMAIN, **attributes
    )
    graph = helper.make_graph(
        [node], "one",
        [_info(name, array, any_rank) for name, array in feeds.items()],
        [helper.make_tensor_value_info(out.name, _TYPES[out.types[0]], None) for out in outputs],
        initializers,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(spec.DOMAIN, spec.VERSION)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    register(options)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session, feeds


def _info(name: str, array: np.ndarray, any_rank: bool) -> onnx.ValueInfoProto:
    axes = None if any_rank else [None] * array.ndim
    return helper.make_tensor_value_info(name, _TYPES[array.dtype.name], axes)


def _stored(weight: Weight, name: str) -> TensorProto:
    made = numpy_helper.from_array(weight.values, name)
    if weight.precision == "bf16":  # numpy has no such type: these are its bits
        made.data_type = TensorProto.BFLOAT16
    return made
