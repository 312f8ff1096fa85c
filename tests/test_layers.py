"""What each part of the project may know."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "runtime": {
        "torch", "transformers", "tokenizers", "onnx", "onnxruntime", "switch_export",
        "switch_plugins",
    },
    "plugins": {"torch", "transformers", "onnx", "switch_export", "switch_runtime"},
    "exporter": {"transformers", "switch_runtime"},
}  # fmt: skip
HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "numpy", "sentencepiece")


def imports(source: str) -> Iterator[str]:
    """Yield the first name of every module that a source imports, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and node.args:
            function = getattr(node.func, "attr", getattr(node.func, "id", None))
            if function in ("import_module", "__import__"):
                name = node.args[0]
                assert isinstance(name, ast.Constant), "an import that cannot be checked"
                yield name.value.partition(".")[0]


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_layer_does_not_look_up(layer):
    paths = list((ROOT / layer).rglob("*.py"))
    assert paths
    for path in paths:
        assert not FORBIDDEN[layer] & set(imports(path.read_text())), path


def test_imports_inside_functions_and_by_name_are_found():
    source = "def f():\n import torch.nn\n from onnx import x\n import_module('numpy.a')\n"
    assert set(imports(source)) == {"torch", "onnx", "numpy"}


def test_native_sources_include_neither_python_nor_torch():
    for path in [*(ROOT / "runtime").rglob("*.cc"), *(ROOT / "runtime").rglob("*.h")]:
        text = path.read_text()
        assert "Python.h" not in text, path
        assert "torch/" not in text, path


@pytest.mark.parametrize("module", ["switch_runtime", "switch_runtime.cli", "switch_plugins.spec"])
def test_import_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_help_of_switch_generate_takes_less_than_a_third_of_a_second():
    """CPU seconds of the quickest of three runs, so that other processes do not count."""
    taken = []
    for _ in range(3):
        command = [sys.executable, "-m", "switch_runtime.cli", "--help"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        taken.append(usage.ru_utime + usage.ru_stime)
    assert min(taken) < 0.3
