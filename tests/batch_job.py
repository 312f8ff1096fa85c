"""A run of switch-generate from a file to a file."""

import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, "-m", "switch_runtime.cli"]


def run(*arguments: object, text: str = "") -> subprocess.CompletedProcess:
    """Run the command with a standard input."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], input=text, capture_output=True, timeout=60,
        encoding="utf-8",
    )  # fmt: skip


def random_lines() -> list[str]:
    """Forty lines of words that the tests' tokenizer knows."""
    chance = random.Random(3)
    words = ["abcd", "efgh", "<extra_id_0>", "aceg", "bdfh"]
    return [" ".join(chance.choices(words, k=chance.randint(0, 6))) for _ in range(40)]


@dataclass
class Job:
    """The files of a run; `command` may be added to."""

    directory: Path
    source: Path
    output: Path
    command: list[object]

    @property
    def partial(self) -> Path:
        return self.output.with_name("out.txt.partial")

    @property
    def journal(self) -> Path:
        return self.output.with_name("out.txt.progress")

    def files(self) -> set[str]:
        """The names of what the run has left."""
        return {path.name for path in self.output.parent.iterdir()} - {self.source.name}


def make_job(folder: Path, directory: Path) -> Job:
    """An input of random lines, and the command that decodes it to an output."""
    source, output = folder / "in.txt", folder / "out.txt"
    source.write_text("".join(f"{line}\n" for line in random_lines()))
    command = [directory, "--input", source, "--output", output, "--max-new-tokens", 4]
    return Job(directory, source, output, command)
