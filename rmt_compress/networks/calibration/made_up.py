"""Calibration inputs that a network makes itself, where its owner has none (method.md §14).

takes tokens, and tells the next one     text that it samples
takes tokens otherwise                   random tokens, of an encoder-decoder for both
has batch norms                          inputs fitted to their running statistics
takes images, waves or volumes           noise with a 1/f spectrum, as nature's is; fitted to all classes alike
                                         where it gives most of that one answer
takes vectors                            noise along the spikes of its first layer, else standard normal
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rmt_compress.errors import DataError
from rmt_compress.layers.layer import as_matrix
from rmt_compress.networks.calibration.calibrating import undisturbed
from rmt_compress.networks.calibration.repeated_batches import Batches, shown_name
from rmt_compress.networks.calling import call as plainly
from rmt_compress.networks.configured import context_length
from rmt_compress.networks.measurement import placement
from rmt_compress.progress import Progress
from rmt_compress.wording import times

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.networks.calibration.repeated_batches import Call

ONE_ANSWER = 0.5
"""Share of noise with one answer above which it is fitted to all classes (experiments/data/fitted_noise.md)."""
TEXTS, TOKENS = 80, 512
FITTED, NOISE = 96, 256
_BATCH = {"text": 4, "other": 32}
# As images for networks are commonly cut to.
_SIDES = (28, 32, 48, 64, 96, 112, 128, 160, 192, 224, 256, 299, 384)
# Kinds of layers that tell of what they read.
_READ = ("linear", "linear_transposed", "conv2d")
_SAY = "say what shape its inputs have (--input-shape, such as 3,224,224)"


SAMPLED_TEXT = "text sampled from the network"
FITTED_NOISE = "noise fitted to all classes alike"
SPIKED_NOISE = "noise along the spikes of the first layer"
FITTED_INPUTS = "inputs fitted to the statistics of the batch norms"
"""Kinds of inputs, as `MadeUp.kind` has them."""


@dataclass(frozen=True, eq=False)
class MadeUp:
    """Inputs that a network has made.

    Attributes:
        batches: as it is called with them; on the CPU.
        kind: what they are, in a few words.
        record: how they were made: plain JSON.
    """

    batches: tuple[Any, ...] = field(repr=False)
    kind: str
    record: dict[str, Any]


def make_inputs(
    model: nn.Module,
    *,
    shape: Sequence[int] | None = None,
    count: int | None = None,
    length: int | None = None,
    call: Call | None = None,
    seed: int = 0,
    fit: bool = True,
    progress: Progress | None = None,
) -> MadeUp:
    """Inputs for `calibrate` that need no data; the same from the same seed.

    The network's mode, weights and hooks, and torch's random numbers, stay as they are.

    Args:
        model: the network, on any device.
        shape: of one input, without the axis of the batch; None where the network itself tells it.
        count: how many; None for 80 texts, 96 inputs fitted to statistics or classes, 1,024 vectors along spikes,
            256 of the others.
        length: tokens of a text; None for 512, or as many as the network takes.
        call: how the network is asked; None for ``model(x)``, of a network of transformers
            ``model(input_ids=x)``.
        seed: of all that is drawn.
        fit: whether inputs are fitted to the network, which takes some hundred passes forward and back.
        progress: told of every token or step.

    Raises:
        DataError: nothing tells the shape of an input, or the network does not take such.
    """
    import torch

    from rmt_compress.networks.calibration.sampled_text import vocabulary_of

    vocabulary = None if shape is not None and len(shape) > 1 else vocabulary_of(model)
    generator = torch.Generator().manual_seed(seed)
    with undisturbed(model, seed):
        if vocabulary is not None:
            return _tokens(model, vocabulary, count or TEXTS, length or TOKENS, call, generator, seed, progress)
        ask = call or plainly
        kind, inputs = _values(model, shape, count, ask, generator, progress, fit=fit)
    record = {"kind": kind, "count": len(inputs), "shape": list(inputs.shape[1:]), "seed": seed}
    return MadeUp(tuple(torch.split(inputs, _BATCH["other"])), kind, record)


def _tokens(
    model: nn.Module,
    vocabulary: int,
    count: int,
    length: int,
    call: Call | None,
    generator: torch.Generator,
    seed: int,
    progress: Progress | None,
) -> MadeUp:
    import torch

    from rmt_compress.networks.calibration.sampled_text import is_language_model, longest, sample_text

    named = call is None and hasattr(model, "config")

    two = named and bool(getattr(model.config, "is_encoder_decoder", False))

    def inputs(ids: torch.Tensor) -> Any:
        if two:
            first, second = ids.tensor_split(2, dim=1)
            return {"input_ids": first, "decoder_input_ids": second}
        return {"input_ids": ids} if named else ids

    def ask(model: nn.Module, ids: torch.Tensor) -> Any:
        return (call or plainly)(model, inputs(ids.to(placement(model)[0])))

    most = context_length(model)
    found = longest(model, ask, vocabulary, length if most is None else min(length, most))
    if found is None:
        raise DataError(
            f"{shown_name(model)}: takes tokens, but not alone; inputs for it cannot be made up: give some"
        )
    if is_language_model(model, ask, vocabulary, min(found, 8), seed):
        kind = SAMPLED_TEXT
        ids = sample_text(
            model,
            ask,
            vocabulary=vocabulary,
            sequences=count,
            length=found,
            generator=generator,
            progress=progress,
        )
    else:
        kind = "random tokens"
        ids = torch.randint(vocabulary, (count, found), generator=generator)
    batches = tuple(map(inputs, torch.split(ids, _BATCH["text"])))
    return MadeUp(batches, kind, {"kind": kind, "count": count, "tokens": found, "seed": seed})


def _values(
    model: nn.Module,
    shape: Sequence[int] | None,
    count: int | None,
    call: Call,
    generator: torch.Generator,
    progress: Progress | None,
    *,
    fit: bool,
) -> tuple[str, torch.Tensor]:
    """What kind of inputs a network gets that takes numbers, and these."""
    import torch

    from rmt_compress.networks.calibration.fitted_images import Norms, fit_inputs

    shape = tuple(shape) if shape is not None else input_shape(model, call)
    # A look at whether it takes them, with an error that says what it was asked.
    data = Batches([torch.zeros(2, *shape)], model, call)
    with torch.no_grad(), Norms() as norms:
        data.ask(data.placed(data.first))
    if not fit or not norms.losses:
        return _noise(model, call, shape, count, generator, progress, fit=fit)
    parts = [
        fit_inputs(model, call, shape, count=size, generator=generator, progress=progress).cpu()
        for size in _parts(count or FITTED, FITTED)
    ]
    return FITTED_INPUTS, torch.cat(parts)


def _noise(
    model: nn.Module,
    call: Call,
    shape: tuple[int, ...],
    count: int | None,
    generator: torch.Generator,
    progress: Progress | None,
    *,
    fit: bool,
) -> tuple[str, torch.Tensor]:
    """What kind of noise a network without batch norms gets, and the noise."""
    import torch

    from rmt_compress.networks.calibration.fitted_images import fit_to_classes
    from rmt_compress.networks.calibration.spiked_noise import COUNT, spiked_noise
    from rmt_compress.networks.calibration.told_apart import one_answer

    if len(shape) == 1:
        first = first_weight(model)
        reads = first is not None and first.dim() == 2 and shape == (first.shape[1],)
        spiked = spiked_noise(first, count or COUNT, generator) if first is not None and reads else None
        if spiked is not None:
            return SPIKED_NOISE, spiked
        return "standard normal inputs", one_over_f(count or NOISE, shape, generator)
    noise = one_over_f(count or FITTED, shape, generator)
    counted = one_answer(model, call, noise.split(_BATCH["other"])) if fit else None
    alike = counted is not None and counted[0] > ONE_ANSWER * counted[1]
    ask = _with_gradients(model, call, noise[:2]) if alike else None
    fitted = None if ask is None else fit_to_classes(model, ask, noise, progress=progress)
    if fitted is not None:
        return FITTED_NOISE, fitted.cpu()
    if count is None:
        noise = torch.cat([noise, one_over_f(NOISE - FITTED, shape, generator)])
    return "noise with a 1/f spectrum", noise


def _with_gradients(model: nn.Module, call: Call, inputs: torch.Tensor) -> Call | None:
    """How a network is asked so that gradients come back to its inputs; None where that cannot be."""
    # By its name: onnxruntime is imported by it.
    if type(model).__name__ != "OnnxNetwork":
        return call
    from rmt_compress.networks.calibration.running_onnx import with_gradients

    return with_gradients(model, inputs)


def _parts(count: int, most: int) -> list[int]:
    """`count` in parts of about one size, none larger than `most`."""
    parts = math.ceil(count / most)
    return [count // parts + (part < count % parts) for part in range(parts)]


def one_over_f(count: int, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Noise (count, *shape) of mean 0 and variance 1 whose amplitude falls with one over the frequency.

    The first axis is that of channels, which have most of it in common, as colours have; of vectors, which have no
    such axis, it is white.
    """
    import torch

    if len(shape) == 1:
        return torch.randn(count, *shape, generator=generator)
    waves = torch.meshgrid(*map(torch.fft.fftfreq, shape[1:]), indexing="ij")
    # The slowest wave is as strong as the mean.
    grid = torch.stack(waves).square().sum(0).sqrt().clamp(min=1 / max(shape[1:]))
    axes = tuple(range(2, len(shape) + 1))
    common = torch.randn(count, 1, *shape[1:], generator=generator)
    own = torch.randn(count, *shape, generator=generator)
    white = math.sqrt(0.8) * common + math.sqrt(0.2) * own
    noise: torch.Tensor = torch.fft.ifftn(torch.fft.fftn(white, dim=axes) / grid, dim=axes).real
    noise -= noise.mean()
    noise /= noise.std()
    return noise


