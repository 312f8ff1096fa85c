"""What `cmake --install` gives programs in C and C++, and the two example programs on it."""

import functools
import json
import stat

import pytest
from conftest import ROOT
from embedding import (
    EXAMPLES,
    HEADER,
    STRICT,
    TREE,
    build,
    compiler,
    configure,
    json_folder,
    printed,
    run,
    sentencepiece,
    start,
)
from test_abi import NUMBER

EMBEDDED = ROOT / "tests" / "embedded"
SENTENCE = "the third of march nineteen eighty seven"
SPECIAL = "half past<extra_id_0>noon </s> <unk>seven  <extra_id_99>"


@pytest.fixture(scope="module")
def embed_c(installed, tmp_path_factory):
    """examples/embed_c on the installed runtime."""
    tree = tmp_path_factory.mktemp("embed_c")
    return build("embed_c", tree, f"-DCMAKE_PREFIX_PATH={installed}")


@pytest.fixture(scope="module")
def embed_cpp(installed, tmp_path_factory):
    """examples/embed_cpp on the installed runtime."""
    settings = [
        f"-DCMAKE_PREFIX_PATH={installed};{sentencepiece()}",
        f"-DNLOHMANN_JSON_INCLUDE_DIR={json_folder()}",
        # What an unpacked library needs lies beside it, not where the system looks.
        "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags",
    ]
    return build("embed_cpp", tmp_path_factory.mktemp("embed_cpp"), *settings)


@pytest.fixture(scope="module")
def compiled(installed, tmp_path_factory):
    """Compile a source of tests/embedded once; the program."""
    folder = tmp_path_factory.mktemp("embedded")

    @functools.cache
    def compile_one(name: str):
        source = EMBEDDED / name
        language = ("cc", "-std=c99") if source.suffix == ".c" else ("c++", "-std=c++17")
        run(
            compiler(language[0]), language[1], *STRICT, "-pthread", source,
            f"-I{installed / 'include'}", f"-L{installed / 'lib'}", "-lswitch_runtime",
            f"-Wl,-rpath,{installed / 'lib'}", "-o", folder / source.stem,
        )
        return folder / source.stem

    return compile_one


@pytest.fixture(scope="module")
def python_model(switch_tiny_directory):
    import switch_runtime

    return switch_runtime.load(switch_tiny_directory)


