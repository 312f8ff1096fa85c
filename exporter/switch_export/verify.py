"""ONNX Runtime against PyTorch: both graphs, a ragged batch, some decoder steps.

The PyTorch side reads the checkpoint, not weights.bin: a weight in the wrong place shows.

Quantised weights are compared without the rounding of tokens, on both sides. Two engines differ in
the last place of a sum. Where that moves a value over the middle between two codes the code differs
by one, 1/127 of the token's peak, and some layers later such steps are everywhere: the outputs then
differ as much as rounding itself costs, and a wrong scale could hide among them (measured with 24
random layers of switch-base-8's size: 22 %). Without rounding they agree as those of fp32 do. That
a body rounds as it should is for the tests of bodies.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from switch_export import quantisation, streaming
from switch_export.errors import VerificationFailed
from switch_export.plan import GraphPlan

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from switch_export.config import SwitchConfig
    from switch_export.weights import Weight

#: Largest difference allowed, relative to the largest magnitude of the tensor.
TOLERANCE = 5e-4
#: Two experts whose probabilities are this close may swap places between engines: PyTorch follows.
TIE = 1e-5
LENGTHS = (12, 3, 7)
BEAMS = 2
#: Tokens per decoder call: two single steps, then several at once.
CALLS = (1, 1, 3)
CACHE = 4
ATTEMPTS = 3


class _NearTie(Exception):
    """A choice between practically equal experts decided who was dropped after it."""


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        error: the largest, relative to its tensor's largest magnitude.
        tensor: its name.
        quantisation: relative error of the output of every block, `encoder.0` ..., that comes from
            how the weights are stored; None where they are stored as they are.
    """

    error: float
    tensor: str | None
    quantisation: dict[str, float] | None


@dataclass
class _Comparison:
    worst: float = 0.0
    tensor: str | None = None
    failures: list[str] = field(default_factory=list)

    def add(self, name: str, found: np.ndarray, expected: np.ndarray) -> None:
        scale = max(float(np.abs(expected).max()), 1e-6)
        difference = np.abs(found.astype(np.float64) - expected)
        error = float(difference.max()) / scale if np.isfinite(found).all() else float("inf")
        if self.tensor is None or error > self.worst:
            self.worst, self.tensor = error, name
        if not error <= TOLERANCE:
            self.failures.append(f"  - {name}: relative error {error:.3g}, allowed {TOLERANCE:g}")


def verify(
    directory: Path,
    plans: list[GraphPlan],
    loss: tuple[list[GraphPlan], list[GraphPlan]] | None,
    weights: "dict[str, Weight]",
    progress: Callable[[int, int], None],
) -> Verification:
    """Compare the written graphs with the checkpoint.

    Args:
        plans: the graphs, with a precision that does not round tokens.
        loss: the same as written and in fp32, where the difference is to be told.

    Raises:
        VerificationFailed: naming every tensor that differs, the worst first.
    """
    modules = {plan.name: streaming.attach(plan, weights) for plan in plans}
    sessions = {plan.name: _session(directory / f"{plan.name}.onnx") for plan in plans}
    steps = 1 + (len(CALLS) if len(plans) > 1 else 0) + (len(plans) if loss else 0)
    done = 0

    def advance() -> None:
        nonlocal done
        done = min(done + 1, steps)  # an attempt may be repeated
        progress(done, steps)

    for attempt in range(ATTEMPTS):
        try:
            comparison = _compare(plans, modules, sessions, attempt, advance)
            break
        except _NearTie as tie:
            if attempt == ATTEMPTS - 1:
                raise VerificationFailed(str(tie)) from None
    if comparison.failures:
        raise VerificationFailed(
            "the exported graphs differ from the checkpoint, nothing was written:\n"
            + "\n".join(comparison.failures)
        )
    lost = None
    if loss:
        stored, exact = (
            {plan.name: streaming.attach(plan, weights) for plan in side} for side in loss
        )
        batch = draw_batch(plans[0].config, 0)
        lost = quantisation.errors_by_block(stored, exact, batch, advance)
    return Verification(comparison.worst, comparison.tensor, lost)


