"""Build the native libraries with CMake; everything declarative lives in setup.cfg."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class NativeLibrary(Extension):
    """A shared library that CMake installs at `<package path>/lib<name>.so`.

    An optional one is left out of the package when CMake did not build it.
    """

    def __init__(self, package: str, name: str, optional: bool = False):
        super().__init__(f"{package}.{name}", sources=[], optional=optional)
        self.path = Path(*package.split("."), f"lib{name}.so")


class CMakeBuild(build_ext):
    """Configure, build and install once, then hand each library to setuptools."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(self.ext_map[fullname].path)

    def build_extensions(self) -> None:
        tree = ROOT / "build" / "native"
        stage = tree / "stage"
        shutil.rmtree(stage, ignore_errors=True)  # so that a target switched off is not shipped
        extra = shlex.split(os.environ.get("CMAKE_ARGS", ""))
        settings = [
            f"-DCMAKE_INSTALL_PREFIX={stage}",
            f"-DPython_EXECUTABLE={sys.executable}",  # whose wheel brings nlohmann/json
            "-DSWITCH_BUILD_TESTS=OFF",  # the tree may remember ON from `make test`
        ]
        for step in (
            ["-S", ROOT, "-B", tree, *settings, *extra],
            ["--build", tree, "--parallel"],
            ["--install", tree, "--component", "runtime"],
            ["--install", tree, "--component", "plugins"],
        ):
            subprocess.run(["cmake", *step], check=True)

        for library in list(self.extensions):
            built, target = stage / library.path, Path(self.build_lib, library.path)
            target.unlink(missing_ok=True)  # build/lib outlives a target that was switched off
            if library.optional and not built.exists():
                self.extensions.remove(library)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(built), str(target))


class PlatformWheel(bdist_wheel):
    """The libraries do not link against Python, so one wheel serves every interpreter."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        NativeLibrary("switch_runtime.lib", "switch_runtime"),
        NativeLibrary("switch_plugins.lib", "switch_moe_ort"),
    ],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": PlatformWheel},
)
