"""The ctypes tables say what the C header says."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from switch_runtime import errors, native

HEADER = Path(__file__).resolve().parent.parent / "runtime" / "include" / "switch_runtime.h"
TEXT = re.sub(r"//[^\n]*", "", HEADER.read_text())

OPAQUE = {
    "switch_model": native.SwitchModel,
    "switch_result": native.SwitchResult,
    "switch_arrays": native.SwitchArrays,
}
STRUCTS = {
    "switch_ids": native.Ids,
    "switch_step": native.Step,
    "switch_load_options": native.LoadOptions,
    "switch_generate_options": native.GenerateOptions,
    "switch_batch_options": native.BatchOptions,
}
CALLBACKS = {
    "switch_logits_callback": native.LogitsCallback,
    "switch_token_callback": native.TokenCallback,
    "switch_progress_callback": native.ProgressCallback,
}
ENUMS = {
    "switch_status": native.STATUS,
    "switch_type": native.TYPES,
    "switch_early_stopping": native.EARLY_STOPPING,
    "switch_pooling": native.POOLING,
}
PREFIXES = {"switch_early_stopping": "SWITCH_EARLY_STOPPING_", "switch_pooling": "SWITCH_POOLING_"}
NUMBERS = dict.fromkeys(ENUMS, ctypes.c_int) | {
    "size_t": ctypes.c_size_t,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}
NAMED = OPAQUE | STRUCTS | CALLBACKS | NUMBERS


def ctypes_type(c_type: str):
    """Return the ctypes type of a C type, const and volatile left out."""
    words = re.sub(r"\b(const|volatile)\b", " ", c_type).split()
    name = "".join(words)
    if name in ("void", "void*", "char*"):
        return {"void": None, "void*": ctypes.c_void_p, "char*": ctypes.c_char_p}[name]
    if name.endswith("*"):
        return ctypes.POINTER(NAMED[name[:-1]])
    return NAMED[name]


def declared(declaration: str):
    """Return type and name of "const int64_t* ids"."""
    c_type, name = re.fullmatch(r"(.*?[\s*])(\w+)", declaration.strip(), re.DOTALL).groups()
    return ctypes_type(c_type), name


def arguments_of(text: str) -> list:
    """Return the types of "const int64_t* ids, int64_t count"."""
    return [] if text.strip() == "void" else [declared(one)[0] for one in text.split(",")]


def functions() -> dict[str, tuple]:
    found = {}
    for result, arguments in re.findall(r"SWITCH_API ([^;(]+)\(([^;]*)\);", TEXT):
        result_type, name = declared(result)
        found[name] = (result_type, arguments_of(arguments))
    return found


def test_every_function_of_the_header_has_its_signature():
    assert len(functions()) == TEXT.count("SWITCH_API ") - TEXT.count("#define SWITCH_API")
    assert functions() == native.SIGNATURES


def test_every_struct_callback_and_enumeration_of_the_header_is_compared():
    assert set(re.findall(r"typedef struct (\w+) \{", TEXT)) == set(STRUCTS)
    assert set(re.findall(r"typedef struct (\w+) \w+;", TEXT)) == set(OPAQUE)
    assert set(re.findall(r"typedef enum (\w+) \{", TEXT)) == set(ENUMS)
    assert set(re.findall(r"\(\*(\w+)\)\(", TEXT)) == set(CALLBACKS)


@pytest.mark.parametrize("name", CALLBACKS)
def test_callback_has_the_signature_of_the_header(name):
    pattern = rf"typedef (\w+) \(\*{name}\)\(([^)]*)\);"
    result, arguments = re.search(pattern, TEXT).groups()
    assert CALLBACKS[name]._restype_ == ctypes_type(result)
    assert list(CALLBACKS[name]._argtypes_) == arguments_of(arguments)


def test_the_binary_interface_has_the_version_of_the_header():
    assert re.findall(r"#define SWITCH_ABI_VERSION (\d+)", TEXT) == [str(native.ABI_VERSION)]


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_has_the_members_of_the_header(name):
    body = re.search(rf"typedef struct {name} \{{(.*?)\}}", TEXT, re.DOTALL).group(1)
    members = [declared(member) for member in body.split(";") if member.strip()]
    assert STRUCTS[name]._fields_ == [(member, c_type) for c_type, member in members]


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_is_laid_out_as_the_compiler_lays_it_out(name, tmp_path):
    members = [member for member, _ in STRUCTS[name]._fields_]
    prints = "".join(f'printf("%zu ", offsetof({name}, {member}));' for member in members)
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <stdio.h>\n#include <switch_runtime.h>\n"
        f'int main(void) {{ {prints} printf("%zu", sizeof({name})); return 0; }}\n'
    )
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert compiler, "this test needs a C compiler, as building the project does"
    program = tmp_path / "layout"
    subprocess.run(
        [compiler, "-std=c99", "-I", HEADER.parent, "-o", program, source], check=True
    )
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    struct = STRUCTS[name]
    ours = [getattr(struct, member).offset for member in members] + [ctypes.sizeof(struct)]
    assert list(map(int, printed.split())) == ours


@pytest.mark.parametrize("name", ENUMS)
def test_enumeration_has_the_values_of_the_header(name):
    body = re.search(rf"typedef enum {name} \{{(.*?)\}}", TEXT, re.DOTALL).group(1)
    values = dict(re.findall(r"(\w+) = (\d+)", body))
    prefix = PREFIXES.get(name, "SWITCH_")
    assert {f"{prefix}{key}": str(value) for key, value in ENUMS[name].items()} == values


def test_every_failure_has_an_exception_of_its_own():
    kinds = {name.title().replace("_", "") for name in native.STATUS} - {"Ok"}
    assert kinds == set(errors.__all__) - {"SwitchError"}
    for kind in kinds:
        assert issubclass(getattr(errors, kind), errors.SwitchError)
    assert issubclass(errors.InvalidArgument, ValueError)
    assert issubclass(errors.OutOfMemory, MemoryError)


@pytest.fixture
def fresh_library():
    native.library.cache_clear()
    yield
    native.library.cache_clear()


@pytest.mark.usefixtures("fresh_library")
def test_a_missing_native_library_says_how_to_build_it(monkeypatch, tmp_path):
    monkeypatch.setenv("SWITCH_RUNTIME_LIBRARY", str(tmp_path / "nothing.so"))
    with pytest.raises(errors.MissingLibrary, match=r"nothing\.so does not exist.*pip install \."):
        native.library()


@pytest.mark.usefixtures("fresh_library")
def test_a_file_that_is_no_library_is_named(monkeypatch, tmp_path):
    (tmp_path / "text.so").write_text("not a library")
    monkeypatch.setenv("SWITCH_RUNTIME_LIBRARY", str(tmp_path / "text.so"))
    with pytest.raises(errors.MissingLibrary, match=r"text\.so cannot be opened"):
        native.library()


@pytest.mark.usefixtures("fresh_library")
def test_a_library_of_another_version_is_told_by_what_it_lacks(monkeypatch, tmp_path):
    source, old = tmp_path / "old.c", tmp_path / "old.so"
    source.write_text('const char* switch_version(void) { return "0"; }\n')
    subprocess.run(["cc", "-shared", "-fPIC", "-o", old, source], check=True)
    monkeypatch.setenv("SWITCH_RUNTIME_LIBRARY", str(old))
    with pytest.raises(errors.MissingLibrary, match="it lacks switch_last_error, .*switch_route"):
        native.library()


@pytest.mark.usefixtures("fresh_library")
def test_a_library_of_another_binary_interface_is_refused(monkeypatch, tmp_path):
    source, later = tmp_path / "later.c", tmp_path / "later.so"
    source.write_text("int switch_abi_version(void) { return 7; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", later, source], check=True)
    monkeypatch.setenv("SWITCH_RUNTIME_LIBRARY", str(later))
    with pytest.raises(errors.MissingLibrary, match="its binary interface is 7, expected 1"):
        native.library()


def test_onnxruntime_is_found_in_its_wheel_and_by_the_environment(monkeypatch):
    monkeypatch.delenv("SWITCH_ORT_LIBRARY", raising=False)
    found = native.onnxruntime_library()
    assert found.is_file()
    assert found.name.startswith("libonnxruntime.so")
    monkeypatch.setenv("SWITCH_ORT_LIBRARY", "/some/where.so")
    assert native.onnxruntime_library() == Path("/some/where.so")
