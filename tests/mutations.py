"""Re-introduce known mistakes into a copy of the code, one at a time: a test must fail for each.

    python tests/mutations.py [WORD...]      only the mutations whose names hold one of the words
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutation_list import EXPORTER, NATIVE, Mutation
from mutation_runtime import RUNTIME

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("exporter", "runtime", "plugins", "tests", "cmake", "examples")
FILES = ("CMakeLists.txt", "VERSION", "pyproject.toml")
SLOWEST = 900  # seconds; a mutation that makes a test hang is caught


class Copy:
    """The copy that is mutated."""

    def __init__(self, folder: Path):
        self.root = folder / "code"
        self.variants = folder / "variants"
        self.variants.mkdir()
        for name in PARTS:
            shutil.copytree(ROOT / name, self.root / name)
        for name in FILES:
            shutil.copy(ROOT / name, self.root / name)

    def build(self) -> bool:
        """Build the native library into the copy; False if it does not compile."""
        tree = self.root / "build" / "native"
        commands = (
            ["cmake", "-S", self.root, "-B", tree, f"-DPython_EXECUTABLE={sys.executable}"],
            ["cmake", "--build", tree, "--parallel"],
            ["cmake", "--install", tree, "--component", "runtime",
             "--prefix", self.root / "runtime" / "python"],
            ["cmake", "--install", tree, "--component", "plugins",
             "--prefix", self.root / "plugins" / "python"],
        )
        headers = ROOT / "build" / "onnxruntime-headers"
        if headers.exists() and not (self.root / "build").exists():
            shutil.copytree(headers, self.root / "build" / headers.name, symlinks=True)
        return all(
            subprocess.run(command, capture_output=True, check=False).returncode == 0
            for command in commands
        )

    def test(self, arguments: tuple[str, ...], shared: bool) -> tuple[bool, str]:
        """Run pytest: whether it passed, and its last line."""
        paths = [self.root / part for part in ("exporter", "runtime/python", "plugins/python")]
        inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths += [part for part in inherited if part and not Path(part).is_relative_to(ROOT)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
        environment.pop("SWITCH_TEST_VARIANTS", None)
        if shared:
            environment["SWITCH_TEST_VARIANTS"] = str(self.variants)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", *arguments]
        try:
            result = subprocess.run(
                command, cwd=self.root, env=environment, capture_output=True, text=True,
                timeout=SLOWEST, check=False,
            )
        except subprocess.TimeoutExpired:
            return False, "timed out"
        if result.returncode not in (0, 1):
            return True, f"pytest could not run: {(result.stdout + result.stderr)[-300:]}"
        failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
        return result.returncode == 0, failed[0].split("::")[-1] if failed else ""


def survives(copy: Copy, mutation: Mutation) -> str:
    """Why the mutation was not caught; "" if it was."""
    path = copy.root / mutation.file
    original = path.read_text()
    if original.count(mutation.old) != 1:
        return f"the text to replace occurs {original.count(mutation.old)} times in {mutation.file}"
    native = mutation in NATIVE + RUNTIME
    try:
        path.write_text(original.replace(mutation.old, mutation.new))
        if native and not copy.build():
            return "it does not compile"
        passed, note = copy.test(mutation.tests, shared=native)
    finally:
        path.write_text(original)
    report(mutation.name, "SURVIVED" if passed else "caught", note)
    return (note or "no test failed") if passed else ""


def report(name: str, verdict: str, note: str) -> None:
    """One line of the table."""
    print(f"{name:<50} {verdict:<9} {note}", flush=True)


def main(words: list[str]) -> int:
    """Run the mutations; the exit code is 1 if one survives."""
    known = EXPORTER + NATIVE + RUNTIME
    chosen = [m for m in known if not words or any(w in m.name for w in words)]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        if not copy.build():
            print("the unchanged code does not build; run `make native` to see why")
            return 1
        # What fails without a mutation would catch every one.
        for tests in dict.fromkeys(mutation.tests for mutation in chosen):
            passed, note = copy.test(tests, shared=True)
            if not passed:
                print(f"{' '.join(tests)} fails without a mutation: {note}")
                return 1
        reasons = {mutation.name: survives(copy, mutation) for mutation in chosen}
    survivors = {name: reason for name, reason in reasons.items() if reason}
    for name, reason in survivors.items():
        print(f"not caught: {name}: {reason}")
    seconds = time.perf_counter() - started
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutations caught in {seconds:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
