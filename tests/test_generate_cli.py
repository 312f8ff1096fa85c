"""switch-generate, run as a person runs it."""

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time

import pytest

import switch_runtime

COMMAND = [sys.executable, "-m", "switch_runtime.cli"]
SHORT = ["--max-new-tokens", "4"]
TEXTS = ["abcd <extra_id_0>", "", "efgh abcd"]


@pytest.fixture(scope="module")
def directory(text_directory):
    return text_directory


@pytest.fixture(scope="module")
def expected(text_model):
    """What the library says of TEXTS."""
    return text_model.generate(TEXTS, max_new_tokens=4)


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
    by_file = run(directory, *SHORT, "--input", tmp_path / "texts", "--chunk-lines", 1)
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


# Streaming and progress.


def test_stream_prints_the_text_of_one_argument(directory, text_model):
    options = ["--max-new-tokens", 30, "--do-sample", "--temperature", 2.5, "--seed", 4]
    done = run(directory, "abcd efgh", "--stream", *options)
    (result,) = text_model.generate(
        "abcd efgh", max_new_tokens=30, do_sample=True, temperature=2.5, seed=4
    )
    assert (done.stdout, done.stderr) == (result.text + "\n", "")


def test_stream_prints_ids(tiny_directory, tiny_model):
    done = run(tiny_directory, "--ids", "5 6 7 1", "--stream", *SHORT)
    (result,) = tiny_model.generate([5, 6, 7, 1], max_new_tokens=4)
    assert done.stdout == " ".join(map(str, result.token_ids)) + "\n"


def on_a_terminal(*arguments) -> str:
    """Standard error of a command that has a terminal there."""
    terminal, its_end = pty.openpty()
    termios.tcsetwinsize(its_end, (24, 80))
    # Where the tests run, progress bars may be off.
    environment = {name: text for name, text in os.environ.items() if name != "TQDM_DISABLE"}
    done = subprocess.run([*COMMAND, *map(str, arguments)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=its_end, timeout=60, env=environment)
    os.close(its_end)
    shown = b""
    try:
        while block := os.read(terminal, 1 << 16):
            shown += block
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    assert done.returncode == 0, shown
    return shown.decode()


def test_a_terminal_sees_progress_unless_it_does_not_want_to(directory, tmp_path):
    (tmp_path / "in").write_text("abcd\n" * 30)
    command = [directory, "--input", tmp_path / "in", *SHORT]
    assert "30/30" in on_a_terminal(*command, "--output", tmp_path / "out")
    assert "30/30" in on_a_terminal(*command, "--chunk-lines", 10)
    assert on_a_terminal(*command, "--no-progress") == ""


def test_lines_give_what_a_run_to_a_file_gives(directory, tmp_path):
    (tmp_path / "in").write_text("abcd efgh\n" * 9)
    command = [directory, "--input", tmp_path / "in", "--chunk-lines", 2, "--do-sample"]
    command += ["--temperature", 3, "--seed", 1, *SHORT]
    printed = run(*command).stdout
    assert run(*command, "--output", tmp_path / "out").returncode == 0
    assert (tmp_path / "out").read_text() == printed
    assert len({*printed.splitlines()}) > 1


# What goes wrong.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{missing}", "a"], "not a model directory"),
        (["{model}", "a", "--num-beams", "0"], "num_beams is 0"),
        (["{model}", "--ids", "5 x"], "'5 x' is not token ids"),
        (["{model}", "--ids", ""], "no token ids"),
        (["{model}", "--ids", "5000"], "5000"),
        (["{model}", "--input", "{missing}"], "cannot read"),
        (["{model}", "--input", "{model}/switch.json", "--output", "{missing}/out"], "missing/out"),
        (["{model}", "--stream", "a", "--num-beams", "2"], "num_beams is 2, expected 1"),
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
        ["{model}", "a", "--output", "f"],
        ["{model}", "a", "--force"],
        ["{model}", "--stream"],
        ["{model}", "--stream", "a", "b"],
        ["{model}", "--stream", "a", "--json"],
        ["{model}", "a", "--seed", "-1"],
        ["{model}", "a", "--suppress-tokens", "x"],
        ["{model}", "a", "--decoder-text", "a", "--decoder-input-ids", "5"],
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
