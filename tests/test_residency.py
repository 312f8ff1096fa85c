"""Experts are read in place from the mapped file: those that no token chose are never read.

The kernel reads ahead around what is touched, on some machines by megabytes: pages as near as that
to anything that may have been touched are not looked at.
"""

import ctypes
import json
import mmap
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from checkpoints import TINY, Variant, make_checkpoint
from small_checkpoint import read_state, write_state

import switch_plugins

EXPERTS, STEPS, SOURCE = 64, 20, [5, 6, 7, 1]
#: A matrix of an expert is 1 MB.
SIZES = TINY | {"d_model": 256, "d_ff": 1024, "num_experts": EXPERTS, "expert_capacity": 64}
#: Only the first experts are ever chosen: far from them there is no read-ahead either.
CHOOSABLE = 8

# What decodes, looks at the page cache, and only then asks which experts were chosen.
DECODE = '''
import json, sys
sys.path.insert(0, sys.argv[1])
import switch_runtime
from pathlib import Path
from test_residency import resident_pages
folder, source, steps = Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
weights = folder / "exported" / "weights.bin"
model = switch_runtime.load(folder / "exported", threads=2)
assert model.describe()["plugin_library"], "the kernels are not used"
resident_pages(weights).tofile(folder / "loaded")
result = model.generate([source], max_new_tokens=steps, min_new_tokens=steps)[0]
resident_pages(weights).tofile(folder / "decoded")
target = [0, *result.token_ids][:steps]
assert len(target) == steps
routes = model.route(source, target)
print(json.dumps({name: route.expert.ravel().tolist() for name, route in routes.items()}))
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


def read_ahead(path: Path) -> int:
    """Bytes around a touched page that the kernel may read as well: this window and the next."""
    device = path.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    kilobytes = int(setting.read_text()) if setting.exists() else 128
    return 2 * kilobytes * 1024


def expert_slices(path: Path) -> list[list[slice]]:
    """Pages of the two matrices of every expert of a graph's only SwitchMoE: [matrix][expert].

    Pages that a slice shares with its neighbours are left out.
    """
    graph = onnx.load(path, load_external_data=False).graph
    (node,) = (node for node in graph.node if node.op_type == "SwitchMoE")
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    slices = []
    for name in node.input[3:5]:
        where = {entry.key: entry.value for entry in initializers[name].external_data}
        assert where["location"] == "weights.bin"
        start, size = int(where["offset"]), int(where["length"]) // EXPERTS
        assert size == 2**20
        ends = [(start + e * size, start + (e + 1) * size) for e in range(EXPERTS)]
        slices.append([slice(-(-a // mmap.PAGESIZE), b // mmap.PAGESIZE) for a, b in ends])
    return slices


@dataclass
class Run:
    """What a process that decoded left behind.

    Attributes:
        loaded, decoded: which pages of weights.bin were in memory.
        slices: stack -> what expert_slices gives.
        chosen: stack -> experts that a token chose.
        margin: pages of read-ahead.
    """

    loaded: np.ndarray
    decoded: np.ndarray
    slices: dict[str, list[list[slice]]]
    chosen: dict[str, set[int]]
    margin: int

    def far_from(self, chosen: dict[str, set[int]]) -> np.ndarray:
        """Pages that only experts which nobody chose hold, and no read-ahead reaches."""
        touched = np.ones(len(self.loaded), bool)
        for stack, matrices in self.slices.items():
            for matrix in matrices:
                for expert, pages in enumerate(matrix):
                    if expert not in chosen[stack]:
                        touched[pages] = False
        near = np.convolve(touched, np.ones(2 * self.margin + 1), "same") > 0.5
        return ~near


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Export, drop the weights from memory, decode in a process of its own."""
    import switch_export

    assert switch_plugins.library_path() is not None
    folder = tmp_path_factory.mktemp("residency")
    checkpoint = make_checkpoint(folder / "checkpoint", Variant(SIZES))
    state = read_state(checkpoint)
    for name, tensor in state.items():
        if "router.classifier" in name:
            tensor[CHOOSABLE:] = 0  # never the largest of all logits
    write_state(checkpoint, state)
    switch_export.export(str(checkpoint), folder / "exported", verify=False)
    weights = folder / "exported" / "weights.bin"
    drop_from_memory(weights)
    if resident_pages(weights).mean() > 0.05:
        pytest.skip(f"the file system of {folder} keeps its files in memory")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arguments = [Path(__file__).parent, folder, json.dumps(SOURCE), STEPS]
    result = subprocess.run(
        [sys.executable, "-c", DECODE, *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )
    assert result.returncode == 0, result.stderr
    chosen: dict[str, set[int]] = {"encoder": set(), "decoder": set()}
    for name, experts in json.loads(result.stdout.splitlines()[-1]).items():
        chosen[name.split(".")[0]] |= set(experts) - {-1}
    return Run(
        *(np.fromfile(folder / name, bool) for name in ("loaded", "decoded")),
        {stack: expert_slices(weights.with_name(f"{stack}.onnx")) for stack in chosen},
        chosen, -(-read_ahead(weights) // mmap.PAGESIZE),
    )


def test_loading_reads_no_expert(run):
    far = run.far_from({"encoder": set(), "decoder": set()})
    assert far.sum() > len(far) / 2
    assert not run.loaded[far].any()


def test_experts_that_no_token_chose_are_not_in_memory(run):
    assert 2 <= len(run.chosen["decoder"]) <= CHOOSABLE
    far = run.far_from(run.chosen)
    assert far.sum() > len(far) / 4
    assert not run.decoded[far].any()


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_experts_that_were_chosen_are_in_memory(run, stack):
    for matrix in run.slices[stack]:
        for expert in run.chosen[stack]:
            assert run.decoded[matrix[expert]].all(), f"expert {expert}"
