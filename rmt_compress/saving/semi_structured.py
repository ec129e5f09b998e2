"""Linear layers of pattern 2:4 as torch's semi-structured sparse tensors, which NVIDIA's GPUs multiply faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.errors import SettingsError

if TYPE_CHECKING:
    import torch

# The least multiples of rows and columns that the kernels take (torch.sparse.SparseSemiStructuredTensorCUTLASS).
_MULTIPLES = {"float16": (32, 64), "bfloat16": (32, 64), "float32": (32, 32), "int8": (16, 128)}


def semi_structured_layers(model: torch.nn.Module) -> tuple[str, ...]:
    """Names of the Linear layers that can be semi-structured: of pattern 2:4, and of a size and type of torch's."""
    from torch import nn

    return tuple(
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and _suits(module.weight)
    )


def to_semi_structured(model: torch.nn.Module) -> tuple[str, ...]:
    """Turn the weights of these layers into semi-structured tensors, in place; the network is for inference then.

    What `torch.sparse.to_sparse_semi_structured` does of each, on the GPU the network is on. Not run by the tests,
    which have no GPU: there the format alone is looked at.

    Args:
        model: on a CUDA device, such as `load` returned, moved there and to half precision.

    Returns:
        the names of the layers that were turned.

    Raises:
        SettingsError: a layer that suits is not on a CUDA device, or there is none.
    """
    import torch
    from torch import nn

    names = semi_structured_layers(model)
    if not names:
        raise SettingsError(
            [
                "no Linear layer has the pattern 2:4 in half precision and rows and columns in multiples of 32 and "
                "64: prune it with --pattern 2:4, load it, and call .half()"
            ]
        )
    weights = {name: model.get_parameter(f"{name}.weight" if name else "weight") for name in names}
    elsewhere = {str(weight.device) for weight in weights.values()}
    if any(not device.startswith("cuda") for device in elsewhere):
        raise SettingsError(
            [f"semi-structured tensors are for CUDA, the network is on {', '.join(sorted(elsewhere))}"]
        )
    for name, weight in weights.items():
        sparse = torch.sparse.to_sparse_semi_structured(weight.detach().contiguous())
        model.get_submodule(name).weight = nn.Parameter(sparse, requires_grad=False)
    return names


def _suits(weight: torch.Tensor) -> bool:
    rows, columns = _MULTIPLES.get(str(weight.dtype).removeprefix("torch."), (0, 0))
    if not rows or weight.shape[0] % rows or weight.shape[1] % columns:
        return False
    return int((weight.detach().reshape(-1, 4) != 0).sum(1).max()) <= 2
