"""The native test programs under sanitizers: two trees, build/asan and build/tsan.

Each has a test file of its own, so that pytest's workers build them side by side: two minutes the
first time, half of one after that. The presets of CMakePresets.json take for each the optimisation
with which compiling and running take least together.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = sorted(path.stem for path in (ROOT / "tests" / "native").glob("test_*.cc"))
# Not detect_stack_use_after_return: GCC 12 aligns its copies of the stack to less than 64 bytes
# (its bug 110027), which ends AVX-512 code.
SETTINGS = {
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "ASAN_OPTIONS": "detect_stack_use_after_return=0",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


def run(command: list, seconds: int = 300, **settings: str) -> subprocess.CompletedProcess:
    """Run a command with the sanitizers' settings; it may fail."""
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env=os.environ | SETTINGS | settings,
        capture_output=True, text=True, timeout=seconds, check=False,
    )


def run_program(command: list, **settings: str) -> subprocess.CompletedProcess:
    """The same for a program of the trees."""
    result = run(command, **settings)
    if "unexpected memory mapping" in result.stderr:  # a kernel that spreads addresses too widely
        result = run(["setarch", platform.machine(), "-R", *command], **settings)
    return result


def build(preset: str, programs: list[str]) -> Path:
    """Build the programs of a preset; the folder of those from tests/native."""
    tree = ROOT / "build" / preset
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    jobs = max(1, (os.cpu_count() or 1) // workers)
    for command in (
        ["cmake", "--preset", preset, f"-DPython_EXECUTABLE={sys.executable}"],
        ["cmake", "--build", tree, "--parallel", jobs, "--target", *programs],
    ):
        result = run(command, 1200)
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return tree / "tests" / "native"


def assert_clean(program: Path) -> None:
    """Run a test program, which must succeed and in which no sanitizer finds anything."""
    result = run_program([program])
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
