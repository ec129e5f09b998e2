"""Getting compressed models back: as modules, or as a plain state dict of the original network."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.beside import is_extra_state
from rmt_compress.checkpoints.free_memory import check_fits_memory
from rmt_compress.checkpoints.manifest import FactorizedLayer
from rmt_compress.checkpoints.views import DenseView
from rmt_compress.compression.live_modules import replace_modules
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.kinds import KINDS, untransposed
from rmt_compress.layers.library_modules import is_library_model, with_attributes
from rmt_compress.layers.low_rank import module_refusal, split_module
from rmt_compress.layers.splitting import Factors, factor_matrices, factor_tensors, module_path
from rmt_compress.saving.library_loading import fill, fits_by_name
from rmt_compress.wording import listed, problems_listed, times

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.layers.layer import Layer
    from rmt_compress.progress import Progress


def load(
    source: str | PathLike[str] | Checkpoint, model: torch.nn.Module, *, progress: Progress | None = None
) -> torch.nn.Module:
    """Put the weights of a file into a model, its layers split as they are in the file.

    Args:
        source: a file written by `save`, or any other checkpoint of the model; or such a file opened.
        model: as it was before compression. It is changed in place: every layer that the file holds as two
            becomes ``nn.Sequential(OrderedDict(down=…, up=…))`` with the layer's own stride, padding and so on; a
            layer that stands in several places stays one. The factors of a stack of experts are multiplied, since
            its class reads the whole tensor. Values take the types of the model's parameters. A network of
            transformers is loaded by that library where it has saved the weights under other names.
        progress: called after each tensor that is read; not by that library.

    Returns:
        `model`; where `model` itself is the layer that was split, the two layers.

    Raises:
        CheckpointError: the file cannot be read, or it is of another model: every tensor that does not match is
            named, and the model is left as it was.
    """
    with open_checkpoint(source) as checkpoint:
        if checkpoint.has_graph:
            raise CheckpointError(
                f"{checkpoint.path}: carries its own graph and needs no model class to run; for its weights in a "
                "model of your own use load_dense"
            )
        of_library = is_library_model(model)
        if of_library and not fits_by_name(checkpoint, model):
            fill(checkpoint, model)
            return model
        layers = checkpoint.manifest.factorized if checkpoint.manifest else ()
        retold = _check_fits(checkpoint, layers, model)
        state: dict[str, Any] = checkpoint.read_all(progress)
        state |= checkpoint.home.extra
    for layer, own in retold:
        # Read as stored the plain way from a file that could not tell; the factors change their roles.
        down, up = factor_matrices(layer.kind, Factors(state[layer.down], state[layer.up]))
        if KINDS[own.kind].rows != KINDS[layer.kind].rows:
            down, up = up.T, down.T
        state[layer.down], state[layer.up] = factor_tensors(own, down, up)
    for layer in layers:
        if KINDS[layer.kind].stacked:  # which no class can run as two
            state[layer.weight] = layer.join(state.pop(layer.down), state.pop(layer.up))
    whole = set(model.modules())
    for layer in layers:
        if KINDS[layer.kind].stacked:
            continue
        place = module_path(layer.weight)
        module = model.get_submodule(place)
        if module not in whole:
            continue  # the other name of a layer that has been split
        weight = module.get_parameter("weight")
        pair = split_module(module, state[layer.down].to(weight), state[layer.up].to(weight), name=place)
        if of_library:
            pair = with_attributes(pair, module)
        model = replace_modules(model, {module: pair})
    model.load_state_dict(state, strict=False)
    return model


def load_dense(source: str | PathLike[str] | Checkpoint) -> dict[str, Any]:
    """The tensors of a file under their original names, with their original shapes and types.

    Beside them stands what modules keep of their own (`torch.nn.Module.get_extra_state`), for `load_state_dict`.

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
    return {name: state[name] for name in view.tensors} | dict(view.home.extra)


def _check_fits(
    checkpoint: Checkpoint, layers: Iterable[FactorizedLayer], model: torch.nn.Module
) -> list[tuple[FactorizedLayer, Layer]]:
    """Compare file and model under the original names; the error names every tensor that does not match.

    Returns:
        the layers that are stored the plain way as the file says, and transposed as the model says, with what they
        are in the model.
    """
    given = open_checkpoint(model)
    original = DenseView(checkpoint)
    shared = {frozenset((first, *others)) for first, others in given.ties.items()}
    problems = []
    wanted, stored = ({*source.tensors, *source.home.extra} for source in (given, original))
    missing = [
        name
        for name in (*given.tensors, *given.home.extra)
        if name not in stored
        # Of a shared tensor one name is enough.
        and not any(name in names and names & original.tensors.keys() for names in shared)
    ]
    # What a model computes for itself, and older versions of it have saved.
    computed = {name for name, _ in model.named_buffers()}
    stored_names = (*original.tensors, *original.home.extra)
    extra = [name for name in stored_names if name not in wanted and name not in computed]
    if missing:
        problems.append(f"the file lacks {listed(missing)}")
    if extra:
        problems.append(f"the model lacks {listed(extra)}")
    problems += [
        f"{name} is {times(info.shape)} in the file, {times(given.tensors[name].shape)} in the model"
        for name, info in original.tensors.items()
        # What modules keep of their own may change its shape.
        if name in given.tensors and info.shape != given.tensors[name].shape and not is_extra_state(name)
    ]
    kinds = {name: layer for layer in given.layers() for name in (layer.tensor, *layer.aliases)}
    retold = []
    for layer in layers:
        own = kinds.get(layer.weight)
        if own is None or own.shape != layer.shape:
            continue
        if untransposed(own.kind) != untransposed(layer.kind) or own.groups > 1:
            way_out = f"; prune it again with --exclude {layer.name}" if own.groups > 1 else ""
            problems.append(f"{layer.weight} was split as {layer.kind}, in the model it is {_kind(own)}{way_out}")
            continue
        if KINDS[layer.kind].stacked:
            continue
        module = model.get_submodule(module_path(layer.weight))
        if (refusal := module_refusal(module)) is not None:
            problems.append(f"{layer.name} {refusal}")
        if own.kind != layer.kind:
            retold.append((layer, own))
    if problems:
        raise CheckpointError(
            f"{checkpoint.path}: does not fit the model: {problems_listed(problems, 6)}. Give the model as it was "
            "before compression"
        )
    return retold


def _kind(layer: Layer) -> str:
    return layer.kind + (f" of {layer.groups} groups" if layer.groups > 1 else "")
