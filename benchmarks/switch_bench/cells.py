"""One cell of the suite and the inputs it is timed with."""

from dataclasses import dataclass

import numpy as np

Rows = list[list[int]]
_FIRST_WORD = 3  # ids below are padding, end and unknown
_END = 1


@dataclass(frozen=True)
class Cell:
    """`batch` sources of `source` tokens, decoded to exactly `new` tokens with `beams` beams."""

    batch: int
    beams: int
    source: int
    new: int

    def __str__(self) -> str:
        return f"b{self.batch} beams {self.beams} source {self.source} new {self.new}"


def sources(cell: Cell, vocabulary: int, repeat: int) -> Rows:
    """Return random ids, others in every row and every repeat, so that routing rotates."""
    seed = (cell.batch, cell.source, repeat)
    rows = np.random.default_rng(seed).integers(
        _FIRST_WORD, vocabulary, (cell.batch, cell.source - 1)
    )
    return [[*row, _END] for row in rows.tolist()]


def batches(cell: Cell, vocabulary: int, repeats: int) -> list[Rows]:
    """Return the inputs of each repeat."""
    return [sources(cell, vocabulary, repeat) for repeat in range(repeats)]
