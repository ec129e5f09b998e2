"""Moments of the layers of a network that runs: one forward and one backward pass over calibration inputs.

For every layer y = Wx + b: C = E[x xᵀ] and E[x] over the vectors that it is applied to (tokens that are no padding;
patches at some places of a convolution), and G = E[g gᵀ], g the gradient at y of a scalar that needs no labels
(method.md §13; Martens and Grosse 2015, Grosse and Martens 2016 for convolutions).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.free_memory import free_memory
from rmt_compress.decomposition.moments import Moments
from rmt_compress.errors import DataError, SettingsError
from rmt_compress.networks.calibration.repeated_batches import Batches
from rmt_compress.networks.calling import without_cache
from rmt_compress.networks.measurement import evaluation_mode, placement
from rmt_compress.progress import Progress, phase

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.layers.layer import Layer
    from rmt_compress.networks.calibration.repeated_batches import Call
    from rmt_compress.networks.calibration.scalars import UserScalar

POSITIONS = 64
"""Places of one sample at which the inputs of a convolution are looked at."""
PERTURBED = 2
"""Batches on which the outputs of layers are disturbed where there are no gradients."""


@phase("calibrating")
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
    weighted: bool = True,
    layers: Iterable[str] | None = None,
    partial: str | PathLike[str] | None = None,
    shared: bool = False,
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
        memory: bytes for moments and the products that are added to them; None for half of what is free. Where all
            do not fit, some layers are measured at a time; where one alone does not fit, C becomes its diagonal, or
            G its trace.
        seed: of classes or directions, and of places.
        positions: at how many places of a sample a convolution's inputs are looked at; None for all.
        weighted: whether a vector that a product is applied to counts as much as the loss feels errors there, |g|²;
            where a few would count for all, all count alike. It helps a language model and not convolutions, whose
            vectors always count alike.
        layers: names of the tensors to measure, as `Layer.tensor`; None for all.
        partial: a folder for partial results, new or of an interrupted calibration of the same, which then goes on
            with the same result bit for bit; removed in the end. Moments that do not all fit `memory` are kept in
            it meanwhile, without it in the system's folder for temporary files.
        shared: whether every process of torch.distributed's default group calls this, with the same network and
            inputs. Each then measures its share of the batches, and all get the moments of all of them: those of
            one process, to the rounding of float64 sums.

    Returns:
        Moments by the names of ``open_checkpoint(model).layers()``. `LayerMoments.outputs` is the mean over samples
        (losses) of the sum over the vectors of one, so that ½‖G^½ ΔW C^½‖_F² is what the loss of one sample moves
        by, comparable between layers; None where no gradient comes back. Of a TorchScript program, and of an
        ONNX model that torch cannot follow, see `running_onnx`, it is tr G/m as noise at the layer's outputs tells
        it, see `perturbing`.

    Raises:
        DataError: no batches, or not such as the network takes.
        CheckpointError: the network is none that can be read.
        OutputError: the folder `partial` cannot be written, or holds something else.
        SettingsError: `shared` without a process group, or with `partial`.
    """
    import torch

    from rmt_compress.networks.calibration.applied import Weights, layer_weight
    from rmt_compress.networks.calibration.interrupted import Partial, digest_of
    from rmt_compress.networks.calibration.passes import Passes
    from rmt_compress.networks.calibration.perturbing import with_numbers
    from rmt_compress.networks.calibration.running import runner_of
    from rmt_compress.networks.calibration.shares import Shares
    from rmt_compress.networks.calibration.watchers import NotShared, Scout

    if shared and partial is not None:
        raise SettingsError(["partial: results of one process are kept; leave it out, or shared"])
    shares = Shares(several=shared)
    wanted, left_out = chosen_layers(open_checkpoint(model).layers(), layers)
    data = Batches(batches, model, call)
    state = model.state_dict(keep_vars=True)
    runner = runner_of(model, data, Weights(state, wanted.values()), wanted)
    with undisturbed(model, seed), without_cache(model), experts_one_by_one(model):
        scout = Scout()
        with torch.no_grad():
            runner.run(data.placed(data.first), scout)
        for name, layer in wanted.items():
            # An expert that the first batch does not reach a later one may.
            if runner.gradients and name not in scout.seen:
                scout.expect(layer)
        passes = Passes(
            data,
            runner,
            scalar,
            seed,
            positions,
            weighted,
            shares.least(_memory(memory, shares.count)),
            placement(model)[0],
            shares,
            progress,
        )
        digest = digest_of(state, data.first, (seed, positions, weighted, *wanted))
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
            # What has no name nobody can go on with.
            if kept is not None and not kept.named:
                kept.remove()
            raise
        found = measured.layers
        if not runner.gradients and found:
            few = itertools.islice(data.once_over(), PERTURBED)
            weights = {name: layer_weight(state, wanted[name]) for name in found}
            with torch.no_grad():
                found = with_numbers(found, scout.seen, weights, runner, few, seed, progress)
            why = f": {runner.why_none}" if runner.why_none else ""
            measured.record["gradient"] = f"one number per layer, by noise at its outputs{why}"
        if kept is not None:
            kept.remove()
    for name, layer in wanted.items():
        if name not in found:
            otherwise = name in scout.otherwise
            left_out[name] = "applied in another way than its layer is read" if otherwise else why_not_seen(layer)
    return Moments({name: found[name] for name in wanted if name in found}, left_out, measured.record)


def chosen_layers(found: Iterable[Layer], asked: Iterable[str] | None) -> tuple[dict[str, Layer], dict[str, str]]:
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


def why_not_seen(layer: Layer) -> str:
    """Why a layer that was to be measured has no moments."""
    if layer.by_class:
        return "did not run on the calibration inputs"
    return "did not run on the calibration inputs, or is applied in a way that is not seen"


def _memory(asked: int | None, processes: int) -> int:
    """Bytes for moments; where the system does not tell what is free, as good as any number."""
    if asked is not None:
        return asked
    free = free_memory()
    # All of the processes may be on this machine.
    return 2**62 if free is None else free // (2 * processes)


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


@contextmanager
def experts_one_by_one(model: nn.Module) -> Iterator[None]:
    """Mixtures of transformers with a product per expert: in products of all of them no weight can be seen."""
    before: list[tuple[Any, Any]] = []
    for module in model.modules():
        found: Any = module
        if getattr(found, "_can_set_experts_implementation", lambda: False)():
            before.append((found, found.get_experts_implementation()))
            found.set_experts_implementation("eager")
    try:
        yield
    finally:
        for found, implementation in before:
            found.set_experts_implementation(implementation)
