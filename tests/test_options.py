"""Options of generate: names, types, and that each reaches the library."""

import time

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

import switch_runtime
from switch_runtime import InvalidArgument, native
from switch_runtime.options import GenerateOptions

SOURCE = [5, 6, 7, 1]
KNOWN = list(GenerateOptions.__annotations__)
OURS = {"seed", "max_batch_tokens", "progress", "cancel"}


def ids(results) -> list[list[int]]:
    return [result.token_ids for result in results]


# Names.


def test_every_member_of_the_native_struct_has_an_option():
    other_names = {"logits_processor": "on_logits", "progress": "on_progress"}
    made = {other_names.get(name, name) for name in KNOWN}
    members = {name for name, _ in native.GenerateOptions._fields_}
    assert members - made == {
        "size", "bad_words_count", "decoder_input_count", "user_data", "on_token",
    }  # fmt: skip
    assert made <= members


def test_the_names_are_those_of_transformers_but_for_ours():
    arguments = {"decoder_input_ids", "logits_processor"}  # of generate itself
    theirs = set(vars(GenerationConfig()))
    assert {name for name in KNOWN if name not in theirs} == OURS | arguments


def test_none_is_the_models_default(tiny_model):
    assert tiny_model.generate(SOURCE, **dict.fromkeys(KNOWN)) == tiny_model.generate(SOURCE)


@pytest.mark.parametrize("name", ["beams", "epsilon_cutoff", "num_beam_groups", "on_token"])
def test_an_unknown_option_is_a_type_error_that_lists_the_known_ones(tiny_model, name):
    with pytest.raises(TypeError, match=f"no option '{name}'; the options are .*num_beams.*top_k"):
        tiny_model.generate(SOURCE, **{name: 4})


# Types and values.


@pytest.mark.parametrize(
    ("plain", "numpy_scalars"),
    [
        ({"num_beams": 3, "length_penalty": 0.5},
         {"num_beams": np.int8(3), "length_penalty": np.float32(0.5)}),
        ({"do_sample": True, "seed": 3, "top_k": 5, "temperature": 2.0},
         {"do_sample": np.True_, "seed": np.uint64(3), "top_k": np.int64(5),
          "temperature": np.float64(2)}),
        ({"num_beams": 2, "early_stopping": True}, {"num_beams": 2, "early_stopping": np.True_}),
        ({"eos_token_id": [7, 9]}, {"eos_token_id": np.array([7, 9])}),
    ],
)  # fmt: skip
def test_numpy_scalars_are_numbers(tiny_model, sources, plain, numpy_scalars):
    found = tiny_model.generate(sources, max_new_tokens=np.int32(6), **numpy_scalars)
    assert found == tiny_model.generate(sources, max_new_tokens=6, **plain)


@pytest.mark.parametrize(
    "name", ["eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"]
)
def test_a_token_id_is_a_list_of_one(tiny_model, sources, name):
    """Each changes something: the fixture's ids are those of what greedy search chooses."""
    default = tiny_model.generate(sources, max_new_tokens=6)
    token = default[0].token_ids[1 if name == "eos_token_id" else 0]
    alone = tiny_model.generate(sources, max_new_tokens=6, **{name: token})
    assert alone == tiny_model.generate(sources, max_new_tokens=6, **{name: (token,)})
    assert alone != default


def test_an_empty_list_of_end_tokens_lets_nothing_end(tiny_model, sources):
    results = tiny_model.generate(sources, max_new_tokens=20, eos_token_id=[])
    assert [len(result.token_ids) for result in results] == [20] * len(sources)
    assert not any(result.finished for result in results)


