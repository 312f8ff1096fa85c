"""Greedy and beam search against transformers' generate: ids equal, scores to tolerance."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from checkpoints import pad, random_rows
from tolerances import SCORE_ATOL

PENALTIES = (0.0, 1.0, 2.0, -1.0)
STOPPING = (False, True, "never")
BEAMS = (2, 3, 4, 5)
ROWS = random_rows(5, (13, 4, 1, 9, 6))


def expected(case, rows: list[list[int]], **options) -> list[tuple]:
    """What transformers generates: (ids without start and eos, eos or None, score or None)."""
    ids, mask = (torch.tensor(part) for part in pad(rows))
    if case.oracle.generation_config.decoder_start_token_id is None:
        options["decoder_start_token_id"] = 0
    out = case.oracle.generate(
        input_ids=ids, attention_mask=mask, return_dict_in_generate=True, output_scores=True,
        **options,
    )
    beams = options.get("num_beams", 1) > 1
    scores = out.sequences_scores.tolist() if beams else [None] * len(out.sequences)
    ends = case.oracle.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return [(*cut(row[1:], ends), s) for row, s in zip(out.sequences.tolist(), scores, strict=True)]


def cut(ids: list[int], ends: list[int]) -> tuple[list[int], int | None]:
    """Split a padded row at its first eos."""
    for place, token in enumerate(ids):
        if token in ends:
            return ids[:place], token
    return ids, None


def check(results: list, wanted: list[tuple]) -> None:
    """Compare ids, ends and scores of every sequence."""
    assert [r.token_ids for r in results] == [ids for ids, _, _ in wanted]
    assert [r.eos for r in results] == [end for _, end, _ in wanted]
    for result, (_, _, score) in zip(results, wanted, strict=True):
        if score is not None:
            assert result.score == pytest.approx(score, abs=SCORE_ATOL, rel=SCORE_ATOL)


@pytest.fixture(scope="module")
def beams(cases):
    """The model and transformers' answers, each computed once."""
    case = cases["tiny"]

    @cache
    def answer(num_beams: int, penalty: float, stopping) -> list[tuple]:
        return expected(
            case, ROWS, num_beams=num_beams, length_penalty=penalty, early_stopping=stopping,
            max_new_tokens=11, num_return_sequences=num_beams,
        )

    return case, answer


@pytest.mark.parametrize("name", ["tiny", "untied", "no_drop", "legacy", "capacity_zero",
                                  "tied_flag_other_head", "tied_flag_other_embeddings"])
def test_greedy_ids_are_those_of_transformers(cases, name):
    case = cases[name]
    check(case.model().generate(ROWS, max_new_tokens=20), expected(case, ROWS, max_new_tokens=20))


@pytest.mark.parametrize("num_beams", BEAMS)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("stopping", STOPPING)
def test_beams_and_scores_are_those_of_transformers(beams, num_beams, penalty, stopping):
    case, answer = beams
    results = case.model().generate(
        ROWS, num_beams=num_beams, length_penalty=penalty, early_stopping=stopping,
        max_new_tokens=11, num_return_sequences=num_beams,
    )
    check(results, answer(num_beams, penalty, stopping))


@pytest.mark.parametrize("penalty", [-0.6, -1.0])
def test_never_looks_no_further_ahead_where_length_is_punished(tiny, penalty):
    # These rows tell the present length from the longest: transformers looks ahead to the longest
    # for positive penalties only.
    rows = random_rows(7, (13, 4, 1, 9, 6))
    options = {"num_beams": 4, "length_penalty": penalty, "early_stopping": "never",
               "max_new_tokens": 40, "num_return_sequences": 4}
    check(tiny.model().generate(rows, **options), expected(tiny, rows, **options))


@pytest.mark.parametrize("name", ["legacy", "untied"])
@pytest.mark.parametrize("num_beams", [2, 4])
def test_beams_of_other_models_are_those_of_transformers(cases, name, num_beams):
    case = cases[name]
    options = {"num_beams": num_beams, "max_new_tokens": 14, "num_return_sequences": 2}
    check(case.model().generate(ROWS, **options), expected(case, ROWS, **options))


