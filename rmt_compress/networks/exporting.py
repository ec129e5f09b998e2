"""A checkpoint for other programs: original names and shapes, or an ONNX graph that has been run and compared."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.formats import state_dict_formats
from rmt_compress.checkpoints.views import DenseView
from rmt_compress.checkpoints.writers import write_checkpoint
from rmt_compress.errors import CheckpointError, MissingDependencyError, OutputError, SettingsError
from rmt_compress.networks import architectures
from rmt_compress.outputs import replacing
from rmt_compress.progress import Progress, counter, phase
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints import Checkpoint

TOLERANCE = 1e-4
"""Largest difference of onnxruntime's outputs from torch's, as a share of the largest output if that is above 1."""

# What protobuf can hold in one file.
_ONNX_LIMIT = 2**31 - 2**20


@dataclass(frozen=True)
class Exported:
    """What has been written.

    Attributes:
        path: the file.
        format: ``onnx``, ``safetensors`` or ``state dict``.
        bytes: its size.
        difference: of an ONNX file, the largest difference between onnxruntime's outputs and torch's.
    """

    path: Path
    format: str
    bytes: int
    difference: float | None = None


@phase("exporting")
def export(
    source: str | PathLike[str] | Checkpoint,
    target: str | PathLike[str],
    *,
    arch: str | None = None,
    input_shape: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a checkpoint, compressed or not, for programs that know nothing of this one.

    ``.safetensors``, ``.pt``, ``.pth``, ``.bin``, ``.ckpt``: tensors under their original names and shapes, factors
    multiplied one layer at a time. ``.onnx``: the network as it is in the file, layers split where they are, with a
    batch of any size; it is checked, run by onnxruntime and compared with torch before it gets its name.

    Args:
        source: the checkpoint, or one opened.
        target: the file; an existing one is replaced.
        arch: the network, for ONNX; None for the one the file names. See `rmt_compress.networks.architectures`.
        input_shape: of one sample, for ONNX; None where the architecture tells it.
        progress: called with (done, total, name) after each tensor; for ONNX after each step: reading the network,
            tracing it, running the graph.

    Raises:
        OutputError: the file cannot be written, or has a suffix of no format.
        CheckpointError: the source cannot be read, or does not fit the architecture.
        SettingsError: the architecture or the input shape is missing or wrong.
        MissingDependencyError: ONNX without onnxscript and onnxruntime.
    """
    path = Path(target)
    if path.suffix.lower() == ".onnx":
        with open_checkpoint(source) as checkpoint:
            return _export_onnx(checkpoint, path, arch, input_shape, counter(3, progress))
    if path.suffix.lower() not in state_dict_formats():
        raise OutputError(f"{path}: the name must end in {', '.join(state_dict_formats())} or .onnx")
    if input_shape is not None or arch is not None:
        raise SettingsError([f"{path}: architecture and input shape are for .onnx files only"])
    with DenseView(open_checkpoint(source)) as view:
        written = write_checkpoint(view, path, progress=progress)
    return Exported(path, "safetensors" if path.suffix.lower() == ".safetensors" else "state dict", written.bytes)


