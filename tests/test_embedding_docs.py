"""Every block of docs/embedding.md compiles and runs as it stands there."""

import os
import re
import subprocess

import pytest
from conftest import ROOT
from embedding import EXAMPLES, STRICT, compiler, json_folder, printed, run, sentencepiece
from embedding import onnxruntime_library as ort

PAGE = (ROOT / "docs" / "embedding.md").read_text()
BLOCKS = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
SOURCE = [261, 262, 244, 229, 47, 54, 28, 1]  # what the page decodes
IDS = ", ".join(map(str, SOURCE))

# The page's functions, called.
C_MAIN = """
static void print(switch_result* result) {
  size_t count = 0;
  const int64_t* ids = switch_result_ids(result, 0, &count);
  for (size_t i = 0; i < count; ++i) printf("%" PRId64 " ", ids[i]);
  printf("\\n");
  switch_result_free(result);
}

int main(int argc, char** argv) {
  const int64_t ids[] = {IDS};
  const switch_ids source = {ids, sizeof ids / sizeof *ids};
  switch_model* model = switch_model_load(argv[argc - 1], NULL);
  print(search(model, &source, 1));
  print(stream(model, &source));
  printf("%d", was_cancelled(model, &source));
  stop = 1;
  printf(" %d %d\\n", was_cancelled(model, &source), fits());
  switch_model_free(model);
  return 0;
}
""".replace("IDS", IDS)
CPP_MAIN = """
int main(int argc, char** argv) {
  const switch_runtime::Model model(argv[argc - 1]);
  const switch_runtime::Ids source = {IDS};
  const auto sequence = model.generate({source})[0];
  switch_runtime::Ids target = sequence.ids;
  target.push_back(sequence.eos);
  const double difference = log_probability(model, source, target) / sequence.ids.size();
  std::cout << (difference > -0.1 && difference < 0) << "\\n";
  try {
    stream_until(model, source, target[2]);
  } catch (const std::out_of_range& thrown) {
    std::cout << thrown.what() << " " << target[2] << "\\n";
  }
}
""".replace("IDS", IDS)


def blocks(language: str, name: str = "") -> list[str]:
    return [text for lang, title, text in BLOCKS if (lang, title) == (language, name)]


@pytest.fixture(scope="module")
def expected(switch_tiny_directory):
    """The page's source, decoded from Python: greedy, with four beams, and without bad words."""
    import switch_runtime

    model = switch_runtime.load(switch_tiny_directory)
    beams = {"num_beams": 4}
    wanted = ({}, beams, beams | {"bad_words_ids": [[5, 6], [7]]})
    return [model.generate([SOURCE], **options)[0].token_ids for options in wanted]


def numbers(line: str) -> list[int]:
    return list(map(int, line.split()))


def test_every_block_is_one_that_a_test_uses():
    named = [(language, name) for language, name, _ in BLOCKS if name]
    assert named == [
        ("c", "decode.c"), ("cpp", "decode.cc"), ("cmake", "CMakeLists.txt"), ("sh", "embed"),
    ]  # fmt: skip
    assert {language for language, _, _ in BLOCKS} == {"c", "cpp", "cmake", "sh"}
    assert PAGE.count("```") == 2 * len(BLOCKS)


def test_installation_is_what_the_other_tests_install(installed):
    """`make` has configured and built before the tests; `installed` is the last line."""
    configure, build, install = blocks("sh")[0].splitlines()
    assert configure.startswith("cmake -S . -B build/embedding")
    assert build.startswith("cmake --build build/embedding")
    assert install == 'cmake --install build/embedding --prefix "$PREFIX"'
    settings = re.findall(r"^export (\w+)=", blocks("sh")[1], flags=re.MULTILINE)
    assert settings == ["PREFIX", "MODEL", "SWITCH_ORT_LIBRARY"]
    rows = re.findall(r"^\| `(\S+?)`", PAGE[PAGE.index("| under") :], flags=re.MULTILINE)
    assert all((installed / row).exists() for row in rows[:6]), rows


