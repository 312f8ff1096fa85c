"""One sparse layer alone: SwitchMoE against ONNX Runtime's com.microsoft.MoE and QMoE.

One-node models over the same weights, in onnxruntime's Python package, all sessions on one thread
pool. The weights are several sets of eight experts, together more than 4 times the last-level
cache, and a sweep touches all of them before it touches one again: every call reads from memory.
Routing is an input, and gates are 1, which MoE and QMoE give with normalize_routing_weights.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from switch_bench.engines import Absent
from switch_bench.phases import seconds_of
from switch_bench.traffic import Format

EXPERTS, D_MODEL, D_FF = 8, 768, 3072
ROTATION = 4  # times the last-level cache
_TOLERANCE = {"fp32": 1e-5, "int8": 5e-2}  # of the largest value; activations are quantised too
_SURE = 50.0  # router logit of the chosen expert, the others have 0


@dataclass(frozen=True)
class Kind:
    """One operator with one format of weights."""

    name: str
    operator: str
    form: Format

    @property
    def expert_bytes(self) -> float:
        """Bytes of one expert, scales included."""
        sizes = ((D_FF, D_MODEL), (D_MODEL, D_FF))
        return sum(self.form.weight(*size) + self.form.scales(*size) for size in sizes)


KINDS = (
    Kind("SwitchMoE fp32", "SwitchMoE", Format("fp32")),
    Kind("com.microsoft.MoE fp32", "MoE", Format("fp32")),
    Kind("SwitchMoE int8", "SwitchMoE", Format("int8")),
    Kind("SwitchMoE int8 block 32", "SwitchMoE", Format("int8", 32)),
    Kind("com.microsoft.QMoE int8 block 32", "QMoE", Format("int8", 32)),
)


def sets_needed(kind: Kind, cache: int) -> int:
    """Return how many sets of experts are more than 4 times a cache of so many bytes."""
    return int(ROTATION * cache / (EXPERTS * kind.expert_bytes)) + 1


def calls(tokens: int, sets: int) -> list[tuple[int, np.ndarray]]:
    """Return a sweep: (set, expert of each token) per call, every expert of every set touched."""
    generator = np.random.default_rng(tokens)
    sweep, left = [], {number: set(range(EXPERTS)) for number in range(sets)}
    while any(left.values()):
        for number in range(sets):
            pool = sorted(left[number]) if tokens == 1 and left[number] else range(EXPERTS)
            chosen = generator.choice(list(pool), tokens).astype(np.int32)
            left[number] -= set(chosen.tolist())
            sweep.append((number, chosen))
    return sweep


def sweep_bytes(kind: Kind, sweep: list[tuple[int, np.ndarray]]) -> float:
    """Return the weight bytes of one sweep: distinct experts of each call."""
    return sum(len(np.unique(chosen)) for _, chosen in sweep) * kind.expert_bytes


def weights(kind: Kind, number: int) -> dict[str, np.ndarray]:
    """Return wi [E, F, D] and wo [E, D, F] of a set: fp32, or int8 codes and their scales."""
    generator, made = np.random.default_rng(number), {}
    for name, outputs, inputs in (("wi", D_FF, D_MODEL), ("wo", D_MODEL, D_FF)):
        shape = (EXPERTS, outputs, inputs)
        if kind.form.precision == "fp32":
            made[name] = generator.standard_normal(shape, np.float32) * inputs**-0.5
            continue
        block = kind.form.block
        made[name] = generator.integers(-127, 128, shape, np.int8)
        grid = shape[:-1] + ((inputs // block,) if block else ())
        made[f"{name}_scale"] = generator.uniform(0.5, 1.5, grid).astype(np.float32)
        made[f"{name}_scale"] *= inputs**-0.5 / 73  # 73: deviation of the codes
    return made


def expected(kind: Kind, made: dict, x: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the layer's output by numpy, [T, D], with exact activations."""
    rows = []
    for token, expert in zip(x, chosen, strict=True):
        hidden = np.maximum(_dense(kind, made, "wi", expert) @ token, 0)
        rows.append(_dense(kind, made, "wo", expert) @ hidden)
    return np.stack(rows)


def _dense(kind: Kind, made: dict, name: str, expert: int) -> np.ndarray:
    weight = made[name][expert].astype(np.float32)
    if kind.form.precision == "fp32":
        return weight
    scale = made[f"{name}_scale"][expert]
    return weight * (np.repeat(scale, kind.form.block, -1) if kind.form.block else scale[:, None])


