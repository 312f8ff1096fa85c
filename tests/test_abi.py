"""The binary interface of libswitch_runtime is what its number says (see docs/embedding.md)."""

import ctypes
import re
import subprocess
from pathlib import Path

import pytest
from embedding import HEADER, STRICT, TREE, compiler, run

NUMBER = int(re.search(r"#define SWITCH_ABI_VERSION (\d+)", HEADER.read_text())[1])
TEXT = re.sub(r"//[^\n]*|^#[^\n]*", "", HEADER.read_text(), flags=re.MULTILINE)
TABLES = Path(__file__).resolve().parent / "abi"
POLICY = """the header no longer says what tests/abi/{}.txt says.
- New functions, new values at the end of an enumeration, new members at the end of an options
  struct (or of switch_step): add their lines there, change none. What reads options then has to
  accept the smaller struct of older programs, and zero has to mean "as before".
- Anything else: raise SWITCH_ABI_VERSION, and add a table for the new number."""


def words(text: str) -> str:
    return re.sub(r"\s*\*", "*", " ".join(text.split()))


def without_names(parameters: str) -> str:
    """The types of a parameter list: names are not part of the interface."""
    types = [re.sub(r"\s*\b\w+$", "", words(p)) for p in parameters.split(",")]
    return "(" + ", ".join(t or "void" for t in types) + ")"


def structs() -> dict[str, dict[str, str]]:
    """Struct -> member -> its type."""
    found = re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", TEXT, re.DOTALL)
    members = r"([^;]*?)(\w+)\s*;"
    return {
        name: {member: words(kind) for kind, member in re.findall(members, body)}
        for name, body in found
    }


def signatures() -> list[str]:
    functions = re.findall(r"SWITCH_API ([^;(]+?)(\w+)\(([^;]*)\);", TEXT)
    callbacks = re.findall(r"typedef (\w+) \(\*(\w+)\)\((.*?)\);", TEXT, re.DOTALL)
    return sorted(
        f"{name}{without_names(parameters)} -> {words(result)}"
        for result, name, parameters in [*functions, *callbacks]
    )


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> list[str]:
    """Structs and enumerations as the compiler lays them out, signatures as the header has them."""
    folder = tmp_path_factory.mktemp("abi")
    prints = []
    for name, types in structs().items():
        for member, kind in types.items():
            values = f"offsetof({name}, {member}), sizeof((({name}*)0)->{member})"
            prints.append(f'printf("{name}.{member} %zu %zu {kind}\\n", {values})')
        prints.append(f'printf("{name} %zu\\n", sizeof({name}))')
    for body in re.findall(r"typedef enum \w+ \{(.*?)\}", TEXT, re.DOTALL):
        for value in re.findall(r"(\w+) =", body):
            prints.append(f'printf("{value} %d\\n", (int){value})')
    source = folder / "layout.c"
    source.write_text(
        "#include <stdio.h>\n#include <switch_runtime.h>\n"
        f"int main(void) {{\n{';'.join(prints)};\nreturn 0;\n}}\n"
    )
    run(compiler("cc"), "-std=c99", "-I", HEADER.parent, "-o", folder / "layout", source)
    return run(folder / "layout").stdout.splitlines() + signatures()


def test_the_parser_sees_the_whole_header():
    assert len(signatures()) == TEXT.count("SWITCH_API") + TEXT.count("(*switch_")
    assert len(structs()) == len(re.findall(r"typedef struct \w+ \{", TEXT))
    assert {"switch_ids", "switch_step", "switch_generate_options"} <= set(structs())


def test_the_interface_is_the_committed_one(layout):
    table = (TABLES / f"{NUMBER}.txt").read_text().splitlines()
    committed = [line for line in table if line and not line.startswith("#")]
    assert layout == committed, POLICY.format(NUMBER)


def test_every_number_so_far_has_its_table():
    assert sorted(int(path.stem) for path in TABLES.glob("*.txt")) == list(range(1, NUMBER + 1))


def test_options_structs_begin_with_their_size(layout):
    options = [name for name in structs() if name.endswith("_options")]
    assert len(options) == 3
    for name in options:
        assert f"{name}.size 0 {ctypes.sizeof(ctypes.c_size_t)} size_t" in layout


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("cc", ["-x", "c", "-std=c99"]), ("c++", ["-x", "c++", "-std=c++17"])],
)
def test_the_headers_compile_alone_without_a_warning(name, arguments):
    header = HEADER if name == "cc" else HEADER.with_suffix(".hpp")
    run(compiler(name), *arguments, *STRICT, "-fsyntax-only", header)


def built_library() -> Path:
    return TREE / "runtime" / "libswitch_runtime.so"


def test_the_library_exports_the_functions_of_the_header_and_nothing_else():
    listing = run("nm", "-D", "--defined-only", built_library()).stdout
    exported = {line.split()[-1].split("@")[0] for line in listing.splitlines()}
    assert exported == set(re.findall(r"SWITCH_API [^;(]+?(\w+)\(", TEXT))


def test_soname_and_function_tell_the_number_of_the_header():
    dynamic = run("readelf", "-d", built_library()).stdout
    assert re.search(r"SONAME.*\[(.+)\]", dynamic)[1] == f"libswitch_runtime.so.{NUMBER}"
    assert ctypes.CDLL(str(built_library())).switch_abi_version() == NUMBER


def test_the_library_needs_the_c_and_c_plus_plus_libraries_only():
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-d", built_library()).stdout)
    assert needed
    usual = r"(libstdc\+\+|libm|libgcc_s|libc|libdl|libpthread|ld-linux[\w-]*)\.so"
    assert [library for library in needed if not re.match(usual, library)] == []


def test_a_program_of_another_number_does_not_start(tmp_path):
    """The loader refuses it: the number is in the name that a program asks for."""
    source, program = tmp_path / "main.c", tmp_path / "main"
    source.write_text("int switch_abi_version(void); int main(void) { switch_abi_version(); }")
    run(compiler("cc"), source, built_library(), "-o", program)
    other = tmp_path / f"libswitch_runtime.so.{NUMBER + 1}"
    other.write_bytes(built_library().read_bytes())
    elsewhere = {"LD_LIBRARY_PATH": str(tmp_path)}
    result = subprocess.run([program], env=elsewhere, capture_output=True, text=True, check=False)
    assert result.returncode == 127
    assert f"libswitch_runtime.so.{NUMBER}" in result.stderr