@pytest.mark.usefixtures("stays_usable")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_beams": -1}, "num_beams is -1"),
        ({"num_beams": 2**40}, "num_beams is 1099511627776"),
        ({"num_beams": 1025}, "num_beams is 1025, expected 1 to 1024"),
        ({"num_beams": 1.5}, "num_beams is 1.5, expected an integer"),
        ({"num_beams": True}, "num_beams is True"),
        ({"num_beams": "4"}, "num_beams is '4'"),
        ({"num_beams": 2, "num_return_sequences": 3}, r"at most num_beams \(2\)"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": -5}, "max_new_tokens is -5"),
        ({"max_new_tokens": 2**63}, "max_new_tokens is 9223372036854775808"),
        ({"max_length": -3}, "max_length is -3"),
        ({"min_new_tokens": -2}, "min_new_tokens is -2"),
        ({"min_length": -1}, "min_length is -1"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"length_penalty": 1e300}, "length_penalty is 1"),
        ({"length_penalty": 10**400}, "length_penalty is 1000.*expected a finite number"),
        ({"length_penalty": "long"}, "length_penalty is 'long', expected a number"),
        ({"early_stopping": "maybe"}, "expected False, True or 'never'"),
        ({"early_stopping": 1}, "early_stopping is 1"),
        ({"do_sample": 1}, "do_sample is 1, expected False or True"),
        ({"do_sample": np.array([True])}, "do_sample is array"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": False}, "temperature is False, expected a number"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 2.0}, "top_k is 2.0, expected an integer"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"typical_p": 0}, "typical_p is 0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
        ({"bad_words_ids": [[]]}, r"bad_words_ids\[0\] has no token ids"),
        ({"bad_words_ids": [5]}, r"bad_words_ids\[0\] is int 5, expected a list of token ids"),
        ({"bad_words_ids": "word"}, "bad_words_ids is 'word', expected a list of lists"),
        ({"bad_words_ids": [[5, "a"]]}, r"bad_words_ids\[0\]\[1\] is 'a'"),
        ({"bad_words_ids": [[5], [131]]}, r"bad_words_ids\[1\] holds 131"),
        ({"suppress_tokens": "all"}, "suppress_tokens is 'all', expected a token id or a list"),
        ({"suppress_tokens": [5, -1]}, "suppress_tokens holds -1"),
        ({"eos_token_id": 1.0}, "eos_token_id is float 1.0, expected a token id or a list"),
        ({"eos_token_id": True}, "eos_token_id is bool True"),
        ({"forced_bos_token_id": 131}, "forced_bos_token_id is 131"),
        ({"decoder_input_ids": "text"}, "decoder_input_ids.* is text, but .* no tokenizer"),
        ({"decoder_input_ids": [[5], [6], [7]]},
         "decoder_input_ids has 3 rows, expected one or as many"),
        ({"decoder_input_ids": [[5, None]]}, r"decoder_input_ids\[0\]\[1\] is None"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
        ({"max_batch_tokens": -1}, "max_batch_tokens is -1"),
        ({"logits_processor": 3}, "logits_processor is 3, expected a function"),
        ({"progress": "bar"}, "progress is 'bar', expected a function"),
        ({"cancel": True}, "cancel is True, expected a CancelToken"),
    ],
)
def test_bad_options_are_named_and_leave_the_model_usable(tiny_model, options, message):
    with pytest.raises(InvalidArgument, match=message):
        tiny_model.generate(SOURCE, **options)


@pytest.mark.usefixtures("stays_usable")
def test_all_problems_of_a_call_are_named_at_once(tiny_model):
    wrong = {"num_beams": "a", "length_penalty": "b", "eos_token_id": "c", "seed": -1,
             "top_p": 7.0, "suppress_tokens": [500], "progress": 1}  # fmt: skip
    with pytest.raises(InvalidArgument) as caught:
        tiny_model.generate([[5.5]], **wrong)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + len(wrong) + 1
    for name in [*wrong, "sources"]:
        assert sum(f"- {name}" in line for line in lines) == 1, name


# What they do, where nothing else tests it.


def hf_generate(hf_model, source, **options) -> list[int]:
    """The ids that transformers generates, start token and prefix included."""
    return hf_model.generate(input_ids=torch.tensor([source]), **options)[0].tolist()


def test_one_prefix_serves_every_source(tiny_model, hf_model, sources):
    results = tiny_model.generate(sources, decoder_input_ids=[9, 8], max_new_tokens=5)
    for source, result in zip(sources, results, strict=True):
        prefix = torch.tensor([[0, 9, 8]])
        wanted = hf_generate(hf_model, source, decoder_input_ids=prefix, max_new_tokens=5)
        assert [0, 9, 8, *result.token_ids] == wanted[: 3 + len(result.token_ids)]


def test_every_source_may_have_its_prefix(tiny_model, sources):
    prefixes = [[9, 8], [7], [], [5, 5, 5]]
    together = tiny_model.generate(sources, decoder_input_ids=prefixes, max_new_tokens=5)
    alone = [
        tiny_model.generate([source], decoder_input_ids=[prefix], max_new_tokens=5)[0].token_ids
        for source, prefix in zip(sources, prefixes, strict=True)
    ]
    assert ids(together) == alone


def test_a_text_prefix_is_its_ids_without_the_end_token(text_model):
    *prefix, end = text_model.tokenizer.encode("abcd ef")
    assert end == 1
    options = {"max_new_tokens": 4}
    from_text = text_model.generate(["ab", "cd"], decoder_input_ids="abcd ef", **options)
    assert from_text == text_model.generate(["ab", "cd"], decoder_input_ids=prefix, **options)
    texts = text_model.generate(["ab", "cd"], decoder_input_ids=["abcd ef", ""], **options)
    assert texts == text_model.generate(["ab", "cd"], decoder_input_ids=[prefix, []], **options)


