"""switch-generate, run as a person runs it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from directories import with_tokenizer

import switch_runtime

COMMAND = [sys.executable, "-m", "switch_runtime.cli"]
SHORT = ["--max-new-tokens", "4"]
TEXTS = ["abcd <extra_id_0>", "", "efgh abcd"]


@pytest.fixture(scope="module")
def directory(tiny_directory, tmp_path_factory):
    return with_tokenizer(tiny_directory, tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture(scope="module")
def expected(directory):
    """What the library says of TEXTS."""
    with switch_runtime.load(directory) as model:
        return model.generate(TEXTS, max_new_tokens=4)


def run(*arguments, text: str | bytes | None = None) -> subprocess.CompletedProcess:
    data = text.encode() if isinstance(text, str) else text
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], input=data or b"", capture_output=True, timeout=60,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    return done


def test_arguments_give_one_line_each(directory, expected):
    done = run(directory, *TEXTS, *SHORT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n") == [*(result.text for result in expected), ""]


def test_standard_input_and_a_file_give_one_line_for_each_of_theirs(
    directory, expected, tmp_path
):
    lines = "\n".join(TEXTS)
    (tmp_path / "texts").write_text(lines + "\n")
    by_input = run(directory, *SHORT, text=lines)
    by_file = run(directory, *SHORT, "--input", tmp_path / "texts", "--batch-size", 1)
    wanted = [*(result.text for result in expected), ""]
    assert by_input.stdout.split("\n") == by_file.stdout.split("\n") == wanted
    assert by_input.returncode == by_file.returncode == 0


def test_json_has_source_text_ids_and_score(directory, expected):
    done = run(directory, *TEXTS, *SHORT, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [set(row) for row in rows] == [{"source", "text", "token_ids", "score"}] * len(TEXTS)
    for row, text, result in zip(rows, TEXTS, expected, strict=True):
        assert (row["source"], row["text"]) == (text, result.text)
        assert row["token_ids"] == result.token_ids
        assert row["score"] == pytest.approx(result.score, abs=1e-5)


def test_ids_go_in_and_out(tiny_directory, tiny_model):
    done = run(tiny_directory, "--ids", "5 6 7 1", "9 1", *SHORT)
    results = tiny_model.generate([[5, 6, 7, 1], [9, 1]], max_new_tokens=4)
    assert done.stdout.splitlines() == [" ".join(map(str, r.token_ids)) for r in results]


def test_every_search_option_reaches_the_library(directory):
    options = ["--num-beams", 3, "--num-return-sequences", 2, "--max-length", 6]
    options += ["--min-new-tokens", 2, "--length-penalty", 0.5, "--early-stopping", "never"]
    done = run(directory, TEXTS[0], *options, "--threads", 1, "--verify", "--json")
    with switch_runtime.load(directory) as model:
        results = model.generate(
            TEXTS[0], num_beams=3, num_return_sequences=2, max_length=6,
            min_new_tokens=2, length_penalty=0.5, early_stopping="never",
        )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["token_ids"] for row in rows] == [result.token_ids for result in results]
    scores = [result.score for result in results]
    assert [row["score"] for row in rows] == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{missing}", "a"], "not a model directory"),
        (["{model}", "a", "--num-beams", "0"], "num_beams is 0"),
        (["{model}", "--ids", "5 x"], "'5 x' is not token ids"),
        (["{model}", "--ids", ""], "no token ids"),
        (["{model}", "--ids", "5000"], "5000"),
        (["{model}", "--input", "{missing}"], "cannot read"),
    ],
)
def test_a_failure_is_one_message_and_exit_code_1(directory, tmp_path, arguments, message):
    places = {"model": directory, "missing": tmp_path / "missing"}
    done = run(*(argument.format(**places) for argument in arguments))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_input_that_is_not_utf_8_is_named(directory):
    done = run(directory, text=b"ab\xff\n")
    assert done.returncode == 1
    assert "is not UTF-8 text" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["{model}", "--beams", "3"],
        ["{model}", "--num-beams", "x"],
        ["{model}", "a", "--input", "f"],
    ],
)
def test_wrong_usage_is_exit_code_2(directory, arguments):
    done = run(*(argument.format(model=directory) for argument in arguments))
    assert done.returncode == 2
    assert "Usage:" in done.stderr


def test_version_is_the_librarys():
    done = run("--version")
    assert done.stdout == f"switch-generate {switch_runtime.__version__}\n"


def test_ctrl_c_ends_it_quietly_with_130(directory):
    command = [*COMMAND, directory, "abcd"]
    command += ["--max-new-tokens", "20000", "--min-new-tokens", "20000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        time.sleep(1.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_reader_that_goes_away_ends_it_quietly(directory):
    lines = b"abcd\n" * 3000
    command = [*COMMAND, directory, *SHORT]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        try:
            process.stdin.write(lines)
            process.stdin.close()
        except BrokenPipeError:
            process.stdin = None
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) != 0