def _session(path: Path) -> "onnxruntime.InferenceSession":
    """A session of the graph in which no token is rounded."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Weights stay in the mapped file: verification must fit beside a model of any size.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.parent)
    )
    options.enable_cpu_mem_arena = False
    model = onnx.load(path, load_external_data=False)
    for function in model.functions:
        _pass_rounding(function.node)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"],
        # It would decode every weight outside the experts into memory at once.
        disabled_optimizers=["ConstantFolding"],
    )


def _pass_rounding(nodes: "Iterable[onnx.NodeProto]") -> None:
    for node in nodes:
        if node.op_type == "Round":
            node.op_type = "Identity"
        for attribute in node.attribute:
            _pass_rounding(attribute.g.node)


def draw_batch(config: "SwitchConfig", seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random token ids and their mask, [B, S] each, of LENGTHS tokens a row."""
    generator = np.random.default_rng(seed)
    ids = np.full((len(LENGTHS), max(LENGTHS)), config.pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = generator.integers(0, config.vocab_size, length)
        mask[row, :length] = 1
    return ids, mask


def _compare(plans, modules, sessions, seed, advance) -> _Comparison:
    config, comparison = plans[0].config, _Comparison()
    ids, mask = draw_batch(config, seed)
    feeds = {"input_ids": ids, "attention_mask": mask}
    arguments = torch.from_numpy(ids), torch.from_numpy(mask)
    encoder = _Side(plans[0], modules["encoder"], sessions["encoder"], comparison)
    encoded = encoder.check(feeds, arguments)
    advance()
    if len(plans) > 1:
        cross = {name: value for name, value in encoded.items() if name.startswith("cross")}
        side = _Side(plans[1], modules["decoder"], sessions["decoder"], comparison)
        decoder = _Decoder(side, mask, cross)
        generator = np.random.default_rng([seed, 1])
        tokens = np.full((len(LENGTHS) * BEAMS, 1), config.decoder_start_id, np.int64)
        for i, count in enumerate(CALLS):
            if i:
                shape = (len(LENGTHS) * BEAMS, count)
                tokens = generator.integers(0, config.vocab_size, shape)
            decoder.step(tokens)
            advance()
    return comparison


class _Decoder:
    """Feeds both engines the same tokens and caches, step after step."""

    def __init__(self, side: "_Side", mask: np.ndarray, cross: dict[str, np.ndarray]):
        config = side.plan.config
        self.side, self.mask, self.cross = side, mask, cross
        self.layers = config.num_decoder_layers
        shape = (len(LENGTHS) * BEAMS, config.num_heads, CACHE, config.d_kv)
        names = [f"self_{part}.{i}" for i in range(self.layers) for part in ("key", "value")]
        self.cache = {name: np.zeros(shape, np.float32) for name in names}
        self.position = 0

    def step(self, tokens: np.ndarray) -> None:
        feeds = {
            "input_ids": tokens, "position": np.array(self.position, np.int64),
            "attention_mask": self.mask, **self.cache, **self.cross,
        }
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}

        def pairs(kind):
            return [
                (tensors[f"{kind}_key.{i}"], tensors[f"{kind}_value.{i}"])
                for i in range(self.layers)
            ]

        first = (tensors[name] for name in ("input_ids", "position", "attention_mask"))
        outputs = self.side.check(feeds, (*first, pairs("self"), pairs("cross")))
        end = self.position + tokens.shape[1]
        for name, cached in self.cache.items():
            if end <= CACHE:
                cached[:, :, self.position : end] = outputs[name.replace("self", "new")]
        self.position = end


@dataclass
class _Side:
    """One graph in both engines."""

    plan: GraphPlan
    module: torch.nn.Module
    session: "onnxruntime.InferenceSession"
    comparison: _Comparison

    def check(self, feeds: dict[str, np.ndarray], arguments: tuple) -> dict[str, np.ndarray]:
        """Run both and compare every output; gives PyTorch's by name."""
        names = list(self.plan.outputs)
        found = dict(zip(names, self.session.run(names, feeds), strict=True))
        with _following(self.module, found) as gaps, torch.no_grad():
            tensors = self.module(*arguments)
        expected = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        for name in names:
            if name in gaps:
                self._check_routes(name, found[name] != expected[name], gaps[name])
            else:
                self.comparison.add(f"{self.plan.name} {name}", found[name], expected[name])
        return expected

    def _check_routes(self, name: str, differ: np.ndarray, gap: float) -> None:
        """`gap`: how much less probable than the best an expert is that ONNX Runtime chose."""
        if gap <= TIE:
            if not differ.any():
                return
            if gap > 0:
                raise _NearTie(f"  - {name}: {int(differ.sum())} tokens differ after a near tie")
        self.comparison.failures.append(
            f"  - {self.plan.name} {name}: ONNX Runtime chose an expert that is {gap:.3g} less "
            f"probable than the best, allowed {TIE:g}; "
            f"{int(differ.sum())} of {differ.size} tokens are dropped where they should not be, "
            "or the reverse"
        )
        self.comparison.worst, self.comparison.tensor = float("inf"), name


@contextlib.contextmanager
def _following(module: torch.nn.Module, found: dict[str, np.ndarray]) -> Iterator[dict]:
    """Let routers choose as ONNX Runtime did.

    A token that goes to another expert of nearly the same probability changes everything after it,
    though nothing is wrong.

    Yields:
        `expert.i` -> how much less probable than the best a choice was, at most; filled by a run.
    """
    gaps: dict[str, float] = {}

    def choose_as(name: str, probabilities: torch.Tensor) -> torch.Tensor:
        engine = torch.from_numpy(found[name]).long()
        best, own = probabilities.max(-1)
        # Of a token that was dropped only its expert's queue is known to be full.
        expert = torch.where(engine >= 0, engine.clamp(max=probabilities.shape[-1] - 1), own)
        chosen = probabilities.gather(-1, expert[..., None])[..., 0]
        gaps[name] = float((best - chosen).max())
        return expert

    routers = {
        f"expert.{i}": block.mlp.router
        for i, block in enumerate(module.blocks) if block.mlp.is_sparse
    }
    for name, router in routers.items():
        router.choose = functools.partial(choose_as, name)
    try:
        yield gaps
    finally:
        for router in routers.values():
            router.choose = None
