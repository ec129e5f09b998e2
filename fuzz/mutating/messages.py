"""Changes to protobuf messages, by their wire format: fields go, come twice, change numbers and content."""

from __future__ import annotations

from random import Random

from fuzz.mutating import octets

Field = tuple[int, int, int | bytes]
_MOST_DEPTH = 12


def read(data: bytes) -> list[Field] | None:
    """The fields of a message as (number, wire type, content); None of what is no message."""
    fields: list[Field] = []
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        content: int | bytes
        if place < 0 or number == 0 or wire not in (0, 1, 2, 5):
            return None
        if wire == 0:
            content, place = _varint(data, place)
        else:
            size = {1: 8, 5: 4}.get(wire)
            if size is None:
                size, place = _varint(data, place)
            if place < 0 or place + size > len(data):
                return None
            content, place = data[place : place + size], place + size
        if place < 0:
            return None
        fields.append((number, wire, content))
    return fields


def write(fields: list[Field]) -> bytes:
    """The message of these fields."""
    out = bytearray()
    for number, wire, content in fields:
        out += _encoded(number << 3 | wire)
        if isinstance(content, int):
            out += _encoded(content)
        else:
            out += (_encoded(len(content)) if wire == 2 else b"") + content
    return bytes(out)


def mutate(data: bytes, rng: Random, depth: int = 0) -> bytes:
    """One change to a field somewhere in a message and the messages in it."""
    fields = read(data)
    if not fields:
        return octets.mutate(data, rng)
    place, what = rng.randrange(len(fields)), rng.random()
    number, wire, content = fields[place]
    if what < 0.75:
        fields[place] = (number, wire, _other(wire, content, rng, depth))
    elif what < 0.82:
        del fields[place]
    elif what < 0.9:
        fields.insert(rng.randrange(len(fields) + 1), fields[place])
    elif what < 0.94:
        fields[place] = (rng.choice((1, 2, 3, 4, 5, 7, 9, 13, 14, 2**28)), wire, content)
    elif what < 0.97 and wire == 2:
        fields[place] = (number, wire, write([(number, 2, content)] * 2) * rng.choice((1, 1000)))
    else:
        other = rng.randrange(len(fields))
        fields[place], fields[other] = fields[other], fields[place]
    return write(fields)


def _other(wire: int, content: int | bytes, rng: Random, depth: int) -> int | bytes:
    if isinstance(content, int):
        return rng.choice((content + 1, max(content - 1, 0), *octets.NUMBERS)) % 2**64
    if wire != 2:
        return rng.randbytes(len(content))
    if depth < _MOST_DEPTH and len(content) > 1 and read(content) and rng.random() < 0.9:
        return mutate(content, rng, depth + 1)
    if rng.random() < 0.5:
        return rng.choice(octets.TEXTS).encode()
    return octets.digits(content, rng)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if not 0 <= place < len(data):
            return 0, -1
        value |= (data[place] & 127) << shift
        place += 1
        if data[place - 1] < 128:
            return value, place
    return 0, -1


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
