"""ONNX Runtime against PyTorch: both graphs, a ragged batch, some decoder steps.

The PyTorch side reads the checkpoint, not weights.bin: a weight in the wrong place shows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from switch_export import streaming
from switch_export.config import SwitchConfig
from switch_export.errors import VerificationFailed
from switch_export.graph import GraphPlan

if TYPE_CHECKING:
    from switch_export.weights import Weight

#: Largest difference allowed, relative to the largest magnitude of the tensor.
TOLERANCE = 5e-4
#: Two experts whose probabilities are this close may swap places between engines.
TIE = 1e-5
LENGTHS = (12, 3, 7)
BEAMS = 2
#: Tokens per decoder call: two single steps, then several at once.
CALLS = (1, 1, 3)
CACHE = 4
ATTEMPTS = 3


class _NearTie(Exception):
    """The engines chose different experts of practically equal probability."""


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
    weights: "dict[str, Weight]",
    config: SwitchConfig,
    progress: Callable[[int, int], None],
) -> tuple[float, str | None]:
    """Compare the written graphs with the checkpoint.

    Returns:
        the largest error relative to its tensor's largest magnitude, and that tensor's name.

    Raises:
        VerificationFailed: naming every tensor that differs, the worst first.
    """
    modules = {plan.name: streaming.attach(plan, weights) for plan in plans}
    sessions = {plan.name: _session(directory / f"{plan.name}.onnx") for plan in plans}
    for attempt in range(ATTEMPTS):
        try:
            comparison = _compare(plans, modules, sessions, config, attempt, progress)
            break
        except _NearTie as tie:
            if attempt == ATTEMPTS - 1:
                raise VerificationFailed(str(tie)) from None
    if comparison.failures:
        raise VerificationFailed(
            "the exported graphs differ from the checkpoint, nothing was written:\n"
            + "\n".join(comparison.failures)
        )
    return comparison.worst, comparison.tensor


def _session(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Weights stay in the mapped file: verification must fit beside a model of any size.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _compare(plans, modules, sessions, config, seed, progress) -> _Comparison:
    comparison = _Comparison()
    steps = 1 + (len(CALLS) if len(plans) > 1 else 0)
    generator = np.random.default_rng(seed)
    ids = np.zeros((len(LENGTHS), max(LENGTHS)), np.int64) + config.pad_id
    mask = np.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = generator.integers(0, config.vocab_size, length)
        mask[row, :length] = 1
    feeds = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        expected = modules["encoder"](torch.from_numpy(ids), torch.from_numpy(mask))
    encoded = _check(plans[0], sessions["encoder"], feeds, expected, comparison)
    progress(1, steps)
    if len(plans) > 1:
        cross = {name: value for name, value in encoded.items() if name.startswith("cross")}
        decoder = _Decoder(plans[1], modules["decoder"], sessions["decoder"], config, mask, cross)
        tokens = np.full((len(LENGTHS) * BEAMS, 1), config.decoder_start_id, np.int64)
        for i, count in enumerate(CALLS):
            if i:
                shape = (len(LENGTHS) * BEAMS, count)
                tokens = generator.integers(0, config.vocab_size, shape)
            decoder.step(tokens, comparison)
            progress(2 + i, steps)
    return comparison


class _Decoder:
    """Feeds both engines the same tokens and caches, step after step."""

    def __init__(self, plan, module, session, config, mask, cross):
        self.plan, self.module, self.session = plan, module, session
        self.layers, self.mask, self.cross = config.num_decoder_layers, mask, cross
        shape = (len(LENGTHS) * BEAMS, config.num_heads, CACHE, config.d_kv)
        names = [f"self_{part}.{i}" for i in range(self.layers) for part in ("key", "value")]
        self.cache = {name: np.zeros(shape, np.float32) for name in names}
        self.position = 0

    def step(self, tokens: np.ndarray, comparison: _Comparison) -> None:
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

        with torch.no_grad():
            expected = self.module(
                tensors["input_ids"], tensors["position"], tensors["attention_mask"],
                pairs("self"), pairs("cross"),
            )
        outputs = _check(self.plan, self.session, feeds, expected, comparison)
        end = self.position + tokens.shape[1]
        for name, cached in self.cache.items():
            if end <= CACHE:
                cached[:, :, self.position : end] = outputs[name.replace("self", "new")]
        self.position = end


def _check(plan, session, feeds, expected, comparison) -> dict[str, np.ndarray]:
    """Run one graph and compare every output; gives PyTorch's outputs by name."""
    found = dict(zip(plan.outputs, session.run(list(plan.outputs), feeds), strict=True))
    expected = {
        name: tensor.numpy() for name, tensor in zip(plan.outputs, expected, strict=True)
    }
    for name in plan.outputs:
        if name.startswith("expert"):
            _check_routes(name, found, expected, comparison)
    for name in plan.outputs:
        if not name.startswith("expert"):
            comparison.add(f"{plan.name} {name}", found[name], expected[name])
    return expected


def _check_routes(name, found, expected, comparison) -> None:
    differ = found[name] != expected[name]
    if not differ.any():
        return
    gate = name.replace("expert", "gate")
    gap = np.abs(found[gate] - expected[gate])[differ].max()
    text = f"  - {name}: {int(differ.sum())} of {differ.size} tokens went to another expert"
    if gap < TIE:
        raise _NearTie(text)
    comparison.failures.append(text)
    comparison.worst, comparison.tensor = float("inf"), name
