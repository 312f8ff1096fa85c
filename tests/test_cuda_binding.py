"""The ctypes binding of the CUDA kernels says what their C header says."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from switch_plugins import cuda, spec

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "plugins" / "core" / "cuda" / "switch_cuda.h"
TEXT = re.sub(r"//[^\n]*", "", HEADER.read_text(encoding="utf-8"))

STRUCTS = {
    "switch_cuda_stream": cuda.Stream,
    "switch_cuda_weight": cuda.Weight,
    "switch_cuda_moe": cuda.Moe,
    "switch_cuda_linear": cuda.Linear,
    "switch_cuda_router": cuda.Router,
    "switch_cuda_cached_attention": cuda.CachedAttention,
    "switch_cuda_cross_attention": cuda.CrossAttention,
}
TYPES = STRUCTS | {
    "int": ctypes.c_int, "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64,
    "size_t": ctypes.c_size_t, "float": ctypes.c_float,
}


def compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert found, "this test needs a C compiler, as building the project does"
    return found


def members(struct: str) -> list[tuple[str, type]]:
    """Return name and ctypes type of a struct's members; every pointer is a number."""
    body = re.search(rf"typedef struct {struct} \{{(.*?)\}}", TEXT, re.DOTALL).group(1)
    found = []
    for declaration in filter(None, map(str.strip, body.split(";"))):
        c_type, names = re.fullmatch(r"((?:const )?\w+\*?) (.*)", declaration, re.DOTALL).groups()
        kind = ctypes.c_void_p if c_type.endswith("*") else TYPES[c_type]
        found += [(name, kind) for name in names.split(", ")]
    return found


def functions() -> dict[str, tuple]:
    found = {}
    pattern = r"SWITCH_CUDA_API\s+([^;(]+?)(switch_cuda_\w+)\(([^;]*)\);"
    for result, name, arguments in re.findall(pattern, TEXT):
        kind = ctypes.c_char_p if "char*" in result else TYPES[result.strip()]
        structs = re.findall(r"const (switch_cuda_\w+)\*", arguments)
        found[name] = (kind, [ctypes.POINTER(STRUCTS[struct]) for struct in structs])
    return found


def test_every_function_of_the_header_has_its_signature():
    assert len(functions()) == TEXT.count("SWITCH_CUDA_API") - 1  # its definition
    assert functions() == cuda.SIGNATURES


