"""The files that make a package of the repository agree with each other and with the disk."""

import configparser
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
MOST_LINES = 400
SOURCES = {".py", ".cc", ".h", ".hpp", ".c", ".sh", ".cmake"}


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def constraints():
    """Distribution name -> the version that was tested."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def values(text):
    return [line for line in text.strip().splitlines() if line and not line.startswith("#")]


def requirements(setup_cfg):
    options = setup_cfg["options"]["install_requires"]
    texts = [options, *setup_cfg["options.extras_require"].values()]
    return [Requirement(line) for text in texts for line in values(text)]


def tracked_files():
    """Files that are under version control or about to be."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(git, cwd=ROOT, capture_output=True, check=False)
    assert listing.returncode == 0, listing.stderr.decode()
    paths = (ROOT / name for name in listing.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


def test_every_package_on_disk_is_listed(setup_cfg):
    folders = dict(
        (part.strip() for part in line.split("="))
        for line in values(setup_cfg["options"]["package_dir"])
    )
    on_disk = {
        ".".join([name, *init.parent.relative_to(ROOT / folder).parts])
        for name, folder in folders.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(values(setup_cfg["options"]["packages"])) == on_disk


def test_constraints_are_inside_the_bounds_of_setup_cfg(setup_cfg, constraints):
    tested = [r for r in requirements(setup_cfg) if r.name in constraints]
    assert {"torch", "transformers", "onnxruntime", "numpy"} <= {r.name for r in tested}
    assert [str(r) for r in tested if constraints[r.name] not in r.specifier] == []


def test_every_requirement_has_a_tested_version_or_is_for_a_gpu(setup_cfg, constraints):
    names = {r.name for r in requirements(setup_cfg)}
    for_a_gpu = {"onnxruntime-gpu", "tensorrt"}
    assert names - set(constraints) - {"switch-export"} == for_a_gpu


def test_installed_distribution_has_the_version_of_the_file():
    from importlib.metadata import version

    assert version("switch-export") == (ROOT / "VERSION").read_text(encoding="utf-8").strip()


def test_changelog_names_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{(ROOT / 'VERSION').read_text(encoding='utf-8').strip()}]" in text


def test_first_screen_commands_exist(setup_cfg):
    """README's first indented block: make targets that exist, and installed commands."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first_screen = readme[: readme.index("<!-- bench -->")]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    scripts = {
        line.split("=")[0].strip()
        for line in values(setup_cfg["options.entry_points"]["console_scripts"])
    }
    commands = [
        shlex.split(line, comments=True)
        for line in re.findall(r"^    (\S.*)$", first_screen, flags=re.MULTILINE)
    ]
    made = {command[1] for command in commands if command[0] == "make"}
    assert {"demo", "test"} <= made <= targets
    assert {command[0] for command in commands} - {"git", "make"} == scripts


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    last_line = script.read_text(encoding="utf-8").splitlines()[-1]
    assert last_line.endswith("make --no-print-directory test")


def test_no_source_file_is_longer_than_the_limit():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in tracked_files()
        if path.suffix in SOURCES
    }
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_no_text_names_a_path_of_somebody_s_machine():
    machine_path = re.compile(r"(?<![\w./-])/(?:home|root|work|Users)/\w+")
    named = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked_files()
        if path.suffix in SOURCES | {".md", ".txt", ".cfg", ".toml", ".yml", ".json", ".jsonl", ""}
        for match in machine_path.finditer(path.read_text(encoding="utf-8"))
    ]
    assert named == []


def test_installed_library_reports_the_version_of_the_file():
    import ctypes

    import switch_runtime

    library = Path(switch_runtime.__file__).parent / "lib" / "libswitch_runtime.so"
    native = ctypes.CDLL(str(library))
    native.switch_version.restype = ctypes.c_char_p
    assert native.switch_version().decode() == (ROOT / "VERSION").read_text().strip()
