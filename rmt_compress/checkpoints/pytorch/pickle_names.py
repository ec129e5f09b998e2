"""Which classes and functions a pickle asks for, read from its opcodes; nothing of it is run."""

from __future__ import annotations

import pickletools
import re
import struct
from collections import deque
from typing import BinaryIO

# What every state dict asks for and torch's weights-only reader knows.
_PLAIN = re.compile(
    r"collections\.(OrderedDict|Counter)|torch\._utils\.\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.(\w*Storage|storage\.\w+|Size|Tensor|\w*Tensor|device|dtype|nn\.parameter\.Parameter)"
    r"|torch\.(float|bfloat|int|uint|complex|q|bool)\w*|torch\.serialization\._get_layout"
    r"|_codecs\.encode|(builtins|__builtin__)\.(set|bytearray|complex)"
)


def names_asked_for(file: BinaryIO, pickles: int = 1) -> list[str]:
    """Dotted names of the classes and functions the pickles in `file` ask for, plain torch ones left out.

    Args:
        file: open at the first pickle.
        pickles: how many pickles to look through, one after the other.

    Returns:
        Names in the order of first use. A damaged pickle gives those before the damage.
    """
    found: dict[str, None] = {}
    strings: deque[str] = deque(maxlen=2)
    memo: dict[int, str] = {}
    try:
        for _ in range(pickles):
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    found[str(argument).replace(" ", ".")] = None
                elif opcode.name == "STACK_GLOBAL":
                    found[".".join(strings)] = None
                elif isinstance(argument, str):
                    strings.append(argument)
                elif opcode.name == "MEMOIZE" and strings:
                    memo[len(memo)] = strings[-1]
                elif opcode.name in ("BINPUT", "LONG_BINPUT") and strings:
                    memo[argument or 0] = strings[-1]
                elif opcode.name in ("BINGET", "LONG_BINGET") and argument in memo:
                    strings.append(memo[argument])
    except (ValueError, struct.error, EOFError, MemoryError, OverflowError, IndexError):
        pass
    # A name cut off by the end of the file is none.
    return [name for name in found if not name.endswith(".") and not _PLAIN.fullmatch(name)]