class Recorder(LogitsProcessor):
    """Remembers what it sees and forbids the best token at every second step."""

    def __init__(self) -> None:
        self.seen: list[tuple] = []

    def __call__(self, input_ids, scores):
        self.seen.append((np.asarray(input_ids).copy(), np.asarray(scores).copy()))
        if len(self.seen) % 2:
            scores[0, int(scores[0].argmax())] = -float("inf")
        return scores


def test_a_logits_processor_sees_and_changes_what_transformers_shows_it(
    tiny_model, hf_model, sources
):
    ours, theirs = Recorder(), Recorder()
    result = tiny_model.generate([sources[0]], logits_processor=ours, max_new_tokens=7)[0]
    wanted = hf_generate(
        hf_model, sources[0], logits_processor=LogitsProcessorList([theirs]), max_new_tokens=7
    )
    assert wanted[1 : 1 + len(result.token_ids)] == result.token_ids
    assert len(ours.seen) == len(theirs.seen)
    for (our_ids, our_scores), (their_ids, their_scores) in zip(
        ours.seen, theirs.seen, strict=True
    ):
        assert our_ids.dtype == np.int64
        assert our_scores.dtype == np.float32
        assert our_ids.tolist() == their_ids.tolist()
        np.testing.assert_allclose(our_scores, their_scores, atol=2e-4)


def test_scores_changed_in_place_or_returned_are_the_same(tiny_model, sources):
    def in_place(_ids, scores) -> None:
        scores[:, 1::2] = -np.inf

    def returned(_ids, scores) -> np.ndarray:
        return np.where(np.arange(scores.shape[1]) % 2, -np.inf, scores)  # float64

    for num_beams in (1, 3):
        options = {"num_beams": num_beams, "max_new_tokens": 5}
        first = tiny_model.generate(sources, logits_processor=in_place, **options)
        assert first == tiny_model.generate(sources, logits_processor=returned, **options)
        assert all(token % 2 == 0 for result in first for token in result.token_ids)


@pytest.mark.usefixtures("stays_usable")
@pytest.mark.parametrize(
    ("returned", "message"),
    [(np.zeros(3), r"an array of shape \(3,\)"), ([1.0], "returned list"), (5, "returned int")],
)
def test_scores_of_another_shape_are_refused(tiny_model, returned, message):
    with pytest.raises(InvalidArgument, match=message):
        tiny_model.generate(SOURCE, logits_processor=lambda ids, scores: returned)


def test_what_a_processor_keeps_stays_as_it_was(tiny_model):
    kept = []
    tiny_model.generate(
        SOURCE, max_new_tokens=5, eos_token_id=[],
        logits_processor=lambda ids, scores: kept.append((ids, scores)),
    )  # fmt: skip
    assert [array.shape for array, _ in kept] == [(1, length) for length in range(1, 6)]
    assert len({scores.tobytes() for _, scores in kept}) == 5


def test_progress_counts_to_the_number_of_sources(tiny_model, sources):
    seen = []
    tiny_model.generate(sources, max_new_tokens=5, max_batch_tokens=1,
                        progress=lambda *counts: seen.append(counts))  # fmt: skip
    assert seen == [(done, len(sources)) for done in range(1, len(sources) + 1)]


def test_a_seed_repeats_a_draw(tiny_model, sources):
    options = {"do_sample": True, "temperature": 3.0, "max_new_tokens": 8}
    first, second, other, none = (
        ids(tiny_model.generate(sources, seed=seed, **options)) for seed in (7, 7, 8, None)
    )
    assert first == second
    assert first not in (other, none)
    assert none != ids(tiny_model.generate(sources, **options))


def test_thousands_of_rows_cost_little_beyond_the_native_call(tiny_model, monkeypatch):
    """The Python around the call, in CPU seconds of this thread."""
    rows = [[5 + index % 90, 6, 1] for index in range(10_000)]
    spent = []
    actual = switch_runtime.calls.interruptible

    def timed(call, cancel=None):
        before = time.thread_time()
        try:
            return actual(call, cancel)  # on another thread
        finally:
            spent.append(time.thread_time() - before)

    monkeypatch.setattr(switch_runtime.calls, "interruptible", timed)
    start = time.thread_time()
    results = tiny_model.generate(rows, max_new_tokens=1)
    assert len(results) == len(rows)
    assert time.thread_time() - start - spent[0] < 0.5
