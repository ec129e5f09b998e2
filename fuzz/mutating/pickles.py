"""Changes to pickles: opcodes go, come, change places; numbers, names and memo entries become others."""

from __future__ import annotations

import pickletools
import struct
from random import Random

from fuzz.mutating import octets

_NAMES = (
    *("posix system", "builtins eval", "builtins getattr", "canary_module run", "os system", "subprocess Popen"),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch FloatStorage", "torch Size"),
    *("collections OrderedDict", "argparse Namespace", "numpy dtype", "numpy.core.multiarray _reconstruct"),
    *("torch.storage UntypedStorage", "torch.nn.modules.linear Linear", "_codecs encode", "builtins bytearray"),
    *(
        "functools partial",
        "torch load",
        "torch._utils _rebuild_sparse_tensor",
        "torch device",
        "torch float8_e5m2",
    ),
    *(
        "torch.serialization _get_layout",
        "collections Counter",
        "datetime datetime",
        "enum Enum",
        "copyreg _reconstructor",
    ),
)
_PAYLOAD = b"cposix\nsystem\n(X\x0c\x00\x00\x00touch canarytR0"
_OPCODES = (
    *(
        b"R",
        b"(",
        b"t",
        b"}",
        b"]",
        b")",
        b"N",
        b"0",
        b"1",
        b"2",
        b"b",
        b"u",
        b"s",
        b"e",
        b"a",
        b"Q",
        b"\x81",
        b"\x85",
    ),
    *(b"\x86", b"\x87", b"\x88", b"\x8f", b"\x90", b"\x91", b"\x92", b"\x93", b"\x94", b"d", b"l", b".", b"h\x00"),
    *(
        b"q\x00",
        b"r\xff\xff\xff\x7f",
        b"r\xff\xff\xff\x03",
        b"j\xff\xff\xff\x7f",
        b"\x82\x01",
        b"B\xff\xff\xff\x7f",
        b"X\xff\xff\xff\xff",
    ),
    *(
        b"\x8d" + b"\xff" * 7 + b"\x7f",
        b"\x8b\xff\xff\xff\x7f",
        b"\x95" + b"\xff" * 8,
        b"\x80\x09",
        b"\x97",
        b"\x98",
    ),
    *(b"I99999999999999999999\n", b"L1L\n", b"F1e400\n", b"P1\n", b"\x96" + b"\xff" * 7 + b"\x0f", b"}" * 3000),
    *(b"(" * 5000, b"\x85" * 5000, b"]q\x07h\x07a", b"C\x04abcd", _PAYLOAD),
)


def split(data: bytes) -> tuple[list[tuple[str, object, bytes]], bytes]:
    """The opcodes of one pickle after another, each with its argument and bytes, and what follows them."""
    found: list[tuple[str, object, bytes]] = []
    start = 0
    while data[start : start + 1] == b"\x80":
        try:
            listed = [
                # Of bytes every place is known.
                (opcode.name, argument, start + at)
                for opcode, argument, at in pickletools.genops(data[start:])
                if at is not None
            ]
        except (ValueError, IndexError, UnicodeDecodeError, struct.error):
            break
        ends = [*(at for _, _, at in listed[1:]), listed[-1][2] + 1]
        found += [(name, argument, data[at:end]) for (name, argument, at), end in zip(listed, ends, strict=True)]
        start = ends[-1]
    return found, data[start:]


def mutate(data: bytes, rng: Random) -> bytes:
    """One change to the opcodes of a pickle, or of several and what follows them."""
    operations, rest = split(data)
    if not operations or rng.random() < 0.08:
        return octets.mutate(data, rng)
    pieces = [piece for *_, piece in operations]
    place, what = rng.randrange(len(pieces)), rng.random()
    if what < 0.55:
        names = [at for at, (name, _, _) in enumerate(operations) if _told(name)]
        place = rng.choice(names) if names else place
        pieces[place] = _replaced(*operations[place], rng)
    elif what < 0.65:
        del pieces[place : place + rng.choice((1, 1, 2, 5))]
    elif what < 0.8:
        pieces.insert(place, _global(rng) if rng.random() < 0.3 else rng.choice(_OPCODES))
    elif what < 0.88:
        other = rng.randrange(len(pieces))
        pieces[place], pieces[other] = pieces[other], pieces[place]
    elif what < 0.95:
        pieces[place:place] = pieces[place : place + rng.choice((1, 3, 10))]
    else:
        pieces[place] = rng.choice(_OPCODES)
    return b"".join(pieces) + rest


def _told(name: str) -> bool:
    return name == "GLOBAL" or any(part in name for part in ("INT", "UNICODE", "LONG", "GET", "PUT", "FLOAT"))


def _global(rng: Random) -> bytes:
    module, _, name = rng.choice(_NAMES).partition(" ")
    return f"c{module}\n{name}\n".encode()


def _replaced(name: str, argument: object, piece: bytes, rng: Random) -> bytes:
    """An opcode with another argument."""
    if name == "GLOBAL":
        return _global(rng)
    if "GET" in name or "PUT" in name:
        code = b"j" if "GET" in name else b"r"
        number = argument if isinstance(argument, int) else 0
        return code + struct.pack(
            "<I", rng.choice((0, 1, number + 1, max(0, number - 1), 2**20, 2**26, 2**31)) % 2**32
        )
    if isinstance(argument, int):
        number = rng.choice((argument + 1, argument - 1, -argument, argument * 2, *octets.NUMBERS, -1, -(2**31)))
        data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(argument, str):
        word = rng.choice((argument + "x", argument[:-1], "", "meta", "cuda:0", "FloatStorage", *octets.TEXTS))
        data = word.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(data)) + data
    return rng.choice(_OPCODES)
