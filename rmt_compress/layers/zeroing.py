"""Zeroing the small entries of weights (BSSZ24 §4.2.1): below a threshold, or a share of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def sparsify(tensor: torch.Tensor, threshold: float) -> torch.Tensor:
    """A copy of `tensor` with the entries of |w| < `threshold` set to 0; NaN stays."""
    # In the tensor's own type a threshold of 0.01 would be another number for bfloat16 than for float32.
    magnitude = tensor.abs().to(torch.promote_types(tensor.dtype, torch.float32))
    return tensor.masked_fill(magnitude < threshold, 0)


def sparsify_quantile(tensors: Sequence[torch.Tensor], share: float) -> list[torch.Tensor]:
    """Copies of `tensors` with the smallest ⌊share·N⌋ of their N entries, all tensors together, set to 0.

    The two factors of a layer belong in one call: with Σ^½ on either side, removing an entry of size |w| of the
    k-th direction changes the product by |w|·√s_k in the Frobenius norm, whichever factor it is in. Of entries
    of equal size the first are zeroed.

    Args:
        tensors: of one floating-point type; NaN counts as large.
        share: in [0, 1].
    """
    # The slack undoes rounding: ⌊0.7·10⌋ is 7 though 0.7·10 may fall short of it, and (count / N)·N is count.
    count = int(share * sum(tensor.numel() for tensor in tensors) + 1e-6)
    if count == 0:
        return [tensor.clone() for tensor in tensors]
    magnitudes = torch.cat([tensor.detach().abs().flatten() for tensor in tensors])
    threshold = magnitudes.kthvalue(count).values
    zero = magnitudes < threshold
    equal = (magnitudes == threshold).nonzero().flatten()
    zero[equal[: count - int(zero.sum())]] = True
    masks = torch.split(zero, [tensor.numel() for tensor in tensors])
    return [tensor.masked_fill(mask.view(tensor.shape), 0) for tensor, mask in zip(tensors, masks, strict=True)]


# Types that torch stores and does not compute with; of packed ones the bytes are counted.
_COUNTED_AS = {
    "uint16": torch.int16,
    "uint32": torch.int32,
    "uint64": torch.int64,
    "bits8": torch.uint8,
    "bits16": torch.int16,
    "bits1x8": torch.uint8,
    "bits2x4": torch.uint8,
    "bits4x2": torch.uint8,
    "float4_e2m1fn_x2": torch.uint8,
}


def count_nonzero(tensor: torch.Tensor) -> int:
    """Entries that are not 0, of a tensor of any type and layout."""
    if tensor.is_nested:
        return sum(count_nonzero(part) for part in tensor.unbind())
    if tensor.layout == torch.sparse_coo:
        # Entries of one place add up.
        values = _counted(tensor._values())
        whole = torch.sparse_coo_tensor(tensor._indices(), values, tensor.shape, check_invariants=True)
        return int(torch.count_nonzero(whole.coalesce().values()))
    if tensor.layout != torch.strided:
        tensor = tensor.values()
    return int(torch.count_nonzero(_counted(tensor)))


def _counted(tensor: torch.Tensor) -> torch.Tensor:
    """Numbers that are zero where those of `tensor` are, in a type that torch counts and adds."""
    if tensor.is_quantized:
        return tensor.dequantize()
    if tensor.is_floating_point() and tensor.itemsize == 1 and not str(tensor.dtype).endswith("_x2"):
        return tensor.float()  # torch counts every 8-bit float
    if (other := _COUNTED_AS.get(str(tensor.dtype).removeprefix("torch."))) is not None:
        return tensor.view(other)
    return tensor.to(torch.complex64) if tensor.dtype == torch.complex32 else tensor
