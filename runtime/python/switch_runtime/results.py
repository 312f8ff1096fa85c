"""What the calls of a model return."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy


@dataclass(frozen=True)
class Result:
    """One generated sequence.

    text: the decoded token ids; None where the model directory has no tokenizer.
    token_ids: what was generated, without start token, decoder_input_ids, end token and padding.
    score: sum of the log-probabilities of the generated tokens, the end token's included, divided
        by their number ** length_penalty (transformers' sequences_scores).
    eos: the end token that finished the sequence; None where it was cut at the length limit.
    """

    text: str | None
    token_ids: list[int]
    score: float
    eos: int | None

    @property
    def finished(self) -> bool:
        """Whether the model ended the sequence, not the length limit."""
        return self.eos is not None


@dataclass(frozen=True, eq=False)  # arrays have no one truth of equality
class Score:
    """How probable a target is.

    token_ids: the target.
    log_probabilities: float32 [target tokens], of each token given those before it.
    """

    token_ids: list[int]
    log_probabilities: "numpy.ndarray"

    @property
    def total(self) -> float:
        """The log-probability of the whole target."""
        return float(self.log_probabilities.sum(dtype="float64"))


class Route(NamedTuple):
    """Where one sparse layer sends each token."""

    expert: "numpy.ndarray"  # int32 [tokens]; -1: dropped for want of capacity
    gate: "numpy.ndarray"  # float32 [tokens], the router's probability of its choice
