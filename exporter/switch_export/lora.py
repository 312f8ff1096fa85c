"""PEFT LoRA adapters, merged into the tensors of their base model one by one as they are read.

    W + scale * B A        a matrix         W [out, in], A [r, in], B [out, r]
    W + scale * (B A)^T    an embedding     W [V, D],    A [r, V],  B [D, r]
    scale = alpha / r, or alpha / sqrt(r) with use_rslora

The sum is in float32 whatever the files hold, and so is what PEFT's merge_and_unload gives on a
model that was loaded in float32. `fan_in_fan_out` changes nothing: it is for transposed weights
(GPT-2's), and PEFT resets it for nn.Linear, which all matrices of this model are.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from switch_export.adapter import MERGE, Adapter, Found, refused, sort_tensors
from switch_export.errors import UnsupportedCheckpoint, listing
from switch_export.readers import FLOATS, LazyTensor

if TYPE_CHECKING:
    from torch import Tensor

_EMBEDDINGS = (
    "shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"
)


def merge(
    adapter: Adapter, tensors: dict[str, LazyTensor], *, tied: bool
) -> dict[str, LazyTensor]:
    """Lay an adapter over the tensors of its base model; nothing large is read yet.

    Args:
        tied: the model's tie_word_embeddings.

    Raises:
        UnsupportedCheckpoint: with every reason.
    """
    problems = refused(adapter.config)
    found = sort_tensors(adapter, problems)
    merged = _Merge(adapter.config, tensors, tied, problems)
    merged.add(found)
    if problems:
        raise UnsupportedCheckpoint(listing(f"{adapter.name} cannot be merged:", problems))
    return merged.tensors


@dataclass
class _Merge:
    """Lays tensors of an adapter over those of a model and remembers what does not fit.

    Embeddings of a tied model are one parameter with several names. PEFT trains an adapter of one
    name for that name alone, but merge_and_unload adds it to all: no pair is right both before and
    after. A module that is saved whole (modules_to_save) has its own weight in both cases, unless
    it is `shared`, which nothing reads but through the other names.
    """

    config: dict[str, Any]
    base: dict[str, LazyTensor]
    tied: bool
    problems: list[str]
    tensors: dict[str, LazyTensor] = field(init=False)

    def __post_init__(self):
        self.tensors = dict(self.base)

    def add(self, found: Found) -> None:
        """Lay all over: whole tensors first, an adapter may be of such a one."""
        for name, tensor in (found.loaded | found.saved).items():
            if self._fits(name, tensor):
                self._replace(name, tensor, own=name in found.saved)
        for module, pair in found.pairs.items():
            missing = {"A", "B"} - set(pair)
            if missing:
                key = next(iter(pair.values())).name
                self.problems.append(f"{key} has no lora_{missing.pop()} to multiply it with")
                continue
            readable = [self._readable(half) for half in pair.values()]
            if all(readable):
                self._add_pair(module, pair["A"], pair["B"], module in found.embeddings)

    def _readable(self, tensor: LazyTensor) -> bool:
        if tensor.dtype not in FLOATS:
            self.problems.append(
                f"{tensor.name} is {tensor.dtype}, expected one of {', '.join(FLOATS)}"
            )
            return False
        wrong = tensor.read().isfinite().logical_not().sum()
        if wrong:
            self.problems.append(f"{tensor.name} holds {int(wrong)} NaN or infinite values")
        return not wrong

    def _fits(self, name: str, tensor: LazyTensor) -> bool:
        """Whether a whole tensor may take the place of a weight."""
        shape = self._shape(name)
        shown = f"{tensor.name} {list(tensor.shape)}"
        if shape is None:
            what = "no weight"
            if name.endswith("bias"):
                what = "no weight: this model's layers have no biases"
            self.problems.append(f"{shown} matches {what} of the model")
        elif tensor.shape != shape:
            hint = "; the vocabulary was resized" if name in _EMBEDDINGS else ""
            self.problems.append(f"{shown} does not fit {name} {list(shape)}{hint}")
        return shape == tensor.shape and self._readable(tensor)

    def _shape(self, name: str) -> tuple[int, ...] | None:
        """Of a weight of the model; a tied one is there under any of its names."""
        if name not in self.base and self.tied and name in _EMBEDDINGS:
            name = next((other for other in _EMBEDDINGS if other in self.base), name)
        return self.base[name].shape if name in self.base else None

    def _replace(self, name: str, tensor: LazyTensor, own: bool) -> None:
        if self.tied and name in _EMBEDDINGS:
            first = next(other for other in _EMBEDDINGS if other in self.base)
            if not own or name == _EMBEDDINGS[0]:
                self._check_unchanged(tensor, self.base.get(name, self.base[first]))
                return
            for other in _EMBEDDINGS[1:]:
                self.tensors.setdefault(other, self.base[first])
        self.tensors[name] = replace(tensor, name=name)

    def _check_unchanged(self, tensor: LazyTensor, base: LazyTensor) -> None:
        """PEFT may save embeddings that it did not train."""
        import torch

        if not torch.equal(*(one.read().to(torch.float32) for one in (tensor, base))):
            self.problems.append(
                f"{tensor.name} is another embedding than the model's, and tie_word_embeddings "
                f"makes it one with the head: which of them it is for is not certain; {MERGE}"
            )

    def _add_pair(self, module: str, a: LazyTensor, b: LazyTensor, embedding: bool) -> None:
        name = f"{module}.weight"
        if self.tied and name in _EMBEDDINGS:
            self.problems.append(
                f"{a.name} is for one of the tied embeddings (tie_word_embeddings): PEFT computes "
                f"one model before merge_and_unload and another after it; {MERGE}"
            )
            return
        base = self.tensors.get(name)
        if base is None:
            self.problems.append(f"{a.name} and lora_B match no weight {name} of the model")
            return
        own = [stack for stack in _EMBEDDINGS[1:3] if stack in self.base]
        if name == _EMBEDDINGS[0] and own:
            self.problems.append(
                f"{a.name} is for {name}, which is not read: {' and '.join(own)} are there"
            )
            return
        rank, scale = self._scale(module)
        rows, columns = base.shape[::-1] if embedding else base.shape
        if (a.shape, b.shape) != ((rank, columns), (rows, rank)):
            self.problems.append(
                f"{a.name} {list(a.shape)} and lora_B {list(b.shape)} do not fit {name} "
                f"{list(base.shape)} and rank {rank}, expected {[rank, columns]} and {[rows, rank]}"
            )
            return
        self.tensors[name] = replace(
            base, dtype="float32" if base.dtype in FLOATS else base.dtype,
            file=f"{base.file} + {a.file}", read=_sum(base, a, b, scale, embedding),
        )

    def _scale(self, module: str) -> tuple[int, float]:
        """Rank and scale of a module."""
        rank = self._number("r", "rank_pattern", module, 8)
        alpha = self._number("lora_alpha", "alpha_pattern", module, 8)
        if type(rank) is not int or rank < 1:
            self._once(f"the rank (r, rank_pattern) is {rank!r}, expected an integer from 1 up")
            return 1, 0.0
        if type(alpha) not in (int, float) or not math.isfinite(alpha):
            self._once(f"lora_alpha or alpha_pattern is {alpha!r}, expected a number")
            return rank, 0.0
        return rank, alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _number(self, name: str, pattern: str, module: str, default: int) -> Any:
        """The first pattern that matches the end of the module's path wins, as in PEFT."""
        for key, value in (self.config.get(pattern) or {}).items():
            try:
                if re.match(rf"(.*\.)?({key})$", module):
                    return value
            except re.error as error:
                self._once(f"{pattern} has {key!r}, which is no regular expression: {error}")
        return self.config.get(name, default)

    def _once(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def _sum(
    base: LazyTensor, a: LazyTensor, b: LazyTensor, scale: float, embedding: bool
) -> "Callable[[], Tensor]":
    def read() -> "Tensor":
        import torch

        weight, first, second = (one.read().to(torch.float32) for one in (base, a, b))
        delta = second @ first
        return torch.add(weight, delta.T if embedding else delta, alpha=scale)

    return read
