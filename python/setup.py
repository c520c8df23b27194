"""The C extension. Everything else stands in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

SOURCES = sorted(str(p) for p in Path("csrc").glob("*.c"))
HEADERS = sorted(str(p) for p in Path("csrc").glob("*.h"))

setup(
    ext_modules=[
        Extension(
            "ringmaster._ring",
            sources=SOURCES,
            depends=HEADERS,
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
