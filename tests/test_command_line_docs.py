"""docs/command-line.md: every example prints what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "command-line.md").read_text("utf-8")
WORDS = ["twelfth june twenty seventy four", "thursday the fourteenth of may nineteen forty two"]


def blocks() -> list[str]:
    """The indented blocks of the page that begin with a command."""
    found = re.findall(r"(?:^    .*\n)+", PAGE, flags=re.MULTILINE)
    dedented = [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in found]
    return [block for block in dedented if block.startswith("$ ")]


def shortened(text: str) -> str:
    """Scores with four digits: the last ones depend on the processor."""
    return re.sub(r"-?\d+\.\d{4,}(e-\d+)?", lambda match: f"{float(match.group()):.4f}", text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, switch_tiny_directory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "switch-tiny-onnx").symlink_to(switch_tiny_directory)
    (folder / "words.txt").write_text("".join(f"{line}\n" for line in WORDS))
    lines = re.search(r"\$ cat words.jsonl\n((?:    \{.*\n)+)", PAGE).group(1)
    (folder / "words.jsonl").write_text(lines.replace("    ", ""))
    return folder


@pytest.mark.parametrize("block", blocks())
def test_an_example_prints_what_the_page_says(folder, block):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command, printed in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, flags=re.MULTILINE):
        done = subprocess.run(
            ["bash", "-c", f"{command} 2>&1"], cwd=folder, capture_output=True, text=True,
            env=os.environ | {"PATH": path}, timeout=60,
        )  # fmt: skip
        assert shortened(done.stdout) == printed
        assert ("Error" in printed) == (done.returncode != 0)


def test_every_option_that_the_page_names_exists():
    from switch_runtime import cli

    known = {flag for parameter in cli.main.params for flag in parameter.opts} | {"--help"}
    assert set(re.findall(r"--[a-z][a-z-]*", PAGE)) <= known | {"--no-progress"}
