"""Tensors that belong to a quantized weight: codes, scales and zero points, none of them a matrix that acts.

Codes of a whole-number or 8-bit type give themselves away by their type. Their scales are ordinary floats of two
dimensions and would pass for a Linear; they are known by the names the libraries use: bitsandbytes
(``weight.absmax``, ``SCB``), GPTQ and AWQ (``qweight`` beside ``scales``, ``qzeros``), fp8 (``weight_scale``,
``weight_scale_inv``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rmt_compress.layers.layer import FLOAT_DTYPES

if TYPE_CHECKING:
    from rmt_compress.layers.layer import TensorInfo

_SCALES = re.compile(
    r"(?P<weight>.+?)(?:_scale(?:_inv|_2)?|_scales|_zero_point|_shape|\.SCB|\.weight_format|\.absmax"
    r"|\.nested_absmax|\.quant_map|\.nested_quant_map|\.quant_state\..+)$"
)
_GROUPED = re.compile(r"(?P<path>(?:.*\.)?)(?:qweight|qzeros|scales|g_idx)$")


def quantized_part(name: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    """Why the tensor `name` is no weight to analyse: a part of a quantized one; None where it is none."""
    if (grouped := _GROUPED.match(name)) is not None and f"{grouped['path']}qweight" in tensors:
        return "a part of a weight quantized by GPTQ or AWQ; name the checkpoint it was made from"
    if name.endswith("_blocks") and f"{name.removesuffix('_blocks')}_scales" in tensors:
        return "the codes of a block-quantized weight (MXFP4); name the checkpoint it was made from"
    if (scale := _SCALES.match(name)) is None:
        return None
    codes = (scale["weight"], f"{scale['weight']}.weight", f"{scale['weight']}_packed", f"{scale['weight']}_blocks")
    if any(code in tensors and tensors[code].dtype not in FLOAT_DTYPES for code in codes):
        return "scales of a quantized weight; name the checkpoint it was made from"
    return None
