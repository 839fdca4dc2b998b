"""The compiled part of Saibench: the CPU engine's kernels. Everything else about the package is in pyproject.toml.

The extension is optional: without a C compiler the rest installs and works, and the engine says what to install.
No ``-march`` flag: the kernels choose AVX-512, AVX2 or portable code when they run, so a wheel suits any CPU.
"""

import os
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

OPENMP = {"msvc": (["/openmp"], []), "unix": (["-fopenmp"], ["-fopenmp"])}
KERNELS = Path("benchmark", "engines", "cpu", "kernels")
OPTIMISE = {"msvc": ["/O2"], "unix": ["-O3"]}


class BuildKernels(build_ext):
    """Adds optimisation, and OpenMP where the compiler has it (Apple's does not: the engine then runs one thread)."""

    def build_extensions(self) -> None:
        """Set the flags of this compiler, then build."""
        kind = self.compiler.compiler_type if self.compiler.compiler_type in OPENMP else "unix"
        compile_flags, link_flags = OPENMP[kind] if self._has_openmp(*OPENMP[kind]) else ([], [])
        extra = os.environ.get("SAIBENCH_CFLAGS", "").split()
        for extension in self.extensions:
            extension.extra_compile_args = [*OPTIMISE[kind], *compile_flags, *extra]
            extension.extra_link_args = [*link_flags, *extra]
        super().build_extensions()

    def _has_openmp(self, compile_flags: list[str], link_flags: list[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "openmp.c")
            source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=compile_flags)
                self.compiler.link_executable(objects, "openmp", output_dir=folder, extra_postargs=link_flags)
            except (CompileError, LinkError):
                return False
        return True


def extensions() -> list[Extension]:
    """Return the engine's one extension module."""
    headers = [str(path) for path in sorted(KERNELS.rglob("*.h"))]
    kernels = Extension(
        "benchmark.engines.cpu.kernels._kernels",
        sources=[str(KERNELS / "_kernels.pyx"), *(str(path) for path in sorted(KERNELS.rglob("*.c")))],
        include_dirs=[str(KERNELS / "c")],
        depends=headers,
        optional=True,
    )
    return cythonize([kernels], build_dir="build/cython")


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
