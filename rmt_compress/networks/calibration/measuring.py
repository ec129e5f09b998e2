"""Moments of the layers of a network that runs: one forward and one backward pass over calibration inputs.

For every layer y = Wx + b: C = E[x xᵀ] and E[x] over the vectors that it is applied to (tokens that are no padding;
patches at some places of a convolution), and G = E[g gᵀ], g the gradient at y of a scalar that needs no labels
(method.md §13; Martens and Grosse 2015, Grosse and Martens 2016 for convolutions).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.free_memory import free_memory
from rmt_compress.decomposition.moments import Moments
from rmt_compress.errors import DataError
from rmt_compress.networks.calibration.batches import Batches
from rmt_compress.networks.measurement import evaluation_mode, placement
from rmt_compress.progress import Progress

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.layers.layer import Layer
    from rmt_compress.networks.calibration.batches import Call
    from rmt_compress.networks.calibration.scalars import UserScalar

POSITIONS = 64
"""Places of one sample at which the inputs of a convolution are looked at."""


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    call: Call | None = None,
    scalar: UserScalar | None = None,
    progress: Progress | None = None,
    memory: int | None = None,
    seed: int = 0,
    positions: int | None = POSITIONS,
    layers: Iterable[str] | None = None,
    partial: str | PathLike[str] | None = None,
) -> Moments:
    """Second moments of the inputs of every layer and of the gradients at its outputs.

    The network's mode, weights, gradients and hooks, and torch's random numbers, stay as they are; the moments come
    to the CPU.

    Args:
        model: the network, on any device.
        batches: inputs as the network is called with them: tensors, tuples, mappings. Gone over twice or more where
            not all moments fit; an iterator does for once. Of a mapping with an ``attention_mask`` (N, T) only the
            tokens that it keeps count.
        call: how the network is called with one; None for ``model(x)``, ``model(*x)``, ``model(**x)``.
        scalar: of the outputs, what the gradient is taken of, summed over the samples of the batch; its generator
            is for what is drawn. None for the one that suits the output, see `scalars.label_free`.
        progress: told of every batch.
        memory: bytes for moments; None for half of what is free. Where all do not fit, some layers are measured at
            a time; where one alone does not fit, C becomes its diagonal, or G its trace.
        seed: of classes or directions, and of places.
        positions: at how many places of a sample a convolution's inputs are looked at; None for all.
        layers: names of the tensors to measure, as `Layer.tensor`; None for all.
        partial: a folder for partial results, new or of an interrupted calibration of the same, which then goes on
            with the same result bit for bit; removed in the end. Moments that do not all fit `memory` are kept in
            it meanwhile, without it in the system's folder for temporary files.

    Returns:
        Moments by the names of ``open_checkpoint(model).layers()``. `LayerMoments.outputs` is the mean over samples
        (losses) of the sum over the vectors of one, so that ½‖G^½ ΔW C^½‖_F² is what the loss of one sample moves
        by, comparable between layers; None where no gradient comes back.

    Raises:
        DataError: no batches, or not such as the network takes.
        CheckpointError: the network is none that can be read.
        OutputError: the folder `partial` cannot be written, or holds something else.
    """
    import torch

    from rmt_compress.networks.calibration.applied import Weights
    from rmt_compress.networks.calibration.interrupted import Partial, digest_of
    from rmt_compress.networks.calibration.passes import Passes
    from rmt_compress.networks.calibration.watchers import NotShared, Scout
    from rmt_compress.networks.calibration.watching import Watch

    wanted, left_out = _choose(open_checkpoint(model).layers(), layers)
    data = Batches(batches, model, call)
    state = model.state_dict(keep_vars=True)
    weights = Weights(state, wanted.values())
    with undisturbed(model, seed):
        scout = Scout()
        with torch.no_grad(), Watch(weights, scout):
            data.ask(data.placed(data.first))
        for name, layer in wanted.items():
            if name in scout.otherwise:
                left_out[name] = "applied in another way than its layer is read"
            elif name not in scout.seen:
                left_out[name] = _why_not_seen(layer)
        passes = Passes(data, weights, scalar, seed, positions, _memory(memory), placement(model)[0], progress)
        digest = digest_of(state, data.first, (seed, positions, *wanted))
        kept = Partial(Path(partial), digest) if partial is not None else None
        alone: set[str] = set() if kept is None else kept.alone
        try:
            while True:
                blocks = passes.blocks(scout.groups(alone))
                if len(blocks) > 1 and kept is None:
                    kept = Partial(None, digest)
                try:
                    measured = passes.run(blocks, kept)
                    break
                except NotShared as error:
                    alone = {*alone, str(error)}
                    if kept is not None:
                        kept.begin_again(alone)
        except BaseException:
            if kept is not None and not kept.named:
                kept.remove()
            raise
        if kept is not None:
            kept.remove()
    ordered = {name: measured.layers[name] for name in wanted if name in measured.layers}
    return Moments(ordered, left_out, measured.record)


def _choose(found: Iterable[Layer], asked: Iterable[str] | None) -> tuple[dict[str, Layer], dict[str, str]]:
    """The layers to measure by their names, and why others are left out; vectors are not named."""
    names = None if asked is None else set(asked)
    wanted, left_out = {}, {}
    for layer in found:
        if layer.kind == "vector" or (names is not None and layer.tensor not in names):
            continue
        if (reason := _why_left_out(layer)) is None:
            wanted[layer.tensor] = layer
        else:
            left_out[layer.tensor] = reason
    if names is not None and (unknown := names - wanted.keys() - left_out.keys()):
        raise DataError(
            f"{min(unknown)}: the network has no layer of this name; give names as `Layer.tensor` has them"
        )
    return wanted, left_out


def _why_left_out(layer: Layer) -> str | None:
    if layer.why_skipped is not None:
        return layer.why_skipped
    if layer.tied:
        return f"tied to {layer.aliases[0]}: a change of the one would be one of the other"
    if layer.kind == "embedding":
        return "an embedding table: its rows are looked up, not multiplied with inputs"
    if layer.kind == "recurrent":
        return "a recurrent layer, whose steps cannot be seen"
    if layer.composition is not None or layer.why_fixed is not None:
        return layer.why_fixed
    return layer.skip_reason()


def _why_not_seen(layer: Layer) -> str:
    if layer.by_class:
        return "did not run on the calibration inputs"
    return "did not run on the calibration inputs, or is applied in a way that is not seen"


def _memory(asked: int | None) -> int:
    """Bytes for moments; where the system does not tell what is free, as good as any number."""
    if asked is not None:
        return asked
    free = free_memory()
    return 2**62 if free is None else free // 2


@contextmanager
def undisturbed(model: nn.Module, seed: int) -> Iterator[None]:
    """`model` in evaluation mode with frozen weights, torch's random numbers seeded; all as it was afterwards.

    Frozen, since gradients of activations alone are wanted: those of weights would take a third of the time.
    """
    import torch

    device = placement(model)[0]
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=kept), evaluation_mode(model):
        torch.manual_seed(seed)
        for parameter in learned:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learned:
                parameter.requires_grad_(True)
