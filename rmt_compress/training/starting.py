"""What a run begins with: a checkpoint, or an architecture and a seed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.provenance import source_record
from rmt_compress.checkpoints.recognition import unreadable
from rmt_compress.errors import CheckpointError, SettingsError, UntrustedError
from rmt_compress.networks import architectures, huggingface
from rmt_compress.networks.file_names import SAME_NAMES, FileNames, file_names
from rmt_compress.networks.loading import ARCH_HINT, architecture_of, load_model
from rmt_compress.saving.folders import source_folder
from rmt_compress.training.split_network import Network
from rmt_compress.training.state import Snapshot

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.checkpoints import Checkpoint
    from rmt_compress.checkpoints.manifest import SourceRecord

DEFAULT_ARCHITECTURES = {
    "mnist": "mlp:784,1000,1000,1000,500,10",
    "fashion-mnist": "mlp:784,1000,1000,500,10",
    "cifar10": "cnn:3x32x32/32,64,p,128,128,p,256,p/192,10/dropout=0.2",
    "digits": "mlp:64,512,512,10",
}
"""What is trained on a named data set where nothing else is said."""


@dataclass(frozen=True)
class Start:
    """Where runs begin; `digest` is the SHA-256 of the files of the checkpoint `source`.

    `record` is what is remembered of it and `metadata` are its text entries, as it was read: when the run has
    ended, the files may be others.

    `dense` builds the network without any split; its weights do not matter. `weights` are those of a checkpoint,
    None where every seed has weights of its own. `folder` is a Hugging Face folder whose class the network is: then
    `architecture` is the name of that class, and no spec; `names` are those of its file, and `trusted` is
    whether code in it may be run.
    """

    architecture: str
    dense: Callable[[], nn.Module]
    weights: Snapshot | None
    source: Path | None
    digest: str | None
    folder: Path | None = None
    names: FileNames = SAME_NAMES
    trusted: bool = False
    record: SourceRecord | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def snapshot(self, seed: int) -> Snapshot:
        """The weights that a run of this seed begins with."""
        if self.weights is not None:
            return self.weights
        return Snapshot([], dict(architectures.build(self.architecture, seed=seed).state_dict()))

    def example(self, seed: int) -> nn.Module:
        """The network that a run of this seed begins with."""
        return restored(self.dense, self.snapshot(seed), self.names).model

    def opened(self) -> Checkpoint | None:
        """The checkpoint; None of a network that begins afresh."""
        return None if self.source is None else open_checkpoint(self.source, trust=self.trusted)


def starting_point(source: Path | None, data: str, arch: str | None, *, trust: bool = False) -> Start:
    """Where runs on `data`, as after ``--data``, begin: from a checkpoint, or afresh.

    The architecture is the checkpoint's own where none is given, or the default of a named data set. With `trust`
    the code in a Hugging Face folder is run; that in other files is not.
    """
    if source is None:
        spec = arch or DEFAULT_ARCHITECTURES.get(data)
        if spec is None:
            raise SettingsError([f"{data} has no default network: give a checkpoint, or add {ARCH_HINT}"])
        architecture = architectures.parse(spec)
        return Start(str(architecture), architecture.build, None, None, None)
    trusted = trust and source_folder(source) is not None
    try:
        opened = open_checkpoint(source, trust=trusted)
    except UntrustedError as error:
        raise CheckpointError(
            f"{source}: holds code, and none from a file is run here; if you trust it, write its weights alone "
            f"first: rmt-compress export {source} --trust -o weights.safetensors"
        ) from error
    with opened as checkpoint:
        if checkpoint.has_graph:
            raise CheckpointError(
                f"{source}: carries its own graph, which is not trained here; give the PyTorch checkpoint that it "
                "was made from"
            )
        before = _identities(checkpoint)
        model = load_model(checkpoint, arch=arch)
        folder, names = huggingface.model_folder(checkpoint) if arch is None else None, SAME_NAMES
        if folder is not None:
            named, dense = type(model).__name__, _class_in(folder, trust=trusted)
            names = file_names(model, checkpoint)
            splits = _pairs(model)
        else:
            architecture = architectures.parse(arch or architecture_of(checkpoint) or "")
            named, dense = str(architecture), architecture.build
            factorized = checkpoint.manifest.factorized if checkpoint.manifest is not None else ()
            splits = [(layer.weight, layer.rank) for layer in factorized]
        record = source_record(checkpoint)
        if _identities(checkpoint) != before:
            raise CheckpointError(f"{source}: changed while it was being read; start again")
    weights = dict(model.state_dict())
    damaged = [name for name, value in weights.items() if not bool(value.isfinite().all())]
    if damaged:
        raise CheckpointError(
            f"{source}: NaN or Inf in {', '.join(damaged[:6])}: nothing can be trained from there; take an earlier "
            "checkpoint"
        )
    snapshot = Snapshot(splits, weights)
    return Start(
        named,
        dense,
        snapshot,
        source,
        record.sha256,
        folder,
        names,
        trusted,
        record=record,
        metadata=dict(checkpoint.metadata),
    )


def _identities(checkpoint: Checkpoint) -> list[tuple[int, ...]]:
    """What is another where a file of the checkpoint is."""
    try:
        stats = [path.stat() for path in checkpoint.files]
    except OSError as error:
        raise unreadable(checkpoint.path or checkpoint.files[0], error) from error
    return [(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]


def _class_in(folder: Path, *, trust: bool) -> Callable[[], nn.Module]:
    """Builds the network of a Hugging Face folder without any split."""
    config, cls = huggingface.class_of(folder, trust=trust)

    def dense() -> nn.Module:
        model: nn.Module = cls(copy.deepcopy(config))
        return model

    return dense


def _pairs(model: nn.Module) -> list[tuple[str, int]]:
    """Name of each weight that stands as two in a network of transformers, and its rank."""
    from rmt_compress.layers.modeling_factorized import Factors

    return [
        (f"{name}.weight", len(module.get_parameter("down.weight")))
        for name, module in model.named_modules()
        if isinstance(module, Factors)
    ]


def restored(dense: Callable[[], nn.Module], snapshot: Snapshot, names: FileNames = SAME_NAMES) -> Network:
    """The network of a snapshot, on the CPU; `names` are those of its file."""
    network = Network(dense(), names)
    for tensor, rank in snapshot.splits:
        network.split_empty(tensor, rank)
    network.model.load_state_dict(snapshot.weights)
    return network
