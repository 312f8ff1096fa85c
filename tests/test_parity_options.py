"""Every option of generate against transformers: one by one, and in every pair. Ids are equal."""

import itertools

import numpy as np
import pytest
import torch
from checkpoints import pad, random_rows
from pairwise import pairwise
from test_parity_generate import cut
from tolerances import SCORE_ATOL
from transformers import LogitsProcessor, LogitsProcessorList

pytestmark = pytest.mark.filterwarnings(
    "ignore:Using the model-agnostic default", "ignore:Unfeasible length constraints"
)
ROWS = random_rows(8, (13, 4, 1, 9, 6))
# More than the capacity of 2, so that an expert overflows inside the prefix.
LONG_PREFIX = random_rows(9, (9, 9, 9, 9, 9))


def favour(input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """A processor of a user: what follows the last token in the vocabulary becomes likelier."""
    rows = np.arange(len(scores))
    changed = scores.copy()
    changed[rows, (input_ids[:, -1] + 1) % scores.shape[1]] += 9
    changed[rows, input_ids[:, 0]] -= 0.5 * input_ids.shape[1]
    return changed


# Nothing may follow a whole one: a search over few beams has to end with what it has finished.
TRIE = ([60, 1], [61, 62, 1], [61, 63, 64, 1])


def only_trie(input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """A processor that allows the sequences of TRIE."""
    changed = np.full_like(scores, -np.inf)
    for row, ids in enumerate(input_ids[:, 1:].tolist()):
        for sequence in TRIE:
            if len(sequence) > len(ids) and sequence[: len(ids)] == ids:
                changed[row, sequence[len(ids)]] = scores[row, sequence[len(ids)]]
    return changed


class Theirs(LogitsProcessor):
    """One of our processors for transformers."""

    def __init__(self, ours):
        self.ours = ours

    def __call__(self, input_ids, scores):
        return torch.from_numpy(self.ours(input_ids.numpy(), scores.numpy()))


# None: not given. Tokens are chosen apart from each other, so that no case forbids everything.
OPTIONS = {
    "num_beams": [1, 3],
    "num_return_sequences": [None, 2],
    "length_penalty": [None, 0.0, 2.0, -1.0],
    "early_stopping": [None, True, "never"],
    "max_new_tokens": [None, 12, 5],
    "max_length": [None, 14],
    "min_new_tokens": [None, 4],
    "min_length": [None, 6],
    "repetition_penalty": [None, 1.4, 0.7],
    "no_repeat_ngram_size": [None, 1, 2, 3],
    "encoder_no_repeat_ngram_size": [None, 1, 2],
    "bad_words_ids": [None, [[17], [60, 61], [1]], [[i] for i in range(20, 50)]],
    "suppress_tokens": [None, list(range(50, 90))],
    "begin_suppress_tokens": [None, [1, *range(90, 110)]],
    "forced_bos_token_id": [None, 111],
    # Not two: they would be equally good, and torch.topk takes either.
    "forced_eos_token_id": [None, 1, [112]],
    "eos_token_id": [None, [1, 102, 113]],
    "decoder_input_ids": [None, "short", "long", "started"],
    "logits_processor": [None, favour],
}
ALONE = [
    (beams, name, value)
    for name, values in OPTIONS.items() for value in values for beams in (1, 3)
    if value is not None and name != "num_beams"
    and not (beams == 1 and name in ("num_return_sequences", "length_penalty", "early_stopping"))
]
PREFIXES = {
    "short": [[5, 6]] * len(ROWS),
    "long": LONG_PREFIX,
    "started": [[0, *row[:3]] for row in LONG_PREFIX],
}


def oracle(case, rows: list[list[int]], prefixes, options: dict) -> list[tuple]:
    """What transformers generates: (ids without prefix and eos, eos or None, score or None)."""
    ids, mask = (torch.tensor(part) for part in pad(rows))
    options = dict(options)
    start = 1
    if prefixes is not None:
        options["decoder_input_ids"] = torch.tensor(prefixes)
        start = len(prefixes[0]) + (prefixes[0][0] != 0)
    if ours := options.pop("logits_processor", None):
        options["logits_processor"] = LogitsProcessorList([Theirs(ours)])
    out = case.oracle.generate(
        input_ids=ids, attention_mask=mask, return_dict_in_generate=True, output_scores=True,
        **options,
    )
    scores = [None] * len(out.sequences)
    if options["num_beams"] > 1:
        scores = out.sequences_scores.tolist()
    ends = options.get("eos_token_id", case.oracle.generation_config.eos_token_id)
    ends = ends if isinstance(ends, list) else [ends]  # [None] ends nothing
    sequences = out.sequences.tolist()
    return [(*cut(row[start:], ends), s) for row, s in zip(sequences, scores, strict=True)]


def check(case, options: dict) -> list[list[int]]:
    """Compare ids, ends and scores; return the ids."""
    options = {name: value for name, value in options.items() if value is not None}
    if options["num_beams"] == 1:
        options.pop("num_return_sequences", None)
    prefixes = PREFIXES.get(options.pop("decoder_input_ids", None))
    if "encoder_no_repeat_ngram_size" in options:
        # transformers takes the padding of a batch for text that may not be repeated.
        alone = [(row,) for row in ROWS]
        wanted = [
            oracle(case, list(rows), prefixes and [prefixes[i]], options)
            for i, rows in enumerate(alone)
        ]
        wanted = list(itertools.chain.from_iterable(wanted))
    else:
        wanted = oracle(case, ROWS, prefixes, options)
    results = case.model().generate(ROWS, decoder_input_ids=prefixes, **options)
    possible = [i for i, (_, _, score) in enumerate(wanted) if score is None or score > -1e8]
    assert [results[i].token_ids for i in possible] == [wanted[i][0] for i in possible]
    assert [results[i].eos for i in possible] == [wanted[i][1] for i in possible]
    for i in possible:
        if wanted[i][2] is not None:
            assert results[i].score == pytest.approx(wanted[i][2], abs=SCORE_ATOL, rel=SCORE_ATOL)
    assert len(possible) >= len(ROWS)
    return [result.token_ids for result in results]


@pytest.mark.parametrize(("num_beams", "name", "value"), ALONE)
def test_an_option_gives_the_ids_of_transformers(tiny, num_beams, name, value):
    check(tiny, {"num_beams": num_beams, "max_new_tokens": 12, name: value}
          if not name.startswith("max_") else {"num_beams": num_beams, name: value})


@pytest.mark.parametrize("options", pairwise(OPTIONS), ids=lambda options: "")
def test_options_in_pairs_give_the_ids_of_transformers(tiny, options):
    check(tiny, options)


@pytest.mark.parametrize("num_beams", [2, 3, 4])
def test_beams_end_with_what_they_have_where_nothing_may_follow(tiny, num_beams):
    check(tiny, {"num_beams": num_beams, "max_new_tokens": 8, "logits_processor": only_trie})


@pytest.mark.parametrize("num_beams", [1, 3])
def test_without_an_end_token_sequences_have_the_greatest_length(tiny, num_beams, monkeypatch):
    monkeypatch.setattr(tiny.oracle.generation_config, "eos_token_id", None)
    options = {"num_beams": num_beams, "max_new_tokens": 9, "no_repeat_ngram_size": 2}
    wanted = oracle(tiny, ROWS, None, options)
    results = tiny.model().generate(ROWS, eos_token_id=[], **options)
    assert [r.token_ids for r in results] == [ids for ids, _, _ in wanted]
    assert {(len(r.token_ids), r.eos) for r in results} == {(9, None)}


def test_of_two_forced_ends_greedy_takes_the_lower(tiny):
    check(tiny, {"num_beams": 1, "max_new_tokens": 5, "forced_eos_token_id": [112, 1]})


def test_the_pairs_are_all_there():
    cases = pairwise(OPTIONS)
    for a, b in itertools.combinations(OPTIONS, 2):
        seen = {(str(case[a]), str(case[b])) for case in cases}
        assert len(seen) == len(OPTIONS[a]) * len(OPTIONS[b])


# Only together with others do these change the first tokens of these rows.
QUIET = {"max_length", "max_new_tokens", "forced_eos_token_id"}


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in QUIET | {"num_beams"}])
def test_every_option_changes_something_on_the_fixture(tiny, name):
    beams = 1 if name not in ("num_return_sequences", "length_penalty", "early_stopping") else 3
    plain = {"num_beams": beams, "max_new_tokens": 12}
    without = check(tiny, plain)
    changed = [check(tiny, plain | {name: value}) for value in OPTIONS[name] if value is not None]
    assert any(ids != without for ids in changed)
