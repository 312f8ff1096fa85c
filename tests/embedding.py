"""Programs in C and C++ on an installed runtime, as an embedder has it: without this checkout."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

TREE = ROOT / "build" / "native"
HEADER = ROOT / "runtime" / "include" / "switch_runtime.h"
EXAMPLES = ROOT / "examples"
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def run(*command: object, **options) -> subprocess.CompletedProcess:
    """Run a command that has to succeed."""
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert result.returncode == 0, f"{command}\n{result.stdout[-4000:]}{result.stderr[-4000:]}"
    return result


def compiler(name: str) -> str:
    """The path of `cc` or `c++`."""
    path = shutil.which(os.environ.get(name.upper().replace("+", "X"), name))
    assert path, f"these tests need a compiler {name}, as building the project does"
    return path


def onnxruntime_library() -> Path:
    """The library inside the wheel `onnxruntime`."""
    package = Path(importlib.util.find_spec("onnxruntime").origin).parent
    return next((package / "capi").glob("libonnxruntime.so*"))


def install(folder: Path) -> Path:
    """Install what `make test` has built, and move it: nothing may remember where it was."""
    if not (TREE / "cmake_install.cmake").exists():
        pytest.fail(f"{TREE.relative_to(ROOT)} is not built; run `make native`")
    before, prefix = folder / "before", folder / "prefix"
    run("cmake", "--install", TREE, "--prefix", before)
    before.rename(prefix)
    return prefix


def sentencepiece() -> Path:
    """The prefix of SentencePiece's C++ library; obtained where the system has none."""
    result = run("sh", ROOT / "tests" / "sentencepiece_library.sh", ROOT / "build")
    return Path(result.stdout.strip())


def json_folder() -> Path:
    """Where nlohmann/json.hpp is, as CMake has found it for the library."""
    cache = (TREE / "CMakeCache.txt").read_text()
    line = next(line for line in cache.splitlines() if line.startswith("NLOHMANN_JSON_INCLUDE_DIR"))
    return Path(line.split("=", 1)[1])


def configure(example: str, tree: Path, *settings: str) -> subprocess.CompletedProcess:
    """Configure an example with CMake as a user does; it may fail."""
    language = "CXX" if example == "embed_cpp" else "C"
    command = [
        "cmake", "-S", EXAMPLES / example, "-B", tree, "-DCMAKE_BUILD_TYPE=Debug",
        f"-DCMAKE_{language}_FLAGS={' '.join(STRICT)}", *settings,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def build(example: str, tree: Path, *settings: str) -> Path:
    """Build an example with CMake as a user does; the program."""
    result = configure(example, tree, *settings)
    assert result.returncode == 0, result.stdout + result.stderr
    run("cmake", "--build", tree, "--parallel", "2")
    return tree / example


def start(program: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess:
    """Run a program where there is no Python, nor any other command; it may fail."""
    environment = {"SWITCH_ORT_LIBRARY": str(onnxruntime_library()), "PATH": "/nowhere"}
    environment |= variables
    command = [program, *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def printed(program: Path, *arguments: object) -> str:
    """What a program prints that succeeds."""
    result = start(program, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout
