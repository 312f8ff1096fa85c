"""Tests of the CUDA kernels through their C functions, on a machine with a GPU: `make gpu-test`.

`make test` collects none of them. Without a GPU they end with an error, unless they are told to run
on something else, which tests the tests: `--trial` on plain PyTorch instead of the kernels,
`--emulated LIBRARY` on a library of the kernels over the emulator, which takes CPU tensors.
"""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("benchmarks", "exporter", "plugins/python")]


def pytest_addoption(parser):
    parser.addoption("--trial", action="store_true", help="plain PyTorch instead of the kernels")
    parser.addoption("--emulated", metavar="LIBRARY", help="the kernels over the emulator")


def pytest_ignore_collect(config):
    """Leave the folder out unless it is what pytest was started for."""
    return True if config.inipath != Path(__file__).parent / "pytest.ini" else None


def _place(config) -> str:
    """Return what the tests run on."""
    if config.getoption("--emulated"):
        return "the emulator"
    return "plain PyTorch" if config.getoption("--trial") else "a GPU"


def pytest_sessionstart(session):
    import torch

    if not torch.cuda.is_available() and _place(session.config) == "a GPU":
        pytest.exit("no CUDA device: these tests need one", returncode=1)


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.gpu)


def pytest_terminal_summary(terminalreporter):
    passed, place = len(terminalreporter.stats.get("passed", ())), _place(terminalreporter.config)
    terminalreporter.write_line(
        f"{passed} tests passed on {place}{'' if place == 'a GPU' else ', NOT on a GPU'}"
    )


@pytest.fixture(scope="session")
def place(request) -> str:
    """What the tests run on: "a GPU", "the emulator" or "plain PyTorch"."""
    return _place(request.config)


@pytest.fixture(scope="session")
def make_ops(request, place):
    """Options of ops.CudaOps -> our kernels."""
    import torch

    from switch_gpu_bench.ops import CudaOps
    from switch_gpu_bench.torch_ops import TorchOps

    if place == "plain PyTorch":
        return lambda **_: TorchOps(torch.float64)
    from switch_plugins import cuda

    kernels = cuda.load(request.config.getoption("--emulated"))
    return lambda **options: CudaOps(kernels, **options)


@pytest.fixture
def ops(make_ops):
    """Our kernels."""
    return make_ops()
