"""Checkpoints that config.json does not describe: what their tensors say instead.

Google's published switch-xxl-128 and switch-c-2048 are such: their MLPs are gated (xxl), their head
is a matrix of its own named decoder.lm_head.weight, and their config.json counts other blocks and
experts. transformers fills the difference with random weights. Here it is refused, or, when asked
for, repaired: every fact that a name or a shape states is taken from the tensors.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from switch_export.config import SwitchConfig
from switch_export.errors import UnsupportedCheckpoint, listing
from switch_export.readers import FLOATS, LazyTensor

if TYPE_CHECKING:
    from torch import Tensor

#: Released checkpoints whose repair is implied by their names.
MISDESCRIBED = ("switch-xxl-128", "switch-c-2048")
#: The head's name in checkpoints that the old converter of T5X's big models wrote.
OLD_HEAD, HEAD = "decoder.lm_head.weight", "lm_head.weight"
_BLOCK = re.compile(r"(encoder|decoder)\.block\.(\d+)\.")
_EXPERT = re.compile(r"(encoder|decoder)\.block\.(\d+)\..*\.mlp\.experts\.expert_(\d+)\.")
_GATE = re.compile(r"\.(mlp|expert_\d+)\.wi_0\.weight$")


@dataclass(frozen=True)
class Repair:
    """One fact of config.json that the tensors contradict."""

    field: str
    said: Any
    found: Any
    evidence: str

    def __str__(self) -> str:
        return f"{self.field}: {_text(self.said)} -> {_text(self.found)} ({self.evidence})"


def find_contradictions(config: SwitchConfig, tensors: dict[str, LazyTensor]) -> list[Repair]:
    """Compare a configuration with what the names of the tensors say.

    Only facts that a tensor states are compared: a stack that is not there says nothing.
    """
    repairs: list[Repair] = []

    def compare(field: str, found: Any, evidence: str) -> None:
        said = getattr(config, field)
        if said != found:
            repairs.append(Repair(field, said, found, evidence))

    experts: dict[str, set[int]] = {}
    numbers: set[int] = set()
    for match in filter(None, map(_EXPERT.match, tensors)):
        experts.setdefault(match[1], set()).add(int(match[2]))
        numbers.add(int(match[3]))
    for stack, field in (("encoder", "num_layers"), ("decoder", "num_decoder_layers")):
        found = {int(m[2]) for m in filter(None, map(_BLOCK.match, tensors)) if m[1] == stack}
        if found:
            compare(field, max(found) + 1, f"{stack}.block.{max(found)} is the last one")
            sparse = tuple(sorted(experts.get(stack, ())))
            compare(f"sparse_{stack}_layers", sparse, f"blocks of the {stack} that hold experts")
    if numbers:
        compare("num_experts", max(numbers) + 1, f"expert_{max(numbers)} is the last one")
    if any(map(_GATE.search, tensors)):
        compare("is_gated", True, "the MLPs have wi_0 and wi_1")
        # T5 and its descendants approximate the gelu of a gated MLP.
        if config.activation == "gelu":
            compare("activation", "gelu_new", "what T5 means by the gelu of a gated MLP")
    elif config.is_gated and any(name.endswith(".wi.weight") for name in tensors):
        compare("is_gated", False, "the MLPs have one matrix wi")
    if OLD_HEAD in tensors:
        compare("tie_word_embeddings", False, f"{OLD_HEAD} is a head of its own")
    return repairs


def check_described(
    config: SwitchConfig, tensors: dict[str, LazyTensor], name: str
) -> None:
    """Refuse what can be repaired but need not be what the user expects.

    Missing and unexpected tensors of an ordinary layout are listed elsewhere, one by one.

    Raises:
        UnsupportedCheckpoint: with every contradiction, and what to do.
    """
    if not (OLD_HEAD in tensors or any(map(_GATE.search, tensors))):
        return
    found = find_contradictions(config, tensors)
    if found:
        raise UnsupportedCheckpoint(listing(
            f"{name} cannot be exported as it is, config.json does not describe its tensors:",
            [str(repair) for repair in found],
            "transformers would fill the difference with random weights; --repair takes these "
            "facts from the tensors instead.",
        ))


def repaired(config: SwitchConfig, repairs: list[Repair]) -> SwitchConfig:
    """The configuration with the facts of the tensors."""
    return replace(config, **{repair.field: repair.found for repair in repairs})


def with_our_names(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors under transformers' names, the two input matrices of a gated MLP as one.

    `wi.weight` then has the rows of `wi_0.weight`, which are activated, and below them those of
    `wi_1.weight`. A half without another like it keeps its name, for the list of what is not used.
    """
    named = dict(tensors)
    if OLD_HEAD in named and HEAD not in named:
        named[HEAD] = replace(named.pop(OLD_HEAD), name=OLD_HEAD)
    for name in tensors:
        if not _GATE.search(name):
            continue
        halves = [tensors.get(name.replace("wi_0", half)) for half in ("wi_0", "wi_1")]
        if halves[1] is None or halves[0].shape != halves[1].shape:
            continue
        if not {half.dtype for half in halves} <= set(FLOATS):
            continue
        for half in ("wi_0", "wi_1"):
            del named[name.replace("wi_0", half)]
        named[name.replace("wi_0", "wi")] = _joined(*halves)
    return named


def _joined(first: LazyTensor, second: LazyTensor) -> LazyTensor:
    same = first.dtype == second.dtype
    rows = first.shape[0] + second.shape[0]
    return LazyTensor(
        f"{first.name} and {second.name.rpartition('.mlp.')[2]}", (rows, *first.shape[1:]),
        first.dtype if same else "float32", first.file, _reader(first, second, same),
    )


def _reader(first: LazyTensor, second: LazyTensor, same: bool) -> "Callable[[], Tensor]":
    def read() -> "Tensor":
        import torch

        halves = [half.read() for half in (first, second)]
        return torch.cat(halves if same else [half.to(torch.float32) for half in halves])

    return read


def _text(value: Any) -> str:
    """A value in a message: lists of blocks are long."""
    if isinstance(value, tuple):
        shown = ", ".join(map(str, value[:8])) + (", ..." if len(value) > 8 else "")
        return f"[{shown}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
