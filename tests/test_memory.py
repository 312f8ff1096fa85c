"""Expert stacks stay out of anonymous memory: at export, at load and in decoding.

Anonymous memory (RssAnon) is what a process has allocated; pages of a mapped file do not count.
Each measurement is a process of its own.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkpoints import TINY, Variant, make_checkpoint

SIZES = TINY | {"d_model": 256, "d_ff": 1024, "expert_capacity": 64}
EXPERT_MB = 2 * 256 * 1024 * 4 / 2**20
STACKS_MB = 2 * 64 * EXPERT_MB  # 64 experts, one sparse block in each stack

WATCH = '''
import json, re, sys, threading, time
from pathlib import Path

def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]) / 1024

def peak_growth(action):
    done, peak = threading.Event(), [0.0]
    def sample():
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous())
    before = anonymous()
    thread = threading.Thread(target=sample)
    thread.start()
    action()
    done.set()
    thread.join()
    return max(peak[0], anonymous()) - before
'''
EXPORT = WATCH + '''
import torch, torch.onnx, onnx, onnx_ir, onnxruntime, switch_export.graph, switch_export.verify
print(json.dumps(peak_growth(lambda: switch_export.export(sys.argv[1], sys.argv[2]))))
'''
DECODE = WATCH + '''
import numpy, switch_runtime
rows = json.loads(sys.argv[2])
kept = []
load = peak_growth(lambda: kept.append(switch_runtime.load(sys.argv[1], threads=1)))
def decode():
    kept[0].generate(rows, num_beams=2, max_new_tokens=8)
    kept[0].generate(rows, max_new_tokens=8)
    kept[0].forward(rows[0], rows[0])
print(json.dumps([load, peak_growth(decode)]))
'''


@dataclass
class Exported:
    """A model directory and how much its export grew by, MB."""

    directory: Path
    growth: float


def run(code: str, *arguments: object):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[int, Exported]:
    """The same model with 8 and with 64 experts."""
    folder = tmp_path_factory.mktemp("memory")
    made = {}
    for experts in (8, 64):
        checkpoint = folder / f"checkpoint-{experts}"
        make_checkpoint(checkpoint, Variant(SIZES | {"num_experts": experts}))
        directory = folder / f"exported-{experts}"
        made[experts] = Exported(directory, run(EXPORT, checkpoint, directory))
    return made


def test_export_of_64_experts_needs_at_most_64_mb_more_than_of_8(exported):
    assert STACKS_MB * 7 / 8 > 3 * 64, "the stacks must be much larger than the bound"
    assert exported[64].growth - exported[8].growth <= 64


def test_loading_and_decoding_keep_the_stacks_out_of_anonymous_memory(exported):
    rows = [[5, 6, 7, 8, 9, 10, 11, 1], [12, 13, 1]]
    weights = (exported[64].directory / "weights.bin").stat().st_size / 2**20
    assert weights > STACKS_MB
    load, decode = run(DECODE, exported[64].directory, json.dumps(rows))
    assert load < STACKS_MB / 4
    # Some tokens' experts at once, but never a stack.
    assert decode < STACKS_MB / 2
