"""Layers in two inside a network of transformers, whose classes read more of their layers than the outputs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def is_library_model(model: object) -> bool:
    """Whether a network is of one of transformers' classes."""
    # The class is there once this is; asking the package for it would import thousands of files.
    library = sys.modules.get("transformers.modeling_utils")
    return library is not None and isinstance(model, library.PreTrainedModel)


def with_attributes(pair: torch.nn.Sequential, whole: torch.nn.Module) -> torch.nn.Sequential:
    """Two layers that answer for the one they replace where its network reads more of it than its outputs."""
    from rmt_compress.layers.modeling_factorized import Factors

    down, up = (pair.get_submodule(part) for part in ("down", "up"))
    return Factors(down, up, whole).train(whole.training)
