"""`make gpu-bench`: every stage in a process of its own, then the table of goals.

    python -m switch_gpu_bench [--seconds N] [--stages ours peers steps step-peers] [--only WORD...]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from switch_gpu_bench import goals
from switch_gpu_bench.stage import WRONG
from switch_gpu_bench.timing import DEVICE, Deadline

ROOT = Path(__file__).resolve().parents[2]
#: Stage -> what it may take of the seconds that are left when it begins.
SHARES = {"ours": 0.45, "steps": 0.3, "peers": 0.6, "step-peers": 1.0}
_STARTS = 6  # of one stage: a cell that breaks the device costs one


def run_stage(stage: str, seconds: float, arguments: argparse.Namespace, run: str) -> bool:
    """Run a stage; go on behind a cell that ended its process. Whether it ended well."""
    deadline, first, well = Deadline(seconds), 0, True
    state = arguments.state
    for _ in range(_STARTS):
        state.parent.mkdir(parents=True, exist_ok=True)
        state.unlink(missing_ok=True)
        left = deadline.left()
        if left < 10:
            return False
        command = [
            sys.executable, "-m", "switch_gpu_bench.stage", stage, "--run", run,
            "--output", arguments.output, "--state", state, "--seconds", f"{left - 5:.0f}",
            "--first", str(first), "--only", *arguments.only,
        ]
        try:
            status = subprocess.run(list(map(str, command)), timeout=left, check=False).returncode
        except subprocess.TimeoutExpired:
            print(f"*** {stage}: stopped after {seconds:.0f} s", flush=True)
            return False
        if status in (0, WRONG):
            return well and status == 0
        well = False
        print(f"*** {stage}: its process ended with status {status}", flush=True)
        if not state.exists() or stage not in ("ours", "peers"):
            return False
        first = int(state.read_text()) + 1
    return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="switch_gpu_bench")
    parser.add_argument("--seconds", type=float, default=270, help="for everything")
    parser.add_argument("--stages", nargs="+", choices=tuple(SHARES), default=list(SHARES))
    parser.add_argument("--only", nargs="*", default=[], help="parts of layer cells' names")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.jsonl"
    )
    parser.add_argument("--state", type=Path, default=ROOT / "build" / "gpu-bench.state")
    parser.add_argument(
        "--dry-run", action="store_true", help="without a GPU: try the code, not the kernels"
    )
    arguments = parser.parse_args()
    if DEVICE == "cpu" and not arguments.dry_run:
        parser.exit(1, "*** no CUDA device: make gpu-bench measures nothing without one\n")
    run, deadline = time.strftime("%Y-%m-%dT%H:%M:%S"), Deadline(arguments.seconds)
    ended = {
        stage: run_stage(stage, deadline.left() * SHARES[stage], arguments, run)
        for stage in arguments.stages
    }
    print(goals.table(arguments.output, run))
    print(f"rows: {arguments.output}")
    unfinished = [stage for stage, well in ended.items() if not well]
    if unfinished:
        print(f"*** not finished: {', '.join(unfinished)}; the rows so far are written")
    sys.exit(1 if not ended.get("ours", True) or not ended.get("steps", True) else 0)


if __name__ == "__main__":
    main()
