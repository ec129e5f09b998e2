"""What the names and calls in a pickle stand for where nothing of it is run: see `inert_pickles`."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.beside import Unloaded
from rmt_compress.wording import printable

if TYPE_CHECKING:
    import torch

_MAX_DIMENSIONS = 64
_LARGEST = 2**63
_MAX_KEY_PARTS = 100
_MAX_KEY_BITS = 64

# Modules and functions that harmless objects have no use for: whoever names them wants something run.
_RUNS_THINGS = re.compile(
    r"(os|posix|nt|sys|subprocess|_posixsubprocess|commands|shutil|socket|_?ctypes|cffi|importlib|zipimport|pkgutil"
    r"|runpy|pty|pdb|bdb|code|codeop|pip|ensurepip|venv|_?pickle|cPickle|dill|cloudpickle|marshal|gc|webbrowser|pydoc"
    r"|timeit|cProfile|idlelib|linecache|urllib2?|requests|httpx|smtplib|ftplib|telnetlib)\..*"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|open|file|input|raw_input|breakpoint|__import__|globals"
    r"|locals|vars|setattr|delattr|exit|quit|help|apply|reload)(\..*)?"
    r"|types\.(Function|Code|Lambda|Method)Type"
    r"|torch\.(load|(hub|jit|ops|utils\.cpp_extension)\..*)",
    re.DOTALL,
)

# Old protocols make every object by one of these, of the class that comes first.
_MAKERS = re.compile(
    r"copy_?reg\.(_reconstructor|__newobj__)|(builtins|__builtin__)\.getattr|numpy\._?core\.multiarray\._reconstruct"
)


class InertPickleError(ValueError):
    """A pickle that is not read without running it; the message follows upon "its pickle"."""


@dataclass(frozen=True)
class Global:
    """A class or function the pickle names."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Values of one element type, to be looked at through tensors.

    Attributes:
        values: the bytes.
        dtype: what the pickle says they are; None where the tensor says it.
    """

    values: torch.UntypedStorage
    dtype: torch.dtype | None


def global_named(module: Any, name: Any) -> Any:
    """What a name stands for: an element type, a layout, or the name.

    Raises:
        InertPickleError: it is one that runs things.
    """
    import torch

    if not isinstance(module, str) or not isinstance(name, str):
        raise InertPickleError("names a class by something that is no text")
    full = f"{module}.{name}"
    if module == "torch" and isinstance(known := vars(torch).get(name), torch.dtype):
        return known
    if _RUNS_THINGS.fullmatch(full):
        raise InertPickleError(f"asks for {printable(full, 100)}, which runs things")
    return Global(full)


def made_by(function: Any, arguments: Any) -> Any:
    """What a call stands for: a tensor or a plain value where it is one of the few known, else an `Unloaded`.

    Raises:
        InertPickleError: no call at all, or a tensor that does not fit its storage.
    """
    if type(arguments) is not tuple:
        raise InertPickleError("calls something with arguments that are no tuple")
    if isinstance(function, Unloaded):
        return Unloaded(function.kind, (function, *arguments))
    if not isinstance(function, Global):
        raise InertPickleError(f"calls a {type(function).__name__}")
    known = _KNOWN.get(function.name)
    made = None if known is None else known(*arguments)
    if made is not None:
        return made
    inner = arguments[0] if arguments and _MAKERS.fullmatch(function.name) else function
    kind = inner.name if isinstance(inner, Global) else function.name
    return Unloaded(printable(kind, 100), arguments)


def with_state(value: Any, state: Any) -> Any:
    """An object that was given its attributes; those of plain values are of no use."""
    if isinstance(value, Unloaded):
        value.state = state
        return value
    if isinstance(value, dict | list | set):
        return value
    raise InertPickleError(f"gives attributes to a {type(value).__name__}")


def checked_key(key: Any) -> Any:
    """A key for a mapping or a set, of which a hash is quickly made.

    Raises:
        InertPickleError: it is not hashable, or large.
    """
    left, parts = [key], 0
    while left:
        part = left.pop()
        parts += 1
        if parts > _MAX_KEY_PARTS:
            raise InertPickleError("has a key of a hundred parts")
        if isinstance(part, tuple | frozenset):
            # No more than would be refused.
            left.extend(itertools.islice(part, _MAX_KEY_PARTS + 1))
        if isinstance(part, int) and part.bit_length() > _MAX_KEY_BITS:
            # Larger numbers can be made to have one hash all.
            raise InertPickleError("has a key that is a huge number")
    hash(key)
    return key


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> torch.Tensor | None:
    """``_rebuild_tensor`` and ``_rebuild_tensor_v2``: gradients and hooks follow, then flags of complex numbers."""
    if len(rest) > 2 and rest[2]:
        return None
    return _view(storage, storage.dtype, offset, size, stride) if isinstance(storage, Storage) else None


def _typed_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> torch.Tensor | None:
    """``_rebuild_tensor_v3``: the element type follows upon gradients and hooks."""
    if len(rest) < 3 or (len(rest) > 3 and rest[3]) or not isinstance(storage, Storage):
        return None
    return _view(storage, rest[2], offset, size, stride)


def _view(storage: Storage, dtype: Any, offset: Any, size: Any, stride: Any) -> torch.Tensor:
    """A tensor over a storage that it does not reach beyond.

    Raises:
        InertPickleError: it would.
    """
    import torch

    if not isinstance(dtype, torch.dtype):
        raise InertPickleError("has a tensor without an element type")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise InertPickleError("has a tensor without a shape")
    numbers = (*size, *stride, offset)
    if len(size) > _MAX_DIMENSIONS or any(type(n) is not int or not 0 <= n < _LARGEST for n in numbers):
        raise InertPickleError(f"has a tensor of the shape {printable(str(numbers), 60)}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if 0 not in size else 0
    if last * dtype.itemsize > storage.values.nbytes() or math.prod(size) >= _LARGEST:
        raise InertPickleError(
            f"has a tensor that claims {last * dtype.itemsize} bytes of a storage of {storage.values.nbytes()}"
        )
    empty = torch.empty(0, dtype=dtype, device=storage.values.device)
    return empty.set_(storage.values, offset, size, stride)


def _sparse(layout: Any, data: Any) -> torch.Tensor | None:
    """``_rebuild_sparse_tensor``, its indices checked."""
    import torch

    if layout == Global("torch.sparse_coo") and len(data) in (3, 4):
        indices, values, size = data[:3]
        if isinstance(indices, torch.Tensor) and isinstance(values, torch.Tensor) and isinstance(size, tuple):
            if indices.is_meta:
                # The sizes of storages are being counted.
                return values
            return torch.sparse_coo_tensor(indices, values, size, check_invariants=True)
    return None


def _wrapped(data: Any, *_: Any) -> Any:
    """``_rebuild_parameter``: the tensor."""
    import torch

    return data if isinstance(data, torch.Tensor) else None


def _subclass(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """``_rebuild_from_type_v2``: the tensor, without the attributes it was given."""
    import torch

    del state
    if kind not in (Global("torch.Tensor"), Global("torch.nn.parameter.Parameter"), Global("torch._tensor.Tensor")):
        return None
    made = made_by(function, arguments)
    return made if isinstance(made, torch.Tensor) else None


def _mapping(*arguments: Any) -> dict[Any, Any] | None:
    """An OrderedDict or Counter from nothing, pairs or a mapping."""
    pairs = arguments[0] if arguments else ()
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    if not isinstance(pairs, list | tuple) or any(not isinstance(p, list | tuple) or len(p) != 2 for p in pairs):
        return None
    return OrderedDict((checked_key(key), value) for key, value in pairs)


def _counter(*arguments: Any) -> dict[Any, Any] | None:
    counted = _mapping(*arguments)
    made: Counter[Any] = Counter()
    for key, count in (counted or {}).items():
        made[key] = count
    return None if counted is None else made


def _defaults(*arguments: Any) -> dict[Any, Any] | None:
    """A defaultdict: what makes its defaults is not loaded."""
    return {} if len(arguments) < 2 else None


def _items(items: Any = (), *_: Any) -> list[Any] | None:
    """A deque."""
    return list(items) if isinstance(items, list | tuple) else None


def _set(items: Any = ()) -> set[Any] | None:
    return set(map(checked_key, items)) if isinstance(items, list | tuple) else None


def _encoded(text: Any, encoding: Any = "latin1") -> bytes | None:
    """How old protocols write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        return None
    return text.encode("latin-1")


