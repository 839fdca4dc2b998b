"""The compiled parts of Saibench: the CPU engine's kernels, and an operator of training.

Everything else about the package is in pyproject.toml.

The extensions are optional: without a C compiler the rest installs and works, and the engine says what to install.
No ``-march`` flag: the kernels choose AVX-512, AVX2 or portable code when they run, so a wheel suits any CPU.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("benchmark", "engines", "cpu", "kernels")
TRAINING = Path("benchmark", "nn", "kernels")
FLAGS = {"msvc": (["/O2"], []), "unix": (["-O3", "-fno-trapping-math", "-pthread"], ["-pthread"])}


class BuildKernels(build_ext):
    """Adds optimisation and threads (none on Windows: the engine then runs on the caller's)."""

    def build_extensions(self) -> None:
        """Set the flags of this compiler, then build."""
        compile_flags, link_flags = FLAGS["msvc" if self.compiler.compiler_type == "msvc" else "unix"]
        extra = os.environ.get("SAIBENCH_CFLAGS", "").split()
        for extension in self.extensions:
            extension.extra_compile_args = [*compile_flags, *extra]
            extension.extra_link_args = [*link_flags, *extra]
        super().build_extensions()


def extensions() -> list[Extension]:
    """Return the two extension modules: the engine's kernels, and the operator of training."""
    return cythonize([_module(KERNELS, "_binding"), _module(TRAINING, "_fill")], build_dir="build/cython")


def _module(folder: Path, name: str) -> Extension:
    """Return the extension of a folder: a Cython file, and the C code beneath it."""
    return Extension(
        ".".join([*folder.parts, name]),
        sources=[str(folder / f"{name}.pyx"), *(str(path) for path in sorted(folder.rglob("*.c")))],
        include_dirs=[str(folder / "c")],
        depends=[str(path) for path in sorted(folder.rglob("*.h"))],
        optional=True,
    )


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
