"""Ways to damage files of torch.export, TorchScript and trainers, or to make them hostile."""

import json
import os
import pickle
import struct
import warnings
import zipfile

import torch
from torch import nn

from fuzz.mutating import archives, bombs
from tests.samples import exported
from tests.samples.seeds import repeatable

HUGE = 2**40


class Payload:
    """A pickle that, if run, leaves the file `proof` behind."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


@repeatable
def net():
    return nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 5)).eval()


def write_exported(path):
    program = exported.quiet(lambda: torch.export.export(net(), (torch.ones(2, 7),)))
    exported.save(program, path)


def write_script(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net()), path)


def write_training(path):
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 7)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, path)


WRITERS = {"whole.pt2": write_exported, "whole.jit": write_script, "whole.ckpt": write_training}


def truncated(share):
    def damage(source, target, proof):
        data = source.read_bytes()
        target.write_bytes(data[: int(len(data) * share)])

    return damage


def another_magic(source, target, proof):
    target.write_bytes(b"QK" + source.read_bytes()[2:])


def renamed(name):
    """One more record, under a name that leads elsewhere."""

    def damage(source, target, proof):
        exported.rewrite(source, target, lambda _, data: data)
        with zipfile.ZipFile(target, "a") as archive:
            archive.writestr(name, "x")

    return damage


def compressed_bomb(source, target, proof):
    records = archives.records_of(source.read_bytes())
    root = records[0].name.partition("/")[0]
    stored, checksum = bombs.zeros(300)
    bomb = archives.Record(f"{root}/code/bomb.py", stored, 8, 300 << 20, checksum)
    target.write_bytes(archives.written([*records, bomb]))


def declared_huge(source, target, proof):
    """The central directory promises more bytes of the largest record than there are."""
    data = bytearray(source.read_bytes())
    with zipfile.ZipFile(source) as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
    position = data.rindex(b"PK\x01\x02", 0, data.rindex(entry.filename.encode()))
    data[position + 20 : position + 28] = struct.pack("<II", 2**31, 2**31)
    target.write_bytes(data)


def twice(source, target, proof):
    exported.rewrite(source, target, lambda _, data: data)
    name = zipfile.ZipFile(source).namelist()[0]
    with warnings.catch_warnings(), zipfile.ZipFile(target, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(name, "x")


def flipped(ending):
    """One bit of a record's bytes, its checksum left as it was."""

    def damage(source, target, proof):
        data = bytearray(source.read_bytes())
        with zipfile.ZipFile(source) as archive:
            entry = next(entry for entry in archive.infolist() if entry.filename.endswith(ending))
        names, extra = struct.unpack("<HH", data[entry.header_offset + 26 : entry.header_offset + 30])
        data[entry.header_offset + 30 + names + extra + entry.file_size // 2] ^= 4
        target.write_bytes(data)

    return damage


def without(ending):
    def damage(source, target, proof):
        exported.rewrite(source, target, lambda name, data: None if name.endswith(ending) else data)

    return damage


def replaced(ending, change):
    """A record with other content."""

    def damage(source, target, proof):
        def edit(name, data):
            return change(data, proof) if name.endswith(ending) else data

        exported.rewrite(source, target, edit)

    return damage


def config(change):
    """The table of weights of an exported program, one weight's entry changed."""

    def edit(data, proof):
        table = json.loads(data)
        change(table["config"]["0.weight"])
        return json.dumps(table)

    return replaced("weights_config.json", edit)


def model(change):
    def edit(data, proof):
        program = json.loads(data)
        change(program)
        return json.dumps(program)

    return replaced("models/model.json", edit)


def sizes(*numbers):
    return config(lambda entry: entry["tensor_meta"].update(sizes=[{"as_int": number} for number in numbers]))


def same_length(old, new):
    def edit(data, proof):
        assert data.count(old) >= 1
        return data.replace(old, new)

    return edit


def transposed_in_circles(program):
    """Views of a weight that all have one name: to follow each through each would take for ever."""
    graph = program["graph_module"]["graph"]
    for value, given in (("v", "p_0_weight"), *[("v", "v")] * 200):
        arguments = [{"name": "self", "arg": {"as_tensor": {"name": given}}, "kind": 1}]
        outputs = [{"as_tensor": {"name": value}}]
        node = {"target": "torch.ops.aten.t.default", "inputs": arguments, "outputs": outputs, "metadata": {}}
        graph["nodes"].append(node)


def hostile(data, proof):
    return pickle.dumps(Payload(proof), protocol=2)


def deep(data, proof):
    return b"[" * 100_000


def billion_modules(data, proof):
    """Forty modules, each of which holds the next one twice: 2**40 names."""
    content = b"\x80\x02"
    for level in range(40):
        content += b"c__torch__\nM\nq" + bytes([level]) + b")\x81}(X\x01\x00\x00\x00a"
    content += b"c__torch__\nM\n)\x81}b"
    for level in reversed(range(40)):
        content += b"q" + bytes([100 + level]) + b"X\x01\x00\x00\x00bh" + bytes([100 + level]) + b"ub"
    return content + b"."


def itself(data, proof):
    return b"\x80\x02c__torch__\nM\n)\x81q\x00}(X\x01\x00\x00\x00ah\x00ub."


def far_memo(data, proof):
    return b"\x80\x02c__torch__\nM\n)\x81r\xff\xff\xff\x7f}b."


EVERYWHERE = {
    "cut at a third": truncated(0.3),
    "cut near the end": truncated(0.97),
    "cut by a byte": lambda source, target, proof: target.write_bytes(source.read_bytes()[:-1]),
    "another magic": another_magic,
    "declared size": declared_huge,
    "two of a name": twice,
    "compressed bomb": compressed_bomb,
}
ARCHIVES = {
    "traversal": renamed("../../etc/cron.d/x"),
    "absolute": renamed("/etc/cron.d/x"),
    "backslashes": renamed("whole\\..\\..\\x"),
}
DAMAGES = {
    "whole.pt2": {
        **EVERYWHERE,
        **ARCHIVES,
        "bit of a weight": flipped("weight_0"),
        "bit of the graph": flipped("models/model.json"),
        "no weights": without("weight_1"),
        "no table": without("weights_config.json"),
        "no graph": without("models/model.json"),
        "graph no JSON": replaced("models/model.json", lambda data, proof: b"{" + data),
        "graph nested deep": replaced("models/model.json", deep),
        "graph without nodes": model(lambda program: program["graph_module"]["graph"].pop("nodes")),
        "nodes a number": model(lambda program: program["graph_module"]["graph"].update(nodes=5)),
        "a value made by many nodes": model(transposed_in_circles),
        "an argument given often": model(
            lambda program: program["graph_module"]["graph"]["nodes"][0].update(
                inputs=program["graph_module"]["graph"]["nodes"][0]["inputs"] * 100
            )
        ),
        "huge shape": sizes(2**31, 2**31),
        "negative shape": sizes(-11, -7),
        "shape beyond the record": sizes(11, 8),
        "shape a text": sizes("11", 7),
        "many dimensions": config(
            lambda entry: entry["tensor_meta"].update(sizes=[{"as_int": 1}] * 99, strides=[{"as_int": 1}] * 99)
        ),
        "huge stride": config(lambda entry: entry["tensor_meta"].update(strides=[{"as_int": HUGE}, {"as_int": 1}])),
        "huge offset": config(lambda entry: entry["tensor_meta"].update(storage_offset={"as_int": HUGE})),
        "no such type": config(lambda entry: entry["tensor_meta"].update(dtype=99)),
        "record elsewhere": config(lambda entry: entry.update(path_name="../../../etc/passwd")),
        "big-endian": replaced("byteorder", lambda data, proof: b"big"),
    },
    "whole.jit": {
        **EVERYWHERE,
        **ARCHIVES,
        "bit of a weight": flipped("data/0"),
        "bit of the pickle": flipped("data.pkl"),
        "no values": without("data/0"),
        "hostile pickle": replaced("data.pkl", hostile),
        "pickle of nothing": replaced("data.pkl", lambda data, proof: b"\x80\x02N."),
        "pickle cut": replaced("data.pkl", lambda data, proof: data[: len(data) // 2]),
        "module in itself": replaced("data.pkl", itself),
        "a module of modules": replaced("data.pkl", billion_modules),
        "shape beyond the record": replaced("data.pkl", same_length(b"K\x0bK\x07", b"K\x0bK\x09")),
        "huge shape": replaced(
            "data.pkl", same_length(b"K\x0bK\x07", b"J" + struct.pack("<i", 2**31 - 1) + b"K\x07")
        ),
        "negative shape": replaced("data.pkl", same_length(b"K\x0bK\x07", b"J" + struct.pack("<i", -1) + b"K\x07")),
        "no such type": replaced("data.pkl", same_length(b"FloatStorage", b"FleatStorage")),
        "big-endian": replaced("byteorder", lambda data, proof: b"big"),
    },
    "whole.ckpt": {
        **EVERYWHERE,
        "hostile pickle": replaced("data.pkl", hostile),
        "pickle cut": replaced("data.pkl", lambda data, proof: data[: len(data) // 2]),
        "pickle of nothing": replaced("data.pkl", lambda data, proof: b"\x80\x02N."),
        "no values": without("data/0"),
        "shape beyond the record": replaced("data.pkl", same_length(b"K\x0bK\x07", b"K\x0bK\x09")),
        "huge shape": replaced(
            "data.pkl", same_length(b"K\x0bK\x07", b"J" + struct.pack("<i", 2**31 - 1) + b"K\x07")
        ),
        "weights left out": replaced("data.pkl", lambda data, proof: b"\x80\x02}X\x05\x00\x00\x00epochK\x03s."),
        "a number for weights": replaced("data.pkl", lambda data, proof: b"\x80\x02}X\x05\x00\x00\x00modelK\x03s."),
    },
}
CASES = [(file, name) for file, damages in DAMAGES.items() for name in damages]
