"""Builds the compiled core; everything else about the package stands in pyproject.toml.

The one thing that a declaration cannot say is the hash of the core's sources, which each module carries so
that a stale one is refused when it is imported.
"""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

from fastkv.core.sources import sources_hash

CORE = Path("fastkv/core")

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"fastkv.core.{source.stem}",
                [str(source)],
                define_macros=[("FASTKV_CORE_SOURCES", f'"{sources_hash()}"')],
                depends=[str(each) for each in sorted((*CORE.glob("*.pxd"), *CORE.glob("*.h")))],
                optional=True,
            )
            for source in sorted(CORE.glob("*.pyx"))
        ],
        language_level=3,
    )
)
