"""Compiles the C sources in other ways than the package does."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import ringmaster

CSRC = Path(__file__).parents[1] / "csrc"


def cc(*args: str | Path) -> None:
    compiler = sysconfig.get_config_var("CC").split()
    subprocess.run([*compiler, "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}", *args], check=True)


def sanitizers(scratch: Path) -> list[str]:
    """Return the compiler's options for the address and undefined behaviour sanitizers, if it has them."""
    options = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = scratch / "empty.c"
    source.write_text("int main(void) { return 0; }\n")
    try:
        cc(*options, "-o", scratch / "empty", source)
    except subprocess.CalledProcessError:
        return []
    return options


def crashing_package(to: Path) -> Path:
    """Copy the package with an extension that has the numbered crash steps; return the directory for PYTHONPATH."""
    package = to / "ringmaster"
    shutil.copytree(Path(ringmaster.__file__).parent, package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    include = sysconfig.get_path("include")
    sources = sorted(CSRC.glob("*.c"))
    cc("-DRINGMASTER_CRASHPOINTS", f"-I{include}", "-fPIC", "-shared", "-o", package / "_ring.abi3.so", *sources)
    return to
