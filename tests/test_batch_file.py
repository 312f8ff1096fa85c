"""switch-generate --input --output: what is written, and lines that cannot be decoded."""

import hashlib
import json

import pytest
from batch_job import make_job, random_lines, run

LINES = random_lines()
SHORT = ["--max-new-tokens", 4]


@pytest.fixture
def job(tmp_path, text_directory):
    return make_job(tmp_path, text_directory)


# What is written.


def test_the_output_has_a_line_for_every_line_and_nothing_else_is_left(job, text_model):
    done = run(*job.command, "--chunk-lines", 7)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{job.output}\n")
    wanted = text_model.generate(LINES, max_new_tokens=4)
    assert job.output.read_text().split("\n") == [*(result.text for result in wanted), ""]
    assert job.files() == {"out.txt"}


def test_json_lines_keep_what_else_the_input_says(job, text_model):
    rows = [
        {"id": 7, "text": "abcd", "score": "overwritten"},
        {"token_ids": [5, 6, 1], "tags": ["é", "\ud800"]},
        {"text": ""},
    ]
    job.source.write_text("".join(json.dumps(row) + "\r\n" for row in rows))
    done = run(*job.command, "--jsonl")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in job.output.read_text().splitlines()]
    for row, line, result in zip(
        rows, found, text_model.generate(["abcd", [5, 6, 1], ""], max_new_tokens=4), strict=True
    ):
        given = row.get("text", row.get("token_ids"))
        kept = {name: row[name] for name in ("id", "tags") if name in row}
        score = pytest.approx(result.score, abs=1e-4)
        assert line == kept | {
            "source": given, "text": result.text, "token_ids": result.token_ids, "score": score,
        }  # fmt: skip


def test_a_name_in_jsonl_means_json_lines(job):
    job.source = job.source.rename(job.source.with_suffix(".jsonl"))
    job.source.write_text('{"text": "abcd", "id": "x"}')  # and no newline at the end
    job.command[2] = job.source
    assert run(*job.command).returncode == 0
    assert json.loads(job.output.read_text())["id"] == "x"


def test_several_results_per_line_are_neighbours(job, text_model):
    assert run(*job.command, "--num-beams", 3, "--num-return-sequences", 2).returncode == 0
    wanted = text_model.generate(LINES, num_beams=3, num_return_sequences=2, max_new_tokens=4)
    assert job.output.read_text().splitlines() == [result.text for result in wanted]


def test_an_empty_input_gives_an_empty_output(job):
    job.source.write_text("")
    assert run(*job.command).returncode == 0
    assert job.output.read_bytes() == b""
    assert job.files() == {"out.txt"}


def test_sampling_depends_on_the_seed_and_the_chunk_alone(job, text_model):
    sampled = ["--do-sample", "--temperature", 2.5, "--seed", 5, "--chunk-lines", 16]
    assert run(*job.command, *sampled).returncode == 0
    wanted = []
    for chunk, start in enumerate(range(0, len(LINES), 16)):
        digest = hashlib.sha256(f"5:{chunk}".encode()).digest()
        seed = int.from_bytes(digest[:8], "little") // 2
        results = text_model.generate(
            LINES[start : start + 16], do_sample=True, temperature=2.5, seed=seed,
            max_new_tokens=4,
        )  # fmt: skip
        wanted += [result.text for result in results]
    assert job.output.read_text().splitlines() == wanted


def test_standard_input_is_written_to_a_file(job, text_model):
    done = run(job.directory, "--output", job.output, *SHORT, text="\n".join(LINES))
    assert done.returncode == 0, done.stderr
    wanted = text_model.generate(LINES, max_new_tokens=4)
    assert job.output.read_text().splitlines() == [result.text for result in wanted]
    assert job.files() == {"out.txt"}


# Bad lines.

