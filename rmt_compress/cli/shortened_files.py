"""Files that become shorter while their values are mapped into memory: one line instead of the end of the process.

Linux sends SIGBUS to whoever touches a page that the file has lost. Python's own handlers run between two
instructions, and this one does not come to its end, so the handler here is one of the C library's (`sigaction`),
called within the access: it lays zeros in place of what is lost, and has the program stopped as `kill` would.
No result is made of the zeros, since the main thread stops before its next instruction.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_LAID_OUT_ALIKE = ("x86_64", "aarch64")
"""Machines whose structures of `sigaction` and `siginfo_t` are as they are read and written here."""
_SIGBUS, _NO_SUCH_PART, _WITH_INFORMATION = 7, 2, 4  # BUS_ADRERR, SA_SIGINFO
_CODE_AT, _ADDRESS_AT = 8, 16
_READ_WRITE, _FIXED = 3, 0x10
_MASK_BYTES = 128


@contextmanager
def noticing_shortened_files(noticed: Callable[[str], None]) -> Iterator[None]:
    """Within the block an access to what a mapped file has lost finds zeros, and `noticed` is told.

    Args:
        noticed: called in the thread that has touched the file, with the file's path, while all other signals of
            that thread wait.
    """
    if sys.platform != "linux" or os.uname().machine not in _LAID_OUT_ALIKE:
        yield
        return
    import ctypes

    class Action(ctypes.Structure):
        _fields_ = (
            ("handler", ctypes.c_void_p),
            ("mask", ctypes.c_byte * _MASK_BYTES),
            ("flags", ctypes.c_int),
            ("restorer", ctypes.c_void_p),
        )

    library = ctypes.CDLL(None)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    before = Action()

    def handle(_number: int, information: int, _context: int) -> None:
        code = ctypes.c_int.from_address(information + _CODE_AT).value
        address = ctypes.c_void_p.from_address(information + _ADDRESS_AT).value or 0
        mapped = _mapped(address) if code == _NO_SUCH_PART else None
        if mapped is not None:
            path, end = mapped
            begin = address // mmap.PAGESIZE * mmap.PAGESIZE
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _FIXED
            if library.mmap(begin, end - begin, _READ_WRITE, flags, -1, 0) == begin:
                noticed(path)
                return
        # None of ours: what was there before this handler has it next.
        library.sigaction(_SIGBUS, ctypes.byref(before), None)
        os.kill(os.getpid(), _SIGBUS)

    kept = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(handle)
    ours = Action(handler=ctypes.cast(kept, ctypes.c_void_p).value, flags=_WITH_INFORMATION)
    library.sigfillset(ctypes.byref(ours, Action.mask.offset))
    library.sigaction(_SIGBUS, ctypes.byref(ours), ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaction(_SIGBUS, ctypes.byref(before), None)


def within_handler(frame: FrameType | None) -> bool:
    """Whether a frame is of the handler, or of what that calls: an exception there would be lost."""
    while frame is not None:
        if frame.f_code.co_filename == __file__ and frame.f_code.co_name == "handle":
            return True
        frame = frame.f_back
    return False


def _mapped(address: int) -> tuple[str, int] | None:
    """The file that is mapped at an address, and where its mapping ends; None where there is none."""
    with open("/proc/self/maps", "rb") as maps:  # noqa: PTH123  # as few steps as possible: an access waits
        for line in maps:
            place, _, _, _, _, *path = line.split(maxsplit=5)
            begin, end = (int(number, 16) for number in place.split(b"-"))
            if begin <= address < end:
                name = os.fsdecode(path[0].strip()).removesuffix(" (deleted)") if path else ""
                return (name, end) if name.startswith("/") else None
    return None
