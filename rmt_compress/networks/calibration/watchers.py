"""Who watches a network: one that learns which layers run on what, one that adds up moments."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.utils.weak import WeakIdKeyDictionary

from rmt_compress.layers.kinds import KINDS
from rmt_compress.networks.calibration.patches import places
from rmt_compress.networks.calibration.repeated_batches import Padding
from rmt_compress.networks.calibration.sums import SecondMoment

if TYPE_CHECKING:
    from rmt_compress.layers.layer import Layer
    from rmt_compress.networks.calibration.applied import Use

Token = tuple[object, ...]

_FEW = 0.05
"""Weights of which fewer than this share of the vectors would count are not used."""


class Tensors:
    """Numbers for tensors: the same number for the same values, and none twice."""

    def __init__(self) -> None:
        self._numbers: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._next = 0

    def token(self, use: Use) -> Token:
        """What a weight is applied to, read as it is; two that are equal have one C."""
        if use.tensor not in self._numbers:
            self._numbers[use.tensor] = self._next
            self._next += 1
        version = 0 if use.tensor.is_inference() else use.tensor._version
        stacked = use.expert if use.expert is not None else use.layer.kind
        return self._numbers[use.tensor], version, use.geometry, use.columns, stacked == "stack", use.expert


@dataclass
class Seen:
    """What is known of a layer once the network has run.

    Attributes:
        layer: the layer.
        inputs: numbers in x, n.
        outputs: numbers in g, m.
        spread: of a transposed convolution the product of its strides, of everything else 1.
        tokens: what it was applied to.
    """

    layer: Layer
    inputs: int
    outputs: int
    spread: int = 1
    tokens: list[Token] = field(default_factory=list)

    @property
    def experts(self) -> int | None:
        """How many matrices a stack has; None for what is none."""
        return self.layer.shape[0] if self.layer.kind == "stack" else None


class Scout:
    """Learns which layers run, on how many numbers, and which on the same."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}
        self.otherwise: set[str] = set()
        self._tensors = Tensors()

    def applied(self, use: Use, output: torch.Tensor) -> torch.Tensor:
        """Note the use."""
        inputs, outputs = use.sizes(output)
        name = use.layer.tensor
        spread = math.prod(use.geometry.stride) if use.geometry is not None and use.reads_places else 1
        seen = self.seen.setdefault(name, Seen(use.layer, inputs, outputs, spread))
        if (seen.inputs, seen.outputs) != (inputs, outputs):
            self.otherwise.add(name)
        seen.tokens.append(self._tensors.token(use))
        return output

    def used_otherwise(self, name: str) -> None:
        """Note the name."""
        self.otherwise.add(name)

    def expect(self, layer: Layer) -> None:
        """Reckon with a layer that has not run."""
        assert layer.matrix is not None
        outputs, inputs = reversed(layer.matrix) if KINDS[layer.kind].swaps else layer.matrix
        self.seen[layer.tensor] = Seen(layer, inputs, outputs)

    def groups(self, alone: set[str]) -> list[list[Seen]]:
        """The layers in the order they run in, those together that were applied to the same; `alone` are not."""
        found: dict[object, list[Seen]] = {}
        for name, seen in self.seen.items():
            if name not in self.otherwise:
                # Experts run one by one on what the router gives them, and not all at every batch.
                own = name in alone or seen.experts is not None or not seen.tokens
                found.setdefault((name,) if own else tuple(seen.tokens), []).append(seen)
        return list(found.values())


class NotShared(Exception):  # noqa: N818  # no error of anybody's
    """Two layers that ran on the same tensor do so no more; `args` is the name of the second."""


@dataclass(frozen=True)
class LayerSums:
    """The sums of one layer; those of the inputs are its leader's, which is applied to the same."""

    leader: str
    inputs: SecondMoment
    outputs: SecondMoment


def states(sums: Mapping[str, LayerSums]) -> dict[str, torch.Tensor]:
    """All that sums go on from, each once, by names."""
    found: dict[str, torch.Tensor] = {}
    for name, own in sums.items():
        if own.leader == name:
            found |= {f"inputs/{name}/{key}": tensor for key, tensor in own.inputs.state().items()}
        found |= {f"outputs/{name}/{key}": tensor for key, tensor in own.outputs.state().items()}
    return found


class _Held:
    """Vectors of one use that wait for the gradients at the outputs that they lead to."""

    def __init__(self, vectors: torch.Tensor, expert: int | None) -> None:
        self.vectors = vectors
        self.expert = expert
        self.felt: torch.Tensor | None = None

    def feel(self, gradients: torch.Tensor) -> None:
        """Gradients at the outputs of one layer, (…, m), have come."""
        squares = torch.linalg.vector_norm(gradients.detach(), dim=-1, dtype=torch.float64).square()
        self.felt = squares if self.felt is None else self.felt + squares

    def weights(self) -> torch.Tensor | None:
        """What each vector counts, with a mean of 1; None where all count alike.

        They do where a few would count for all: of a network that is sure of its answers the gradients are those of
        a few samples, from which C would be known too poorly.
        """
        if self.felt is None or self.felt.shape != self.vectors.shape[:-1]:
            return None
        mean, square = self.felt.mean(), self.felt.square().mean()
        if not bool(mean.square() > _FEW * square):
            return None
        return self.felt / mean


