"""From a checkpoint file to a network that runs: the architecture, and its weights checked name by name."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.free_memory import check_fits_memory
from rmt_compress.errors import CheckpointError, SettingsError
from rmt_compress.networks import architectures, huggingface
from rmt_compress.networks.computing_types import computing_type
from rmt_compress.progress import phase
from rmt_compress.wording import listed, times

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.checkpoints import Checkpoint
    from rmt_compress.layers.layer import TensorInfo
    from rmt_compress.progress import Progress

ARCH_HINT = "--arch mlp:784,1000,10, cnn:…, package.module:Net or net.py:Net"


@phase("loading the network")
def load_model(
    source: str | PathLike[str] | Checkpoint,
    *,
    arch: str | None = None,
    dtype: str | torch.dtype | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """The network in a checkpoint, in evaluation mode on the CPU.

    A Hugging Face folder is its own architecture, see `rmt_compress.networks.huggingface`.

    Args:
        source: an ordinary checkpoint or a compressed file of this project, or such a file opened.
        arch: the architecture, see `rmt_compress.networks.architectures`; None for the one the file names. For a
            compressed file it is the network as it was before compression. A file with a graph of its own takes
            none, nor does a whole model whose file is trusted.
        dtype: the type that it computes in: ``float32``, ``float16``, ``bfloat16``, ``float64``, or ``stored`` for
            that of the file. None: float32 of a Hugging Face folder, else what the code of the network says.
        progress: called after each tensor that is read; not for a file that holds the whole network.

    Raises:
        CheckpointError: the file cannot be read, names no architecture or one beyond the memory there is, or
            holds other tensors than the architecture has; the message lists which.
        SettingsError: `arch` or `dtype` is wrong.
        MissingDependencyError: a Hugging Face folder, and no transformers.
    """
    from rmt_compress.saving.reloading import load

    with open_checkpoint(source) as checkpoint:
        path = checkpoint.path
        assert path is not None
        if arch is not None and checkpoint.has_graph:
            raise SettingsError([f"{path}: carries its own graph; leave out --arch {arch}"])
        if dtype is not None and checkpoint.has_graph:
            raise SettingsError(
                [f"{path}: carries its own graph, which computes in the types written there; leave out --dtype"]
            )
        if arch is None and (own := checkpoint.own_network()) is not None:
            return _computing_in(own, checkpoint, dtype)
        if arch is None and (folder := huggingface.model_folder(checkpoint)) is not None:
            return huggingface.network_of(checkpoint, folder, dtype=dtype, progress=progress)
        architecture = _architecture(path, checkpoint, arch)
        original = _as_it_was(checkpoint)
        if not isinstance(architecture, architectures.UserModel):
            # Sizes in a spec are a stranger's numbers: they are compared before anything is allocated.
            blank = _on_meta(path, architecture)
            _check_shapes(path, original, blank, str(architecture))
            needed = sum(parameter.numel() * parameter.element_size() for parameter in blank.parameters())
            check_fits_memory(needed, f"{path}: the network {architecture}")
        model = architecture.build()
        _check_shapes(path, original, model, str(architecture))
        return _computing_in(load(checkpoint, model, progress=progress).eval(), checkpoint, dtype)


def _computing_in(model: nn.Module, checkpoint: Checkpoint, dtype: str | torch.dtype | None) -> nn.Module:
    """The network in another type; as it is where none is asked for."""
    return model if dtype is None else model.to(computing_type(checkpoint, dtype))


def _as_it_was(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint under the names and shapes of the network before compression."""
    if checkpoint.manifest is None:
        return checkpoint
    from rmt_compress.checkpoints.views import DenseView

    return DenseView(checkpoint)


def architecture_of(source: str | PathLike[str] | Checkpoint) -> str | None:
    """The architecture that a file names itself, as text; None where it names none."""
    with open_checkpoint(source) as checkpoint:
        return _named_architecture(checkpoint)


