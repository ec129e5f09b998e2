"""The pickle of a TorchScript archive, read without running it: which object holds which tensors.

A pickle is a program for a small stack machine. The few instructions that torch writes are carried out here on
plain records: a class is its name, an object its attributes, a tensor the place where its values lie. Nothing is
imported and nothing called, whatever the pickle asks for.
"""

from __future__ import annotations

import io
import pickletools
import struct
from dataclasses import dataclass, field
from typing import Any

from rmt_compress.checkpoints.raw_tensors import STORAGE_DTYPES, RawTensor

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class ScriptPickleError(ValueError):
    """The pickle is none that torch writes for TorchScript."""


@dataclass(frozen=True)
class Global:
    """A class or function the pickle names."""

    name: str


@dataclass
class ScriptObject:
    """The dotted name of a class, from ``__torch__`` on, and the attributes of an object where they are plain."""

    kind: str
    attributes: dict[str, Any] = field(default_factory=dict)


def read_script_pickle(data: bytes) -> ScriptObject:
    """The object a pickle describes; `ScriptPickleError` where it holds what torch does not write."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            machine.step(opcode.name, argument)
    except ScriptPickleError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, struct.error, EOFError, UnicodeDecodeError) as error:
        raise ScriptPickleError(f"its pickle is damaged: {error}") from error
    if len(machine.stack) != 1 or not isinstance(machine.stack[0], ScriptObject):
        raise ScriptPickleError("its pickle holds no module")
    return machine.stack[0]


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Carry out one instruction."""
        stack = self.stack
        if opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _NUMBERS:
            stack.append(argument)
        elif opcode in ("PROTO", "STOP"):
            return
        elif opcode == "MARK":
            stack.append(_MARK)
        elif opcode in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
            stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": []}.get(opcode, {}))
        elif opcode == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            parts = tuple(stack[-count:])
            del stack[-count:]
            stack.append(parts)
        elif opcode in ("APPEND", "APPENDS"):
            items = [stack.pop()] if opcode == "APPEND" else self._since_mark()
            self._top(list).extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if opcode == "SETITEM" else self._since_mark()
            # A key may be anything; only names lead to tensors.
            self._top(dict).update(
                (key, value) for key, value in zip(items[::2], items[1::2], strict=True) if isinstance(key, str)
            )
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif opcode == "GLOBAL":
            stack.append(Global(argument.replace(" ", ".")))
        else:
            self._make(opcode)

    def _make(self, opcode: str) -> None:
        stack = self.stack
        if opcode == "BINPERSID":
            stack.append(stack.pop())
        elif opcode == "NEWOBJ":
            stack.pop()
            stack.append(ScriptObject(_name(stack.pop())))
        elif opcode == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], ScriptObject):
                raise ScriptPickleError("its pickle changes something that is no module")
            # A class with a __setstate__ of its own may keep any state: only attributes can be looked through.
            stack[-1].attributes = state if isinstance(state, dict) else {}
        elif opcode == "REDUCE":
            arguments = stack.pop()
            stack.append(_reduced(_name(stack.pop()), arguments))
        else:
            raise ScriptPickleError(f"its pickle holds the instruction {opcode}, as TorchScript never writes it")

    def _since_mark(self) -> list[Any]:
        place = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ScriptPickleError(f"its pickle fills a {type(self.stack[-1]).__name__} as a {kind.__name__}")
        return self.stack[-1]


def _name(value: Any) -> str:
    if not isinstance(value, Global):
        raise ScriptPickleError("its pickle makes an object of something that is no class")
    return value.name


def _reduced(name: str, arguments: Any) -> Any:
    """What a call stands for; the call itself is not made."""
    if name == "torch._utils._rebuild_tensor_v2":
        storage, offset, shape, stride, *_ = arguments
        what, kind, key, _, _ = storage
        if what != "storage" or not isinstance(key, str):
            raise ScriptPickleError("its pickle has a tensor without a storage")
        dtype = _name(kind).removeprefix("torch.")
        return RawTensor(f"data/{key}", STORAGE_DTYPES.get(dtype, dtype), tuple(shape), tuple(stride), offset)
    if name.startswith("torch.jit._pickle.") or name == "torch._utils._rebuild_parameter":
        # A list or a tensor, and what is said of its type.
        return arguments[0]
    if name.startswith("__torch__."):
        return ScriptObject(name)
    if name in ("collections.OrderedDict", "torch.device", "builtins.complex", "torch._utils._rebuild_qtensor"):
        return None
    raise ScriptPickleError(f"its pickle asks for {name}, as TorchScript never does; it was not run")