@pytest.mark.parametrize("name", ["tiny", "untied"])
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("least", [1, 5])
def test_no_sequence_ends_before_min_new_tokens(cases, name, num_beams, least):
    case = cases[name]
    options = {"num_beams": num_beams, "max_new_tokens": 9, "min_new_tokens": least}
    results = case.model().generate(ROWS, **options)
    check(results, expected(case, ROWS, **options))
    assert min(len(r.token_ids) for r in results) >= least


# transformers warns that nobody named a length, which is what one of the cases is about.
@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("options", [{}, {"max_length": 6}, {"max_new_tokens": 1},
                                     {"max_length": 2}])
def test_lengths_are_counted_as_transformers_counts_them(cases, num_beams, options):
    case = cases["tiny"]
    options = options | {"num_beams": num_beams}
    check(case.model().generate(ROWS, **options), expected(case, ROWS, **options))


def test_decoding_past_the_last_bucket_and_many_cache_growths_stays_equal(cases):
    case = cases["tiny"]
    rows = random_rows(30, (140, 3))
    for num_beams in (1, 3):
        options = {"num_beams": num_beams, "max_new_tokens": 140, "min_new_tokens": 138}
        check(case.model().generate(rows, **options), expected(case, rows, **options))


def test_a_row_alone_gives_what_it_gives_in_a_batch(tiny_model):
    for num_beams in (1, 4):
        together = tiny_model.generate(ROWS, num_beams=num_beams, max_new_tokens=12)
        alone = [tiny_model.generate([row], num_beams=num_beams, max_new_tokens=12)[0]
                 for row in ROWS]
        assert [r.token_ids for r in together] == [r.token_ids for r in alone]


def test_the_score_of_a_greedy_sequence_is_the_sum_of_its_log_probabilities(tiny):
    for source, result in zip(ROWS, tiny.model().generate(ROWS, max_new_tokens=8,
                                                          length_penalty=0.0), strict=True):
        ids = result.token_ids + ([] if result.eos is None else [result.eos])
        total = 0.0
        for length in range(1, len(ids) + 1):
            # One token at a time, so that no capacity is counted over the prefix.
            logits = stepwise(tiny, source, ids[:length])
            total += float(torch.log_softmax(torch.tensor(logits), -1)[ids[length - 1]])
        assert result.score == pytest.approx(total, abs=1e-3)


def stepwise(case, source: list[int], ids: list[int]) -> np.ndarray:
    """The logits [V] from which transformers chooses the last of ids."""
    past = None
    with torch.no_grad():
        encoded = case.oracle.get_encoder()(input_ids=torch.tensor([source]))
        for token in [0, *ids[:-1]]:
            out = case.oracle(
                encoder_outputs=encoded, decoder_input_ids=torch.tensor([[token]]),
                past_key_values=past, use_cache=True,
            )
            past = out.past_key_values
    return out.logits[0, -1].numpy()


def test_beams_of_the_fixture_end_at_different_steps(beams):
    _, answer = beams
    lengths = {len(ids) for ids, end, _ in answer(4, 1.0, False) if end is not None}
    assert len(lengths) >= 4


def test_the_three_ways_to_stop_give_different_ids_on_the_fixture(beams):
    _, answer = beams
    seen = set()
    for num_beams, penalty in itertools.product(BEAMS, PENALTIES):
        ids = {mode: [r[0] for r in answer(num_beams, penalty, mode)] for mode in STOPPING}
        seen |= {(a, b) for a, b in itertools.combinations(STOPPING, 2) if ids[a] != ids[b]}
    assert len(seen) == 3


def test_length_penalties_give_different_best_beams_on_the_fixture(beams):
    _, answer = beams
    best = {penalty: [r[0] for r in answer(4, penalty, False)[::4]] for penalty in PENALTIES}
    assert best[0.0] != best[2.0]
    assert best[-1.0] != best[1.0]


def test_greedy_rows_of_the_fixture_end_at_different_steps(beams):
    case, _ = beams
    ends = {len(r.token_ids) for r in case.model().generate(ROWS, max_new_tokens=20)}
    assert len(ends) >= 2
