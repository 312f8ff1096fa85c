"""The native test programs, which `make test` builds into build/native, and the C example."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "native"
SOURCES = sorted((ROOT / "tests" / "native").glob("test_*.cc"))


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run a built program; one that was not built is a failure, not a skip."""
    if not program.exists():
        pytest.fail(f"{program.relative_to(ROOT)} is not built; run `make test` or build it with "
                    "cmake -DSWITCH_BUILD_TESTS=ON")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_native_program_passes(source):
    result = run(BUILD / "tests" / "native" / source.stem)
    assert result.returncode == 0, result.stdout + result.stderr


def test_c_example_says_how_it_is_used():
    result = run(BUILD / "examples" / "embed_c" / "embed_c")
    assert result.returncode == 2
    assert "usage:" in result.stderr


def test_c_example_refuses_what_is_not_a_model_directory(tmp_path):
    result = run(BUILD / "examples" / "embed_c" / "embed_c", str(tmp_path), "4", "5", "1")
    assert result.returncode == 1
    assert "is not a model directory" in result.stderr