def _named_architecture(checkpoint: Checkpoint) -> str | None:
    named = checkpoint.manifest.architecture if checkpoint.manifest is not None else None
    return named or checkpoint.metadata.get("architecture")


def _architecture(path: Path, checkpoint: Checkpoint, arch: str | None) -> architectures.Architecture:
    if arch is not None:
        return architectures.parse(arch)
    named = _named_architecture(checkpoint)
    if named is None:
        raise CheckpointError(f"{path}: does not say which network it belongs to; add {ARCH_HINT}")
    try:
        architecture = architectures.parse(named)
    except SettingsError as error:
        raise CheckpointError(f"{path}: names an unknown architecture ({error}); add {ARCH_HINT}") from error
    if isinstance(architecture, architectures.UserModel):
        # Importing a module runs its code: never because a file says so.
        raise CheckpointError(
            f"{path}: its network is built by {named}, code that is not run because a file names it; "
            f"if you trust it, add --arch {shlex.quote(named)}"
        )
    return architecture


def _on_meta(path: Path, architecture: architectures.Architecture) -> nn.Module:
    """The network without memory for its weights."""
    import torch

    try:
        with torch.device("meta"):
            return architecture.build()
    except (RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path}: no network can be as large as {architecture}") from error


def _check_shapes(path: Path, checkpoint: Checkpoint, model: nn.Module, name: str) -> None:
    """Refuse a file whose names, shapes or types are not those of the network."""
    import torch

    expected = {key: value for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    tensors = checkpoint.tensors
    # Of a shared tensor one name in the file is enough.
    shared = {
        name: names
        for first, others in open_checkpoint(model).ties.items()
        for names in [{first, *others}]
        for name in names
    }
    missing = [key for key in expected if not shared.get(key, {key}) & tensors.keys()]
    unexpected = [key for key in tensors if key not in expected]
    wrong = [key for key in expected if key in tensors and not _suits(tensors[key], expected[key])]
    if not (missing or unexpected or wrong):
        return
    parts = []
    if wrong:
        shown = [f"{key} is {_described(tensors[key])}, not {times(expected[key].shape)}" for key in wrong]
        parts.append(listed(shown, 3))
    if missing:
        parts.append(f"the file lacks {listed(missing, 6)}")
    if unexpected:
        parts.append(f"the network has no {listed(unexpected, 6)}")
    hint = _fitting_mlp(tensors)
    advice = f"--arch {hint} would fit" if hint else f"add the network it was trained as: {ARCH_HINT}"
    raise CheckpointError(f"{path}: is no {name}: {'; '.join(parts)}; {advice}")


def _suits(info: TensorInfo, tensor: object) -> bool:
    import torch

    assert isinstance(tensor, torch.Tensor)
    dtype = getattr(torch, info.dtype, None)
    if info.why_skipped is not None or not isinstance(dtype, torch.dtype):
        return False
    return info.shape == tuple(tensor.shape) and dtype.is_floating_point == tensor.dtype.is_floating_point


def _described(info: TensorInfo) -> str:
    # Values that are no plain floats (int8 codes, sparse layouts) differ in more than their shape.
    plain = info.why_skipped is None and info.dtype in ("float16", "bfloat16", "float32", "float64")
    return times(info.shape) + ("" if plain else f" {info.dtype}")


def _fitting_mlp(tensors: Mapping[str, TensorInfo]) -> str | None:
    """``mlp:…`` where the tensors are exactly those of one of our own fully connected networks."""
    shapes = [tensors[f"fc{i}.weight"].shape for i in range(1, len(tensors) + 1) if f"fc{i}.weight" in tensors]
    names = {f"fc{i}.{part}" for i in range(1, len(shapes) + 1) for part in ("weight", "bias")}
    if not shapes or names != set(tensors) or any(len(shape) != 2 for shape in shapes):
        return None
    if any(before[0] != after[1] for before, after in itertools.pairwise(shapes)):
        return None
    return "mlp:" + ",".join(map(str, (shapes[0][1], *(shape[0] for shape in shapes))))
