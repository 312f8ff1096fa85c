"""stream and stream_ids: pieces that join to what generate gives, and leaving early."""

import gc
import itertools
import random
import subprocess
import sys
import threading
import time
import unicodedata

import pytest

import switch_runtime
from switch_runtime import InvalidArgument, stream

TEXT = "abcd efgh <extra_id_0> abcd"
SOURCE = [5, 6, 7, 1]
LONG = {"max_new_tokens": 20_000, "eos_token_id": []}
SAMPLED = {"do_sample": True, "temperature": 2.5, "max_new_tokens": 30}


def streaming_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "stream" in thread.name]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert streaming_threads() == []


# The same text.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_new_tokens": 40, "eos_token_id": []},
        {"max_new_tokens": 1},
        {"max_new_tokens": 20, "no_repeat_ngram_size": 2, "decoder_input_ids": "ef gh"},
        *({"seed": seed} | SAMPLED for seed in range(5)),
    ],
)
def test_joined_pieces_are_the_text_of_generate(text_model, options):
    pieces = list(text_model.stream(TEXT, **options))
    assert "".join(pieces) == text_model.generate(TEXT, **options)[0].text
    assert "" not in pieces


@pytest.mark.parametrize("options", [{}, {"seed": 3} | SAMPLED])
def test_ids_are_those_of_generate(tiny_model, options):
    wanted = tiny_model.generate(SOURCE, **options)[0].token_ids
    assert list(tiny_model.stream_ids(SOURCE, **options)) == wanted


def test_pieces_come_while_the_text_is_decoded(text_model):
    start = time.perf_counter()
    with_pieces = text_model.stream(TEXT, seed=1, do_sample=True, temperature=2.5, **LONG)
    assert next(with_pieces)
    assert time.perf_counter() - start < 1.0
    with_pieces.close()


def test_streams_and_other_calls_share_a_model(text_model):
    wanted = text_model.generate(TEXT, seed=1, **SAMPLED)[0].text
    streams = [text_model.stream(TEXT, seed=1, **SAMPLED) for _ in range(3)]
    found = ["", "", ""]
    for pieces in itertools.zip_longest(*streams, fillvalue=""):
        found = [text + piece for text, piece in zip(found, pieces, strict=True)]
        text_model.generate(TEXT, max_new_tokens=2)
    assert found == [wanted] * 3


# Where pieces end.


class Spelling:
    """A tokenizer whose ids are indices of given texts."""

    def __init__(self, texts: list[str]):
        self._texts = texts

    def decode_each(self, ids):
        return (self._texts[index] for index in ids)


def pieces_of(texts: list[str]) -> list[str]:
    return list(stream.texts(Spelling(texts), (index for index in range(len(texts)))))


def cut_anywhere(text: str, chance: random.Random) -> list[str]:
    """Cut a text at random places, also twice at the same."""
    cuts = sorted(chance.choices(range(len(text) + 1), k=len(text) // 2))
    return [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]


def begins_inside(before: str, piece: str) -> bool:
    """Say whether the first character of a piece belongs to the last one before it."""
    char = piece[0]
    is_joined = unicodedata.category(char).startswith("M") or char in "\u200d\U0001f3fd"
    return before[-1] == "\u200d" or (is_joined and not before[-1].isascii())


UNICODE = (
    "e\u0301 caf\u00e9\u0301\u0302 \u0915\u094d\u0937\u093f \u200d\u200dx "
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f\U0001f44b\U0001f3fd "
    "\uac00\u3042\u3099 \U0001f1e9\U0001f1ea a\u200db \u05e9\u05c1 plain, words."
)


def test_no_piece_begins_inside_a_character():
    chance = random.Random(5)
    for _ in range(300):
        pieces = pieces_of(cut_anywhere(UNICODE, chance))
        assert "".join(pieces) == UNICODE
        assert "" not in pieces
        assert not [pair for pair in itertools.pairwise(pieces) if begins_inside(*pair)]


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["ab", " cd", "."], ["ab", " cd", "."]),  # ASCII is never held back
        (["\u00e9", "a"], ["\u00e9a"]),
        (["\u00e9", "\u00e8", "a"], ["\u00e9", "\u00e8a"]),
        (["a\u00e9", "\u0301"], ["a", "\u00e9\u0301"]),
        (["e", "\u0301", "x"], ["e", "\u0301x"]),  # the documented exception
        (["\U0001f44b", "\U0001f3fd", "!"], ["\U0001f44b\U0001f3fd!"]),
        (["\u2764", "\ufe0f"], ["\u2764\ufe0f"]),
        (["\U0001f468", "\u200d", "\U0001f469", "\u3042"],
         ["\U0001f468\u200d\U0001f469", "\u3042"]),
        (["\U0001f1e9", "\U0001f1ea", "."], ["\U0001f1e9\U0001f1ea."]),
        (["", "", "\u00e9"], ["\u00e9"]),
        ([""], []),
        ([], []),
    ],
)
def test_what_may_still_change_is_held_back(texts, wanted):
    assert pieces_of(texts) == wanted


