"""`analyze`, `show` and `prune` of every format, watched: nothing that a file names is imported, run or written to.

An audit hook (PEP 578, `fuzz.canary`) listens in a process of its own while the commands run. Python's own lazy
imports are let pass; the modules that the files name are not among them, as nobody has such. What libraries open in
C++ or Rust is not heard, so the folders around the output are compared before and after as well.
"""

import json
import os
import pickle

import pytest
import torch

from fuzz import corpus

PROGRAM = """
import json, os, sys, pathlib
from fuzz.canary import CANARY
from rmt_compress.cli.app import main

folder, output = map(pathlib.Path, sys.argv[1:3])
heard, statuses = {}, {}
null = os.open(os.devnull, os.O_WRONLY)
said = os.dup(1)
os.dup2(null, 1), os.dup2(null, 2)
for line in json.loads(sys.argv[3]):
    sys.argv = ["rmt-compress", *line]
    with CANARY.watching(output, forbidden=folder / "canary.bin", imports=True) as seen:
        try:
            main()
        except SystemExit as stopped:
            statuses[" ".join(line)] = stopped.code or 0
    if seen:
        heard[" ".join(line)] = list(seen)
os.write(said, json.dumps([heard, statuses, sorted(set(sys.modules) & {"canary_module", "antigravity"})]).encode())
"""


class Payload:
    """Leaves a file behind where it is run."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.system, (f"touch {self.place}",)


def hostile(folder):
    """Files that ask for an import, a command, or the canary beside their own folder."""
    torch.save({"state_dict": {"w": torch.ones(9, 9)}, "x": Payload(folder / "proof")}, folder / "payload.pt")
    torch.save({"w": Payload(folder / "proof")}, folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "plain.pkl").write_bytes(b"cantigravity\nx\n" + pickle.dumps({"w": 1}))
    index = {"weight_map": {"w": "../canary.bin"}}
    (folder / "indexed").mkdir()
    (folder / "indexed" / "model.safetensors.index.json").write_text(json.dumps(index))
    (case, _), (outside, name) = corpus.onnx()
    (folder / "outside.onnx").write_bytes(outside[name].replace(b"values.bin", b"../can.bin"))
    assert case
    return ["payload.pt", "old.pt", "plain.pkl", "indexed", "outside.onnx"]


@pytest.mark.slow
def test_commands_without_trust_do_nothing_but_their_work(python, tmp_path):
    files, output = tmp_path / "files", tmp_path / "output"
    output.mkdir()
    sound, looked_at = [], []
    for maker in (
        *(corpus.safetensors, corpus.index, corpus.zipped, corpus.legacy, corpus.objects, corpus.onnx),
        *(corpus.exported, corpus.torchscript, corpus.distributed, corpus.manifest),
    ):
        for number, (case, entry) in enumerate(maker()):
            own = files / f"{maker.__name__}{number}"
            for name, content in case.items():
                (own / name).parent.mkdir(parents=True, exist_ok=True)
                (own / name).write_bytes(content)
            sound.append(own / entry if entry else own)
            looked_at += [sound[-1]] if number == 0 else []
    (files / "canary.bin").write_bytes(b"canary")
    bad = [files / name for name in hostile(files)]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if output not in path.parents}
    lines = []
    for number, path in enumerate((*sound, *bad)):
        suffix = path.suffix if path.suffix in (".onnx", ".pt2", ".ts") else ".safetensors"
        if path in looked_at or path in bad:
            lines.append(["show", str(path)])
            lines.append(["analyze", str(path), "--min-size", "8", "--jobs", "1"])
        options = ("--rule", "ratio:0.3", "--gof", "1", "--min-size", "8", "--jobs", "1")
        lines.append(["prune", str(path), "-o", str(output / f"{number}{suffix}"), *options])
    run = python.run("-c", PROGRAM, files, output, json.dumps(lines))
    heard, statuses, imported = json.loads(run.stdout)
    assert sorted({event for events in heard.values() for event in events})[:9] == []
    assert imported == []
    assert len(statuses) == len(lines)
    # The commands do work: most outputs are there, and what is refused is refused in one line.
    assert set(statuses.values()) <= {0, 1, 2}, statuses
    assert len(list(output.iterdir())) >= len(sound) // 2
    assert not (files / "proof").exists()
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if output not in path.parents}
    before.pop(tmp_path / "output", None), after.pop(tmp_path / "output", None)
    assert after == before