BAD = [
    ('{"text": "abcd"}', None),
    ("{", "is not JSON"),
    ("[1]", "expected a JSON object"),
    ('{"id": 3}', "has no 'text' and no 'token_ids'"),
    ('{"text": 5}', "text is 5, expected a string"),
    ('{"token_ids": []}', "has no token ids"),
    ('{"token_ids": [5, 131]}', "token id 131, expected 0 to 130"),
    ('{"token_ids": [1.5]}', "1.5, expected an integer"),
    ('{"text": "a", "token_ids": [5]}', "has both"),
    ('{"text": "\\ud800"}', "not valid Unicode"),
    ('{"token_ids": [5, 1]}', None),
]


def test_all_bad_lines_of_a_chunk_are_named_and_the_chunks_before_are_kept(job):
    good = [line for line, problem in BAD if problem is None]
    job.source.write_text("\n".join([*good, *(line for line, _ in BAD)]))
    done = run(*job.command, "--jsonl", "--chunk-lines", 2)
    assert done.returncode == 1
    assert "1 line cannot be decoded" in done.stderr
    assert "line 4: is not JSON" in done.stderr
    assert len(job.partial.read_text().splitlines()) == 2
    done = run(*job.command, "--jsonl", "--chunk-lines", 40, "--restart")
    assert done.returncode == 1
    for number, (_, problem) in enumerate(BAD, 3):
        assert problem is None or f"line {number}: " in done.stderr
        assert problem is None or problem in done.stderr


def test_after_a_bad_line_is_mended_the_run_goes_on(job, text_model):
    bad = [json.dumps({"text": line}) for line in LINES]
    mended = "\n".join(bad)
    bad[25] = "{"
    job.source.write_text("\n".join(bad))
    job.command += ["--jsonl", "--chunk-lines", 10]
    assert "line 26: is not JSON" in run(*job.command).stderr
    committed = job.partial.read_text().splitlines()
    assert len(committed) == 20
    job.source.write_text(mended)
    assert run(*job.command).returncode == 0
    found = [json.loads(line)["text"] for line in job.output.read_text().splitlines()]
    assert found == [result.text for result in text_model.generate(LINES, max_new_tokens=4)]


def test_skip_errors_writes_an_error_object_and_goes_on(job):
    job.source.write_text("\n".join(line for line, _ in BAD))
    done = run(*job.command, "--jsonl", "--skip-errors", "--chunk-lines", 3)
    assert done.returncode == 0
    assert done.stderr == "9 of 11 lines have an error\n"
    found = [json.loads(line) for line in job.output.read_text().splitlines()]
    for number, (row, (_, problem)) in enumerate(zip(found, BAD, strict=True), 1):
        if problem is None:
            assert "error" not in row
        else:
            assert row["line"] == number
            assert problem in row["error"]
    assert found[3]["id"] == 3


def test_a_row_that_no_memory_holds_is_found_among_the_others(job, text_model):
    rows = [[5, 6, 1], [5] * 1_000_000, [7, 1], [8, 1]]
    job.source.write_text("\n".join(" ".join(map(str, row)) for row in rows))
    job.command.append("--ids")
    done = run(*job.command)
    assert done.returncode == 1
    assert "1 line cannot be decoded" in done.stderr
    assert "line 2: " in done.stderr
    assert "GiB" in done.stderr
    assert run(*job.command, "--skip-errors").returncode == 0
    wanted = text_model.generate([rows[0], rows[2], rows[3]], max_new_tokens=4)
    texts = [" ".join(map(str, result.token_ids)) for result in wanted]
    assert job.output.read_text().splitlines() == [texts[0], "", *texts[1:]]


def test_lines_that_are_not_utf_8_are_named(job):
    job.source.write_bytes(b"abcd\nab\xff\n\xfe\n")
    done = run(*job.command)
    assert done.returncode == 1
    assert "line 2: is not UTF-8 text" in done.stderr
    assert "line 3: is not UTF-8 text" in done.stderr


def test_a_wrong_option_is_no_fault_of_the_lines(job):
    done = run(*job.command, "--top-k", -1, "--skip-errors")
    assert done.returncode == 1
    assert "top_k is -1" in done.stderr
    assert job.files() == set()
