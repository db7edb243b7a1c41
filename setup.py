"""Maps the folders of this repository to the namespace package ``monobeam`` and builds the native core.

Everything that TOML can say is in pyproject.toml.
"""

from pathlib import Path

import nanobind
from setuptools import Extension, setup

FOLDERS = ["native", "logs", "join", "store", "models", "transforms", "pipelines", "serving"]

packages = {f"monobeam.{folder}": folder for folder in FOLDERS}
packages |= {
    f"monobeam.{init.parent.as_posix().replace('/', '.')}": init.parent.as_posix()
    for folder in FOLDERS
    for init in Path(folder).glob("*/**/__init__.py")
}

nanobind_source = Path(nanobind.source_dir())
core = Extension(
    "monobeam.native._core",
    sources=[
        *(str(source) for source in sorted(Path("native").glob("*.cpp"))),
        str(nanobind_source / "nb_combined.cpp"),
    ],
    depends=[str(header) for header in sorted(Path("native").glob("*.h"))],
    include_dirs=[
        "native",
        nanobind.include_dir(),
        str(nanobind_source.parent / "ext" / "robin_map" / "include"),
    ],
    # Contracted multiply-adds would make results depend on the machine; parameters must be bit-equal everywhere.
    extra_compile_args=[
        "-std=c++17",
        "-O3",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fvisibility=hidden",
        "-fno-strict-aliasing",
    ],
    language="c++",
)

setup(packages=sorted(packages), package_dir=packages, ext_modules=[core])
