"""Kill a writer of model directories at moments spread over its run; run as a program.

    python tests/kill_trials.py writer OUTPUT             # only the staged directory
    python tests/kill_trials.py export OUTPUT CHECKPOINT  # a whole export

Every trial forks this process, so that imports are paid once. Every fifth one replaces an existing
directory. Prints how often the output was absent, old and new after the kill, as JSON.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

TRIALS, FORCED_EVERY = 100, 5

Writer = Callable[[Path, bool, int], None]  # output, force, number of the trial


def write_files(output: Path, force: bool, trial: int) -> None:
    """A small model directory, every file of which names the trial."""
    from switch_export.directory import staged, write_description

    with staged(output, force) as directory:
        for name in ("encoder.onnx", "decoder.onnx", "weights.bin"):
            (directory / name).write_bytes(str(trial).encode() * 50_000)
        write_description(directory, {"format": 1, "trial": trial})


def exporter(checkpoint: Path) -> Writer:
    """A whole export whose graphs were traced here, once: tracing writes nothing."""
    import torch

    from switch_export import graph
    from switch_export.checkpoint import open_checkpoint
    from switch_export.export import export
    from switch_export.moe.router import Capacity
    from switch_export.plan import plan_graphs
    from switch_export.quantize import Precision
    from switch_export.weights import open_weights

    torch.set_num_threads(1)  # threads do not survive a fork
    opened = open_checkpoint(checkpoint, "traced")
    config, embeddings = opened.config, open_weights(opened, "encoder").embeddings
    capacity = Capacity("hf", config.expert_capacity)
    plans = plan_graphs(config, capacity, "encoder", embeddings, Precision())
    traced = {plan.name: graph.trace(plan) for plan in plans}
    graph.trace = lambda plan: traced[plan.name]
    return lambda output, force, _trial: export(
        str(checkpoint), output, force=force, task="encoder"
    )


def complete(output: Path) -> str | None:
    """sha256 of switch.json if the directory is complete, None if it is absent.

    Raises:
        AssertionError: it is neither.
    """
    if not output.exists():
        return None
    text = (output / "switch.json").read_bytes()
    files = json.loads(text)["files"]
    present = {path.name for path in output.iterdir()} - {"switch.json"}
    assert present == set(files), f"files {present}, described {set(files)}"
    for name, described in files.items():
        data = (output / name).read_bytes()
        assert len(data) == described["size"], name
        assert hashlib.sha256(data).hexdigest() == described["sha256"], name
    return hashlib.sha256(text).hexdigest()


def start(write: Writer, *arguments) -> int:
    """Run `write` in a fork of this process; gives its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            write(*arguments)
            code = 0
        finally:
            os._exit(code)
    return child


def run_to_the_end(write: Writer, *arguments) -> float:
    """Seconds that one undisturbed run takes."""
    began = time.perf_counter()
    _, status = os.waitpid(start(write, *arguments), 0)
    assert status == 0, f"the writer failed with {status}"
    return time.perf_counter() - began


def trial(write: Writer, output: Path, number: int, delay: float) -> str:
    """Kill one run after `delay` seconds; gives what was there then."""
    force = number % FORCED_EVERY == 0
    if not force:
        shutil.rmtree(output, ignore_errors=True)
    elif not output.exists():
        run_to_the_end(write, output, False, -number)
    before = complete(output)
    child = start(write, output, force, number)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    after = complete(output)
    assert not (force and after is None), "a forced export lost the old directory"
    return "absent" if after is None else "old" if after == before else "new"


def main() -> None:
    """Run all trials and one run more, which must clear what the killed ones left."""
    kind, output, *checkpoint = sys.argv[1:]
    output = Path(output)
    write = write_files if kind == "writer" else exporter(Path(checkpoint[0]))
    seconds = max(run_to_the_end(write, output, i > 0, -1000 - i) for i in range(4))
    moments = [(i + 0.5) / TRIALS * 1.1 * seconds for i in range(TRIALS)]
    random.Random(0).shuffle(moments)
    counts = {"absent": 0, "old": 0, "new": 0}
    for number, delay in enumerate(moments):
        counts[trial(write, output, number, delay)] += 1
    left = len([path for path in output.parent.iterdir() if path != output])
    run_to_the_end(write, output, output.exists(), 1000)
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    print(json.dumps(counts | {"left": left, "seconds": seconds}))


if __name__ == "__main__":
    main()
