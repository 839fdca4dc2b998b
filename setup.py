"""The compiled part of Saibench: the CPU engine's kernels. Everything else about the package is in pyproject.toml.

The extension is optional: without a C compiler the rest installs and works, and the engine says what to install.
No ``-march`` flag: the kernels choose AVX-512, AVX2 or portable code when they run, so a wheel suits any CPU.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("benchmark", "engines", "cpu", "kernels")
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
    """Return the engine's one extension module."""
    headers = [str(path) for path in sorted(KERNELS.rglob("*.h"))]
    kernels = Extension(
        "benchmark.engines.cpu.kernels._binding",
        sources=[str(KERNELS / "_binding.pyx"), *(str(path) for path in sorted(KERNELS.rglob("*.c")))],
        include_dirs=[str(KERNELS / "c")],
        depends=headers,
        optional=True,
    )
    return cythonize([kernels], build_dir="build/cython")


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
