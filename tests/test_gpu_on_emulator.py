"""tests/gpu on the CUDA kernels over the emulator: through the C functions, without a GPU.

What needs a device (its graphs, streams and memory) skips itself; what takes minutes on the
emulator is left out here and runs in `make gpu-test`.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "build" / "native" / "tests" / "cuda" / "libswitch_cuda_on_emulator.so"
SLOW = "not base_sizes and not 300 and not 33 and not twenty_runs"
LEAST = 400  # tests that must have run


def test_the_tests_of_a_gpu_pass_on_the_emulator():
    assert LIBRARY.exists(), "run `make test`, or build with cmake -DSWITCH_BUILD_TESTS=ON"
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "-c", "tests/gpu/pytest.ini", "tests/gpu", "--emulated", LIBRARY, "-k", SLOW,
    ]
    result = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) >= LEAST, result.stdout[-2000:]
