"""How a node of an ONNX graph applies its operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Call:
    """How a node applies its operator.

    Attributes:
        inputs: tensors, None for what is left out.
        attributes: by name.
        opset: of the model.
        outputs: how many it gives.
    """

    inputs: Sequence[Tensor | None]
    attributes: Mapping[str, Any]
    opset: int
    outputs: int = 1

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.given(0)

    @property
    def tensors(self) -> list[Tensor]:
        """All inputs that are there."""
        return [tensor for tensor in self.inputs if tensor is not None]

    def given(self, place: int) -> Tensor:
        """Input number `place`."""
        found = self.optional(place)
        assert found is not None
        return found

    def optional(self, place: int) -> Tensor | None:
        """Input number `place`, None where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def get(self, name: str, default: Any) -> Any:
        """The attribute called `name`."""
        return self.attributes.get(name, default)

    def numbers(self, name: str, place: int) -> list[int] | None:
        """Whole numbers that are an attribute in older opsets and an input in newer; None where left out."""
        if name in self.attributes:
            return [int(number) for number in self.attributes[name]]
        given = self.optional(place)
        return None if given is None else [int(number) for number in given.reshape(-1)]
