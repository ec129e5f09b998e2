"""Let a build of torch for CUDA be imported without CUDA's libraries, for tests on the CPU.

The package index has no builds for the CPU alone on x86-64, and the libraries that its builds need are 3 GB each
time. Here libraries of the same names stand for them, whose functions all answer with an error: torch then finds no
GPU. Needs gcc and binutils, on Linux.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_THEIRS = re.compile(r"lib(cu|nv|nccl)")
_FUNCTION = re.compile(r"_*(cu|nccl|nvtx|nvrtc|nvJit|nvshmem)\w*$")
_FAILURE = "int {name}(void) {{ return 100; }}"  # cudaErrorNoDevice
# What is asked for words answers with words.
_WORDS = re.compile(r".*(String|Name)$")
_TEXT = 'const char *{name}(void) {{ return "there is no CUDA here"; }}'


def stand_in(folder: Path) -> tuple[int, int]:
    """Put such libraries beside torch's own; how many they are, and how many functions each has.

    Args:
        folder: ``torch/lib``.
    """
    files = sorted(folder.glob("*.so*"))
    needed: set[str] = set()
    wanted: set[str] = set()
    own: set[str] = set()
    versions: dict[str, set[str]] = {}
    for file in files:
        needed |= set(re.findall(r"NEEDED.*\[(.*?)\]", _said("readelf", "-d", file)))
        wanted |= _names(_said("nm", "-D", "--undefined-only", file))
        own |= _names(_said("nm", "-D", "--defined-only", file))
        library = ""
        for line in _said("readelf", "-V", "-W", file).splitlines():
            if found := re.search(r"File: (\S+)", line):
                library = found[1]
            elif library and (found := re.search(r"Name: (\S+)", line)):
                versions.setdefault(library, set()).add(found[1])
    missing = sorted(name for name in needed - {file.name for file in files} if _THEIRS.match(name))
    functions = sorted(name for name in wanted - own if _FUNCTION.match(name))
    source, script = folder / "stand_in.c", folder / "stand_in.map"
    source.write_text("\n".join(map(_function, functions)) + "\n")
    for name in missing:
        options = []
        if name in versions:
            first, *others = sorted(versions[name])
            script.write_text(f"{first} {{ global: *; }};\n" + "".join(f"{other} {{ }};\n" for other in others))
            options = [f"-Wl,--version-script={script}"]
        command = ["gcc", "-w", "-shared", "-fPIC", "-o", folder / name, f"-Wl,-soname,{name}", *options, source]
        subprocess.run(command, check=True)
    return len(missing), len(functions)


def _function(name: str) -> str:
    return (_TEXT if _WORDS.match(name) else _FAILURE).format(name=name)


def _said(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _names(listed: str) -> set[str]:
    return {line.split()[-1].partition("@")[0] for line in listed.splitlines() if line.strip()}


if __name__ == "__main__":
    libraries, functions = stand_in(Path(sys.argv[1]))
    print(f"{libraries} libraries of {functions} functions each")
