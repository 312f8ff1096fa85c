"""What one model directory takes in a process that does nothing else.

    python -m switch_bench.fresh DIR THREADS PLUGIN     # what `memory_of` starts; PLUGIN 0 or 1

Beside other engines, memory that one of them has given back would hide what ours takes.
"""

import json
import subprocess
import sys
from pathlib import Path

from switch_bench.cells import Cell, sources
from switch_bench.engines import Absent, Ours

_CELL = Cell(1, 1, 32, 32)


def memory_of(directory: Path, threads: int, plugin: bool) -> dict:
    """Return MiB: what loading took ("anonymous_mib", "file_mib"), and "process_mib" of all
    memory after 32 tokens.
    """
    command = [sys.executable, "-m", "switch_bench.fresh", str(directory), str(threads),
               str(int(plugin))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Absent(f"{directory}: {''.join(done.stderr.strip().splitlines()[-1:])}")
    return json.loads(done.stdout)


def _main(directory: str, threads: str, plugin: str) -> None:
    from switch_bench.machine import memory

    engine = Ours(Path(directory), int(threads), plugin == "1")
    engine.decode(sources(_CELL, engine.vocabulary, 0), _CELL, _CELL.new)
    loaded = {name: engine.loaded[name] for name in ("anonymous_mib", "file_mib")}
    print(json.dumps(loaded | {"process_mib": memory()}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
