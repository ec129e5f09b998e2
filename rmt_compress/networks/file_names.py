"""Names of weights in a file and in the network that runs, where the library that built it has renamed them.

transformers saves many networks under other names than their classes have (a Vision Transformer's
``encoder.layer.0.attention.attention.query`` is ``layers.0.attention.q_proj`` in the class). Plans and moments have
the names of the file, which are those that are cut and written; only what touches the live network has the other
ones. Which tensor is which is told by the values alone, so that no version of a library need be known: by those of
the file, and where several are equal by random ones, which the library is given to load.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.base import View
from rmt_compress.checkpoints.graph_network import GraphNetwork
from rmt_compress.decomposition.moments import Moments
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.layer import FLOAT_DTYPES
from rmt_compress.layers.splitting import factor_names
from rmt_compress.networks.joined_moments import Share, moments_of_shares, shares
from rmt_compress.wording import listed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.analysis.records import Analysis
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.layers.layer import Layer
    from rmt_compress.plan import Plan
    from rmt_compress.planning.searching import Trial

_WEIGHT = ".weight"


@dataclass(frozen=True)
class FileNames:
    """What the tensors of a file are called in its network.

    Attributes:
        renamed: name in the file -> in the network, of those that have two.
        placeless: names in the file that are known to be no tensor of the network: joined with others, or turned.
        shares: of these, where they lie in a layer of the network, if they do.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    placeless: frozenset[str] = frozenset()
    shares: Mapping[str, Share] = field(default_factory=dict)

    def in_network(self, name: str) -> str:
        """What a tensor of the file, or one beside it in its layer, is called in the network."""
        return _translated(name, self.renamed)

    def in_file(self, name: str) -> str:
        """The same the other way round."""
        return _translated(name, {new: old for old, new in self.renamed.items()})

    def check(self, layers: Iterable[Layer], origin: object) -> None:
        """Refuse layers that cannot be tried in the network.

        Raises:
            CheckpointError: some are none of its tensors; in one line.
        """
        if lost := [layer.name for layer in layers if layer.stored in self.placeless]:
            raise CheckpointError(
                f"{origin}: {listed(lost, 3)}: the network holds these otherwise than the file (joined or turned), "
                "so no cut of them can be tried; leave them out (--exclude), or cut by a --rule instead of a budget"
            )

    def trial(self, trial: Trial) -> Trial:
        """A trial of the file's tensors as one of the network's."""
        tensors = {self.in_network(name): tensor for name, tensor in trial.tensors.items()}
        return replace(
            trial, tensors=tensors, factors={self.in_network(name): pair for name, pair in trial.factors.items()}
        )

    def plan(self, plan: Plan) -> Plan:
        """What a plan for the file changes, as a plan for the network."""
        if not self.renamed:
            return plan
        changed = (decision for decision in plan.layers if decision.changes)
        layers = (each.model_copy(update={"tensor": self.in_network(each.tensor)}) for each in changed)
        return plan.model_copy(update={"layers": tuple(layers)})

    def named(self, layer: Layer) -> Layer:
        """A layer of the network, which the user calls as the file does; its tensors keep their names."""
        found = self.in_file(layer.tensor)
        return layer if found == layer.tensor else replace(layer, name=found.removesuffix(_WEIGHT))

    def analysis(self, analysis: Analysis) -> Analysis:
        """An analysis of the network, its layers called as the file calls them."""
        layers = tuple(replace(each, layer=self.named(each.layer)) for each in analysis.layers)
        return replace(analysis, layers=layers)

    def moments_in_network(self, moments: Moments | None) -> Moments | None:
        """Moments under the names of the file, under those of the network; without those of no tensor of it."""
        if moments is None:
            return None
        layers = {self.in_network(name): own for name, own in moments.layers.items() if name not in self.placeless}
        left_out = {self.in_network(name): why for name, why in moments.left_out.items()}
        return replace(moments, layers=layers, left_out=left_out)

    def measured(self, names: Iterable[str] | None) -> list[str] | None:
        """Layers of the network that tell of these of the file; None of all."""
        if names is None:
            return None
        found = [self.shares[name].layer if name in self.shares else self.in_network(name) for name in names]
        return list(dict.fromkeys(found))

    def moments_in_file(
        self, moments: Moments, layers: Iterable[Layer], asked: Iterable[str] | None = None
    ) -> Moments:
        """Moments under the network's names, under those of the file; without what it has no layer for.

        Args:
            moments: of the network.
            layers: of the file.
            asked: names of those that are wanted; None for all.
        """
        if not self.renamed and not self.placeless:
            return moments
        wanted = None if asked is None else set(asked)
        known = [layer for layer in layers if wanted is None or layer.tensor in wanted]
        joined = moments_of_shares(moments, self.shares, known)
        found = {self.in_file(name): own for name, own in moments.layers.items()} | joined.layers
        left_out = {self.in_file(name): why for name, why in moments.left_out.items()} | joined.left_out
        names = [layer.tensor for layer in known]
        record = dict(moments.record)
        for key in {"diagonal", "trace"} & record.keys():
            record[key] = [own for name in record[key] for own in self._in_file(name)]
        return Moments(
            {name: found[name] for name in names if name in found},
            {name: left_out[name] for name in names if name in left_out},
            record,
        )

    def _in_file(self, name: str) -> list[str]:
        """What the file calls a layer of the network, or what it is joined of."""
        return [own for own, share in self.shares.items() if share.layer == name] or [self.in_file(name)]


