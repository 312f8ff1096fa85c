"""The native test programs, which `make test` builds into build/native."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "native"
SOURCES = sorted((ROOT / "tests" / "native").glob("test_*.cc"))


def run(program: Path) -> subprocess.CompletedProcess:
    """Run a built program; one that was not built is a failure, not a skip."""
    if not program.exists():
        pytest.fail(
            f"{program.relative_to(ROOT)} is not built; run `make test` or build it with "
            "cmake -DSWITCH_BUILD_TESTS=ON"
        )
    return subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_native_program_passes(source):
    result = run(BUILD / "tests" / "native" / source.stem)
    assert result.returncode == 0, result.stdout + result.stderr
