"""What a checkpoint holds, compressed or not: the facts behind `show`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.keys import ARCHITECTURE_KEY
from rmt_compress.layers.counting import is_buffer
from rmt_compress.progress import Progress, phase

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.beside import Beside
    from rmt_compress.checkpoints.manifest import Manifest

SCHEMA = "rmt-compress/show/1"


@dataclass(frozen=True)
class LayerDescription:
    """One layer of the original network and what stands for it in the file.

    Attributes:
        name: the layer's name; of a tensor that forms no layer, the tensor's.
        tensors: the names it is stored under.
        kind: ``linear``, ``conv2d`` …; None where no plan says.
        shape: of the original weight.
        factors: shapes of the two weights stored instead, empty where it is stored whole.
        action: ``factorized``, ``truncated``, ``kept`` or ``skipped``; None for what no plan names.
        rank: singular values kept.
        reason: why, as the plan says.
        dtype: type of the entries.
        parameters_before: entries of the original weight.
        parameters: entries stored for it, zeros included.
        nonzeros: how many of these are not 0.
        sparse: whether a bitmask and values are stored instead.
        packed: whether rows of the product and coefficients are, so that the file holds fewer numbers still; see
            `rmt_compress.layers.pivot_rows`.
        patterned: whether the kept entries of their groups are; see `rmt_compress.layers.group_patterns`.
    """

    name: str
    tensors: tuple[str, ...]
    kind: str | None
    shape: tuple[int, ...]
    factors: tuple[tuple[int, ...], ...]
    action: str | None
    rank: int | None
    reason: str
    dtype: str
    parameters_before: int
    parameters: int
    nonzeros: int
    sparse: bool
    packed: bool
    patterned: bool

    @property
    def is_buffer(self) -> bool:
        """Whether it is no parameter, see `rmt_compress.layers.counting`."""
        return is_buffer(self.tensors[0], self.dtype)


@dataclass(frozen=True)
class Description:
    """What a checkpoint holds.

    Attributes:
        path: the file or folder.
        format: as `Checkpoint.format`.
        bytes: its size on disk.
        architecture: the network in one word, where the file says.
        manifest: what a compressed file says of itself; None for every other checkpoint.
        beside: what else a training checkpoint holds.
        layers: one per weight, bias or other tensor of the original network, in the file's order.
    """

    path: str
    format: str
    bytes: int
    architecture: str | None
    manifest: Manifest | None
    beside: tuple[Beside, ...]
    layers: tuple[LayerDescription, ...]

    @property
    def parameters_before(self) -> int:
        """Entries of all tensors of the original network but buffers."""
        return sum(layer.parameters_before for layer in self.layers if not layer.is_buffer)

    @property
    def parameters(self) -> int:
        """Entries of all tensors stored but buffers, zeros included."""
        return sum(layer.parameters for layer in self.layers if not layer.is_buffer)

    @property
    def buffers(self) -> int:
        """Entries of the buffers."""
        return sum(layer.parameters for layer in self.layers if layer.is_buffer)

    @property
    def nonzeros(self) -> int:
        """Parameters that are not 0."""
        return sum(layer.nonzeros for layer in self.layers if not layer.is_buffer)

    def to_json(self) -> dict[str, Any]:
        """The object of `show --json`."""
        manifest = self.manifest
        return {
            "schema": SCHEMA,
            "path": self.path,
            "format": self.format,
            "compressed": manifest is not None,
            "architecture": self.architecture,
            "tool_version": manifest.tool_version if manifest else None,
            "layout": manifest.layout if manifest else None,
            "source": manifest.source.model_dump() if manifest and manifest.source else None,
            "settings": manifest.plan.settings if manifest and manifest.plan else None,
            "beside": [entry._asdict() for entry in self.beside],
            "layers": [asdict(layer) for layer in self.layers],
            "totals": {
                "parameters_before": self.parameters_before,
                "parameters": self.parameters,
                "nonzeros": self.nonzeros,
                "buffers": self.buffers,
                "bytes": self.bytes,
            },
        }


@phase("reading all tensors")
def describe(source: str | PathLike[str] | Checkpoint, *, progress: Progress | None = None) -> Description:
    """What a checkpoint holds; every tensor is read once to count its non-zeros.

    `progress` is called with (done, total, name) after each tensor.
    """
    with open_checkpoint(source) as checkpoint:
        manifest = checkpoint.manifest
        plan = manifest.plan if manifest else None
        decisions = {decision.tensor: decision for decision in plan.layers} if plan else {}
        factorized = {layer.down: layer for layer in manifest.factorized} if manifest else {}
        second = {layer.up for layer in factorized.values()}
        biases = {layer.up_bias: layer.bias for layer in factorized.values() if layer.bias is not None}
        others = {name for names in checkpoint.ties.values() for name in names}
        names = [name for name in checkpoint.tensors if name not in others]
        layers = []
        for index, name in enumerate(names, start=1):
            if progress is not None:
                progress(index, len(names), name)
            if name in second:
                continue
            pair = factorized.get(name)
            stored = (name,) if pair is None else (pair.down, pair.up)
            weight = pair.weight if pair else biases.get(name) or name
            shape = pair.shape if pair else checkpoint.tensors[name].shape
            decision = decisions.get(weight)
            layers.append(
                LayerDescription(
                    name=decision.name if decision else weight,
                    tensors=stored,
                    kind=decision.kind if decision else None,
                    shape=shape,
                    factors=pair.factor_shapes if pair else (),
                    action=decision.action if decision else None,
                    rank=decision.rank if decision else None,
                    reason=decision.reason if decision else "",
                    dtype=checkpoint.tensors[name].dtype,
                    parameters_before=math.prod(shape),
                    parameters=sum(math.prod(checkpoint.tensors[part].shape) for part in stored),
                    nonzeros=sum(checkpoint.nonzeros(part) for part in stored),
                    sparse=manifest is not None and any(part in manifest.sparse for part in stored),
                    packed=manifest is not None and any(part in manifest.pivots for part in stored),
                    patterned=manifest is not None and any(part in manifest.patterned for part in stored),
                )
            )
        return Description(
            path=str(checkpoint.path),
            format=checkpoint.format,
            bytes=sum(file.stat().st_size for file in checkpoint.files),
            architecture=(manifest.architecture if manifest else None) or checkpoint.metadata.get(ARCHITECTURE_KEY),
            manifest=manifest,
            beside=checkpoint.beside,
            layers=tuple(layers),
        )
