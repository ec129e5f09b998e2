"""The readers: what each is given, what is asked of it, and which lines of the package are its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fuzz import corpus

PACKAGE = Path(__file__).resolve().parent.parent / "rmt_compress"


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: for the command line.
        seeds: makes whole files.
        read: reads all there is in a file or folder.
        lines: globs below the package of the files whose lines are counted.
    """

    name: str
    seeds: corpus.Maker
    read: Callable[[Path], None]
    lines: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        """The files whose lines are counted."""
        return sorted(str(path) for pattern in self.lines for path in PACKAGE.glob(pattern))


def _checkpoint(path: Path) -> None:
    """What `show` asks of a checkpoint, and its layers."""
    import json

    from rmt_compress.checkpoints import open_checkpoint
    from rmt_compress.errors import CheckpointError
    from rmt_compress.reporting.description_table import contents
    from rmt_compress.saving.description import describe

    with open_checkpoint(path) as checkpoint:
        for layer in checkpoint.layers():
            layer.skip_reason(min_size=1)
        description = describe(checkpoint)
        json.dumps(description.to_json())
        contents(description)
        with suppress(CheckpointError):
            checkpoint.carried()


def _program(path: Path) -> None:
    """A checkpoint and the network that it brings."""
    from rmt_compress.checkpoints import open_checkpoint

    _checkpoint(path)
    with open_checkpoint(path) as checkpoint:
        checkpoint.own_network()


def _graph(path: Path) -> None:
    """A checkpoint whose graph is edited: each layer is looked at as `prune` looks at it."""
    from rmt_compress.checkpoints import open_checkpoint
    from rmt_compress.checkpoints.graph import GraphCheckpoint

    _checkpoint(path)
    with open_checkpoint(path) as checkpoint:
        assert isinstance(checkpoint, GraphCheckpoint)
        checkpoint.editor()


def _compressed(path: Path) -> None:
    """A compressed file: shown, and put back to whole weights."""
    from rmt_compress.saving.reloading import load_dense

    _checkpoint(path)
    load_dense(path)


def _plan(path: Path) -> None:
    """A plan, and what it says in a table."""
    from rmt_compress.plan import load_plan

    plan = load_plan(path)
    plan.by_tensor  # noqa: B018
    plan.to_json()
    plan._repr_html_()


def _moments(path: Path) -> None:
    from rmt_compress.decomposition.moments_file import load_inputs, load_moments

    load_moments(path)
    load_inputs(path)


def _training(path: Path) -> None:
    from rmt_compress.training.event_log import of_kind, read_lines
    from rmt_compress.training.state import TrainingState

    if path.suffix == ".jsonl":
        of_kind(read_lines(path), "epoch")
    else:
        TrainingState.load(path).bulk_fits()


def _data(kind: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        """Every sample that a command may ask for."""
        from rmt_compress.data.settings import DataSettings
        from rmt_compress.data.sources import PARTS, open_samples

        settings = DataSettings(sequence_length=8, allow_partial=True)
        source = open_samples(kind + str(path), settings, vocabulary=256)
        parts = PARTS if not kind else PARTS[1:]
        for part in parts:
            if kind or part == "test":
                for _ in source.part(part).batches(16):
                    pass

    return read


_COMMON = ("checkpoints/opening.py", "checkpoints/recognition.py", "checkpoints/formats.py")
_SAVED = ("checkpoints/pytorch/torch_*er.py", "checkpoints/pytorch/torch_file.py", "checkpoints/state_dicts.py")
READERS = {
    reader.name: reader
    for reader in (
        Reader(
            "safetensors",
            corpus.safetensors,
            _checkpoint,
            (
                "checkpoints/safetensors/safetensors_file.py",
                "checkpoints/strict_json.py",
                "checkpoints/config_file.py",
                *_COMMON,
            ),
        ),
        Reader(
            "index",
            corpus.index,
            _checkpoint,
            ("checkpoints/sharded.py", "checkpoints/directories.py", "checkpoints/strict_json.py"),
        ),
        Reader(
            "zip",
            corpus.zipped,
            _checkpoint,
            (
                "checkpoints/archives.py",
                "checkpoints/pytorch/torch_reader.py",
                "checkpoints/pytorch/torch_file.py",
                "checkpoints/pytorch/pickle_work.py",
                "checkpoints/state_dicts.py",
                *_COMMON,
            ),
        ),
        Reader(
            "legacy",
            corpus.legacy,
            _checkpoint,
            (
                "checkpoints/pytorch/torch_reader.py",
                "checkpoints/pytorch/torch_file.py",
                "checkpoints/pytorch/pickle_work.py",
                "checkpoints/state_dicts.py",
            ),
        ),
        Reader(
            "objects",
            corpus.objects,
            _checkpoint,
            ("checkpoints/pytorch/inert_*.py", "checkpoints/pytorch/pickle*.py"),
        ),
        Reader(
            "onnx",
            corpus.onnx,
            _graph,
            (
                "checkpoints/onnx/onnx_file.py",
                "checkpoints/onnx/onnx_graph.py",
                "checkpoints/onnx/onnx_layers.py",
                "checkpoints/onnx/onnx_nodes.py",
                "checkpoints/onnx/onnx_products.py",
                "checkpoints/onnx/onnx_tensors.py",
            ),
        ),
        Reader(
            "pt2",
            corpus.exported,
            _program,
            (
                "checkpoints/exported/program_file.py",
                "checkpoints/exported/program_graph.py",
                "checkpoints/exported/program_network.py",
                "checkpoints/exported/program_weights.py",
                "checkpoints/archives.py",
            ),
        ),
        Reader(
            "torchscript",
            corpus.torchscript,
            _checkpoint,
            (
                "checkpoints/torchscript/script_file.py",
                "checkpoints/torchscript/script_pickles.py",
                "checkpoints/archives.py",
            ),
        ),
        Reader("distributed", corpus.distributed, _checkpoint, ("checkpoints/distributed/*.py",)),
        Reader(
            "manifest",
            corpus.manifest,
            _compressed,
            ("checkpoints/manifest.py", "checkpoints/views.py", "checkpoints/pivot_factors.py"),
        ),
        Reader("plan", corpus.plan, _plan, ("plan.py",)),
        Reader("moments", corpus.moments, _moments, ("decomposition/moments_file.py",)),
        Reader("training", corpus.training, _training, ("training/state.py", "training/event_log.py")),
        Reader("idx", corpus.idx, _data(""), ("data/idx.py", "data/dataset.py")),
        Reader("cifar", corpus.cifar, _data(""), ("data/cifar.py",)),
        Reader("arrays", corpus.arrays, _data("array:"), ("data/arrays.py", "data/batches.py")),
        Reader("text", corpus.text, _data("text:"), ("data/text.py",)),
        Reader("table", corpus.table, _data("csv:"), ("data/csv_files.py", "data/columns.py")),
    )
}
