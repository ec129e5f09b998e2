"""Pickles that want something run: refused or inert, and nothing happens."""

import io
import itertools
import pickle
import pickletools
import random
import struct
import sys
import threading
import time
import zipfile

import pytest
import torch

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.beside import Unloaded
from rmt_compress.checkpoints.pytorch.inert_objects import InertPickleError
from rmt_compress.checkpoints.pytorch.inert_pickles import read_inert
from rmt_compress.errors import CheckpointError

CALLABLES = (
    "posix system",
    "os system",
    "os popen",
    "subprocess Popen",
    "builtins eval",
    "builtins exec",
    "builtins getattr",
    "__builtin__ __import__",
    "importlib import_module",
    "operator methodcaller",
    "functools partial",
    "functools reduce",
    "tests.checkpoints.canary leave",
    "torch.storage _load_from_bytes",
    "torch.hub load",
    "torch.serialization load",
    "numpy load",
    "numpy.testing._private.utils runstring",
    "pydoc pipepager",
    "shutil rmtree",
    "pathlib Path.touch",
    "collections OrderedDict.fromkeys",
    "torch._utils _rebuild_device_tensor_from_numpy",
    "torch._tensor _rebuild_from_type_v2",
    "codecs open",
)


# What must never happen; other events, only where the payload's text or module is in them.
EVENTS = ("os.system", "os.exec", "os.remove", "os.mkdir", "subprocess.Popen", "shutil.rmtree", "pickle.find_class")
PAYLOAD = ("canary", "'app'", "'pydoc'", "'numpy.testing'", "'torch.hub'", "'subprocess'")


class Watch:
    """What the interpreter did while a file was read; such a hook can never be taken off again."""

    def __init__(self):
        self.on = False
        self.seen = []
        self.thread = threading.get_ident()
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if not self.on or threading.get_ident() != self.thread:
            return
        if event in EVENTS or (event != "object.__getattr__" and any(word in repr(arguments) for word in PAYLOAD)):
            self.seen.append((event, repr(arguments)))


WATCH = []


@pytest.fixture
def watched(tmp_path):
    """Opens a file and proves that nothing happened."""
    if not WATCH:
        WATCH.append(Watch())
    (watch,) = WATCH
    canary = tmp_path / "canary"

    def look(path):
        watch.seen.clear()
        watch.on = True
        try:
            with open_checkpoint(path) as checkpoint:
                for name in checkpoint.tensors:
                    checkpoint.read(name)
            read = True
        except CheckpointError:
            read = False
        finally:
            watch.on = False
        assert watch.seen == []
        assert not canary.exists()
        return read

    return look


def text(value):
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def call(name, argument, how):
    """Instructions that call a function with a text, in one of the ways pickle has."""
    module, function = name.split(" ")
    named = f"c{module}\n{function}\n".encode()
    arguments = text(argument) + b"\x85"
    return {
        "REDUCE": named + arguments + b"R",
        "STACK_GLOBAL": text(module) + text(function) + b"\x93" + arguments + b"R",
        "NEWOBJ": named + arguments + b"\x81",
        "NEWOBJ_EX": named + arguments + b"}\x92",
        "OBJ": b"(" + named + text(argument) + b"o",
        "INST": b"(" + text(argument) + f"i{module}\n{function}\n".encode(),
        "BUILD": named + b")\x81}" + text("__setstate__") + named + b"s" + b"b",
        "twice": named + arguments + b"R" + arguments + b"R",
        "aliased": named + b"q\x630h\x63" + arguments + b"Rq\x64h\x64\x86",
        "nested": b"]" + b"(" + named + arguments + b"Re}" + text("k") + named + arguments + b"Rs\x86",
    }[how]


HOWS = ("REDUCE", "STACK_GLOBAL", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "BUILD", "twice", "aliased", "nested")


