"""The kernel library as a file: where it is, what it needs, which instruction set it takes."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import pad
from graphs import Graphs

import switch_plugins

TESTS = Path(__file__).resolve().parent
ALL_KERNELS = ("portable", "avx2", "avx512", "avx512_vnni")
REGISTER = "import onnxruntime, switch_plugins as p; p.register(onnxruntime.SessionOptions())"
NAME = (
    "import ctypes, switch_plugins as p; library = ctypes.CDLL(str(p.library_path()))\n"
    "library.switch_kernels_name.restype = ctypes.c_char_p; print(library.switch_kernels_name())"
)
#: Logits of a few layers, relative to the largest. Quantised hidden values whose last bits differ
#: are rounded to other int8 values now and then.
LOGITS = {"tiny": 2e-5, "bf16": 2e-5, "fp16": 2e-5, "int8": 2e-2, "int4": 2e-2}


def python(*arguments: str, kernels: str | None = None) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("SWITCH_KERNELS", None)
    if kernels is not None:
        environment["SWITCH_KERNELS"] = kernels
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )


@pytest.fixture(scope="module")
def runnable() -> list[str]:
    """The instruction sets of this machine, slowest first, as an error names them."""
    message = python("-c", REGISTER, kernels="none").stderr
    return re.search(r"this processor runs ([\w, ]+)", message)[1].split(", ")


@pytest.mark.parametrize("name", ALL_KERNELS)
def test_operators_agree_on_the_instruction_set_that_is_named(name, runnable):
    if name not in runnable:
        result = python("-c", REGISTER, kernels=name)
        assert result.returncode != 0, f"this processor runs {runnable}"
        return
    assert python("-c", NAME, kernels=name).stdout == f"{name.encode()}\n"
    result = python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / "test_plugin.py"), kernels=name
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("named", [None, ""])
def test_the_fastest_instruction_set_is_taken_where_none_is_named(named, runnable):
    assert python("-c", NAME, kernels=named).stdout == f"{runnable[-1].encode()}\n"


def test_an_unknown_instruction_set_is_an_error_that_names_those_there_are(runnable):
    result = python("-c", REGISTER, kernels="sse9")
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert 'SWITCH_KERNELS is "sse9"' in last
    assert ", ".join(runnable) in last
    assert runnable[0] == "portable"
    assert python("-c", NAME, kernels="sse9").stdout == "None\n"


def test_library_is_found_and_exports_three_functions():
    path = switch_plugins.library_path()
    assert path is not None
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in listing.stdout.splitlines()}
    assert names == {"RegisterCustomOps", "switch_kernels_name", "switch_read_bandwidth"}
    assert ctypes.CDLL(str(path)).RegisterCustomOps


def test_library_is_found_beside_the_package_wherever_that_is(tmp_path):
    package = Path(switch_plugins.__file__).parent
    shutil.copytree(package, tmp_path / "switch_plugins")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{REGISTER}; print(p.library_path())"
    result = python("-c", code)
    expected = tmp_path / "switch_plugins" / "lib" / "libswitch_moe_ort.so"
    assert result.stdout == f"{expected}\n", result.stderr


def test_library_needs_neither_onnxruntime_nor_python():
    text = subprocess.run(
        ["readelf", "-d", switch_plugins.library_path()], capture_output=True, text=True, check=True
    ).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", text)
    assert needed
    for library in needed:
        assert re.match(r"(libstdc\+\+|libm|libgcc_s|libc|libpthread|ld-linux[\w-]*)\.so", library)


def test_register_without_a_library_says_what_to_do(monkeypatch, tmp_path):
    import onnxruntime

    monkeypatch.setattr(switch_plugins, "_LIBRARY", tmp_path / "missing.so")
    assert switch_plugins.library_path() is None
    with pytest.raises(FileNotFoundError, match=r"missing\.so does not exist(.|\n)*leave out"):
        switch_plugins.register(onnxruntime.SessionOptions())


class WithKernels(Graphs):
    """A model directory whose operators our library runs."""

    encoder = property(lambda self: self._session("encoder.onnx"))
    decoder = property(lambda self: self._session("decoder.onnx"))

    def _session(self, name: str):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        switch_plugins.register(options)
        return onnxruntime.InferenceSession(
            self.directory / name, options, providers=["CPUExecutionProvider"]
        )


@pytest.mark.parametrize("name", LOGITS)
def test_function_bodies_and_kernels_give_the_same(name, cases, sources):
    directory = cases[name].directory()
    ids, mask = pad(sources, extra=1)
    found = {}
    for kind in (Graphs, WithKernels):
        graphs = kind(directory)
        source = graphs.encode(ids, mask) | {"attention_mask": mask}
        cache = graphs.cache(len(ids), 4)
        logits = []
        for tokens in ([[0, 5]], [[9]], [[4]]):
            outputs = graphs.decode(np.repeat(tokens, len(ids), 0), cache, source)
            logits.append(outputs["logits"])
        found[kind] = np.concatenate(logits, 1)
    difference = np.abs(found[Graphs] - found[WithKernels]).max() / np.abs(found[Graphs]).max()
    assert difference <= LOGITS[name]