def input_shape(model: nn.Module, call: Call) -> tuple[int, ...]:
    """The shape of one input, as far as the network tells it.

    By its graph, its configuration (transformers, timm), its first layer where that is a Linear, or by trying:
    of common sizes of images exactly one runs through a network that ends in a Linear of fixed width.

    Raises:
        DataError: it does not tell.
    """
    from rmt_compress.checkpoints.graph_network import GraphNetwork

    if isinstance(model, GraphNetwork) and model.input_shape is not None:
        return model.input_shape
    config = getattr(model, "config", None)
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", None)
    if isinstance(size, int | list | tuple) and isinstance(channels, int):
        return (channels, *((size, size) if isinstance(size, int) else size))
    default = getattr(model, "default_cfg", None) or getattr(model, "pretrained_cfg", None)
    if isinstance(default, dict) and "input_size" in default:
        return tuple(default["input_size"])
    first = first_weight(model)
    if first is not None and first.dim() == 2:
        return (first.shape[1],)
    if first is not None:
        channels = first.shape[1]
        fitting = [side for side in _SIDES if _runs(model, call, (channels, side, side))]
        if len(fitting) == 1:
            return (channels, *fitting * 2)
        what = "images of many sizes" if fitting else "images of none of the common sizes"
        raise DataError(f"{shown_name(model)}: takes {channels} channels and {what}; {_SAY}")
    raise DataError(f"{shown_name(model)}: does not tell what inputs it takes; {_SAY}")


