"""The readers: what each is given, what is asked of it, and which lines of the package are its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzz import corpus, data_corpus, reading, run_corpus
from fuzz.seeds import Maker

PACKAGE = Path(__file__).resolve().parent.parent / "rmt_compress"


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: for the command line.
        seeds: makes whole files.
        read: reads all there is in a file or folder.
        lines: globs below the package of the files whose lines are counted.
        threaded: libraries it needs that start threads as they are imported.
    """

    name: str
    seeds: Maker
    read: Callable[[Path], None]
    lines: tuple[str, ...]
    threaded: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """The files whose lines are counted."""
        return sorted(str(path) for pattern in self.lines for path in PACKAGE.glob(pattern))


_COMMON = ("checkpoints/opening.py", "checkpoints/recognition.py", "checkpoints/formats.py")
_SAVED = ("checkpoints/pytorch/torch_*er.py", "checkpoints/pytorch/torch_file.py", "checkpoints/state_dicts.py")
READERS = {
    reader.name: reader
    for reader in (
        Reader(
            "safetensors",
            corpus.safetensors,
            reading.checkpoint,
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
            reading.checkpoint,
            ("checkpoints/sharded.py", "checkpoints/directories.py", "checkpoints/strict_json.py"),
        ),
        Reader(
            "zip",
            corpus.zipped,
            reading.checkpoint,
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
            reading.checkpoint,
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
            reading.checkpoint,
            ("checkpoints/pytorch/inert_*.py", "checkpoints/pytorch/pickle*.py"),
        ),
        Reader(
            "onnx",
            corpus.onnx,
            reading.graph,
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
            reading.program,
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
            reading.checkpoint,
            (
                "checkpoints/torchscript/script_file.py",
                "checkpoints/torchscript/script_pickles.py",
                "checkpoints/archives.py",
            ),
        ),
        Reader("distributed", corpus.distributed, reading.checkpoint, ("checkpoints/distributed/*.py",)),
        Reader(
            "manifest",
            corpus.manifest,
            reading.compressed,
            ("checkpoints/manifest.py", "checkpoints/views.py", "checkpoints/pivot_factors.py"),
        ),
        Reader("plan", run_corpus.plan, reading.plan, ("plan.py",)),
        Reader("moments", run_corpus.moments, reading.moments, ("decomposition/moments_file.py",)),
        Reader("training", run_corpus.training, reading.training, ("training/state.py", "training/event_log.py")),
        Reader("idx", data_corpus.idx, reading.data(""), ("data/idx.py", "data/dataset.py")),
        Reader("cifar", data_corpus.cifar, reading.data(""), ("data/cifar.py",)),
        Reader("arrays", data_corpus.arrays, reading.data("array:"), ("data/arrays.py", "data/batches.py")),
        Reader("text", data_corpus.text, reading.data("text:"), ("data/text.py",)),
        Reader("table", data_corpus.table, reading.data("csv:"), ("data/csv_files.py", "data/columns.py")),
        Reader(
            "images",
            data_corpus.images,
            reading.data("", "images:"),
            ("data/image_files.py", "data/image_folder.py"),
        ),
        Reader(
            "parquet",
            data_corpus.parquet,
            reading.data("parquet:"),
            ("data/arrow_files.py", "data/columns.py", "data/streams.py"),
            ("pyarrow",),
        ),
        Reader(
            "saved",
            data_corpus.saved,
            reading.data("datasets:"),
            ("data/arrow_files.py", "data/columns.py", "data/streams.py"),
            ("pyarrow",),
        ),
        Reader(
            "evaluated",
            corpus.graphs,
            reading.evaluated,
            (
                "checkpoints/onnx/onnx_network.py",
                "checkpoints/exported/program_network.py",
                "checkpoints/graph_inputs.py",
                "checkpoints/graph_network.py",
            ),
            ("onnxruntime",),
        ),
        Reader(
            "journal",
            run_corpus.journal,
            reading.journal,
            ("checkpoints/journal.py", "analysis/finished.py", "compression/finished_factors.py"),
        ),
        Reader(
            "calibration",
            run_corpus.calibration,
            reading.calibration,
            ("networks/calibration/interrupted.py", "decomposition/moments_file.py"),
        ),
    )
}
