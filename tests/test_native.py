"""The native test programs, which `make test` builds into build/native; code that stays apart."""

import json
import platform
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "native"
SOURCES = [
    path for folder in ("native", "cuda")
    for path in sorted((ROOT / "tests" / folder).glob("test_*.cc"))
]
# Kernels that a processor runs only if it has their instructions.
GATED = ("avx2", "avx512", "avx512_vnni")


def run(program: Path) -> subprocess.CompletedProcess:
    """Run a built program; one that was not built is a failure, not a skip."""
    if not program.exists():
        pytest.fail(
            f"{program.relative_to(ROOT)} is not built; run `make test` or build it with "
            "cmake -DSWITCH_BUILD_TESTS=ON"
        )
    return subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_native_program_passes(source):
    result = run(BUILD / source.relative_to(ROOT).with_suffix(""))
    assert result.returncode == 0, result.stdout + result.stderr


def objects(source: Path) -> list[Path]:
    """What build/native makes of a source, which `make test` builds."""
    commands = json.loads((BUILD / "compile_commands.json").read_text())
    found = []
    for entry in commands:
        if Path(entry["file"]) == source:
            words = shlex.split(entry["command"])
            found.append(Path(entry["directory"]) / words[words.index("-o") + 1])
    return found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="one instruction set only")
@pytest.mark.parametrize("name", GATED)
def test_kernels_of_one_instruction_set_share_no_code(name):
    """Of a symbol that several objects define weakly, the linker keeps one for all processors."""
    (compiled,) = objects(ROOT / "plugins" / "core" / "cpu" / f"{name}.cc")
    listing = subprocess.run(
        ["nm", "--defined-only", "--demangle", compiled],
        capture_output=True, text=True, check=True,
    )
    lines = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
    visible = {symbol for _, kind, symbol in lines if kind.isupper()}
    weak = {symbol for _, kind, symbol in lines if kind in "WwVvu"}
    assert weak == set()
    assert visible == {f"switch_ops::{name}_kernels()"}
