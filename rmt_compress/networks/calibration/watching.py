"""Seeing a network apply its weights, and the gradients that come back to where it did.

A mode around torch's functions, since what modules hide (packed q, k, v; experts; tensors that a parent multiplies
itself) calls them as well. Neither modules nor weights are touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from rmt_compress.networks.calibration.applied import Use, UsedOtherwise, Weights, read_use


class Watcher(Protocol):
    """Who is told of every use of a weight."""

    def applied(self, use: Use, output: torch.Tensor) -> torch.Tensor:
        """A weight has been applied; what is returned takes the place of the output."""
        ...

    def used_otherwise(self, name: str) -> None:
        """The weight called `name` has been applied in a way that its layer is not read."""
        ...


def watched(
    func: Callable[..., Any], args: tuple[Any, ...], given: Mapping[str, Any], weights: Weights, watcher: Watcher
) -> Any:
    """Run `func`, and tell `watcher` of the weight it applies; what is to stand for its output comes back."""
    output = func(*args, **given)
    try:
        use = read_use(func, weights, args, given)
    except UsedOtherwise as error:
        watcher.used_otherwise(str(error))
        return output
    return output if use is None else watcher.applied(use, output)


class Watch(TorchFunctionMode):
    """While it is entered, `watcher` is told of every use of one of `weights`."""

    def __init__(self, weights: Weights, watcher: Watcher) -> None:
        super().__init__()
        self._weights = weights
        self._watcher = watcher

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func`, and tell of the weight it applies."""
        given = kwargs or {}
        if func is functional.multi_head_attention_forward:
            return self._attention(args, given)
        return watched(func, args, given, self._weights, self._watcher)

    def _attention(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Attention of torch with its four products taken out, where they are weights that are known.

        Inside it nothing can be seen; so it gets what is projected already, and identities as weights.
        """
        given = {**dict(zip(_ATTENTION, args, strict=False)), **kwargs}
        packed, out = given["in_proj_weight"], given["out_proj_weight"]
        if given.get("use_separate_proj_weight", False):
            parts = [given[f"{label}_proj_weight"] for label in "qkv"]
        else:
            parts = [None] * 3 if packed is None else list(packed.chunk(3))
        known = [part is not None and self._weights.find(part) is not None for part in parts]
        if not any(known) and self._weights.find(out) is None:
            return functional.multi_head_attention_forward(*args, **kwargs)
        bias = given["in_proj_bias"]
        biases = [None] * 3 if bias is None else bias.chunk(3)
        for name, part, own_bias in zip(("query", "key", "value"), parts, biases, strict=True):
            given[name] = self._linear(given[name], part, own_bias)
        width = given["embed_dim_to_check"]
        identity = torch.eye(width, dtype=out.dtype, device=out.device)
        given |= {
            "in_proj_weight": identity.repeat(3, 1),
            "in_proj_bias": None,
            "use_separate_proj_weight": False,
            **dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight")),
            "out_proj_weight": identity,
            "out_proj_bias": None,
        }
        output, attention = functional.multi_head_attention_forward(**given)
        return self._linear(output, out, _value(args, kwargs, "out_proj_bias")), attention

    def _linear(self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        with self:
            return functional.linear(inputs, weight, bias)


_ATTENTION = (
    *("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias"),
    *("bias_k", "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias", "training"),
    *("key_padding_mask", "need_weights", "attn_mask", "use_separate_proj_weight"),
    *(
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
        "static_k",
        "static_v",
        "average_attn_weights",
        "is_causal",
    ),
)


def _value(args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> Any:
    return {**dict(zip(_ATTENTION, args, strict=False)), **kwargs}.get(name)
