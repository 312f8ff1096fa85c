"""The flags of switch-generate: one for every option, and what they do to the output."""

import json

import pytest
from batch_job import run

from switch_runtime import cli, cli_options
from switch_runtime.options import GenerateOptions

TEXTS = ["abcd <extra_id_0>", "", "efgh abcd"]
SHORT = ["--max-new-tokens", "4"]

# What is typed for an option, and what the library gets.
TYPED = {
    "max_new_tokens": (["7"], 7),
    "max_length": (["7"], 7),
    "min_new_tokens": (["2"], 2),
    "min_length": (["2"], 2),
    "num_beams": (["3"], 3),
    "num_return_sequences": (["2"], 2),
    "length_penalty": (["-0.5"], -0.5),
    "early_stopping": (["never"], "never"),
    "do_sample": ([], True),
    "temperature": (["2.5"], 2.5),
    "top_k": (["4"], 4),
    "top_p": (["0.9"], 0.9),
    "min_p": (["0.1"], 0.1),
    "typical_p": (["0.8"], 0.8),
    "repetition_penalty": (["1.5"], 1.5),
    "no_repeat_ngram_size": (["2"], 2),
    "encoder_no_repeat_ngram_size": (["3"], 3),
    "bad_words_ids": (["5,6", "7"], [[5, 6], [7]]),
    "forced_bos_token_id": (["9"], 9),
    "forced_eos_token_id": (["1,2"], [1, 2]),
    "suppress_tokens": (["5 6", "7"], [5, 6, 7]),
    "begin_suppress_tokens": (["8"], [8]),
    "eos_token_id": ([""], []),
    "decoder_start_token_id": (["2"], 2),
    "decoder_input_ids": (["9, 8"], [9, 8]),
    "seed": (["11"], 11),
    "max_batch_tokens": (["64"], 64),
}


def taken(*arguments: str) -> dict:
    """The generation options of a command line, as the library gets them."""
    context = cli.main.make_context("switch-generate", ["somewhere", *arguments])
    return cli_options.take_options(context.params)


def test_every_option_of_the_library_has_a_flag():
    flags = {parameter.name for parameter in cli.main.params}
    python_only = {"logits_processor", "progress", "cancel"}
    assert set(TYPED) == set(GenerateOptions.__annotations__) - python_only
    assert set(TYPED) <= flags


@pytest.mark.parametrize("name", TYPED)
def test_a_flag_is_the_option_of_its_name(name):
    words, value = TYPED[name]
    flag = "--" + name.replace("_", "-")
    given = [part for word in words for part in (flag, word)] or [flag]
    found = taken(*given)
    assert {key: [*v] if isinstance(v, tuple) else v for key, v in found.items()} == {name: value}


@pytest.mark.parametrize(("word", "value"), [("true", True), ("false", False)])
def test_early_stopping_has_booleans_too(word, value):
    assert taken("--early-stopping", word) == {"early_stopping": value}


def test_what_is_not_given_is_left_to_the_model():
    assert taken() == {}
    assert taken("--no-do-sample") == {"do_sample": False}


def test_search_options_change_what_is_printed(text_directory, text_model):
    options = ["--num-beams", 3, "--num-return-sequences", 2, "--max-length", 6]
    options += ["--min-new-tokens", 2, "--length-penalty", 0.5, "--early-stopping", "never"]
    done = run(text_directory, TEXTS[0], *options, "--threads", 1, "--verify", "--json")
    results = text_model.generate(
        TEXTS[0], num_beams=3, num_return_sequences=2, max_length=6,
        min_new_tokens=2, length_penalty=0.5, early_stopping="never",
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["token_ids"] for row in rows] == [result.token_ids for result in results]
    scores = [result.score for result in results]
    assert [row["score"] for row in rows] == pytest.approx(scores, abs=1e-4)


def test_a_seed_gives_what_the_library_gives(text_directory, text_model):
    options = ["--do-sample", "--temperature", 3, "--seed", 12, "--max-new-tokens", 9]
    done = run(text_directory, *TEXTS, *options)
    wanted = text_model.generate(TEXTS, do_sample=True, temperature=3, seed=12, max_new_tokens=9)
    assert done.stdout.splitlines() == [result.text for result in wanted]


def test_bad_words_and_a_prefix_may_be_words(text_directory, text_model):
    first = text_model.generate("abcd", max_new_tokens=4)[0]
    word = text_model.tokenizer.decode([3])
    prefix = text_model.tokenizer.encode("efgh abcd")[:-1]
    bad = text_model.tokenizer.encode(word)[:-1]
    results = text_model.generate(
        "abcd", max_new_tokens=4, bad_words_ids=[bad, [first.token_ids[0]]],
        decoder_input_ids=prefix,
    )  # fmt: skip
    done = run(text_directory, "abcd", "--bad-words", word, "--bad-words-ids", first.token_ids[0],
               "--decoder-text", "efgh abcd", "--json", *SHORT)  # fmt: skip
    assert json.loads(done.stdout)["token_ids"] == results[0].token_ids


def test_words_without_a_tokenizer_name_the_flags_for_ids(tiny_directory):
    done = run(tiny_directory, "--ids", "5 1", "--bad-words", "abcd")
    assert done.returncode == 1
    assert "use --bad-words-ids" in done.stderr
