"""Where the suite keeps what it makes and what it finds, in a checkout of the repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "bench"  # checkpoints and exports, made again when they are missing
RESULTS = ROOT / "benchmarks" / "results"
TINY = ROOT / "examples" / "switch-tiny"
