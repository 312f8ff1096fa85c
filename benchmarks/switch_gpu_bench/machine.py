"""What was measured on: the GPU, its driver, versions, commit."""

import time

import torch

from switch_bench.machine import commit, package_version
from switch_gpu_bench.timing import DEVICE


def describe() -> dict:
    """Return the facts that every row carries."""
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        "versions": {name: package_version(name) for name in ("torch", "triton", "transformers")}
        | {"cuda": torch.version.cuda or "absent"},
    }
    if DEVICE == "cpu":
        return facts | {"gpu": "none: a trial"}
    properties = torch.cuda.get_device_properties(0)
    return facts | {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "processors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30),
    }


def _commit() -> str:
    try:
        return commit()
    except OSError:  # no git here
        return ""
