"""The native test programs, which `make test` builds into build/native, and the C example."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "native"
SOURCES = sorted((ROOT / "tests" / "native").glob("test_*.cc"))
EMBED_C = BUILD / "examples" / "embed_c" / "embed_c"


def run(program: Path, *arguments: object, env: dict | None = None):
    """Run a built program; one that was not built is a failure, not a skip."""
    if not program.exists():
        pytest.fail(
            f"{program.relative_to(ROOT)} is not built; run `make test` or build it with "
            "cmake -DSWITCH_BUILD_TESTS=ON"
        )
    command = [program, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=env
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_native_program_passes(source):
    result = run(BUILD / "tests" / "native" / source.stem)
    assert result.returncode == 0, result.stdout + result.stderr


def test_c_example_says_how_it_is_used():
    result = run(EMBED_C)
    assert result.returncode == 2
    assert "usage:" in result.stderr


def test_c_example_refuses_what_is_not_a_model_directory(tmp_path):
    result = run(EMBED_C, tmp_path, 4, 5, 1)
    assert result.returncode == 1
    assert "is not a model directory" in result.stderr


def test_c_example_without_onnxruntime_says_how_to_get_it(tiny_directory):
    result = run(EMBED_C, tiny_directory, 1, 5, 1, env={"SWITCH_ORT_LIBRARY": "/nowhere.so"})
    assert result.returncode == 1
    assert "/nowhere.so ($SWITCH_ORT_LIBRARY)" in result.stderr
    assert "pip install onnxruntime" in result.stderr


def test_c_example_decodes_with_four_beams_as_transformers_does(tiny_directory, hf_model):
    import torch

    package = Path(importlib.util.find_spec("onnxruntime").origin).parent
    library = next((package / "capi").glob("libonnxruntime.so*"))
    for source in ([7, 19, 4, 1], [3, 1], [*range(2, 30), 1]):
        result = run(EMBED_C, tiny_directory, 4, *source, env={"SWITCH_ORT_LIBRARY": str(library)})
        assert result.returncode == 0, result.stderr
        expected = hf_model.generate(
            torch.tensor([source]), num_beams=4, num_return_sequences=4, max_new_tokens=20
        )
        eos = hf_model.generation_config.eos_token_id
        assert result.stdout.splitlines() == [cut(row, eos) for row in expected.tolist()]


def cut(row: list[int], eos: int) -> str:
    """A row of generate as the example prints it: without start token, eos and what follows."""
    ids = row[1:]
    return " ".join(map(str, ids[: ids.index(eos)] if eos in ids else ids))
