"""The native tests that use threads, and a real model, under the thread sanitizer."""

import pytest
from sanitizers import PROGRAMS, ROOT, SETTINGS, assert_clean, build, run_program

from switch_runtime import native

# What uses threads, and what it shares with them.
THREADED = [name for name in PROGRAMS if name.startswith(("test_kernels_", "test_generate"))]
THREADED += ["test_cache"]


@pytest.fixture(scope="module")
def folder():
    """Where the programs are, built when they are first asked for."""
    return build("tsan", [*THREADED, "concurrent", "switch_moe_ort"])


@pytest.mark.parametrize("program", THREADED)
def test_native_program_is_clean(folder, program):
    assert_clean(folder / program)


def test_threads_that_share_a_real_model_are_clean(folder, tiny_directory):
    """Core and kernels are instrumented; what is suppressed are the engine's own frames."""
    program = folder / "concurrent"
    plugin = ROOT / "build" / "tsan" / "plugins" / "libswitch_moe_ort.so"
    suppressions = ROOT / "tests" / "native" / "onnxruntime.supp"
    result = run_program(
        [program, tiny_directory, native.onnxruntime_library(), plugin, 16, 100],
        TSAN_OPTIONS=f"{SETTINGS['TSAN_OPTIONS']}:suppressions={suppressions}",
    )
    expected = (0, "100 requests are the same\n", "")
    assert (result.returncode, result.stdout, result.stderr) == expected