def test_a_character_of_a_hundred_thousand_marks_takes_a_moment():
    start = time.process_time()
    assert pieces_of(["\u00e9", *["\u0301"] * 100_000]) == ["\u00e9" + "\u0301" * 100_000]
    assert time.process_time() - start < 1.0


# Leaving early.


def test_closing_ends_the_decoding(tiny_model):
    tokens = tiny_model.stream_ids(SOURCE, **LONG)
    next(tokens)
    (worker,) = streaming_threads()
    start = time.perf_counter()
    tokens.close()
    assert not worker.is_alive()
    assert time.perf_counter() - start < 1.0


def test_dropping_a_stream_ends_the_decoding(text_model):
    pieces = text_model.stream(TEXT, seed=1, do_sample=True, temperature=2.5, **LONG)
    next(pieces)
    assert len(streaming_threads()) == 1
    del pieces
    gc.collect()
    assert streaming_threads() == []


def test_an_exception_in_the_loop_ends_the_decoding(tiny_model):
    def read() -> None:
        for index, _ in enumerate(tiny_model.stream_ids(SOURCE, **LONG)):
            if index == 3:
                raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        read()


def test_a_stream_that_nobody_reads_starts_nothing(tiny_model):
    tokens = tiny_model.stream_ids(SOURCE, **LONG)
    assert streaming_threads() == []
    tokens.close()


def test_a_token_cancels_a_stream(tiny_model):
    token = switch_runtime.CancelToken()
    tokens = tiny_model.stream_ids(SOURCE, cancel=token, **LONG)
    next(tokens)
    token.cancel()
    with pytest.raises(switch_runtime.Cancelled):
        for _ in tokens:
            pass


def test_what_a_processor_raises_reaches_the_reader_after_the_tokens_before(tiny_model):
    def rude(input_ids, _scores) -> None:
        if input_ids.shape[1] == 3:
            raise LookupError("here")

    tokens = tiny_model.stream_ids(SOURCE, logits_processor=rude, **LONG)
    assert len([next(tokens), next(tokens)]) == 2
    with pytest.raises(LookupError, match="here"):
        next(tokens)


ENDS_IN_MID_STREAM = """
import sys, time
import switch_runtime
model = switch_runtime.load(sys.argv[1])
tokens = model.stream_ids([5, 6, 7, 1], max_new_tokens=200000, eos_token_id=[])
next(tokens)
print("leaving")
"""

CTRL_C = """
import os, signal, sys, threading, time
import switch_runtime
model = switch_runtime.load(sys.argv[1])
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    for token in model.stream_ids([5, 6, 7, 1], max_new_tokens=200000, eos_token_id=[]):
        time.sleep(0.01)
except KeyboardInterrupt:
    print("interrupted", threading.active_count())
print(len(model.generate([5, 6, 7, 1], max_new_tokens=4, eos_token_id=[])[0].token_ids))
"""


@pytest.mark.parametrize(
    ("code", "printed"), [(ENDS_IN_MID_STREAM, ["leaving"]), (CTRL_C, ["interrupted 1", "4"])]
)
def test_a_process_leaves_a_stream_quickly_and_quietly(tiny_directory, code, printed):
    done = subprocess.run(
        [sys.executable, "-c", code, tiny_directory], capture_output=True, text=True, timeout=10
    )
    assert (done.returncode, done.stderr, done.stdout.splitlines()) == (0, "", printed)


# What cannot be streamed.


def test_text_without_a_tokenizer_says_to_use_stream_ids(tiny_model):
    with pytest.raises(InvalidArgument, match="use stream_ids"):
        tiny_model.stream(SOURCE)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (SOURCE, {"num_beams": 2}, "num_beams is 2, expected 1"),
        (SOURCE, {"num_return_sequences": 2, "do_sample": True}, "num_return_sequences is 2"),
        ([SOURCE, SOURCE], {}, r"source\[0\] is \[5, 6, 7, 1\], expected an integer"),
        ([], {}, "source has no token ids"),
        (SOURCE, {"top_k": "x"}, "top_k is 'x'"),
    ],
)
def test_wrong_arguments_are_named_before_the_first_token(tiny_model, source, options, message):
    with pytest.raises(InvalidArgument, match=message):
        tiny_model.stream_ids(source, **options)


def test_a_value_that_the_library_refuses_is_named_at_the_first_token(tiny_model):
    tokens = tiny_model.stream_ids(SOURCE, top_k=-3)
    with pytest.raises(InvalidArgument, match="top_k is -3"):
        next(tokens)


def test_an_unknown_option_is_a_type_error(tiny_model):
    with pytest.raises(TypeError, match="'beams'"):
        tiny_model.stream_ids(SOURCE, beams=1)
