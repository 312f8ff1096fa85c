"""What was measured on: processor, threads, versions, commit."""

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np


def describe(threads: int) -> dict:
    """The facts that every row carries."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent,
    )
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.processor(),
    )
    packages = ("torch", "transformers", "onnxruntime", "numpy")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads,
        "versions": {name: version(name) for name in packages},
    }


def read_bandwidth(seconds: float = 1.0) -> float:
    """Bytes per second of one thread summing 1 GiB of float32, the best of several passes."""
    block = np.ones(1 << 28, np.float32)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end or best == 0.0:
        start = time.perf_counter()
        block.sum()
        best = max(best, block.nbytes / (time.perf_counter() - start))
    return best


def memory() -> dict[str, float]:
    """Anonymous and file-backed memory of this process, MiB."""
    fields = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            fields[name] = int(value.split()[0]) / 1024
    return fields