def test_every_struct_of_the_header_is_compared():
    assert set(re.findall(r"typedef struct (\w+) \{", TEXT)) == set(STRUCTS)


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_has_the_members_of_the_header(name):
    assert STRUCTS[name]._fields_ == members(name)


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_is_laid_out_as_the_compiler_lays_it_out(name, tmp_path):
    names = [member for member, _ in STRUCTS[name]._fields_]
    prints = "".join(f'printf("%zu ", offsetof({name}, {member}));' for member in names)
    source, program = tmp_path / "layout.c", tmp_path / "layout"
    source.write_text(
        "#include <stdio.h>\n#include <switch_cuda.h>\n"
        f'int main(void) {{ {prints} printf("%zu", sizeof({name})); return 0; }}\n'
    )
    command = [compiler(), "-std=c99", "-I", HEADER.parent, "-o", program, source]
    subprocess.run(command, check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    struct = STRUCTS[name]
    ours = [getattr(struct, member).offset for member in names] + [ctypes.sizeof(struct)]
    assert list(map(int, printed.split())) == ours


def test_constants_have_the_values_of_the_header():
    pairs = re.findall(r"SWITCH_(?:CUDA_)?(\w+) = (-?\d+)", TEXT)
    values = {name: int(value) for name, value in pairs}
    names = {"fp32": "FLOAT32", "fp16": "FLOAT16", "bf16": "BFLOAT16"}
    expected = {names.get(name, name.upper()): value for name, value in cuda.TYPES.items()}
    expected |= {"NO_ACTIVATION": cuda.NO_ACTIVATION}
    activations = {"gelu_new": "GELU_TANH", "gelu_pytorch_tanh": "GELU_TANH", "swish": "SILU"}
    for name, value in cuda.ACTIVATIONS.items():
        expected[activations.get(name, name.upper())] = value
    expected |= {f"DROPPED_{name.upper()}": value for name, value in cuda.DROPPED.items()}
    assert expected == values


def test_names_are_those_of_the_operators():
    assert set(cuda.TYPES) == set(spec.WEIGHT_TYPES)
    assert set(cuda.ACTIVATIONS) == set(spec.ACTIVATIONS)
    assert set(cuda.DROPPED) == set(spec.DROPPED)


LIBRARY = """
#include "switch_cuda.h"
static const char* error = "";
size_t switch_cuda_moe_workspace(const switch_cuda_moe* m) {
  error = "no tokens";
  return m->tokens > 0 ? 256 : 0;
}
int switch_cuda_moe_run(const switch_cuda_stream* s, const switch_cuda_moe* m) {
  error = "moe: wrong argument";
  return s->stream == (void*)7 && s->overlap == 1 && m->x == (void*)16 && m->gate == NULL &&
         m->wo.columns == 5 && m->workspace_bytes == 9 ? 0 : -1;
}
int switch_cuda_linear_run(const switch_cuda_stream* s, const switch_cuda_linear* a) {
  error = "linear: wrong argument";
  return s && a->epsilon == 0.5f && a->y_type == 2 ? 0 : -1;
}
int switch_cuda_router_run(const switch_cuda_stream* s, const switch_cuda_router* a) {
  error = "router: wrong argument";
  return s && a->gate == (void*)64 ? 0 : -1;
}
int switch_cuda_cached_attention_run(const switch_cuda_stream* s,
                                     const switch_cuda_cached_attention* a) {
  error = "cached_attention: wrong argument";
  return s && a->new_value == (void*)32 ? 0 : -1;
}
int switch_cuda_cross_attention_run(const switch_cuda_stream* s,
                                    const switch_cuda_cross_attention* a) {
  error = "cross_attention: wrong argument";
  return s && a->y == (void*)48 ? 0 : -1;
}
const char* switch_cuda_last_error(void) { return error; }
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """A library in plain C that looks at its arguments and has no kernels."""
    folder = tmp_path_factory.mktemp("cuda")
    source, library = folder / "fake.c", folder / "libfake.so"
    source.write_text(LIBRARY)
    command = [compiler(), "-shared", "-fPIC", "-I", HEADER.parent, "-o", library, source]
    subprocess.run(command, check=True)
    return cuda.load(library)


CALLS = {
    "moe": cuda.Moe(x=16, wo=cuda.Weight(columns=5), workspace_bytes=9),
    "linear": cuda.Linear(epsilon=0.5, y_type=cuda.TYPES["bf16"]),
    "router": cuda.Router(gate=64),
    "cached_attention": cuda.CachedAttention(new_value=32),
    "cross_attention": cuda.CrossAttention(y=48),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_reaches_its_function_and_a_refusal_is_an_error(kernels, name):
    call = getattr(kernels, name)
    call(cuda.Stream(7, overlap=1), CALLS[name])
    with pytest.raises(cuda.CudaError, match=f"^{name}: wrong argument$"):
        call(cuda.Stream(7, overlap=1), type(CALLS[name])())


def test_the_size_of_the_workspace_is_asked_for_and_none_is_an_error(kernels):
    assert kernels.moe_workspace(cuda.Moe(tokens=1)) == 256
    with pytest.raises(cuda.CudaError, match="no tokens"):
        kernels.moe_workspace(cuda.Moe(tokens=0))


def test_a_library_that_is_not_there_says_how_it_is_made(tmp_path):
    with pytest.raises(FileNotFoundError, match="cmake -S plugins/core/cuda"):
        cuda.load(tmp_path / "libswitch_cuda.so")
