"""Saving compressed models, and getting them back: as modules, or as a plain state dict of the original network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.compressed import DenseView
from rmt_compress.checkpoints.free_memory import check_fits_memory
from rmt_compress.checkpoints.graph import GraphCheckpoint
from rmt_compress.checkpoints.manifest import ARCHITECTURE_KEY, FactorizedLayer, Layout, make_manifest
from rmt_compress.checkpoints.writers import WrittenFile, check_suffix, write_checkpoint
from rmt_compress.errors import CheckpointError
from rmt_compress.graph_saving import write_compressed_graph
from rmt_compress.layers.factors import untransposed
from rmt_compress.layers.low_rank import module_refusal, split_module

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.checkpoints.opening import Source
    from rmt_compress.compression import LayerOutcome
    from rmt_compress.layers.matrix_view import Layer
    from rmt_compress.plan import Plan

__all__ = ["Layout", "WrittenFile", "load", "load_dense", "save", "write_compressed"]


def save(
    model: torch.nn.Module | Mapping[str, torch.Tensor],
    path: str | PathLike[str],
    *,
    plan: Plan | None = None,
    source: Source | None = None,
    metadata: Mapping[str, str] | None = None,
) -> WrittenFile:
    """Write a compressed model, so that `load` and `load_dense` understand it; an existing file is replaced.

    Args:
        model: what `compress` returned, or its state dict.
        path: ``.safetensors``, or ``.pt``, ``.pth``, ``.bin``, ``.ckpt`` for `torch.save`.
        plan: what `model` was compressed by. Without it every tensor is taken as it is: the file then loads into
            such a model only, and `load_dense` multiplies nothing.
        source: the checkpoint that was compressed, remembered with its SHA-256; its metadata are carried over.
        metadata: text entries for the file beside those of `source`, such as ``architecture``
            (``mlp:784,1000,10``).

    Raises:
        OutputError: the file cannot be written.
        PlanError: `plan` factorizes layers that `model` has not split.
        CheckpointError: `source` cannot be read.
    """
    target = Path(path)
    check_suffix(target)
    opened = open_checkpoint(model)
    origin = None if source is None else open_checkpoint(source)
    manifest = make_manifest(
        origin,
        plan,
        opened.tensors,
        ties=opened.ties,
        metadata={**(origin.metadata if origin else {}), **(metadata or {})},
    )
    tensors = ((name, opened.read(name)) for name in opened.tensors)
    return write_checkpoint(target, tensors, opened.tensors.values(), manifest=manifest)


def write_compressed(
    checkpoint: Checkpoint,
    plan: Plan,
    path: str | PathLike[str],
    *,
    layout: Layout = "factorized",
    architecture: str | None = None,
    carried: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    outcomes: list[LayerOutcome] | None = None,
) -> WrittenFile:
    """Compress a checkpoint by a plan into a file, tensor by tensor.

    From a file into a ``.safetensors`` file, the memory of one tensor and its decomposition is enough. A checkpoint
    with a graph of its own is written in its own format where that can hold the result.

    Args:
        checkpoint: what is compressed.
        plan: the decisions.
        path: see `save`; for a checkpoint with a graph, one of its own suffixes.
        layout: ``dense`` keeps original names and shapes, and stores nothing sparse.
        architecture: the network in one word; None for what the checkpoint's metadata say.
        carried: what else goes into a `torch.save` file, see `Checkpoint.carried`.
        progress: called with (tensors done, tensors in all, name).
        outcomes: what was done to each layer is appended to this list.

    Raises:
        OutputError: the file cannot be written.
        CheckpointError: the checkpoint cannot be read.
        PlanError: the plan does not suit the checkpoint.
        CompressionError: a layer that is to be cut holds NaN or Inf.
    """
    from rmt_compress.compression import compress_tensors, compressed_outline, compressed_ties

    target = Path(path)
    if isinstance(checkpoint, GraphCheckpoint) and checkpoint.writes_own_format(target, layout):
        return write_compressed_graph(
            checkpoint,
            plan,
            target,
            layout=layout,
            architecture=architecture,
            progress=progress,
            outcomes=outcomes,
        )
    check_suffix(target)
    outline = compressed_outline(checkpoint, plan, layout=layout)
    metadata = dict(checkpoint.metadata)
    if architecture is not None:
        metadata[ARCHITECTURE_KEY] = architecture
    manifest = make_manifest(
        checkpoint,
        plan,
        outline,
        layout=layout,
        ties=compressed_ties(checkpoint, plan, layout=layout),
        metadata=metadata,
    )
    tensors = compress_tensors(checkpoint, plan, layout=layout, outcomes=outcomes)
    return write_checkpoint(
        target, tensors, outline.values(), manifest=manifest, carried=carried, progress=progress
    )


def load(source: str | PathLike[str] | Checkpoint, model: torch.nn.Module) -> torch.nn.Module:
    """Put the weights of a file into a model, its layers split as they are in the file.

    Args:
        source: a file written by `save`, or any other checkpoint of the model; or such a file opened.
        model: as it was before compression. It is changed in place: every layer that the file holds as two
            becomes ``nn.Sequential(OrderedDict(down=…, up=…))`` with the layer's own stride, padding and so on; a
            layer that stands in several places stays one. Values take the types of the model's parameters.

    Returns:
        `model`; where `model` itself is the layer that was split, the two layers.

    Raises:
        CheckpointError: the file cannot be read, or it is of another model: every tensor that does not match is
            named, and the model is left as it was.
    """
    with open_checkpoint(source) as checkpoint:
        if isinstance(checkpoint, GraphCheckpoint):
            raise CheckpointError(
                f"{checkpoint.path}: carries its own graph and needs no model class to run; for its weights in a "
                "model of your own use load_dense"
            )
        layers = checkpoint.manifest.factorized if checkpoint.manifest else ()
        transposed = _check_fits(checkpoint, layers, model)
        state = {name: checkpoint.read(name) for name in checkpoint.tensors}
    for layer in transposed:
        # Read as stored the plain way from a file that could not tell; the factors change their roles.
        down, up = state[layer.down], state[layer.up]
        state[layer.down] = up.reshape(up.shape[:2]).T.reshape(layer.rank, -1, *[1] * (up.dim() - 2)).contiguous()
        state[layer.up] = down if up.dim() > 2 else down.T.contiguous()
    places: dict[torch.nn.Module, list[str]] = {}
    for place, module in model.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(place)
    for layer in layers:
        place = layer.down.removesuffix("down.weight").removesuffix(".")
        module = model.get_submodule(place)
        if module not in places:
            continue  # the other name of a layer that has been split
        weight = module.get_parameter("weight")
        pair = split_module(module, state[layer.down].to(weight), state[layer.up].to(weight), name=place)
        for name in places[module]:
            if not name:
                model = pair
                break
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, pair)
    model.load_state_dict(state, strict=False)
    return model


def load_dense(source: str | PathLike[str] | Checkpoint) -> dict[str, torch.Tensor]:
    """The tensors of a file under their original names, with their original shapes and types.

    Factors are multiplied (in float32, in float64 for float64 factors), sparse tensors decoded. Names of one
    shared tensor get one tensor. Any other checkpoint is read as it is.

    Raises:
        CheckpointError: the file cannot be read, holds something else than its manifest says, or stands for more
            than there is memory.
    """
    with DenseView(open_checkpoint(source)) as view:
        first_names = {other: first for first, others in view.ties.items() for other in others}
        needed = sum(info.nbytes for name, info in view.tensors.items() if name not in first_names)
        check_fits_memory(needed, f"{view.path}: the original network")
        state: dict[str, torch.Tensor] = {}
        for name in view.tensors:
            first = first_names.get(name, name)
            if first not in state:
                state[first] = view.read(first)
            state[name] = state[first]
    return {name: state[name] for name in view.tensors}


def _check_fits(
    checkpoint: Checkpoint, layers: Iterable[FactorizedLayer], model: torch.nn.Module
) -> list[FactorizedLayer]:
    """Compare file and model under the original names.

    Returns:
        the layers that are stored the plain way as the file says, and transposed as the model says.

    Raises:
        CheckpointError: naming every tensor that does not match.
    """
    given = open_checkpoint(model)
    original = DenseView(checkpoint)
    shared = {frozenset((first, *others)) for first, others in given.ties.items()}
    problems = []
    missing = [
        name
        for name in given.tensors
        if name not in original.tensors
        # Of a shared tensor one name is enough.
        and not any(name in names and names & original.tensors.keys() for names in shared)
    ]
    extra = [name for name in original.tensors if name not in given.tensors]
    if missing:
        problems.append(f"the file lacks {_listed(missing)}")
    if extra:
        problems.append(f"the model lacks {_listed(extra)}")
    problems += [
        f"{name} is {_x(info.shape)} in the file, {_x(given.tensors[name].shape)} in the model"
        for name, info in original.tensors.items()
        if name in given.tensors and info.shape != given.tensors[name].shape
    ]
    kinds = {name: layer for layer in given.layers() for name in (layer.tensor, *layer.aliases)}
    transposed = []
    for layer in layers:
        own = kinds.get(layer.weight)
        if own is None or own.shape != layer.shape:
            continue
        if untransposed(own.kind) != untransposed(layer.kind) or own.groups > 1:
            way_out = f"; prune it again with --exclude {layer.name}" if own.groups > 1 else ""
            problems.append(f"{layer.weight} was split as {layer.kind}, in the model it is {_kind(own)}{way_out}")
            continue
        module = model.get_submodule(layer.down.removesuffix("down.weight").removesuffix("."))
        if (refusal := module_refusal(module)) is not None:
            problems.append(f"{layer.name} {refusal}")
        if own.kind != layer.kind:
            transposed.append(layer)
    if problems:
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise CheckpointError(
            f"{checkpoint.path}: does not fit the model: {'; '.join(problems[:6])}{more}. Give the model as it was "
            "before compression"
        )
    return transposed


def _kind(layer: Layer) -> str:
    return layer.kind + (f" of {layer.groups} groups" if layer.groups > 1 else "")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _x(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a scalar"
