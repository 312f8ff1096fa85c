"""How far a computed value may be from its reference; one table for all tests."""

import numpy as np

#: Relative to the largest |reference|. fp32 sums in another order differ by a few 1e-6.
ATOL = {"float32": 2e-5}

#: Scores of beams are sums of log-probabilities of a few dozen tokens.
SCORE_ATOL = 1e-4

#: Two router probabilities nearer than this are a tie: rounding decides which expert wins.
TIE = 1e-5


def assert_close(actual: np.ndarray, expected: np.ndarray, kind: str = "float32") -> None:
    """Compare a whole tensor; name the worst element."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    assert np.isfinite(expected).all(), "the reference is not finite"
    difference = np.abs(actual - expected)
    difference[np.isnan(actual)] = np.inf
    if difference.size == 0:
        return
    worst = np.unravel_index(difference.argmax(), difference.shape)
    limit = ATOL[kind] * max(np.abs(expected).max(), 1e-30)
    assert difference[worst] <= limit, (
        f"element {tuple(map(int, worst))} is {actual[worst]}, expected {expected[worst]} "
        f"within {limit:.3g}"
    )