def written(path, extra):
    """A checkpoint with `extra` instructions for a value beside its weights."""
    torch.save({"model": {"w": torch.ones(3, 2)}, "x": 12345}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    marker = b"M\x39\x30"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            if name.endswith("data.pkl"):
                assert content.count(marker) == 1
            archive.writestr(name, content.replace(marker, extra) if name.endswith("data.pkl") else content)
    return path


@pytest.mark.parametrize("name", CALLABLES)
def test_nothing_is_called(name, watched, tmp_path):
    for how in HOWS:
        path = written(tmp_path / f"{how}.pt", call(name, f"touch {tmp_path / 'canary'}", how))
        watched(path)


def test_a_payload_that_would_run_is_live(tmp_path):
    """What keeps the canary away is the reader, not a slip in the payload."""
    for how in ("REDUCE", "STACK_GLOBAL", "OBJ", "INST", "aliased", "nested"):
        canary = tmp_path / how
        pickle.loads(b"\x80\x04" + call("posix system", f"touch {canary}", how) + b".")
        assert canary.exists(), how


def test_harmless_names_are_inert_and_those_that_run_things_refused(watched, tmp_path):
    read = {name: watched(written(tmp_path / "x.pt", call(name, "x", "REDUCE"))) for name in CALLABLES}
    assert read["functools partial"]
    assert read["builtins getattr"]
    assert not any(read[name] for name in ("posix system", "builtins eval", "subprocess Popen", "torch.hub load"))


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
def test_every_instruction_is_inert_or_refused(opcode):
    """Alone, and after every kind of value it may find below it."""
    below = (b"", b"]", b"}", b"(", b"K\x01", b"capp\nT\n", b"capp\nT\n)", b"](", b"}(K\x01K\x02")
    arguments = (b"", b"\x00", b"\x01" * 9, b"1\n", b"app\nThing\n", b"\xff" * 9, b"\x02\x00\x00\x00ab")
    for under, argument in itertools.product(below, arguments):
        try:
            made = read_inert(io.BytesIO(b"\x80\x04" + under + opcode.code.encode("latin-1") + argument + b"."))
        except InertPickleError:
            continue
        plain = (Unloaded, type(None), bool, int, float, str, bytes, list, dict, tuple, set, frozenset)
        assert isinstance(made, plain) or type(made).__name__ == "Global"


@pytest.mark.parametrize(
    "opcode", ["EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"]
)
def test_what_reaches_out_of_the_pickle_is_refused(opcode):
    code = next(each.code for each in pickletools.opcodes if each.name == opcode).encode("latin-1")
    with pytest.raises(InertPickleError, match=opcode):
        read_inert(io.BytesIO(b"\x80\x05K\x01" + code + b"\x01\x00\x00\x00\n."))


@pytest.mark.parametrize(
    "name",
    [
        b"cposix\nsystem\nq\x01" + text("storage") + b"0",
        text("elsewhere"),
        b"(" + text("storage") + b"h\x00" + text("0") + text("cpu") + b"K\x06t",
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("../../x") + text("cpu") + b"K\x06Nt",
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\xff" + b"t",
        b"(" + text("storage") + b"ctorch\nloadStorage\n" + text("0") + text("cpu") + b"K\x06t",
        b"(" + text("module") + b"cposix\nsystem\nX\x00\x00\x00\x00X\x00\x00\x00\x00t",
    ],
)
def test_only_storages_come_from_outside(name, watched, tmp_path):
    assert not watched(written(tmp_path / "x.pt", name + b"Qcapp\nT\n)R\x86"))


BOMBS = {
    "doubling lists": b"]q\x63K\x01a" + b"".join(b"](h\x63h\x63eq\x63" for _ in range(60)),
    "doubling tuples": b")q\x63" + b"h\x63h\x63\x86q\x63" * 60 + b"h\x63",
    "doubling keys": b")q\x63" + b"h\x63h\x63\x86q\x630" * 60 + b"}h\x63K\x01s",
    "a list of itself": b"]q\x63h\x63a",
    "a dict of itself": b"}q\x63K\x01h\x63s",
    "deep lists": b"]" * 50_000 + b"a" * 49_999,
    "deep tuples": b")" + b"\x85" * 50_000,
    "deep objects": b"capp\nT\n)Rq\x63" + b"0capp\nT\nh\x63\x85Rq\x63" * 5000,
    "a long text": b"X\xff\xff\xff\xff",
    "a text beyond all": b"\x8d" + b"\xff" * 8,
    "a huge number": b"\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000,
    "colliding keys": b"}("
    + b"".join(b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(30_000))
    + b"u",
    "an empty stack": b"0" * 40,
    "marks": b"(" * 1000,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.traced
def test_bombs_end_soon(kind, watched, tmp_path):
    # Behind a class, at which torch's own reader stops: some of these keep it busy for ever.
    started = time.monotonic()
    watched(written(tmp_path / "x.pt", b"capp\nThing\n)R" + BOMBS[kind] + b"\x86"))
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("seed", range(4))
def test_two_hundred_random_programs(seed, watched, tmp_path):
    """Instructions thrown together, with live calls among them."""
    rng = random.Random(seed)
    pieces = [call(name, f"touch {tmp_path / 'canary'}", how) for name in CALLABLES for how in HOWS]
    plain = [opcode for opcode in pickletools.opcodes if opcode.arg is None and opcode.name != "STOP"]
    pieces += [opcode.code.encode("latin-1") for opcode in plain]
    pieces += [b"K\x01", b"h\x00", b"q\x05", b"h\x05", text("a"), b"ctorch._utils\n_rebuild_tensor_v2\n"]
    for _ in range(50):
        extra = b"".join(rng.choices(pieces, k=rng.randrange(1, 12)))
        watched(written(tmp_path / "x.pt", extra))


# Tuples of which each holds the one before twice: 40 of them are a trillion parts.
NEST = b")q\x64" + b"h\x64h\x64\x86q\x64" * 40
LONG = b"](" + b"N" * 30_000 + b"eq\x65"
TRAPS = {
    "key of a dict": b"}" + NEST + b"K\x01s",
    "key among several": b"}(" + NEST + b"K\x01u",
    "entry of a set": b"cbuiltins\nset\n](" + NEST + b"e\x85R",
    "key of pairs": b"ccollections\nOrderedDict\n](" + NEST + b"K\x01\x86e\x85R",
    "key of lists": b"ccollections\nCounter\n](]" + NEST + b"aK\x01ae\x85R",
    "attribute": b"ccollections\nOrderedDict\n)R}" + NEST + b"K\x01sb",
    "storage": NEST + b"Q",
    "copies": LONG + b"(" + b"cbuiltins\nset\nh\x65\x85R" * 20_000 + b"l",
    "bytes": b"cbuiltins\nbytearray\nI9999999999\n\x85R",
    "equal hashes": b"}("
    + b"".join(b"\x8a\x09" + (n * (2**61 - 1)).to_bytes(9, "little") + b"N" for n in range(20, 29))
    + b"u",
    "a class as well": b"}" + NEST + b"K\x01s" + b"cours\nThing\n)\x81\x86",
}


@pytest.mark.parametrize("protocol", ["zip", "legacy"])
@pytest.mark.parametrize("trap", TRAPS)
def test_traps_for_time_and_memory_are_one_line(tmp_path, monkeypatch, trap, protocol):
    path = tmp_path / "trap.pt"
    written(path, TRAPS[trap])
    if protocol == "legacy":
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
            content = archive.read(name)
        head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        path.write_bytes(head + content + pickle.dumps([], 2))
    steps = []
    genops = pickletools.genops
    monkeypatch.setattr(pickletools, "genops", lambda file: (steps.append(1) or each for each in genops(file)))
    with pytest.raises(CheckpointError, match=r"(more work than any|huge number|a hundred parts)") as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    # The file is gone through once, up to the trap.
    assert len(steps) < 200_000


def test_shared_parts_of_a_sound_checkpoint_are_no_trap(tmp_path):
    shared = tuple(range(1000))
    state = {"w": torch.ones(3, 2), "history": [shared] * 100, "by": {(1, (2, "three")): 4}}
    torch.save({"model": {f"l{n}": torch.ones(2) for n in range(300)}, **state}, tmp_path / "sound.pt")
    with open_checkpoint(tmp_path / "sound.pt") as checkpoint:
        assert len(checkpoint.tensors) == 300
