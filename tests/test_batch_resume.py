"""switch-generate --input --output: runs that are killed, resumed, restarted and refused."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from batch_job import COMMAND, make_job, run

from switch_runtime.batch_file import BatchError, BatchFile
from switch_runtime.lines import Chunk, chunk_seed

FINGERPRINT = {"seed": None, "model": "m"}


@pytest.fixture
def job(tmp_path, text_directory):
    return make_job(tmp_path, text_directory)


def test_twenty_kills_at_random_moments_change_no_byte(job):
    job.command += ["--chunk-lines", 1, "--json", "--do-sample", "--temperature", 2.5, "--seed", 9]
    job.source.write_text(job.source.read_text() * 8)
    assert run(*job.command).returncode == 0
    wanted = job.output.read_bytes()
    job.output.unlink()
    chance, kills, reached, delay = random.Random(1), 0, set(), 0.3
    while kills < 20:
        kills += kill_after(chance.uniform(delay - 0.1, delay + 0.1), job.command)
        if job.output.exists() and not job.journal.exists():  # once more from the beginning
            assert job.output.read_bytes() == wanted
            job.output.unlink()
            delay = max(0.15, delay - 0.05)
            continue
        before = len(reached)
        reached.add(job.journal.exists() and json.loads(job.journal.read_bytes())["lines"])
        delay += 0.05 if len(reached) == before else -0.02  # as quick as the machine now is
    done = run(*job.command)
    assert done.returncode == 0, done.stderr
    assert job.output.read_bytes() == wanted
    assert job.files() == {"out.txt"}
    assert len(reached) > 5, "the kills were all before or after the work"


def kill_after(seconds: float, command: list) -> bool:
    """Run the command and kill it; False: it had ended."""
    with subprocess.Popen(
        [*COMMAND, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        time.sleep(seconds)
        running = process.poll() is None
        process.kill()
        error = process.stderr.read()
    assert running or process.returncode == 0, error
    return running


def decode(lines: list[bytes], first: int, seed: int) -> Chunk:
    """Stands in for the model: what a line becomes depends on all that it may."""
    return Chunk([f"{first + i} {seed} {line!r}" for i, line in enumerate(lines)], 0)


def write(source: Path, output: Path, **how: bool) -> bool:
    """One run with the stand-in; False: an earlier one had finished it."""
    files = BatchFile(output, 3)
    with source.open("rb") as stream:
        how = {"restart": False, "force": False} | how
        progress = files.begin(stream, FINGERPRINT | {"seed": 4}, **how)
        if progress is not None:
            files.run(stream, progress, decode)
    return progress is not None


def kill_at(step: int) -> None:
    """Let this process kill itself before its file operation number `step`."""
    left = [step]

    def count(function):
        def counted(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return counted

    os.fsync = count(os.fsync)
    for name in ("replace", "unlink", "open"):
        setattr(Path, name, count(getattr(Path, name)))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
@pytest.mark.parametrize("force", [False, True])
def test_a_run_may_die_before_any_of_its_file_operations(tmp_path, force):
    source, wanted = tmp_path / "in", tmp_path / "in.wanted"
    source.write_bytes(b"".join(b"%d\n" % i for i in range(8)))
    write(source, wanted)
    for step in range(1, 100):
        output = tmp_path / f"out{step}"
        if force:
            output.write_bytes(b"old")
        child = os.fork()
        if child == 0:
            kill_at(step)
            write(source, output, force=force)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.waitstatus_to_exitcode(status) == 0:
            break
        write(source, output, force=force)
        assert output.read_bytes() == wanted.read_bytes(), f"killed before operation {step}"
        assert sorted(path.name for path in tmp_path.glob(f"out{step}*")) == [output.name]
    assert 15 < step < 99


def test_a_run_goes_on_where_it_was_broken_off(job):
    text = job.source.read_text()
    job.source.write_bytes(b"".join(job.source.read_bytes().splitlines(True)[:20]) + b"\xff\n")
    job.command += ["--chunk-lines", 10]
    assert run(*job.command).returncode == 1
    job.source.write_text(text)
    kept = job.partial.read_text()
    # Committed lines are not decoded again, what was written after them is.
    marked = kept.replace(kept.strip()[0], "Z", 1)
    job.partial.write_text(marked + "torn" * 1000)
    assert run(*job.command).returncode == 0
    assert job.output.read_text().startswith(marked)
    assert len(job.output.read_text().splitlines()) == 40


@pytest.fixture
def broken_off(job):
    """A run with ten of its lines done."""
    whole = job.source.read_bytes()
    job.source.write_bytes(b"".join(whole.splitlines(True)[:10]) + b"\xff\n")
    job.command += ["--chunk-lines", 10]
    assert run(*job.command).returncode == 1
    job.source.write_bytes(whole)
    return job


def test_another_run_is_not_taken_for_the_one_that_was_broken_off(broken_off):
    done = run(*broken_off.command, "--num-beams", 2, "--seed", 3)
    assert done.returncode == 1
    assert "num_beams was None, is 2" in done.stderr
    assert "seed was None, is 3" in done.stderr
    assert "--restart" in done.stderr
    broken_off.source.write_bytes(broken_off.source.read_bytes().replace(b"a", b"b", 1))
    done = run(*broken_off.command)
    assert done.returncode == 1
    assert "the first 10 lines of the input have changed" in done.stderr
    assert run(*broken_off.command, "--restart", "--num-beams", 2).returncode == 0


def test_what_was_committed_and_lost_is_noticed(broken_off):
    broken_off.partial.unlink()
    done = run(*broken_off.command)
    assert done.returncode == 1
    assert "has 0 bytes, expected at least" in done.stderr


def test_a_damaged_progress_file_says_so(broken_off):
    broken_off.journal.write_text("{")
    done = run(*broken_off.command)
    assert done.returncode == 1
    assert "out.txt.progress cannot be read" in done.stderr
    assert "--restart" in done.stderr


def test_an_existing_output_is_kept_without_force(job):
    job.output.write_text("precious")
    done = run(*job.command)
    assert done.returncode == 1
    assert "exists; pass --force" in done.stderr
    assert job.output.read_text() == "precious"
    assert run(*job.command, "--force").returncode == 0
    assert len(job.output.read_text().splitlines()) == 40


def test_what_standard_input_gave_cannot_be_resumed(job):
    job.partial.write_text("half of it\n")
    standard = [job.directory, "--output", job.output, "--max-new-tokens", 4]
    done = run(*standard, text="abcd\n")
    assert done.returncode == 1
    assert "cannot be resumed" in done.stderr
    assert run(*standard, "--restart", text="abcd\n").returncode == 0


def test_two_runs_do_not_write_one_file(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"1\n2\n")
    files = BatchFile(output, 1)

    def decode_and_try(lines, first, seed):
        with pytest.raises(BatchError, match="another switch-generate is writing"):
            write_again()
        return decode(lines, first, seed)

    def write_again() -> None:
        with source.open("rb") as stream:
            other = BatchFile(output, 1)
            other.run(stream, other.begin(stream, FINGERPRINT, restart=False, force=False), decode)

    with source.open("rb") as stream:
        progress = files.begin(stream, FINGERPRINT, restart=False, force=False)
        files.run(stream, progress, decode_and_try)
    assert len(output.read_bytes().splitlines()) == 2


def test_a_drawn_seed_is_kept_for_the_rest_of_the_run(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"1\n2\n3\n4\n")
    seeds: list[int] = []

    def fails_once(_lines, _first, seed):
        seeds.append(seed)
        if len(seeds) == 2:
            raise RuntimeError
        return Chunk([str(seed)], 0)

    for attempt in range(2):
        files = BatchFile(output, 1)
        with source.open("rb") as stream:
            progress = files.begin(stream, FINGERPRINT, restart=False, force=False)
            if attempt == 0:
                with pytest.raises(RuntimeError):
                    files.run(stream, progress, fails_once)
            else:
                files.run(stream, progress, fails_once)
    assert seeds[1] == seeds[2]
    assert len({*seeds}) == 4
    assert output.read_text().splitlines()[0] == str(seeds[0])


@pytest.mark.parametrize(
    ("end", "more"), [(b"4\n", b"5\n"), (b"4", b"5\n"), (b"4\n5\n6", b"7\n")]
)
def test_an_input_that_grew_after_its_end_was_read_is_not_resumed(tmp_path, end, more):
    """The last chunk would have had other lines."""
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"1\n2\n3\n" + end)
    output.mkdir()  # so that the very last step fails
    with pytest.raises(OSError):
        write(source, output, force=True)
    output.rmdir()
    source.write_bytes(source.read_bytes() + more)
    with pytest.raises(BatchError, match="has grown since its end was reached"):
        write(source, output)


def test_an_input_that_grew_by_whole_chunks_is_resumed(tmp_path):
    source, output, wanted = tmp_path / "in", tmp_path / "out", tmp_path / "wanted"
    source.write_bytes(b"1\n2\n3\n")
    output.mkdir()
    with pytest.raises(OSError):
        write(source, output, force=True)
    output.rmdir()
    source.write_bytes(b"1\n2\n3\n4\n")
    write(source, output)
    write(source, wanted)
    assert output.read_bytes() == wanted.read_bytes()


def test_two_runs_without_a_seed_draw_different_ones(tmp_path):
    source = tmp_path / "in"
    source.write_bytes(b"1\n")
    with source.open("rb") as stream:
        drawn = {
            BatchFile(tmp_path / name, 1).begin(
                stream, FINGERPRINT, restart=False, force=False
            ).seed
            for name in "ab"
        }
    assert len(drawn) == 2


def test_seeds_of_chunks_are_numbers_that_the_library_takes():
    seeds = {chunk_seed(seed, chunk) for seed in range(30) for chunk in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
