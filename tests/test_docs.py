"""Every example of the README and of docs/ for Python and the shell runs and prints what it says.

In a Python block, what follows `# prints` is the next line that the block prints. In a console
block, lines that begin with `$ ` are run and the lines after one are its output. docs/embedding.md
has a test of its own, test_embedding_docs.py.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [body for kind, body in FENCE.findall(text) if kind == language]


def pages(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture
def folder(tmp_path, switch_tiny_directory, monkeypatch):
    """A working folder that holds the demo model under the name of the examples."""
    (tmp_path / "switch-tiny-onnx").symlink_to(switch_tiny_directory)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", pages("python"), ids=lambda page: page.name)
@pytest.mark.usefixtures("folder")
def test_python_examples_print_what_they_say(page):
    names: dict = {}  # a page is one session
    for block in blocks(page, "python"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, page.name, "exec"), names)
        said = re.findall(r"# prints (.*)$", block, flags=re.MULTILINE)
        if said:
            assert printed.getvalue().splitlines() == said, block


@pytest.mark.parametrize("page", pages("console"), ids=lambda page: page.name)
def test_console_examples_print_what_they_say(page, folder):
    if page.name == "README.md":
        (folder / "switch-tiny-onnx").unlink()  # it says how to make it
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, said = part.partition("\n")
            done = subprocess.run(
                ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True,
                timeout=60, check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            assert done.stdout == said, command


def test_there_are_examples():
    assert pages("python")
