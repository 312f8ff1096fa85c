"""encode against the states of transformers' encoder, pooled by NumPy."""

import numpy as np
import pytest
import torch
from tolerances import assert_close

from switch_runtime import InvalidArgument

POOLED = {
    "mean": lambda states: states.astype(np.float64).mean(0),
    "max": lambda states: states.max(0),
    "first": lambda states: states[0],
    "last": lambda states: states[-1],
}


@pytest.fixture(scope="module")
def expected(hf_model, sources) -> list[np.ndarray]:
    """The states [tokens, d_model] of each source, encoded alone."""
    encoder = hf_model.get_encoder()
    with torch.no_grad():
        return [encoder(torch.tensor([row])).last_hidden_state[0].numpy() for row in sources]


def test_encode_gives_the_states_of_transformers_encoder(encoder_model, sources, expected):
    found = encoder_model.encode(sources)
    assert all(states.dtype == np.float32 for states in found)
    for states, wanted in zip(found, expected, strict=True):
        assert_close(states, wanted)


@pytest.mark.parametrize("pooling", POOLED)
def test_pooling_is_numpys_over_the_real_tokens(encoder_model, sources, expected, pooling):
    found = encoder_model.encode(sources, pooling=pooling)
    for vector, states in zip(found, expected, strict=True):
        assert_close(vector, POOLED[pooling](states))


def test_batches_of_one_source_give_the_same(encoder_model, sources, expected):
    for states, wanted in zip(encoder_model.encode(sources, max_batch_tokens=1), expected,
                              strict=True):  # fmt: skip
        assert_close(states, wanted)


def test_progress_ends_with_all_sources(encoder_model, sources):
    seen = []
    encoder_model.encode(sources, progress=lambda *counts: seen.append(counts))
    assert seen == [(done, len(sources)) for done in range(1, len(sources) + 1)]


@pytest.mark.parametrize("pooling", ["sum", "none", "MEAN", 1, True])
def test_an_unknown_pooling_is_named_with_the_known_ones(encoder_model, pooling):
    with pytest.raises(InvalidArgument, match="expected None, 'mean', 'max', 'first', 'last'"):
        encoder_model.encode([[5, 1]], pooling=pooling)


def test_every_wrong_argument_of_encode_is_named_at_once(encoder_model):
    with pytest.raises(InvalidArgument) as caught:
        encoder_model.encode([[5.5]], "sum", max_batch_tokens="many", cancel=1)
    for name in ("sources", "pooling", "max_batch_tokens", "cancel"):
        assert name in str(caught.value)


def test_encode_of_another_task_names_the_task_to_export(tiny_model):
    with pytest.raises(InvalidArgument, match="--task encoder"):
        tiny_model.encode([5, 6, 7, 1])
