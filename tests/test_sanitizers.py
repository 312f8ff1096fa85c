"""The native tests under address, undefined-behaviour and thread sanitizers; code that stays apart.

Builds trees of its own, build/asan and build/tsan, with the presets of CMakePresets.json: about two
minutes on two cores the first time, seconds after that.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from switch_runtime import native

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = sorted(path.stem for path in (ROOT / "tests" / "native").glob("test_*.cc"))
# What uses threads, and what it shares with them.
THREADED = [name for name in PROGRAMS if name.startswith(("test_kernels_", "test_generate"))]
THREADED += ["test_cache"]
CASES = [("asan", name) for name in PROGRAMS] + [("tsan", name) for name in THREADED]
# Not detect_stack_use_after_return: GCC 12 aligns its copies of the stack to less than 64 bytes
# (its bug 110027), which ends AVX-512 code.
SETTINGS = {
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "ASAN_OPTIONS": "detect_stack_use_after_return=0",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}
# Kernels that a processor runs only if it has their instructions.
GATED = ("avx2", "avx512", "avx512_vnni")


def run(command: list, seconds: int = 300, **settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env=os.environ | SETTINGS | settings,
        capture_output=True, text=True, timeout=seconds, check=False,
    )


def run_program(command: list, **settings: str) -> subprocess.CompletedProcess:
    result = run(command, **settings)
    if "unexpected memory mapping" in result.stderr:  # a kernel that spreads addresses too widely
        result = run(["setarch", platform.machine(), "-R", *command], **settings)
    return result


@pytest.fixture(scope="module")
def built():
    """Preset -> the folder of its programs, built when it is first asked for."""
    folders: dict[str, Path] = {}

    def build(preset: str) -> Path:
        if preset not in folders:
            programs = [name for kind, name in CASES if kind == preset]
            programs += ["concurrent", "switch_moe_ort"] if preset == "tsan" else []
            tree = ROOT / "build" / preset
            for command in (
                ["cmake", "--preset", preset, f"-DPython_EXECUTABLE={sys.executable}"],
                ["cmake", "--build", tree, "--parallel", os.cpu_count(), "--target", *programs],
            ):
                result = run(command, 1200)
                assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
            folders[preset] = tree / "tests" / "native"
        return folders[preset]

    return build


@pytest.mark.parametrize(("preset", "program"), CASES)
def test_native_program_is_clean(built, preset, program):
    result = run_program([built(preset) / program])
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr


def test_threads_that_share_a_real_model_are_clean(built, tiny_directory):
    """Core and kernels are instrumented; what is suppressed are the engine's own frames."""
    program = built("tsan") / "concurrent"
    plugin = ROOT / "build" / "tsan" / "plugins" / "libswitch_moe_ort.so"
    suppressions = ROOT / "tests" / "native" / "onnxruntime.supp"
    result = run_program(
        [program, tiny_directory, native.onnxruntime_library(), plugin, 16, 100],
        TSAN_OPTIONS=f"{SETTINGS['TSAN_OPTIONS']}:suppressions={suppressions}",
    )
    expected = (0, "100 requests are the same\n", "")
    assert (result.returncode, result.stdout, result.stderr) == expected


@pytest.mark.skipif(platform.machine() != "x86_64", reason="one instruction set only")
@pytest.mark.parametrize("name", GATED)
def test_kernels_of_one_instruction_set_share_no_code(name):
    """Of a symbol that several objects define weakly, the linker keeps one for all processors."""
    found = (ROOT / "build" / "native").glob(f"plugins/**/core/cpu/{name}.cc.o")
    objects = list(found)
    assert len(objects) == 1, f"{name}.cc.o in build/native, which `make test` makes: {objects}"
    listing = run(["nm", "--defined-only", "--demangle", objects[0]])
    assert listing.returncode == 0, listing.stderr
    lines = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
    visible = {symbol for _, kind, symbol in lines if kind.isupper()}
    weak = {symbol for _, kind, symbol in lines if kind in "WwVvu"}
    assert weak == set()
    assert visible == {f"switch_ops::{name}_kernels()"}