def package_files(folder):
    """Write pkg-config files of what is not installed but unpacked somewhere."""
    prefix = sentencepiece()
    library = next(iter([*prefix.glob("lib*/libsentencepiece.so"),
                         *prefix.glob("lib/*/libsentencepiece.so")])).parent  # fmt: skip
    unpacked = f"-L{library} -Wl,-rpath,{library} -Wl,--disable-new-dtags"
    for name, flags in {
        "sentencepiece": f"Cflags: -I{prefix}/include\nLibs: {unpacked} -lsentencepiece\n",
        "nlohmann_json": f"Cflags: -I{json_folder()}\n",
    }.items():
        text = f"Name: {name}\nDescription: {name}\nVersion: 1\n{flags}"
        (folder / f"{name}.pc").write_text(text)


@pytest.fixture(scope="module")
def output(installed, switch_tiny_directory, tmp_path_factory):
    """What the page's commands print, run one after another in one shell."""
    folder = tmp_path_factory.mktemp("page")
    for language, name, text in BLOCKS:
        if name and language != "sh":
            (folder / name).write_text(text)
    for example in ("embed_c", "embed_cpp"):
        (folder / example).symlink_to(EXAMPLES / example)
    (folder / "packages").mkdir()
    package_files(folder / "packages")
    environment = os.environ | {
        "PREFIX": str(installed), "MODEL": str(switch_tiny_directory),
        "SWITCH_ORT_LIBRARY": str(ort()), "PKG_CONFIG_LIBDIR": str(folder / "packages"),
    }  # fmt: skip
    script = "set -eu\n" + "".join([*blocks("sh")[2:], *blocks("sh", "embed")])
    result = subprocess.run(
        ["sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return [line for line in result.stdout.splitlines() if not line.startswith(("--", "["))]


def test_programs_print_what_python_returns(output, expected):
    greedy, _, without_bad_words = expected
    assert greedy != without_bad_words
    assert [numbers(line) for line in output[:3]] == [greedy, without_bad_words, greedy]


def test_examples_built_by_hand_print_what_the_page_says(output):
    assert numbers(output[3]) == [3, 6, 4, 4, 4, 4, 4, 5]
    assert output[4:] == ["2000001"]


def test_functions_in_c_do_what_the_page_says(
    installed, switch_tiny_directory, tmp_path, expected
):
    source, program = tmp_path / "functions.c", tmp_path / "functions"
    includes = "#include <inttypes.h>\n#include <stdio.h>\n#include <switch_runtime.h>\n"
    source.write_text(includes + "\n".join(blocks("c")) + C_MAIN)
    library = installed / "lib"
    run(
        compiler("cc"), "-std=c99", *STRICT, source, f"-I{installed / 'include'}", f"-L{library}",
        "-lswitch_runtime", f"-Wl,-rpath,{library}", "-o", program,
    )
    found = [numbers(line) for line in printed(program, switch_tiny_directory).splitlines()]
    greedy, beams, _ = expected
    assert found == [beams, greedy + greedy, [0, 1, 1]]


def test_functions_in_cpp_do_what_the_page_says(installed, switch_tiny_directory, tmp_path):
    source, program = tmp_path / "functions.cc", tmp_path / "functions"
    includes = "#include <iostream>\n#include <stdexcept>\n#include <switch_runtime.hpp>\n"
    source.write_text(includes + "\n".join(blocks("cpp")) + CPP_MAIN)
    library = installed / "lib"
    run(
        compiler("c++"), "-std=c++17", *STRICT, source, f"-I{installed / 'include'}",
        f"-L{library}", "-lswitch_runtime", f"-Wl,-rpath,{library}", "-o", program,
    )
    likely, thrown = printed(program, switch_tiny_directory).splitlines()
    assert likely == "1"
    assert re.fullmatch(r"token (\d+) \1", thrown)
