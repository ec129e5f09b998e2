"""Exported programs for the tests: written by torch, in each of its layouts."""

import json
import logging
import warnings
import zipfile
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.decomposition.svd import decompose
from rmt_compress.layers.layer import as_matrix
from rmt_compress.layers.splitting import factor_tensors, split_refusal
from rmt_compress.plan import LayerDecision, Plan
from tests.samples.seeds import repeatable


class Everything(nn.Module):
    """Each way a graph may take a weight: products from either side, convolutions, twice, as a buffer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding="same", dilation=2)
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12)
        self.norm = nn.BatchNorm2d(12)
        self.deconv = nn.ConvTranspose2d(12, 10, 3, stride=2, output_padding=1)
        self.sound = nn.Conv1d(10, 8, 5, stride=2, bias=False)
        self.fc = nn.Linear(1008, 24)
        self.twice = nn.Linear(24, 24, bias=False)
        self.right = nn.Parameter(torch.randn(24, 20))
        self.left = nn.Parameter(torch.randn(9, 8))
        self.unused = nn.Linear(4, 4)
        self.register_buffer("mixing", torch.randn(20, 20))
        self.register_buffer("hidden", torch.randn(20, 20), persistent=False)

    def forward(self, x):
        x = self.norm(self.depthwise(self.conv(x)).relu())
        x = self.sound(self.deconv(x).flatten(2))
        x = (self.left.T[:8] * 0.1).sum() + x
        x = self.fc(x.flatten(1)).relu()
        x = self.twice(self.twice(x).relu())
        return x @ self.right @ self.mixing @ (self.hidden + torch.ones(20, 20))


class Tokens(nn.Module):
    """A batch and a length that are both open, attention, a table tied to the head, two inputs."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens, shift):
        x = self.table(tokens) + shift
        x = self.attention(x, x, x, need_weights=False)[0]
        return {"logits": self.head(x)}


@repeatable
def image():
    return torch.randn(2, 3, 9, 9)


@repeatable
def exported(*, dynamic=True):
    """`Everything`, its batch open or not."""
    model = Everything().eval()
    shapes = ({0: Dim("batch")},) if dynamic else None
    return quiet(lambda: torch.export.export(model, (image(),), dynamic_shapes=shapes))


@repeatable
def tokens():
    batch, length = Dim("batch"), Dim("length")
    model = Tokens().eval()
    given = (torch.randint(30, (3, 5)), torch.randn(3, 5, 16))
    shapes = ({0: batch, 1: length}, {0: batch, 1: length})
    return quiet(lambda: torch.export.export(model, given, dynamic_shapes=shapes))


def save(program, path, layout="now", **options):
    """Write a program as torch does now, as it did in 2.8 (weights in one file), or before that."""
    quiet(lambda: torch.export.save(program, path, **options))
    if layout == "now":
        return path
    from torch._export.serde.serialize import serialize

    artifact = quiet(lambda: serialize(program))
    if layout == "before":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("version", "8.1")
            archive.writestr("serialized_exported_program.json", artifact.exported_program)
            archive.writestr("serialized_state_dict.pt", artifact.state_dict)
            archive.writestr("serialized_constants.pt", artifact.constants)
            archive.writestr("serialized_example_inputs.pt", artifact.example_inputs)
        return path
    content = records(path)
    kept = {name: data for name, data in content.items() if "/data/weights/" not in name}
    root = path.stem
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**kept, f"{root}/data/weights/model.pt": artifact.state_dict}.items():
            archive.writestr(name, data)
    return path


def load(path):
    return quiet(lambda: torch.export.load(path))


def quiet(action):
    """torch warns of its own innards, which is no business of these tests."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return action()
    finally:
        logging.disable(logging.NOTSET)


def records(path):
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def rewrite(source: Path, target: Path, change):
    """A copy of an archive, each record as `change(name, data)` gives it; None leaves it out."""
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in records(source).items():
            new = change(name, data)
            if new is not None:
                archive.writestr(name, new)
    return target


def edit_json(ending, change):
    """For `rewrite`: changes the JSON record whose name ends so."""

    def edit(name, data):
        if not name.endswith(ending):
            return data
        content = json.loads(data)
        return json.dumps(change(content) or content).encode()

    return edit


def split_at(path, target, share):
    """Split every layer that can be split at a share of its rank, through the editor alone; their names."""
    names = []
    with open_checkpoint(path) as checkpoint:
        editor = checkpoint.editor()
        for layer in checkpoint.layers():
            if layer.skip_reason(min_size=1) is None and split_refusal(layer) is None:
                found = decompose(as_matrix(layer, checkpoint.read(layer.tensor)))
                rank = max(1, round(found.rank * share))
                editor.replace(layer, factor_tensors(layer, *found.factors(rank)))
                names.append(layer.tensor)
        editor.write(target, target=target, metadata=dict(checkpoint.metadata), sparse=False)
    return names


def plan_at(checkpoint, share):
    """A plan that splits every layer that gets smaller at a share of its rank."""
    decisions = []
    for layer in checkpoint.layers():
        rank = None
        if layer.skip_reason(min_size=1) is None and split_refusal(layer) is None:
            rank = max(1, round(min(layer.matrix) * share))
            rank = rank if rank * sum(layer.matrix) < layer.parameters else None
        decisions.append(
            LayerDecision(
                name=layer.name,
                tensor=layer.tensor,
                kind=layer.kind,
                shape=layer.shape,
                action="kept" if rank is None else "factorized",
                rank=rank,
            )
        )
    return Plan(layers=tuple(decisions))
