"""Experts are read in place from the mapped file: those that no token chose are never read."""

import ctypes
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from checkpoints import TINY, Variant, make_checkpoint

import switch_plugins

EXPERTS, STEPS, SOURCE = 64, 20, [5, 6, 7, 1]
#: 1 MB a matrix, so that a slice has an interior that no read-ahead of a neighbour reaches.
SIZES = TINY | {"d_model": 256, "d_ff": 1024, "num_experts": EXPERTS, "expert_capacity": 64}
READ_AHEAD = 256 * 1024

# What decodes, looks at the page cache, and only then asks which experts were chosen.
DECODE = '''
import json, sys
sys.path.insert(0, sys.argv[1])
import switch_runtime
from pathlib import Path
from test_residency import resident_pages
directory, source, steps = Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
model = switch_runtime.load(directory, threads=2)
assert model.describe()["plugin_library"], "the kernels are not used"
loaded = resident_pages(directory / "weights.bin").mean()
result = model.generate([source], max_new_tokens=steps, min_new_tokens=steps)[0]
resident_pages(directory / "weights.bin").tofile(sys.argv[5])
target = [0, *result.ids][:steps]
assert len(target) == steps
routes = model.route(source, target)
print(json.dumps([loaded, {name: route.expert.ravel().tolist() for name, route in routes.items()}]))
'''


def resident_pages(path: Path) -> np.ndarray:
    """Which pages of a file are in memory, seen through a mapping of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as mapping:
        view = np.frombuffer(mapping, np.uint8)
        address, count = ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size)
        failed = libc.mincore(address, count, ctypes.c_void_p(pages.ctypes.data))
        del view
    assert not failed, os.strerror(ctypes.get_errno())
    return (pages & 1).astype(bool)


def drop_from_memory(path: Path) -> None:
    """Write a file out and take it from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def expert_slices(path: Path) -> list[list[range]]:
    """Byte ranges of the two matrices of every expert of a graph's only SwitchMoE.

    Returns:
        [matrix, expert] as a list of lists of ranges.
    """
    graph = onnx.load(path, load_external_data=False).graph
    (node,) = (node for node in graph.node if node.op_type == "SwitchMoE")
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    slices = []
    for name in node.input[3:5]:
        where = {entry.key: entry.value for entry in initializers[name].external_data}
        assert where["location"] == "weights.bin"
        start, one = int(where["offset"]), int(where["length"]) // EXPERTS
        slices.append([range(start + e * one, start + (e + 1) * one) for e in range(EXPERTS)])
    return slices


@pytest.fixture(scope="module")
def decoded(tmp_path_factory) -> tuple[Path, np.ndarray, float, dict]:
    """The directory, its resident pages after decoding, the share after loading, the routes."""
    import switch_export

    assert switch_plugins.library_path() is not None
    folder = tmp_path_factory.mktemp("residency")
    checkpoint = make_checkpoint(folder / "checkpoint", Variant(SIZES))
    directory = folder / "exported"
    switch_export.export(str(checkpoint), directory, verify=False)
    weights = directory / "weights.bin"
    drop_from_memory(weights)
    if resident_pages(weights).mean() > 0.05:
        pytest.skip(f"the file system of {folder} keeps its files in memory")
    pages = folder / "pages.bin"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arguments = [Path(__file__).parent, directory, json.dumps(SOURCE), STEPS, pages]
    result = subprocess.run(
        [sys.executable, "-c", DECODE, *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )
    assert result.returncode == 0, result.stderr
    loaded, routes = json.loads(result.stdout.splitlines()[-1])
    return directory, np.fromfile(pages, bool), loaded, routes


def chosen_experts(routes: dict, stack: str) -> set[int]:
    (name,) = (name for name in routes if name.startswith(stack))
    return {expert for expert in routes[name] if expert >= 0}


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_experts_that_no_token_chose_are_not_in_memory(decoded, stack):
    directory, pages, _, routes = decoded
    chosen = chosen_experts(routes, stack)
    assert 2 <= len(chosen) < EXPERTS / 2
    for matrix in expert_slices(directory / f"{stack}.onnx"):
        for expert, where in enumerate(matrix):
            assert len(where) >= 2**20
            if expert in chosen:
                continue
            interior = slice(
                -(-(where.start + READ_AHEAD) // mmap.PAGESIZE),
                (where.stop - READ_AHEAD) // mmap.PAGESIZE,
            )
            assert interior.stop - interior.start > 100
            assert not pages[interior].any(), f"expert {expert} of the {stack}"


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_experts_that_were_chosen_are_in_memory(decoded, stack):
    directory, pages, _, routes = decoded
    for matrix in expert_slices(directory / f"{stack}.onnx"):
        for expert in chosen_experts(routes, stack):
            where = matrix[expert]
            inside = slice(-(-where.start // mmap.PAGESIZE), where.stop // mmap.PAGESIZE)
            assert pages[inside].all(), f"expert {expert} of the {stack}"


def test_loading_reads_little_of_the_file(decoded):
    assert decoded[2] < 0.1