def check_onnx_installed() -> None:
    """Refuse ONNX where what it needs is not installed, naming the first package that is missing."""
    for package in ("onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise MissingDependencyError(package, "onnx", "making an ONNX file of a network")


def _export_onnx(
    checkpoint: Checkpoint,
    target: Path,
    arch: str | None,
    input_shape: Sequence[int] | None,
    advance: Callable[[str], None],
) -> Exported:
    check_onnx_installed()
    import torch

    from rmt_compress.networks.loading import architecture_of, load_model

    source = checkpoint.path
    if target.suffix.lower() in checkpoint.suffixes:
        raise SettingsError([f"{source}: is a graph in this very format already ({checkpoint.format}): copy it"])
    if checkpoint.why_no_onnx is not None:
        raise CheckpointError(
            f"{source}: {checkpoint.why_no_onnx}; export the model it was made from, or write "
            "the weights alone: -o weights.safetensors"
        )
    model = load_model(checkpoint, arch=arch).float()
    own = arch or architecture_of(checkpoint) or ""
    shape = tuple(input_shape) if input_shape else _own_input_shape(source, own)
    size = sum(
        tensor.numel() * tensor.element_size() for tensor in itertools.chain(model.parameters(), model.buffers())
    )
    if size > _ONNX_LIMIT:
        raise OutputError(f"{target}: {size:,} bytes of weights, and one ONNX file holds 2 GB at most")
    generator = torch.Generator().manual_seed(0)
    # Another batch than the one it is traced with shows that the batch size was left open.
    example, batch = (torch.randn(count, *shape, generator=generator) for count in (2, 5))
    try:
        with torch.no_grad():
            expected = model(batch)
    except Exception as error:  # a stranger's network can raise anything
        raise SettingsError(
            [f"{source}: the network does not take inputs of shape {'×'.join(map(str, shape))} ({one_line(error)})"]
        ) from error
    if not isinstance(expected, torch.Tensor):
        raise SettingsError([f"{source}: the network returns a {type(expected).__name__}, not one tensor"])
    if not bool(expected.isfinite().all()):
        raise CheckpointError(
            f"{source}: the network returns NaN or Inf, no graph of it can be compared; look at its weights with "
            "rmt-compress analyze"
        )
    advance("network")
    with replacing(target) as temporary:
        _trace(model, example, temporary, target)
        advance("graph")
        difference = _difference(temporary, target, batch, expected)
        advance("onnxruntime")
        size = temporary.stat().st_size
    return Exported(target, "onnx", size, difference)


def _own_input_shape(source: Path | None, spec: str) -> tuple[int, ...]:
    """Shape of one sample as the architecture tells it."""
    architecture = architectures.parse(spec) if spec else None
    if isinstance(architecture, architectures.MLP):
        return architecture.sizes[:1]
    if isinstance(architecture, architectures.CNN):
        return architecture.image
    raise SettingsError(
        [f"{source}: {spec or 'the file'} does not tell the shape of its inputs; add --input-shape 3,32,32"]
    )


def _trace(model: torch.nn.Module, example: torch.Tensor, path: Path, target: Path) -> None:
    import torch

    from rmt_compress.checkpoints.graph_network import GraphNetwork

    try:
        batch: object = {0: torch.export.Dim("batch")}
        if isinstance(model, GraphNetwork):
            # What it takes is a tuple of as many inputs as its graph has.
            batch = (batch,)
        # torch's exporter tells its progress on stdout, logs what else could be installed, and warns of its own
        # deprecations.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _without_log():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (example,),
                str(path),
                input_names=["input"],
                output_names=["output"],
                dynamo=True,
                external_data=False,
                dynamic_shapes=(batch,),
                verbose=False,
            )
        _forget_shapes_of_weights(path)
    except OSError:
        raise
    except Exception as error:  # the exporter runs the network, and raises what it likes
        raise OutputError(f"{target}: torch cannot export this network to ONNX: {one_line(error)[:500]}") from error


def _forget_shapes_of_weights(path: Path) -> None:
    """Take away what torch says twice: a quantizer that transposes a weight is refused for the old shape of it."""
    import onnx

    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [entry for entry in model.graph.value_info if entry.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    onnx.save(model, path)


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _difference(path: Path, target: Path, batch: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference of onnxruntime's outputs from torch's; a graph that computes something else is refused."""
    import numpy as np
    import onnx
    import onnxruntime

    try:
        onnx.checker.check_model(str(path), full_check=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {"input": batch.numpy()})
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise OutputError(f"{target}: the exported graph does not run: {one_line(error)[:500]}") from error
    reference: Any = expected.numpy()
    if output.shape != reference.shape:
        raise OutputError(f"{target}: the exported graph gives {output.shape}, the network {reference.shape}")
    difference = float(np.abs(output - reference).max(initial=0.0))
    if not difference <= TOLERANCE * max(1.0, float(np.abs(reference).max(initial=0.0))):
        raise OutputError(
            f"{target}: not kept: onnxruntime's outputs differ from torch's by {difference:.2g}, more than "
            f"{TOLERANCE:g} of the largest"
        )
    return difference
