"""Inputs that a network has made, in the file of the moments that were measured with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rmt_compress.decomposition.moments_file import KeptInputs
from rmt_compress.errors import DataError
from rmt_compress.networks.calibration.made_up import MadeUp

if TYPE_CHECKING:
    import torch

_ALONE = "inputs"


def kept_inputs(made: MadeUp) -> KeptInputs:
    """What is written of them: whole numbers in 64 bits, all else in float32 at least."""
    import torch

    first = made.batches[0]
    if isinstance(first, Mapping):
        joined = {name: torch.cat([batch[name] for batch in made.batches]) for name in first}
    else:
        joined = {_ALONE: torch.cat(made.batches)}
    return KeptInputs({name: _plain(tensor) for name, tensor in joined.items()}, made.record)


def made_from(kept: KeptInputs) -> MadeUp:
    """The inputs in one batch, as the network is called with them.

    Raises:
        DataError: they are none that `kept_inputs` has given.
    """
    tensors, kind = dict(kept.tensors), kept.record.get("kind")
    lengths = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors.values()}
    if not isinstance(kind, str) or len(lengths) != 1 or 0 in lengths:
        raise DataError("the inputs kept with the moments are damaged; measure them again")
    batch: Any = tensors[_ALONE] if set(tensors) == {_ALONE} else tensors
    return MadeUp((batch,), kind, kept.record)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return tensor.long()
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
