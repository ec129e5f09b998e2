"""A checkpoint as a plan makes it: a view of the one that is compressed, whose tensors are made as they are read.

Whatever is compressed takes `Compressed.become` or, where a live module is changed in place, `become`: a tensor of
the checkpoint goes in, what became of it comes out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.base import Checkpoint, View
from rmt_compress.checkpoints.keys import ARCHITECTURE_KEY
from rmt_compress.checkpoints.provenance import make_manifest
from rmt_compress.compression.became import Became, become
from rmt_compress.compression.weights import LayerOutcome, Step, match_steps
from rmt_compress.decomposition.devices import decomposing_device, sent
from rmt_compress.errors import CompressionError
from rmt_compress.layers.kinds import KINDS, factor_shapes
from rmt_compress.layers.layer import TensorInfo
from rmt_compress.layers.splitting import Factors, beside, factor_names

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.manifest import Manifest
    from rmt_compress.compression.finished_factors import FinishedFactors
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.plan import Layout, Plan
    from rmt_compress.progress import Progress


def grouped(steps: Iterable[Step]) -> dict[str, list[Step]]:
    """Name of a tensor in the checkpoint -> the steps of the layers in it, in its order."""
    return {tensor: list(group) for tensor, group in groupby(steps, key=lambda step: step.layer.stored)}


def corrected(bias: Factors | torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """A bias and what it gains, in its own type."""
    assert not isinstance(bias, Factors)
    return (bias.double() + gain.to(bias.device)).to(bias.dtype)


class Compressed(View):
    """The tensors of a compressed network, under the names they have in a state dict.

    The plan is matched once, by the call itself. A tensor is compressed when it is read; of two factors the second
    waits for the next call, so that whoever reads in order has one decomposition in memory and makes none twice.

    Args:
        inner: what is compressed; it stays open as long as this is read.
        plan: made from an analysis of it; what it does not name is kept.
        moments: of its layers, for a plan of a calibrated basis.
        layout: ``factorized``, or ``dense`` for original names and shapes.
        architecture: the network in one word; None for what the metadata of `inner` say.
        device: where weights are decomposed; None for where they are read. What becomes of them is on that again.
        progress: called with (layers done, layers in all, name) after each layer.

    Attributes:
        groups: name of a tensor of `inner` -> the steps of the layers in it.
        repaired: values that take the place of what the plan makes, of the same shapes, by their names here.
        finished: where changed tensors are kept, and taken from, where they are.
    """

    def __init__(
        self,
        inner: Checkpoint,
        plan: Plan,
        *,
        moments: Moments | None = None,
        layout: Layout = "factorized",
        architecture: str | None = None,
        device: str | torch.device | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(inner)
        self.plan, self.layout = plan, layout
        if architecture is not None:
            self.metadata = {**inner.metadata, ARCHITECTURE_KEY: architecture}
        self._steps = match_steps(inner.layers(), plan, layout, moments)
        self.groups = grouped(self._steps)
        # Name of a bias that changes -> the weight it changes with, and what it gains once that is known.
        self._corrected = {step.bias: step.layer.stored for step in self._steps if step.bias is not None}
        self._corrections: dict[str, torch.Tensor] = {}
        self._device = None if device is None else decomposing_device(device)
        self._progress = progress
        self.repaired: Mapping[str, torch.Tensor] = {}
        self.finished: FinishedFactors | None = None
        self._done: dict[str, LayerOutcome] = {}
        self._waiting: dict[str, torch.Tensor] = {}

    @property
    def outcomes(self) -> tuple[LayerOutcome, ...]:
        """What was done to each layer, so far as it was read."""
        return tuple(self._done[step.layer.tensor] for step in self._steps if step.layer.tensor in self._done)

    @property
    def bytes_changed(self) -> int:
        """Bytes of all that is made of the tensors that change."""
        changed = {tensor for tensor, steps in self.groups.items() if any(step.changes for step in steps)}
        return sum(self.tensors[new].nbytes for new, (origin, _) in self._origins.items() if origin in changed)

    def become(self, tensor: str) -> Became:
        """What becomes of the tensor of this name in `inner`; one with NaN or Inf cannot be cut.

        A bias that takes up the mean of what is cut waits for its weight, which is decomposed for it where it comes
        later; its own correction is in its value.
        """
        became = self._become(tensor)
        self._corrections.update(became.corrections)
        if (weight := self._corrected.get(tensor)) is not None:
            if tensor not in self._corrections:
                self._corrections.update(self._become(weight).corrections)
            became = replace(became, value=corrected(became.value, self._corrections[tensor]), changed=True)
        for outcome in became.outcomes:
            self._done[outcome.tensor] = outcome
            if self._progress is not None:
                self._progress(len(self._done), len(self._steps), outcome.name)
        return became

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Names, shapes and types of what `read` gives; no two tensors may get one name."""
        return self._outline

    @property
    def ties(self) -> Mapping[str, tuple[str, ...]]:
        """First name of a shared tensor -> its other names; those of a shared layer's factors too."""
        return {
            new: tuple(self._names[other][part] for other in others)
            for first, others in self.inner.ties.items()
            for part, new in enumerate(self._names[first])
        }

    def read(self, name: str) -> torch.Tensor:
        """The tensor called `name`, detached; one that was left as it is may be `inner`'s own."""
        self._info(name)
        origin, own = self._origins[name]
        if own not in self._waiting:
            value = self.become(origin).value
            pieces = value if isinstance(value, Factors) else (value,)
            self._waiting = dict(zip(self._names[origin], pieces, strict=True))
        made = self._waiting.pop(own)
        repaired = self.repaired.get(name)
        return made if repaired is None else repaired.to(made)

    def expect(self, name: str) -> None:
        """See `Checkpoint.expect`: of the tensor that this one is made of."""
        self.inner.expect(self._origins[name][0])

    def _become(self, tensor: str) -> Became:
        """What becomes of a tensor where weights are decomposed, back where it was read; or what is kept of it."""
        steps, known = self.groups[tensor], self.finished
        if known is None or not any(step.changes for step in steps):
            return self._made(tensor)
        if (became := known.became(tensor, steps)) is None:
            became = self._made(tensor)
            known.add(tensor, became)
        return became

    def _made(self, tensor: str) -> Became:
        steps, read = self.groups[tensor], self.inner.read(tensor)
        if self._device is None or not any(step.worth_sending for step in steps):
            return become(read, steps)
        became = become(sent(read, self._device), steps)
        value = became.value
        if isinstance(value, Factors):
            return replace(became, value=Factors(*(part.to(read.device) for part in value)))
        return replace(became, value=value.to(read.device))

    def close(self) -> None:
        """Give back what the inner checkpoint keeps open."""
        self._waiting = {}
        super().close()

    @cached_property
    def manifest(self) -> Manifest:  # type: ignore[override] # an attribute elsewhere
        """What the file is going to say of itself; the source is read once for its SHA-256."""
        return make_manifest(
            self.inner, self.plan, self.tensors, layout=self.layout, ties=self.ties, metadata=self.metadata
        )

    @cached_property
    def _firsts(self) -> dict[str, str]:
        return {other: first for first, others in self.inner.ties.items() for other in others}

    @cached_property
    def _origins(self) -> dict[str, tuple[str, str]]:
        """Every name here -> the tensor of `inner` that is read for it, and its own first name here."""
        firsts = {name: self._firsts.get(name, name) for name in self._names}
        return {
            new: (firsts[name], own)
            for name, names in self._names.items()
            for new, own in zip(names, self._names[firsts[name]], strict=True)
        }

    @cached_property
    def _outline(self) -> dict[str, TensorInfo]:
        shapes = {
            step.layer.tensor: factor_shapes(step.layer.kind, step.layer.shape, step.rank)
            for step in self._steps
            if step.splits
        }
        outline = {}
        for name, new_names in self._names.items():
            info = self.inner.tensors[name]
            itemsize = info.nbytes // math.prod(info.shape) if math.prod(info.shape) else 0
            made = shapes.get(self._firsts.get(name, name), (info.shape,))
            for new, shape in zip(new_names, made, strict=True):
                nbytes = info.nbytes if shape == info.shape else itemsize * math.prod(shape)
                outline[new] = replace(info, name=new, shape=shape, nbytes=nbytes)
        return outline

    @cached_property
    def _names(self) -> dict[str, tuple[str, ...]]:
        """Every name in `inner` -> its one or two names here."""
        names: dict[str, tuple[str, ...]] = {name: (name,) for name in self.inner.tensors}
        renamed: dict[str, tuple[str, ...]] = {}
        for step in self._steps:
            if not step.splits:
                continue
            for weight in (step.layer.tensor, *step.layer.aliases):
                try:
                    down, up, up_bias = factor_names(weight, step.layer.kind)
                except ValueError as error:
                    raise CompressionError(
                        f"{error}, so that a state dict has no names for its factors; prune the file itself, which "
                        "has a graph, or choose layout dense"
                    ) from error
                renamed[weight] = (down, up)
                bias = beside(weight, "bias")
                if bias in names and not KINDS[step.layer.kind].stacked:
                    renamed[bias] = (up_bias,)
        names |= renamed
        new = [name for parts in names.values() for name in parts]
        if len(set(new)) < len(new):
            twice = next(name for name in new if new.count(name) > 1)
            raise CompressionError(f"{twice} would stand for two tensors; leave the layer around it out (exclude)")
        return names
