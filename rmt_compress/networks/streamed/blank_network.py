"""A network without memory for its weights.

Every parameter of a blank network is one number seen at all places: shapes, types and sharing are those of the
network, and it can be run to see which modules call which, but what comes out says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from rmt_compress.checkpoints.memory import ModuleCheckpoint
from rmt_compress.checkpoints.state_dicts import is_expanded
from rmt_compress.errors import CheckpointError
from rmt_compress.networks import architectures, huggingface
from rmt_compress.networks.loading import ARCH_HINT
from rmt_compress.saving.library_loading import quiet
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.layers.layer import Layer, TensorInfo

Slot = tuple[nn.Module, str]
"""Where a parameter stands: a module, and what it calls it."""


def blank_network(checkpoint: Checkpoint, arch: str | None) -> tuple[nn.Module, tuple[Layer, ...]]:
    """The network of a checkpoint, blank and in evaluation mode, and its layers; its class computes its buffers.

    Args:
        checkpoint: a Hugging Face folder, or weights of an architecture.
        arch: see `rmt_compress.networks.load_model`; None for a folder.

    Raises:
        CheckpointError: it names no network, or one that cannot be built without its weights.
        SettingsError: `arch` is wrong.
    """
    path = checkpoint.path
    if checkpoint.has_graph or checkpoint.manifest is not None:
        what = "carries its own graph" if checkpoint.has_graph else "is compressed already"
        raise CheckpointError(f"{path}: {what}, so that it is not run block after block; give more memory")
    folder = huggingface.model_folder(checkpoint) if arch is None else None
    named = arch or checkpoint.metadata.get("architecture")
    try:
        with _without_weights():
            if folder is not None:
                config, cls = huggingface.class_of(folder, trust=checkpoint.trusted)
                with quiet():
                    model = cls(config)
            elif named is None:
                raise CheckpointError(f"{path}: does not say which network it belongs to; add {ARCH_HINT}")
            else:
                architecture = architectures.parse(named)
                if arch is None and isinstance(architecture, architectures.UserModel):
                    raise CheckpointError(f"{path}: its network is code; if you trust it, add --arch {named}")
                model = architecture.build()
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its network cannot be built without its weights ({one_line(error)[:200]}); give more memory"
        ) from error
    blanks: dict[int, nn.Parameter] = {}
    for module, name in slots(model):
        parameter = module._parameters[name]
        assert parameter is not None
        module._parameters[name] = blanks.setdefault(id(parameter), _blank(parameter))
    return model.eval(), _Shapes(model).layers()


class _Shapes(ModuleCheckpoint):
    """A blank network, whose parameters are described as if they had their values."""

    def _describe(self, name: str, value: torch.Tensor) -> TensorInfo:
        info = super()._describe(name, value)
        return replace(info, why_skipped=None) if is_expanded(value) else info


@contextmanager
def _without_weights() -> Iterator[None]:
    """Parameters of modules that are made meanwhile take no memory; buffers do, for they are computed."""
    register = nn.Module.register_parameter

    def without_values(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type == "cpu":
            param = nn.Parameter(param.detach().to("meta"), requires_grad=False)
        register(self, name, param)

    nn.Module.register_parameter = without_values  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def slots(model: nn.Module) -> list[Slot]:
    """All places of parameters."""
    return [
        (module, name)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]


def _blank(parameter: nn.Parameter) -> nn.Parameter:
    # Products with such a weight are means of what comes in, so that no depth overflows.
    value = 1.0 if parameter.dim() < 2 else 1.0 / max(1, math.prod(parameter.shape[1:]))
    short = parameter.dtype in (torch.float16, torch.bfloat16)
    dtype = torch.float32 if short else parameter.dtype
    return nn.Parameter(torch.full((), value, dtype=dtype).expand(parameter.shape), requires_grad=False)


class BlankProducts(TorchFunctionMode):
    """While it is entered, products with blank weights are taken without a copy of them."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func`; of a blank weight's product with x the sum over x is all there is to compute."""
        given = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **(kwargs or {})}
        weight = given.get("weight")
        if func is not functional.linear or not isinstance(weight, torch.Tensor) or any(weight.stride()):
            return func(*args, **(kwargs or {}))
        x, bias = given["input"], given.get("bias")
        product = (x.sum(-1, keepdim=True) * weight[0, 0]).repeat(*[1] * (x.dim() - 1), len(weight))
        return product if bias is None else product + bias
