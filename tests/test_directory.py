"""The output directory appears whole or not at all."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from switch_export import directory as directories
from switch_export.directory import check_output, staged, write_description
from switch_export.errors import ExportError


def make(output: Path, content: str = "x", force: bool = False) -> None:
    with staged(output, force) as directory:
        (directory / "weights.bin").write_text(content)
        write_description(directory, {"format": 1})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_directory_appears_only_when_it_is_complete(tmp_path):
    output = tmp_path / "out"
    with staged(output) as directory:
        (directory / "weights.bin").write_text("x")
        assert not output.exists()
        assert names(tmp_path) == [f".out.partial-{os.getpid()}"]
    assert names(tmp_path) == ["out"]
    assert names(output) == ["weights.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_or_ctrl_c_leaves_nothing_behind(tmp_path, error):
    def fail():
        with staged(tmp_path / "out") as directory:
            (directory / "weights.bin").write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def test_an_error_during_force_keeps_the_old_directory(tmp_path):
    make(tmp_path / "out", "old")
    with pytest.raises(ValueError, match="stop"), staged(tmp_path / "out", force=True):
        raise ValueError("stop")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "weights.bin").read_text() == "old"


def test_an_existing_output_is_refused_before_any_work(tmp_path):
    make(tmp_path / "out", "old")
    with pytest.raises(ExportError, match="exists; pass --force to replace it"):
        check_output(tmp_path / "out", force=False)
    with pytest.raises(ExportError, match="exists"):
        make(tmp_path / "out")
    assert (tmp_path / "out" / "weights.bin").read_text() == "old"


def test_force_replaces_a_model_directory(tmp_path):
    make(tmp_path / "out", "old")
    make(tmp_path / "out", "new", force=True)
    assert (tmp_path / "out" / "weights.bin").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_force_on_nothing_is_an_export(tmp_path):
    make(tmp_path / "out", "new", force=True)
    assert (tmp_path / "out" / "weights.bin").read_text() == "new"


def test_force_does_not_replace_what_no_export_wrote(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(ExportError, match="not a model directory"):
        make(tmp_path / "out", force=True)
    assert names(tmp_path / "out") == ["thesis.tex"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(ExportError, match="is a file"):
        make(tmp_path / "out", force=True)


def test_a_missing_parent_is_named(tmp_path):
    with pytest.raises(ExportError, match="needs the folder .*nowhere, which does not exist"):
        make(tmp_path / "nowhere" / "out")


def test_a_link_stays_a_link_to_the_new_directory(tmp_path):
    make(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    make(tmp_path / "link", "new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "weights.bin").read_text() == "new"


def test_an_output_that_appears_meanwhile_is_kept(tmp_path):
    def meet():
        with staged(tmp_path / "out") as directory:
            (directory / "weights.bin").write_text("mine")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "weights.bin").write_text("theirs")

    with pytest.raises(ExportError, match="appeared during the export"):
        meet()
    assert (tmp_path / "out" / "weights.bin").read_text() == "theirs"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, code):
    with pytest.raises(ExportError, match="the disk is full.*MiB are free"), \
            staged(tmp_path / "out"):
        raise OSError(code, os.strerror(code))
    assert names(tmp_path) == []


def test_a_write_that_the_system_cuts_off_leaves_nothing(tmp_path):
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from switch_export.directory import staged\n"
        "from switch_export.errors import ExportError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "try:\n"
        "    with staged(Path(sys.argv[1])) as directory:\n"
        "        (directory / 'weights.bin').write_bytes(bytes(1 << 20))\n"
        "except ExportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "out"], capture_output=True, text=True,
        check=True,
    )
    assert done.stdout.startswith("the disk is full")
    assert names(tmp_path) == []


def test_what_killed_exports_left_is_removed_and_a_living_one_kept(tmp_path):
    dead = tmp_path / ".out.partial-1"  # process 1 lives, but it has not locked this
    dead.mkdir()
    (dead / "weights.bin").write_text("x")
    other = tmp_path / ".out.partial-notes"
    other.mkdir()
    with staged(tmp_path / "out") as alive:
        assert not dead.exists()
        directories._clear_siblings(tmp_path / "out")
        assert alive.exists()
    assert names(tmp_path) == [other.name, "out"]


@pytest.mark.parametrize("force", [False, True])
def test_a_file_system_without_exchange_is_served_in_steps(tmp_path, monkeypatch, force):
    def refuse(_source, _target, _flags):
        raise OSError(errno.EINVAL, "no such flag")

    if force:
        make(tmp_path / "out", "old")
    monkeypatch.setattr(directories, "_rename", refuse)
    make(tmp_path / "out", "new", force=force)
    assert (tmp_path / "out" / "weights.bin").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_a_directory_moved_away_by_a_killed_export_comes_back(tmp_path):
    make(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.previous-1")
    with pytest.raises(ExportError, match="exists"):
        make(tmp_path / "out", "new")
    assert (tmp_path / "out" / "weights.bin").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_the_description_has_size_and_hash_of_every_file(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"abc")
    for i in range(2):  # the second time, an old description is there
        write_description(tmp_path, {"format": i})
    described = json.loads((tmp_path / "switch.json").read_text())
    sha256 = hashlib.sha256(b"abc").hexdigest()
    assert described == {"format": 1, "files": {"weights.bin": {"size": 3, "sha256": sha256}}}
    assert names(tmp_path) == ["switch.json", "weights.bin"]


def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_directory(tmp_path):
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "kill_trials.py", "writer", tmp_path / "out"],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["absent"] >= 10, counts
    assert counts["old"] + counts["new"] >= 10, counts