def _complex(real: Any = 0.0, imaginary: Any = 0.0) -> complex | None:
    return complex(real, imaginary) if {type(real), type(imaginary)} <= {int, float} else None


def _size(sizes: Any = ()) -> torch.Size | None:
    import torch

    if not isinstance(sizes, tuple | list) or any(type(size) is not int for size in sizes):
        return None
    return torch.Size(sizes)


def _device(*arguments: Any) -> torch.device | None:
    import torch

    try:
        return torch.device(*arguments) if all(type(part) in (str, int) for part in arguments) else None
    except (RuntimeError, TypeError):
        return None


def _layout(name: Any) -> Global | None:
    return Global(name) if isinstance(name, str) else None


# Each gives None for arguments that it does not know: then the call is an `Unloaded` as any other.
_KNOWN: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_parameter": _wrapped,
    "torch._utils._rebuild_parameter_with_state": _wrapped,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.serialization._get_layout": _layout,
    "torch.Size": _size,
    "torch.device": _device,
    "collections.OrderedDict": _mapping,
    "collections.Counter": _counter,
    "collections.defaultdict": _defaults,
    "collections.deque": _items,
    "_codecs.encode": _encoded,
    "builtins.bytearray": _encoded,
    "__builtin__.bytearray": _encoded,
    "builtins.bytes": _encoded,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "builtins.complex": _complex,
    "__builtin__.complex": _complex,
}
