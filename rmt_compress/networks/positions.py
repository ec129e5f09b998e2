"""At how many positions every layer is applied: tokens of a text, places of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmt_compress.networks.calling import call, first_axis, without_cache
from rmt_compress.networks.measurement import evaluation_mode

if TYPE_CHECKING:
    import torch
    from torch import nn


def layer_positions(model: nn.Module, inputs: Any) -> dict[str, float]:
    """Name of a layer's weight -> positions per sample, by one forward pass of `inputs`.

    Of a Linear the vectors that it takes, of a convolution the places of its output, of a transposed one those of
    its input. Layers that are applied without their module (stacks of experts, a graph's) are not in it.
    """
    import torch
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    samples = first_axis(inputs)
    found: dict[str, float] = {}

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if isinstance(module, _ConvNd):
                places = arguments[0] if module.transposed else output
                count = places.numel() // places.shape[1 if places.ndim == module.weight.ndim else 0]
            else:
                count = output.numel() // output.shape[-1]
            key = f"{name}.weight" if name else "weight"
            found[key] = found.get(key, 0.0) + count / samples

        return module.register_forward_hook(hook)

    handles = [
        watch(name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | _ConvNd) or type(module).__name__ == "Conv1D"
    ]
    try:
        with evaluation_mode(model), without_cache(model), torch.inference_mode():
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found
