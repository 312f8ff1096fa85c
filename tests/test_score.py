"""score against transformers with the same targets forced."""

import numpy as np
import pytest
import torch
from checkpoints import random_rows
from tolerances import assert_close

from switch_runtime import InvalidArgument

TARGETS = random_rows(17, (3, 12, 1, 6))  # more tokens than the experts' capacity of 2, and fewer


@pytest.fixture(scope="module")
def expected(hf_model, sources) -> list[np.ndarray]:
    """The log-probability of every target token, each pair alone."""
    found = []
    for source, target in zip(sources, TARGETS, strict=True):
        with torch.no_grad():
            out = hf_model(
                input_ids=torch.tensor([source]),
                decoder_input_ids=torch.tensor([[0, *target[:-1]]]),
            )
        rows = torch.log_softmax(out.logits[0].double(), -1).numpy()
        found.append(rows[np.arange(len(target)), target])
    return found


def test_scores_of_a_ragged_batch_are_those_of_transformers(tiny_model, sources, expected):
    found = tiny_model.score(sources, TARGETS)
    assert [score.token_ids for score in found] == TARGETS
    for score, wanted in zip(found, expected, strict=True):
        assert score.log_probabilities.dtype == np.float32
        assert_close(score.log_probabilities, wanted)


def test_the_total_is_the_log_probability_of_the_target(tiny_model, sources, expected):
    for score, wanted in zip(tiny_model.score(sources, TARGETS), expected, strict=True):
        assert score.total == pytest.approx(wanted.sum(), abs=1e-4)


def test_batches_of_one_pair_give_the_same(tiny_model, sources, expected):
    found = tiny_model.score(sources, TARGETS, max_batch_tokens=1)
    for score, wanted in zip(found, expected, strict=True):
        assert_close(score.log_probabilities, wanted)


def test_text_targets_are_scored_with_their_end_token(text_model):
    encode = text_model.tokenizer.encode
    (from_text,) = text_model.score("abcd efgh", "efgh")
    (from_ids,) = text_model.score(encode("abcd efgh"), encode("efgh"))
    assert from_text.token_ids == encode("efgh")
    assert from_text.token_ids[-1] == 1
    assert from_text.log_probabilities.tolist() == from_ids.log_probabilities.tolist()


def test_progress_ends_with_all_pairs(tiny_model, sources):
    seen = []
    tiny_model.score(sources, TARGETS, progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (len(sources), len(sources))


@pytest.mark.usefixtures("stays_usable")
@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        ([[5, 1]], [[4, 1], [3, 1]], "targets has 2 rows, expected 1 as in sources"),
        ([[5, 1]], [[]], r"targets\[0\] has no token ids"),
        ([[5.5]], [["a"]], r"(?s)sources\[0\]\[0\] is 5.5.*targets\[0\]\[0\] is 'a'"),
        ([[5, 1]], [[4, 131]], "131, expected an id from 0 to 130"),
    ],
)
def test_wrong_pairs_are_named(tiny_model, sources, targets, message):
    with pytest.raises(InvalidArgument, match=message):
        tiny_model.score(sources, targets)


def test_score_of_an_encoder_names_the_task_to_export(encoder_model):
    with pytest.raises(InvalidArgument, match="--task seq2seq"):
        encoder_model.score([5, 1], [4, 1])