@pytest.fixture(scope="module")
def held_out():
    """40 sentences, spread over the domains."""
    lines = (EXAMPLES / "switch-tiny" / "held_out.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[:: len(lines) // 40]]


def ids_of(results) -> list[str]:
    return [" ".join(map(str, result.token_ids)) for result in results]


def test_prefix_holds_what_an_embedder_needs_and_nothing_else(installed):
    found = {str(path.relative_to(installed)) for path in installed.rglob("*") if not path.is_dir()}
    cmake = "lib/cmake/switch_runtime/switch_runtime-"
    kinds = {path for path in found if path.startswith(f"{cmake}targets-")}  # one per build type
    assert len(kinds) == 1
    assert found - kinds == {
        "include/switch_runtime.h",
        "include/switch_runtime.hpp",
        "lib/libswitch_runtime.so",
        f"lib/libswitch_runtime.so.{NUMBER}",
        "lib/libswitch_moe_ort.so",
        f"{cmake}config.cmake",
        f"{cmake}config-version.cmake",
        f"{cmake}targets.cmake",
        "lib/pkgconfig/switch_runtime.pc",
        "share/doc/switch_runtime/LICENSE", "share/doc/switch_runtime/NOTICE",
    }
    link = installed / "lib" / "libswitch_runtime.so"
    assert str(link.readlink()) == f"libswitch_runtime.so.{NUMBER}"


def test_installed_texts_name_no_folder_of_the_build(installed):
    texts = [*installed.rglob("*.cmake"), *installed.rglob("*.pc"), *installed.rglob("*.h*")]
    assert len(texts) == 7
    named = [path.name for path in texts if str(ROOT) in path.read_text()]
    assert named == []
    python_only = ("Python.h", "nlohmann", "onnxruntime_c_api")
    assert [path.name for path in texts for word in python_only if word in path.read_text()] == []


@pytest.mark.parametrize("component", ["runtime", "plugins"])
def test_python_packages_get_one_plain_file(component, tmp_path):
    run("cmake", "--install", TREE, "--component", component, "--prefix", tmp_path)
    (found,) = (path for path in tmp_path.rglob("*") if not path.is_dir())
    package, library = {
        "runtime": ("switch_runtime", "libswitch_runtime.so"),
        "plugins": ("switch_plugins", "libswitch_moe_ort.so"),
    }[component]
    assert found == tmp_path / package / "lib" / library
    assert stat.S_ISREG(found.lstat().st_mode)


def test_c_example_says_how_it_is_used(embed_c):
    for arguments in ([], ["DIR"], ["--beams"], ["--what", "DIR", 1]):
        result = start(embed_c, *arguments)
        assert result.returncode == 2
        assert "usage:" in result.stderr


def test_c_example_refuses_what_is_not_a_model_directory(embed_c, tmp_path):
    result = start(embed_c, tmp_path, 5, 1)
    assert result.returncode == 1
    assert "is not a model directory" in result.stderr


def test_c_example_without_onnxruntime_says_how_to_get_it(embed_c, tiny_directory):
    result = start(embed_c, tiny_directory, 5, 1, SWITCH_ORT_LIBRARY="/nowhere.so")
    assert result.returncode == 1
    assert "/nowhere.so ($SWITCH_ORT_LIBRARY)" in result.stderr
    assert "pip install onnxruntime" in result.stderr


def test_c_example_decodes_with_four_beams_as_transformers_does(embed_c, tiny_directory, hf_model):
    import torch

    eos = hf_model.generation_config.eos_token_id
    for source in ([7, 19, 4, 1], [3, 1], [*range(2, 30), 1]):
        rows = hf_model.generate(
            torch.tensor([source]), num_beams=4, num_return_sequences=4, max_new_tokens=20
        ).tolist()
        expected = [row[1 : row.index(eos, 1) if eos in row[1:] else None] for row in rows]
        found = printed(embed_c, "--beams", 4, tiny_directory, *source).splitlines()
        assert found == [" ".join(map(str, row)) for row in expected]


def test_c_example_streams_the_ids_that_python_returns(
    embed_c, switch_tiny_directory, python_model
):
    ids = list(python_model.tokenizer.encode(SENTENCE))
    expected = ids_of(python_model.generate([ids]))
    assert expected[0].count(" ") > 3
    for option in ([], ["--stream"]):
        assert printed(embed_c, *option, switch_tiny_directory, *ids).splitlines() == expected


def test_cpp_example_prints_the_text_that_python_returns(
    embed_cpp, switch_tiny_directory, python_model, held_out
):
    for beams in (1, 4):
        results = python_model.generate(held_out, num_beams=beams)
        found = printed(embed_cpp, "--beams", beams, switch_tiny_directory, *held_out).splitlines()
        assert found == [result.text for result in results]
    assert len(set(found)) > 30


def test_cpp_example_cuts_at_special_tokens_as_python_does(
    embed_cpp, switch_tiny_directory, python_model
):
    expected = python_model.generate([SPECIAL, ""])
    found = printed(embed_cpp, switch_tiny_directory, SPECIAL, "").splitlines()
    assert found == [result.text for result in expected]


def test_cpp_example_names_the_package_that_is_missing(installed, tmp_path):
    prefix = f"-DCMAKE_PREFIX_PATH={installed}"
    for missing, package in {
        "-DSENTENCEPIECE_LIBRARY=": "libsentencepiece-dev",
        "-DNLOHMANN_JSON_INCLUDE_DIR=": "nlohmann-json3-dev",
    }.items():
        found = [prefix, "-DSENTENCEPIECE_LIBRARY=here.so", "-DSENTENCEPIECE_INCLUDE_DIR=here"]
        result = configure("embed_cpp", tmp_path, *found, missing)
        assert result.returncode != 0
        assert package in " ".join(result.stderr.split())


def test_wrapper_does_what_the_c_api_does(compiled, switch_tiny_directory, tiny, python_model):
    lines = printed(compiled("wrapper.cc"), switch_tiny_directory, tiny.directory("encoder"))
    description, *rows = lines.splitlines()
    described = json.loads(description)
    assert described["directory"] == str(switch_tiny_directory)
    assert described["switch_json"]["task"] == "seq2seq"
    sources = [[24, 64, 201, 34, 1], [28, 1]]
    greedy = ids_of(python_model.generate(sources))
    beams = ids_of(python_model.generate(sources, num_beams=4, num_return_sequences=2))
    assert rows == [f"greedy {ids}" for ids in greedy] + [f"beams {ids}" for ids in beams]


def test_installed_library_takes_the_kernels_beside_it(
    compiled, installed, switch_tiny_directory, tiny
):
    lines = printed(compiled("wrapper.cc"), switch_tiny_directory, tiny.directory("encoder"))
    plugin = json.loads(lines.splitlines()[0])["plugin_library"]
    assert plugin == str(installed / "lib" / "libswitch_moe_ort.so")


def test_no_failure_prints_exits_or_throws(compiled, switch_tiny_directory, python_model):
    """The program's own lines are all that is printed, and the model decodes after all of it."""
    *lines, decoded = printed(compiled("failures.c"), switch_tiny_directory).splitlines()
    statuses = {"missing directory": 2, "without ONNX Runtime": 3, "the named plugin": 3}
    statuses |= {"more than the memory": 4, "refuse": 5, "is set": 5}
    assert len(lines) == 40  # so many cases failures.c has
    for line in lines:
        case, _, outcome = line.partition(": ")
        status = next((code for part, code in statuses.items() if part in case), 1)
        assert outcome == f"failed, status {status}", line
    assert [decoded] == ids_of(python_model.generate([[24, 64, 201, 34, 1]]))


def test_header_is_the_one_of_the_source(installed):
    assert (installed / "include" / "switch_runtime.h").read_bytes() == HEADER.read_bytes()