FeltElsewhere = Callable[[str, int, int, "torch.Tensor | None"], "torch.Tensor | None"]
"""Name of a leader, number of the batch and of the use, Σ |g|² of each vector -> the same together with what layers
feel there that are measured at another time."""


class Adder:
    """Adds up the moments of some layers.

    Of a product each vector counts as much as the loss feels errors there, |g|² summed over the layers that read
    it: E[xxᵀ ⊗ ggᵀ] is then met better by one product C ⊗ G than where x and g are taken for independent.

    Args:
        sums: by the names of the layers.
        seed: of the places of convolutions.
        positions: how many places of a sample are looked at.
        weighted: whether vectors are weighed.
        elsewhere: who knows of other layers that read the same; None where there are none.
    """

    def __init__(
        self,
        sums: Mapping[str, LayerSums],
        seed: int,
        positions: int | None,
        *,
        weighted: bool = True,
        elsewhere: FeltElsewhere | None = None,
    ) -> None:
        self._sums = sums
        self._seed = seed
        self._positions = positions
        self._weighted = weighted
        self._elsewhere = elsewhere
        self._shared = {one.leader for name, one in sums.items() if one.leader != name}

    def start(self, batch: int, inputs: object) -> None:
        """A batch begins."""
        self._batch = batch
        self._padding = Padding(inputs)
        self._tensors = Tensors()
        self._tokens: dict[str, list[Token]] = {name: [] for name in self._sums}
        self._held: dict[str, list[_Held]] = {name: [] for name in self._sums}
        self._uses = dict.fromkeys(self._sums, 0)

    def finish(self) -> None:
        """The network has run.

        Raises:
            NotShared: a layer has not run whenever its leader did.
        """
        for name, sums in self._sums.items():
            if self._tokens[name] != self._tokens[sums.leader]:
                raise NotShared(name)
        for name, uses in self._held.items():
            for number, held in enumerate(uses):
                if self._elsewhere is not None:
                    held.felt = self._elsewhere(name, self._batch, number, held.felt)
                self._sums[name].inputs.add(held.vectors, expert=held.expert, weights=held.weights())
            uses.clear()

    def applied(self, use: Use, output: torch.Tensor) -> torch.Tensor:
        """Add x, and wait for g."""
        name = use.layer.tensor
        sums = self._sums.get(name)
        if sums is None:
            return output
        grid = use.grid(output)
        chosen = self._places(use, grid, sums.leader)
        number, felt = self._uses[name], torch.is_grad_enabled() and not output.is_inference()
        self._uses[name] += 1
        waits = self._weighted and felt and use.geometry is None
        if name == sums.leader:
            vectors = self._kept(use, use.inputs(grid, chosen))
            if waits:
                self._held[name].append(_Held(vectors, use.expert))
            else:
                sums.inputs.add(vectors, expert=use.expert)
        if name != sums.leader or name in self._shared:
            self._tokens[name].append(self._tensors.token(use))
        if not felt:
            return output
        if not output.requires_grad:
            # Of a leaf nothing may be changed in place, as activations are.
            output = output.requires_grad_().clone()
        output.register_hook(self._receiver(use.without_values(), sums, grid, chosen, number if waits else None))
        return output

    def used_otherwise(self, name: str) -> None:
        """What was used otherwise in the first batch has no sums."""

    def _places(self, use: Use, grid: tuple[int, ...], leader: str) -> torch.Tensor | None:
        if use.geometry is None:
            return None
        # Of its own for every layer and batch: neither which layers run together nor what ran before counts.
        generator = torch.Generator().manual_seed(seed_of(self._seed, "places", self._batch, leader))
        return places(use.samples, math.prod(grid), self._positions, generator)

    def _receiver(
        self, use: Use, sums: LayerSums, grid: tuple[int, ...], chosen: torch.Tensor | None, number: int | None
    ) -> Callable[[torch.Tensor], None]:
        # Where only some places are looked at, each stands for several.
        few = use.reads_places and chosen is not None
        factor = math.prod(grid) / chosen.shape[1] if few and chosen is not None else 1.0

        def receive(gradient: torch.Tensor) -> None:
            vectors = self._kept(use, use.gradients(gradient, grid, chosen))
            sums.outputs.add(vectors, expert=use.expert, factor=factor)
            # A follower that has run more often than its leader shares nothing, as `finish` finds.
            if number is not None and number < len(self._held[sums.leader]):
                self._held[sums.leader][number].feel(vectors)

        return receive

    def _kept(self, use: Use, vectors: torch.Tensor) -> torch.Tensor:
        """Without padding, where the vectors are tokens."""
        return vectors if use.geometry is not None else self._padding.kept(vectors)


def seed_of(seed: int, *what: object) -> int:
    """A seed for one of many things that are drawn."""
    return zlib.crc32(repr((seed, *what)).encode()) + (abs(seed) % 2**30 << 32)