def first_weight(model: nn.Module) -> torch.Tensor | None:
    """The weight of the first layer, (outputs, inputs), or (outputs, channels, …) of a convolution of images.

    None where the first module with a weight is neither.
    """
    from torch import nn

    from rmt_compress.checkpoints.graph_network import GraphNetwork

    if isinstance(model, GraphNetwork):
        layer = model.first_layer
        if layer is None or layer.kind not in _READ:
            return None
        weight = model.checkpoint.read(layer.tensor)
        return weight if layer.kind == "conv2d" else as_matrix(layer, weight)
    first = next((module for module in model.modules() if "weight" in module._parameters), None)
    return first.weight if isinstance(first, nn.Linear | nn.Conv2d) else None


def _runs(model: nn.Module, call: Call, shape: tuple[int, ...]) -> bool:
    import torch

    device, dtype = placement(model)
    try:
        with torch.no_grad():
            call(model, torch.zeros(1, *shape, device=device, dtype=dtype))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return True


def described(made: MadeUp) -> str:
    """One sentence: how many of what, of which size, from which seed."""
    record = made.record
    size = f"{record['tokens']} tokens each" if "tokens" in record else f"{times(record['shape'])} each"
    return f"{record['count']} inputs made up: {made.kind}, {size}, seed {record['seed']}"
