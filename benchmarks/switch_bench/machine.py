"""What was measured on: processor, caches, memory, versions, commit."""

import os
import platform
import re
import subprocess
import time
import zlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from switch_bench.paths import ROOT

PACKAGES = ("switch-export", "onnxruntime", "numpy", "torch", "transformers", "ctranslate2")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
# What a run writes itself does not make another program of it.
_WRITTEN = (".", ":!benchmarks/results", ":!README.md", ":!docs")


def describe(threads: int) -> dict:
    """Return the facts that every row carries."""
    info = Path("/proc/cpuinfo").read_text()
    flags = re.search(r"^flags\s*:(.*)$", info, re.MULTILINE)
    model = re.search(r"^model name\s*:\s*(.*)$", info, re.MULTILINE)
    present = set(flags.group(1).split()) if flags else set()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "cpu": model.group(1) if model else platform.processor(),
        "cpu_flags": [flag for flag in _FLAGS if flag in present],
        "cores": os.cpu_count(),
        "llc_mib": last_level_cache() / 2**20,
        "threads": threads,
        "versions": {name: package_version(name) for name in PACKAGES},
    }


def commit() -> str:
    """Return the checkout's commit; with a digest of the difference where sources differ from it.

    "" outside a checkout.
    """
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    if not (ROOT / "benchmarks" / "switch_bench").is_dir():  # installed: ROOT is somebody else's
        return ""
    head, difference = git("rev-parse", "--short", "HEAD"), git("diff", "HEAD", "--", *_WRITTEN)
    return f"{head}-{zlib.crc32(difference.encode()):08x}" if difference else head


def package_version(name: str) -> str:
    """Return a distribution's version, or "absent"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def last_level_cache() -> int:
    """Return the bytes of the largest cache that one core sees."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        number, unit = re.fullmatch(r"(\d+)([KMG]?)", path.read_text().strip()).groups()
        sizes.append(int(number) << {"": 0, "K": 10, "M": 20, "G": 30}[unit])
    if not sizes:
        raise OSError("this machine does not tell the size of its caches (/sys/devices/system/cpu)")
    return max(sizes)


def memory() -> dict[str, float]:
    """Return anonymous ("RssAnon") and file-backed ("RssFile") memory of this process, MiB."""
    fields = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            fields[name] = int(value.split()[0]) / 1024
    return fields


def disk(directory: Path) -> float:
    """Return the size of a directory's files, MiB."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 2**20
