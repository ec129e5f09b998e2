"""Whether a network wants its pixels normalised, told without labels by its first batch norm.

A batch norm has learned mean and variance of what comes to it. Given other inputs than in training it gets others:
with pixels in [0, 1] instead of normalised ones the first batch norm of a ResNet for CIFAR-10 sees 7 % of the
variance that it has learned, and the network answers 34 % of the samples rightly instead of 90 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    from rmt_compress.data.samples import Samples

SAMPLES = 64
"""So many images are enough: with 16 the distances below are as far apart."""

# Mean Kullback-Leibler divergence per channel, in nats. Of two networks on their own pixels it was 0.01 and 0.001,
# on pixels that were normalised otherwise 0.3 to 3.5.
_FAR = 0.15
_TIMES_NEARER = 5.0

# What people normalise by beside the statistics of their set: the middle of [0, 1], and those of ImageNet.
_HALF = ((0.5,), (0.5,))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class _Seen(NamedTuple):
    """What the first batch norm gets: its name, distance from what it has learned, and share of its variance."""

    name: str
    distance: float
    variance: float


def unnormalized_pixels(model: nn.Module, images: torch.Tensor) -> str | None:
    """Why a network seems to want normalised pixels, with the way out; None where nothing says so.

    Without a batch norm that has learned anything, and for inputs that are no pixels in [0, 1], nothing does.

    Args:
        model: run where it is, in evaluation mode; it stays as it is.
        images: (N, C, H, W), some `SAMPLES` of the data set, floats.
    """
    if images.dim() != 4 or len(images) < 2 or not images.is_floating_point():
        return None
    if float(images.min()) < 0 or float(images.max()) > 1:
        return None
    now = _first_norm(model, images)
    if now is None or not now.distance > _FAR:
        return None
    means, deviations = images.mean((0, 2, 3)).tolist(), images.std((0, 2, 3)).tolist()
    tried = []
    for mean, deviation in ((means, deviations), _HALF, _IMAGENET):
        if len(mean) in (1, images.shape[1]) and all(value > 0 for value in deviation):
            seen = _first_norm(model, _normalized(images, mean, deviation))
            if seen is not None:
                tried.append((seen, mean, deviation))
    if not tried:
        return None
    best, mean, deviation = min(tried, key=lambda each: each[0].distance)
    if not best.distance * _TIMES_NEARER < now.distance:
        return None
    return (
        f"the network seems to be trained on normalised pixels: of pixels in [0, 1] its first batch norm "
        f"({now.name}) gets {now.variance:.0%} of the variance it has learned, of normalised ones "
        f"{best.variance:.0%}; its score is too low then: add --mean {_listed(mean)} --std {_listed(deviation)}, "
        "or what it was trained with"
    )


def unnormalized_samples(model: nn.Module, samples: Samples | None) -> str | None:
    """`unnormalized_pixels` of some of a network's samples; None of a task that has none, or none of pixels."""
    import torch

    batch = None if samples is None else next(iter(samples.thinned(SAMPLES).batches(SAMPLES)), None)
    if batch is None or not isinstance(batch[0], torch.Tensor):
        return None
    return unnormalized_pixels(model, batch[0])


def _normalized(images: torch.Tensor, mean: Sequence[float], deviation: Sequence[float]) -> torch.Tensor:
    shape = (1, -1, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(deviation).view(shape)


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:.3g}" for value in values)


class _Stopped(Exception):  # noqa: N818 - no error
    """The first batch norm has been reached: the rest of the network need not run."""


def _first_norm(model: nn.Module, images: torch.Tensor) -> _Seen | None:
    """What the batch norm that is reached first gets; None where there is none with learned statistics."""
    import torch
    from torch import nn

    from rmt_compress.networks.calling import call, placed
    from rmt_compress.networks.measurement import evaluation_mode, placement

    seen: list[_Seen] = []

    def hook(name: str, norm: _BatchNorm, arguments: tuple[torch.Tensor, ...]) -> None:
        mean, variance = norm.running_mean, norm.running_var
        values = arguments[0].double().transpose(0, 1).flatten(1)
        if isinstance(mean, torch.Tensor) and isinstance(variance, torch.Tensor):
            mean, variance = mean.double(), variance.double() + norm.eps
            # As it was made, it has learned nothing.
            if bool(mean.any()) and values.shape[1] > 1:
                found, spread = values.mean(1), values.var(1, correction=0)
                ratio = (spread / variance).clamp_min(1e-12)
                distance = ((found - mean) ** 2 / variance + ratio - 1 - ratio.log()) / 2
                seen.append(_Seen(name or "itself", float(distance.mean()), math.exp(float(ratio.log().mean()))))
        raise _Stopped

    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    handles = [
        module.register_forward_pre_hook(lambda norm, arguments, name=name: hook(name, norm, arguments))
        for name, module in model.named_modules()
        if isinstance(module, norms)
    ]
    if not handles:
        return None
    try:
        with evaluation_mode(model), torch.inference_mode():
            call(model, placed(images, *placement(model)))
    except (_Stopped, RuntimeError, ValueError, TypeError, IndexError):
        # A network that cannot take these inputs is told of where it is asked.
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen[0] if seen else None
