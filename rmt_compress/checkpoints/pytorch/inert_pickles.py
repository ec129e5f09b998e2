"""A pickle read without running it: plain values and tensors as they are, everything else as an inert object.

A pickle is a program for a small stack machine, which may name any function of any module and call it. Here its
instructions are carried out on plain values only. A class or function is its name, an object of it an `Unloaded`;
nothing is imported and nothing called but torch's own ways of making a tensor, see `inert_objects`.
"""

from __future__ import annotations

import pickletools
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from rmt_compress.checkpoints.beside import Unloaded
from rmt_compress.checkpoints.pytorch.inert_objects import (
    Global,
    InertPickleError,
    checked_key,
    global_named,
    made_by,
    with_state,
)

# A checkpoint of a thousand layers has about a hundred thousand; this many take half a minute.
_MAX_STEPS = 8_000_000
_MAX_INTEGER_BITS = 8_192
# Entries and characters handed to calls.
_MOST_COPIED = 200_000_000

_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_VALUES = frozenset((*_NUMBERS, *_TEXTS, "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"))
_OLD_TEXTS = frozenset(("STRING", "BINSTRING", "SHORT_BINSTRING"))
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_MARKED: dict[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "FROZENSET": lambda items: frozenset(map(checked_key, items)),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))


class Readable(Protocol):
    """A file, or what reads like one."""

    def read(self, size: int = ..., /) -> bytes:
        """The next bytes."""

    def readline(self) -> bytes:
        """The next line."""

    def tell(self) -> int:
        """Where it stands."""


def read_inert(file: Readable, storage: Callable[[Any], Any] | None = None) -> Any:
    """What the pickle at the file's place describes; the file then stands behind it.

    Args:
        file: open at the pickle.
        storage: gives the storage that a persistent id names; None where there is to be none.

    Raises:
        InertPickleError: damaged, endless, or with an instruction or a name that no checkpoint needs.
    """
    machine = _Machine(storage)
    try:
        # Its stub asks for a whole IO, of which it uses what `Readable` has.
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
            if steps > _MAX_STEPS:
                raise InertPickleError("has more instructions than any checkpoint")
            machine.step(opcode.name, argument)
    except InertPickleError:
        raise
    except (ValueError, TypeError, LookupError, EOFError, OverflowError, MemoryError, AttributeError) as error:
        raise InertPickleError(f"is damaged: {error}") from error
    except (struct.error, RuntimeError) as error:
        raise InertPickleError(f"is damaged: {error}") from error
    return machine.result


class _Machine:
    def __init__(self, storage: Callable[[Any], Any] | None) -> None:
        self._storage = storage
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0
        self.result: Any = None

    def step(self, opcode: str, argument: Any) -> None:
        """Carry out one instruction."""
        stack = self._stack
        if opcode in _VALUES:
            stack.append(_value(argument))
        elif opcode in _PUTS:
            self._memo[argument] = stack[-1]
        elif opcode in _GETS:
            stack.append(self._memo[argument])
        elif opcode == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif opcode == "MARK":
            self._below.append(stack)
            self._stack = []
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            parts = tuple(stack[-count:])
            if len(parts) < count:
                raise InertPickleError("is damaged: its stack is empty")
            stack[-count:] = [parts]
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _EMPTY:
            stack.append(_EMPTY[opcode]())
        elif opcode in _MARKED:
            items = self._since_mark()
            self._stack.append(_MARKED[opcode](items))
        elif opcode in _OLD_TEXTS:
            stack.append(_old_text(argument))
        elif opcode not in ("PROTO", "FRAME"):
            self._fill_or_make(opcode, argument)

    def _fill_or_make(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        if opcode in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [stack.pop()] if opcode == "APPEND" else self._since_mark()
            _extend(self._stack[-1], items, as_set=opcode == "ADDITEMS")
        elif opcode in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if opcode == "SETITEM" else self._since_mark()
            _update(self._stack[-1], items)
        elif opcode == "DICT":
            items = self._since_mark()
            made: dict[Any, Any] = {}
            _update(made, items)
            self._stack.append(made)
        elif opcode == "GLOBAL":
            stack.append(global_named(*argument.split(" ", 1)))
        elif opcode == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(global_named(module, name))
        elif opcode in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._called(function, arguments))
        elif opcode == "NEWOBJ_EX":
            named, arguments, function = stack.pop(), stack.pop(), stack.pop()
            made = self._called(function, arguments)
            stack.append(with_state(made, named) if isinstance(made, Unloaded) and named else made)
        elif opcode == "BUILD":
            state = stack.pop()
            stack[-1] = with_state(stack[-1], state)
        else:
            self._seldom(opcode, argument)

    def _seldom(self, opcode: str, argument: Any) -> None:
        """What today's pickles have no use for, except for storages and the end."""
        stack = self._stack
        if opcode == "BINPERSID" and self._storage is not None:
            stack.append(self._storage(stack.pop()))
        elif opcode == "INST":
            arguments = tuple(self._since_mark())
            self._stack.append(self._called(global_named(*argument.split(" ", 1)), arguments))
        elif opcode == "OBJ":
            function, *rest = self._since_mark()
            self._stack.append(self._called(function, tuple(rest)))
        elif opcode == "POP" and stack:
            stack.pop()
        elif opcode in ("POP", "POP_MARK"):
            self._since_mark()
        elif opcode == "DUP":
            stack.append(stack[-1])
        elif opcode == "STOP":
            if self._below or len(stack) != 1:
                raise InertPickleError("is damaged: it ends in the midst of something")
            self.result = stack.pop()
        else:
            # Numbers of a registry of this process (EXT), buffers from elsewhere, ids that are text.
            raise InertPickleError(f"holds the instruction {opcode}, as torch.save never writes it")

    def _called(self, function: Any, arguments: Any) -> Any:
        """What a call stands for; calls that copy the same long list again and again come to an end."""
        if type(arguments) is tuple:
            self._copied += sum(
                len(part) for part in arguments if isinstance(part, tuple | list | dict | str | bytes)
            )
            if self._copied > _MOST_COPIED:
                raise InertPickleError("copies more than any checkpoint")
        return made_by(function, arguments)

    def _since_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._below.pop()
        return items


def _value(argument: Any) -> Any:
    if isinstance(argument, int) and argument.bit_length() > _MAX_INTEGER_BITS:
        raise InertPickleError("holds a number of thousands of digits")
    return bytes(argument) if isinstance(argument, bytearray) else argument


def _old_text(argument: str) -> str:
    """Text that Python 2 wrote: bytes, which pickletools takes for Latin-1."""
    try:
        return argument.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return argument


def _extend(target: Any, items: list[Any], *, as_set: bool) -> None:
    if isinstance(target, Unloaded):
        target.items.extend(items)
    elif type(target) is set and as_set:
        target.update(map(checked_key, items))
    elif type(target) is list and not as_set:
        target.extend(items)
    else:
        raise InertPickleError(f"fills a {_kind(target)} as a list")


def _update(target: Any, items: list[Any]) -> None:
    if len(items) % 2:
        raise InertPickleError("is damaged: a key without a value")
    if isinstance(target, Unloaded):
        target = target.entries
    elif type(target) not in (dict, OrderedDict, Counter):
        raise InertPickleError(f"fills a {_kind(target)} as a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[checked_key(key)] = value


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Global) else type(value).__name__