SAME_NAMES = FileNames()


def file_names(model: nn.Module, checkpoint: Checkpoint) -> FileNames:
    """What the tensors of a checkpoint are called in the network that was made of it.

    Args:
        model: the network, with the weights of the checkpoint.
        checkpoint: the file; read only where it has names that the network lacks, tensor by tensor.
    """
    if isinstance(model, GraphNetwork):
        return SAME_NAMES
    state = model.state_dict()
    strange = [
        name for name, info in checkpoint.tensors.items() if name not in state and info.dtype in FLOAT_DTYPES
    ]
    if not strange:
        return SAME_NAMES
    renamed = _matched(checkpoint, state, strange)
    unknown = [name for name in strange if _translated(name, renamed) not in state]
    if unknown and hasattr(model, "from_pretrained"):
        renamed |= _told_by_the_library(model, checkpoint, unknown)
    placeless = frozenset(name for name in strange if _translated(name, renamed) not in state)
    # Of a layer that stands as two the names of the whole one too.
    first = factor_names(_WEIGHT).down
    wholes = {
        old.removesuffix(first) + _WEIGHT: new.removesuffix(first) + _WEIGHT
        for old, new in renamed.items()
        if old.endswith(first) and new.endswith(first)
    }
    return FileNames(renamed | wholes, placeless, _shares(model, checkpoint) if placeless else {})


def _shares(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Share]:
    from rmt_compress.checkpoints.memory import ModuleCheckpoint
    from rmt_compress.saving.library_conversions import conversions

    converted = conversions(checkpoint, model) if hasattr(model, "from_pretrained") else None
    return {} if converted is None else shares(converted, ModuleCheckpoint(model).layers())


def _matched(checkpoint: Checkpoint, state: Mapping[str, torch.Tensor], strange: Iterable[str]) -> dict[str, str]:
    """Name in the file -> in the network, of tensors whose values only one of the network's has."""
    # Of a tensor with several names the first one is that of its layer.
    firsts = {tensor.data_ptr(): name for name, tensor in reversed(list(state.items())) if _has_values(tensor)}
    places = _unique({name: state[name] for name in firsts.values() if name not in checkpoint.tensors})
    values = {name: _digest(checkpoint.read(name)) for name in strange}
    times = Counter(values.values())
    return {name: places[key] for name, key in values.items() if times[key] == 1 and key in places}


def _told_by_the_library(model: Any, checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, str]:
    """The same of tensors whose own values say nothing (norms, all ones): where the library puts random ones."""
    import torch

    from rmt_compress.saving.library_loading import build_from

    drawn = _Drawn(checkpoint)
    try:
        loaded = build_from(drawn, type(model), copy.deepcopy(model.config), dtype=torch.float32)
    # It has loaded the file itself; that this is another matter for it is no fault of the file.
    except CheckpointError:
        return {}
    return _matched(drawn, loaded.model.state_dict(), names)


class _Drawn(View):
    """A checkpoint with random values in the place of its own, the same at every look."""

    def __init__(self, inner: Checkpoint) -> None:
        super().__init__(inner)
        self._tensors, self._ties, self.manifest = inner.tensors, inner.ties, inner.manifest
        self._seeds = {name: seed for seed, name in enumerate(inner.tensors)}

    def read(self, name: str) -> torch.Tensor:
        """See `Checkpoint.read`."""
        import torch

        info = self.tensors[name]
        if info.dtype not in FLOAT_DTYPES:
            return self.inner.read(name)
        return torch.randn(info.shape, generator=torch.Generator().manual_seed(self._seeds[name]))


def _has_values(tensor: object) -> bool:
    import torch

    return isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel() > 0


def _unique(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Digest -> name, of those values that only one tensor has."""
    digests = {name: _digest(tensor) for name, tensor in tensors.items()}
    times = Counter(digests.values())
    return {key: name for name, key in digests.items() if times[key] == 1}


def _digest(tensor: torch.Tensor) -> str:
    """Of shape and values, in the type that networks compute in."""
    flat = tensor.detach().float().cpu().reshape(-1).contiguous()
    return f"{tuple(tensor.shape)} {hashlib.blake2b(flat.numpy().tobytes()).hexdigest()}"


def _translated(name: str, table: Mapping[str, str]) -> str:
    """A name by the table; that of what lies in or beside a layer (its bias, its factors) by the layer's weight."""
    whole, bracket, part = name.partition("[")
    if whole in table:
        return table[whole] + bracket + part
    stem, rest = whole, ""
    for _ in range(2):
        stem, dot, last = stem.rpartition(".")
        rest = f".{last}{rest}"
        other = table.get(stem + _WEIGHT, "") if dot else ""
        if other.endswith(_WEIGHT):
            return other.removesuffix(_WEIGHT) + rest + bracket + part
    return name
