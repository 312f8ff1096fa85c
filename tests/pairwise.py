"""Few cases in which every pair of values of every two options occurs."""

import itertools
import random
from collections.abc import Sequence


def pairwise(options: dict[str, Sequence], seed: int = 0) -> list[dict]:
    """Return cases, {option: value}, that cover every pair of values of every two options.

    Greedy: each case takes, option by option, the value that covers most pairs that are still open.
    """
    chance = random.Random(seed)
    places = [[(at, value) for value in range(len(options[name]))]
              for at, name in enumerate(options)]
    still_open = {
        pair for one, other in itertools.combinations(places, 2)
        for pair in itertools.product(one, other)
    }
    cases = []
    while still_open:
        case = list(chance.choice(sorted(still_open)))  # so that every case closes a pair
        taken = {at for at, _ in case}
        rest = [values for at, values in enumerate(places) if at not in taken]
        for values in chance.sample(rest, len(rest)):
            shuffled = chance.sample(values, len(values))
            closed = [len(_pairs([value, *case], value) & still_open) for value in shuffled]
            case.append(shuffled[closed.index(max(closed))])
        still_open -= set(itertools.combinations(sorted(case), 2))
        names = list(options)
        cases.append({names[at]: options[names[at]][value] for at, value in sorted(case)})
    return cases


def _pairs(case: list[tuple[int, int]], value: tuple[int, int]) -> set[tuple]:
    """The pairs of a case that hold `value`."""
    return {tuple(sorted((value, other))) for other in case if other != value}