def _model(kind: Kind, made: dict, path: Path) -> None:
    """Write a model of one node; the weights beside it, where sessions map them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    ours = kind.operator == "SwitchMoE"
    names = list(made)  # fp32: wi, wo; else wi, wi_scale, wo, wo_scale
    if ours:
        inputs = ["x", "expert", "gate", "wi", "wo", *(n for n in names if n.endswith("_scale"))]
        attributes = {"activation": "relu", "block": kind.form.block}
    else:
        inputs = ["x", "logits", *(part for name in names for part in (
            [name, ""] if name.endswith("_scale") or kind.operator == "MoE" else [name]))]
        attributes = {"activation_type": "relu", "k": 1, "normalize_routing_weights": 1}
    if kind.operator == "QMoE":
        attributes |= {"expert_weight_bits": 8, "block_size": kind.form.block}
        made = {
            name: array if name.endswith("_scale") else array.view(np.uint8) ^ 0x80
            for name, array in made.items()
        }
    domain = "ai.switch" if ours else "com.microsoft"
    value = helper.make_tensor_value_info
    routing = (
        [value("expert", TensorProto.INT32, ["T"]), value("gate", TensorProto.FLOAT, ["T"])]
        if ours else [value("logits", TensorProto.FLOAT, ["T", EXPERTS])]
    )
    graph = helper.make_graph(
        [helper.make_node(kind.operator, inputs, ["y"], domain=domain, **attributes)], "layer",
        [value("x", TensorProto.FLOAT, ["T", D_MODEL]), *routing],
        [value("y", TensorProto.FLOAT, ["T", D_MODEL])],
        [numpy_helper.from_array(array, name) for name, array in made.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(domain, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    path.with_suffix(".bin").unlink(missing_ok=True)  # onnx would append to it
    onnx.save(model, path, save_as_external_data=True, location=path.with_suffix(".bin").name)


class Layer:
    """The sessions of one kind, one per set of experts; on one pool after `share_one_pool`."""

    def __init__(self, kind: Kind, sets: int, folder: Path, pooled: bool = True):
        self.kind, self.name, self.sets = kind, kind.name, sets
        folder.mkdir(parents=True, exist_ok=True)
        options = _options(kind.operator == "SwitchMoE", pooled)
        self.sessions = []
        for number in range(sets):
            path = folder / f"{kind.name.replace(' ', '-')}-{number}.onnx"
            if not path.exists() or not path.with_suffix(".bin").exists():
                _model(kind, weights(kind, number), path)
            self.sessions.append(_session(path, options))

    def bound(self, x: np.ndarray, number: int, chosen: np.ndarray) -> partial:
        """Return a call with its inputs and output bound, so that only the node is timed."""
        session = self.sessions[number]
        binding = session.io_binding()
        if self.kind.operator == "SwitchMoE":
            values = {"x": x, "expert": chosen, "gate": np.ones(len(x), np.float32)}
        else:
            values = {"x": x, "logits": _SURE * np.eye(EXPERTS, dtype=np.float32)[chosen]}
        for name, array in values.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output("y")
        session.run_with_iobinding(binding)
        self.last = binding.copy_outputs_to_cpu()[0]
        return partial(session.run_with_iobinding, binding)

    def check(self) -> float:
        """Return the error against numpy, relative to the largest value; raise when too large."""
        x = np.random.default_rng(7).standard_normal((5, D_MODEL), np.float32)
        chosen = np.array([0, 3, 3, 7, 1], np.int32)
        self.bound(x, 0, chosen)
        exact = expected(self.kind, weights(self.kind, 0), x, chosen)
        error = float(np.abs(self.last - exact).max() / np.abs(exact).max())
        if not error <= _TOLERANCE[self.kind.form.precision]:
            raise ValueError(f"{self.name} is wrong by {error:.1e}; no speed is given for it")
        return error


def _options(plugin: bool, pooled: bool):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = not pooled  # pools of idle sessions would spin in the way
    options.log_severity_level = 3
    if plugin:
        import switch_plugins

        try:
            switch_plugins.register(options)
        except FileNotFoundError as error:
            raise Absent(str(error).splitlines()[0]) from error
    return options


def _session(path: Path, options):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def share_one_pool(threads: int) -> None:
    """Give all sessions of this process one pool of `threads`; before the first session."""
    import onnxruntime

    onnxruntime.set_global_thread_pool_sizes(threads, 1)


def measure(layers: list[Layer], tokens: int, repeats: int, ceiling) -> dict[str, list[float]]:
    """Return the seconds per call of each sweep of each layer, the layers in turn."""
    x = np.random.default_rng(tokens).standard_normal((tokens, D_MODEL), np.float32)
    sweeps = {
        layer.name: [layer.bound(x, *call) for call in calls(tokens, layer.sets)]
        for layer in layers
    }
    taken: dict[str, list[float]] = {name: [] for name in sweeps}
    for _ in range(repeats):
        ceiling.probe()
        for name, sweep in sweeps.items():
            seconds = seconds_of(lambda s=sweep: [call() for call in s])
            taken[name].append(seconds / len(sweep))
    ceiling.probe()
    return taken
