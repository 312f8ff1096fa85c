"""Which experts a decoding touched, by routing what it generated once more."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Routing:
    """Where a decoding went.

    per_step: distinct experts of a step, one mean per sparse decoder layer.
    touched: every (layer, expert) that any step used.
    """

    per_step: tuple[float, ...]
    touched: frozenset[tuple[str, int]]


def decoder_routing(model, groups: list[list[tuple[list[int], list[int]]]], steps: int) -> Routing:
    """Count the experts that decoding used, by teacher forcing with `model.route`.

    Rows that were decoded together are one group: a step's distinct experts are counted over them.

    Args:
        model: a loaded switch_runtime model.
        groups: per batch, the (source, generated ids) of every row. Of beam search only the final
            hypotheses are known, so the rows of abandoned beams are not counted as they were.
        steps: of each target, at most the expert capacity of the directory: a single step never
            drops a token, teacher forcing over more tokens than that would.
    """
    distinct: dict[str, list[int]] = {}
    touched = set()
    for group in groups:
        routes = [model.route(source, target[:steps]) for source, target in group if target]
        layers = [name for name in (routes[0] if routes else ()) if name.startswith("decoder.")]
        for layer in layers:
            rows = [route[layer].expert for route in routes]
            length = min(map(len, rows))
            chosen = np.stack([row[:length] for row in rows])                    # [R, T]
            distinct.setdefault(layer, []).extend(
                len(np.unique(column[column >= 0])) for column in chosen.T
            )
            touched |= {(layer, int(e)) for e in np.unique(chosen[chosen >= 0])}
    means = tuple(float(np.mean(counts)) for counts in distinct.values())
    return Routing(means, frozenset(touched))
