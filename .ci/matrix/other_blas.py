"""Let numpy and scipy of the package index compute with MKL instead of the OpenBLAS that their wheels bring.

There are no builds with another library than OpenBLAS in the index. Here a library of OpenBLAS's name stands in its
place, each of whose functions jumps to MKL's of the same arguments. Needs gcc and binutils, on Linux on x86-64, and
the package ``mkl``.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

_JUMP = "\t.globl {name}\n\t.type {name},@function\n{name}:\tjmp {target}@PLT\n"
# What threadpoolctl asks a library of this name.
_ASKED = {
    "openblas_get_num_threads": _JUMP.replace("{target}", "MKL_Get_Max_Threads"),
    "openblas_set_num_threads": _JUMP.replace("{target}", "MKL_Set_Num_Threads"),
    "openblas_get_config": "\t.globl {name}\n{name}:\tlea words(%rip), %rax\n\tret\n",
    "openblas_get_corename": "\t.globl {name}\n{name}:\tlea words(%rip), %rax\n\tret\n",
    "openblas_get_parallel": "\t.globl {name}\n{name}:\tmovl $1, %eax\n\tret\n",
}
_WORDS = '\t.section .rodata\nwords:\t.asciz "OpenBLAS 0.0.0, MKL in its place"\n'
_NO_STACK = '\t.section .note.GNU-stack,"",@progbits\n'
# Gives up: of a function that MKL has under no name that is known here, none is known to be called.
_NOWHERE = "abort"


def hand_to_mkl(library: Path) -> dict[str, tuple[int, int]]:
    """Replace the OpenBLAS of an environment; of each package how many functions MKL has, and how many it lacks.

    Args:
        library: ``site-packages``; MKL's libraries lie in the environment's ``lib``.
    """
    mkl = next(library.parents[1].glob("libmkl_rt.so*"))
    has = _names(mkl, "--defined-only")
    counts = {}
    for package in ("numpy", "scipy"):
        modules = sorted((library / package).rglob("*.so"))
        wanted = set().union(*(_names(module, "--undefined-only") for module in modules))
        for file in (library / f"{package}.libs").glob("lib*openblas*.so*"):
            defined = _names(file, "--defined-only")
            targets = {name: _target(name, has) for name in wanted & defined}
            code = [_JUMP.format(name=name, target=target) for name, target in sorted(targets.items())]
            asked = {name: re.sub(r"_?64_$", "", name.removeprefix("scipy_")) for name in sorted(defined)}
            code += [_ASKED[bare].format(name=name) for name, bare in asked.items() if bare in _ASKED]
            source = file.with_suffix(".s")
            source.write_text("\t.text\n" + "".join(code) + _WORDS + _NO_STACK)
            linked = [f"-Wl,-soname,{file.name}", f"-Wl,-rpath,{mkl.parent}", "-Wl,--no-as-needed", source, mkl]
            subprocess.run(["gcc", "-shared", "-fPIC", "-o", file, *linked], check=True)
            lacks = list(targets.values()).count(_NOWHERE)
            counts[file.name] = (len(targets) - lacks, lacks)
    return counts


def _target(name: str, has: set[str]) -> str:
    """MKL's name of one of OpenBLAS's: ``scipy_dgemm_64_`` takes 64-bit integers, as ``dgemm_64_`` does."""
    bare = name.removeprefix("scipy_")
    wide = re.sub(r"_?64_$", "", bare)
    known = [f"{wide}_64_", f"{wide}_64"] if wide != bare else [bare, bare.removesuffix("_")]
    return next((each for each in known if each in has), _NOWHERE)


def _names(file: Path, which: str) -> set[str]:
    listed = subprocess.run(["nm", "-D", which, file], capture_output=True, text=True, check=False).stdout
    return {line.split()[-1].partition("@")[0] for line in listed.splitlines() if line.strip()}
