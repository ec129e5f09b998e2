"""How much work a pickle makes for torch's weights-only reader, counted before it is read.

That reader runs no code of a stranger's, but hashes what a pickle makes a key of: forty tuples, each of which holds
the one before twice, are a key of 2⁴⁰ parts in two hundred bytes, and a text of a megabyte can be encoded anew by
every instruction. Here the instructions are gone through without carrying them out, with the sizes of what they
make.
"""

from __future__ import annotations

import pickletools
import struct
from typing import IO, Any, NamedTuple

from rmt_compress.checkpoints.pytorch.inert_objects import InertPickleError

# Parts hashed or copied; a checkpoint of a thousand layers has a few ten thousand, this many take seconds.
_MAX_WORK = 10_000_000
_MAX_KEY_BITS = 64
# Arguments, what is in them, pairs in that, and their keys.
_DEPTH = 3

_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MUTABLE = frozenset(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"))
_MEMO = frozenset(("GET", "BINGET", "LONG_BINGET"))
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_CALLS = frozenset(("REDUCE", "NEWOBJ"))
# A character or byte is a smaller part of the work than a tuple's part.
_BYTES_PER_PART = 64


class _Tuple(NamedTuple):
    """A tuple: what is in it, and how many parts a hash of it looks at."""

    items: tuple[Any, ...]
    parts: int


def check_work(file: IO[bytes], pickles: int = 1) -> None:
    """Go through the pickles that begin at the file's place.

    What no sound pickle does is left to the reader to stumble over.

    Raises:
        InertPickleError: reading them would take far longer than their length says.
    """
    for _ in range(pickles):
        counter = _Counter()
        try:
            for opcode, argument, _place in pickletools.genops(file):
                counter.step(opcode.name, argument)
        except InertPickleError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError, struct.error):
            return


class _Counter:
    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._work = 0

    def step(self, opcode: str, argument: Any) -> None:
        """Follow one of the instructions that torch's reader knows; at any other it stops."""
        stack = self._stack
        if opcode in _PUTS:
            self._memo[argument] = stack[-1]
        elif opcode in _MEMO:
            stack.append(self._memo[argument])
        elif opcode == "MARK":
            self._below.append(stack)
            self._stack = []
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            items = tuple(stack[-count:]) if count else ()
            del stack[len(stack) - count :]
            stack.append(_tuple(items))
        elif opcode == "TUPLE":
            items = tuple(self._since_mark())
            self._stack.append(_tuple(items))
        elif opcode in _MUTABLE:
            stack.append([])
        elif opcode == "APPEND":
            item = stack.pop()
            self._fill([item])
        elif opcode == "APPENDS":
            self._fill(self._since_mark())
        elif opcode == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self._hash(key)
            self._fill([key, value])
        elif opcode == "SETITEMS":
            items_set = self._since_mark()
            for key in items_set[::2]:
                self._hash(key)
            self._fill(items_set)
        elif opcode in _CALLS:
            arguments = stack.pop()
            stack[-1] = None
            self._look(arguments, _DEPTH)
            alone = arguments.items[0] if isinstance(arguments, _Tuple) and len(arguments.items) == 1 else None
            if isinstance(alone, int):
                # A bytearray of a number has so many bytes.
                self._spend(abs(alone) // _BYTES_PER_PART)
        elif opcode == "BUILD":
            self._look(stack.pop(), _DEPTH)
        elif opcode == "BINPERSID":
            self._hash(stack.pop())
            stack.append(None)
        elif opcode not in ("PROTO", "STOP", "FRAME"):
            stack.append(argument)

    def _since_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._below.pop()
        return items

    def _fill(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)

    def _hash(self, key: Any) -> None:
        """Count what a hash of `key` looks at."""
        if isinstance(key, int) and key.bit_length() > _MAX_KEY_BITS:
            # Larger numbers can be made to have one hash all.
            raise InertPickleError("has a key that is a huge number")
        self._spend(_size(key))

    def _look(self, value: Any, depth: int) -> None:
        """Count what a function may do with `value`: go through it, and make keys of what is in it."""
        self._spend(_size(value))
        items = value.items if isinstance(value, _Tuple) else value
        if depth and isinstance(items, tuple | list):
            self._spend(len(items))
            for item in items:
                if item is not None:
                    self._look(item, depth - 1)

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > _MAX_WORK:
            raise InertPickleError("asks for more work than any checkpoint (a trap for whoever reads it)")


def _tuple(items: tuple[Any, ...]) -> _Tuple:
    return _Tuple(items, 1 + sum(item.parts if isinstance(item, _Tuple) else 1 for item in items))


def _size(value: Any) -> int:
    if isinstance(value, _Tuple):
        return value.parts
    if isinstance(value, str | bytes | bytearray):
        return 1 + len(value) // _BYTES_PER_PART
    return 1
