"""Sampling: the distributions are transformers', and a seed decides the tokens.

At fixed logits the exact distribution is known: transformers' warpers in transformers' order, then
softmax. Pearson's statistic of the draws must stay below the value that chance exceeds once in ten
thousand; seeds are fixed, so that a test passes always or never.
"""

import itertools
import math
from collections import Counter
from statistics import NormalDist

import numpy as np
import pytest
import torch
from checkpoints import random_rows
from pairwise import pairwise
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

VOCABULARY = 131
ROWS = random_rows(5, (13, 4, 1, 9, 6))
LOGITS = np.random.default_rng(3).normal(0, 2, VOCABULARY).astype(np.float32)
EOS = 1
WARPERS = {
    "temperature": TemperatureLogitsWarper, "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper, "typical_p": TypicalLogitsWarper,
}
SETTINGS = pairwise({
    "temperature": [None, 0.6, 1.7],
    "top_k": [None, 0, 7],
    "top_p": [None, 0.8, 0.3],
    "min_p": [None, 0.05],
    "typical_p": [None, 0.7],
})


def fixed(_input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """A processor that makes every row the same distribution."""
    return np.broadcast_to(LOGITS, scores.shape)


def distribution(options: dict, logits: np.ndarray = LOGITS, keep: int = 1) -> np.ndarray:
    """What transformers samples from, [vocabulary] in float64."""
    options = {"top_k": 50} | {name: value for name, value in options.items() if value is not None}
    warpers = LogitsProcessorList()
    for name, warper in WARPERS.items():
        if options.get(name):
            more = {} if name == "temperature" else {"min_tokens_to_keep": keep}
            warpers.append(warper(options[name], **more))
    left = warpers(torch.zeros(1, 1, dtype=torch.long), torch.from_numpy(logits[None].copy()))
    return torch.softmax(left.double(), -1)[0].numpy()


def assert_drawn_from(drawn: Counter, expected: dict) -> None:
    """Compare counts with probabilities; outcomes that are expected fewer than 5 times are one."""
    draws = sum(drawn.values())
    impossible = [outcome for outcome in drawn if not expected.get(outcome)]
    assert not impossible
    rare = [outcome for outcome, p in expected.items() if 0 < draws * p < 5]
    cells = [(drawn[outcome], draws * p) for outcome, p in expected.items() if draws * p >= 5]
    if rare and (rest := draws * sum(expected[outcome] for outcome in rare)) >= 1:
        cells.append((sum(drawn[outcome] for outcome in rare), rest))
    statistic = sum((found - wanted) ** 2 / wanted for found, wanted in cells)
    assert statistic < chi_square_limit(len(cells) - 1), (statistic, len(cells))


def chi_square_limit(freedom: int, chance: float = 1e-4) -> float:
    """Wilson and Hilferty's approximation (1931)."""
    if freedom == 0:
        return 1e-9
    z = NormalDist().inv_cdf(1 - chance)
    return freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3


def first_tokens(results: list) -> Counter:
    return Counter(r.token_ids[0] if r.token_ids else r.eos for r in results)


@pytest.mark.parametrize("options", SETTINGS, ids=lambda options: "")
def test_draws_have_the_distribution_of_transformers(tiny_model, options):
    results = tiny_model.generate(
        [ROWS[2]] * 8, do_sample=True, num_return_sequences=1000, max_new_tokens=1, seed=7,
        logits_processor=fixed, **options,
    )
    assert_drawn_from(first_tokens(results), dict(enumerate(distribution(options))))


def test_sampled_sequences_have_the_probabilities_of_the_model(tiny):
    """Two tokens of the model itself, against the product of transformers' probabilities."""
    source, options = ROWS[1], {"temperature": 3.0, "top_k": 4}
    results = tiny.model().generate(
        [source] * 8, do_sample=True, num_return_sequences=1000, max_new_tokens=2, seed=1, **options
    )
    drawn = Counter((*r.token_ids, *([] if r.eos is None else [r.eos])) for r in results)
    expected = {}
    for first, p in enumerate(distribution(options, next_logits(tiny, source, []))):
        if p == 0 or first == EOS:
            expected[(first,)] = p
            continue
        after = distribution(options, next_logits(tiny, source, [first]))
        expected |= {(first, second): p * q for second, q in enumerate(after) if q > 0}
    assert sum(expected.values()) == pytest.approx(1)
    assert_drawn_from(drawn, expected)


def next_logits(case, source: list[int], ids: list[int]) -> np.ndarray:
    past = None
    with torch.no_grad():
        encoded = case.oracle.get_encoder()(input_ids=torch.tensor([source]))
        for token in [0, *ids]:
            out = case.oracle(
                encoder_outputs=encoded, decoder_input_ids=torch.tensor([[token]]),
                past_key_values=past, use_cache=True,
            )
            past = out.past_key_values
    return out.logits[0, -1].numpy()


@pytest.mark.parametrize(
    "options",
    [{"top_k": 6}, {"top_k": 0, "temperature": 0.8},
     # Two candidates are kept even where nothing ends a sequence.
     {"top_k": 1, "temperature": 4.0, "eos_token_id": []}],
)
def test_sampled_beams_have_the_distribution_of_transformers(tiny_model, options):
    """One step of two beams: of the first two that are drawn without putting back, the better."""
    results = tiny_model.generate(
        [ROWS[2]] * 6000, do_sample=True, num_beams=2, max_new_tokens=1, seed=11,
        logits_processor=fixed, **options,
    )
    p = distribution(options, keep=2)
    expected = Counter()
    for a, b in itertools.permutations(np.flatnonzero(p).tolist(), 2):
        expected[max(a, b, key=lambda token: p[token])] += p[a] * p[b] / (1 - p[a])
    assert_drawn_from(first_tokens(results), dict(expected))


@pytest.mark.parametrize("beams", [1, 3])
def test_a_seed_gives_the_same_tokens_alone_in_any_batch_and_order_of_finishing(
    tiny_model, beams
):
    options = {"do_sample": True, "num_beams": beams, "max_new_tokens": 15, "seed": 5,
               "temperature": 1.5}
    rows = [*ROWS, *ROWS]
    ids = [r.token_ids for r in tiny_model.generate(rows, **options)]
    for size in (1, 20, 100000):
        again = tiny_model.generate(rows, max_batch_tokens=size, **options)
        assert [r.token_ids for r in again] == ids
    assert ids[:5] != ids[5:]  # a source's place in the call is part of the seed
    other = tiny_model.generate(rows, **options | {"seed": 6})
    assert [r.token_ids for r in other] != ids


def test_without_a_seed_every_call_draws_anew(tiny_model):
    options = {"do_sample": True, "max_new_tokens": 10, "temperature": 3.0}
    calls = [tiny_model.generate(ROWS, **options) for _ in range(3)]
    ids = [[r.token_ids for r in results] for results in calls]
    assert ids[0] != ids[1]
    assert ids[1] != ids[2]


def test_the_number_of_threads_does_not_change_what_a_seed_draws(tiny):
    """Threads are fixed by the first load of a process, so each count has its own."""
    import json
    import subprocess
    import sys

    program = (
        "import json, sys, switch_runtime\n"
        "model = switch_runtime.load(sys.argv[1], threads=int(sys.argv[2]))\n"
        "rows = json.loads(sys.argv[3])\n"
        "found = model.generate(rows, do_sample=True, seed=9, temperature=2.0)\n"
        "print(json.dumps([result.token_ids for result in found]))\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program, tiny.directory(), str(threads), json.dumps(ROWS)],
            check=True, capture_output=True, text=True,
        ).stdout
        for threads in (1, 2, 3)
    ]
    assert said[0] == said[1] == said[2]
    assert len(json.loads(said[0])) == len(ROWS)
