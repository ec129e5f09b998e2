"""What a compressed file says of itself: where it came from, what was done, and how its tensors are to be read.

The manifest is JSON text: in a safetensors header under ``rmt_compress``, beside the ``state_dict`` of a
``torch.save`` file under the same key. Whatever text the source file carried stands beside it, unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rmt_compress.errors import CheckpointError
from rmt_compress.layers.kinds import KINDS, factor_shapes
from rmt_compress.layers.layer import FLOAT_DTYPES, FactorPair, TensorInfo
from rmt_compress.layers.splitting import beside, is_weight, join_factors
from rmt_compress.plan import Layout, Plan
from rmt_compress.wording import printable, problems_listed, times

if TYPE_CHECKING:
    import torch


_Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class SourceRecord(_Record):
    """The checkpoint that was compressed.

    Attributes:
        name: of the file or folder, without the path to it.
        format: as `Checkpoint.format`.
        sha256: of the file; of several shards see `file_digest`; None for what was never a file.
        bytes: size of the file or of all shards; of what was never a file, of its tensors.
        parameters: entries of all tensors, tied ones once.
    """

    name: str
    format: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    bytes: _Count
    parameters: _Count


class FactorizedLayer(_Record):
    """One weight that is stored as two.

    Attributes:
        name: the layer's name.
        weight: original name of its weight.
        kind: ``linear``, ``conv2d`` ….
        shape: original shape of the weight.
        bias: original name of its bias, None where it has none.
        down: name of the first factor.
        up: name of the second; the bias is stored under this name with ``bias`` at its end.
        rank: singular values kept.
        transposed: whether both factors are stored transposed, as a product with the weight on the right takes
            them.
    """

    name: str
    weight: str
    kind: str
    shape: tuple[_Count, ...]
    bias: str | None
    down: str
    up: str
    rank: Annotated[int, Field(ge=1)]
    transposed: bool = False

    @property
    def up_bias(self) -> str:
        """Name under which the bias is stored, where there is one."""
        return beside(self.up, "bias")

    @property
    def factor_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of ``down`` and ``up`` as they are stored."""
        down, up = factor_shapes(self.kind, self.shape, self.rank)
        return (down[::-1], up[::-1]) if self.transposed else (down, up)

    @property
    def pair(self) -> FactorPair:
        """The product that the two stand for."""
        kind = KINDS[self.kind]
        rows, columns = kind.matrix(self.shape) or (0, 0)
        return FactorPair(self.name, self.up, rows, columns, kind.stacked)

    def join(self, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """The dense weight that the stored factors stand for; see `join_factors`."""
        if self.transposed:
            down, up = down.T, up.T
        return join_factors(self.kind, self.shape, down, up)


class Manifest(_Record):
    """What a compressed file says of itself.

    Attributes:
        schema_: the format of the JSON text.
        tool_version: version of this package that wrote the file.
        source: what was compressed; None where nobody said.
        plan: what was done to every layer; None for a model saved without one.
        layout: ``factorized``: two tensors for every weight in `factorized`; ``dense``: original names and shapes.
        factorized: the weights that are stored as two.
        sparse: names of tensors stored as bitmask and values; see `rmt_compress.layers.bitmask`.
        pivots: names of tensors stored without their rows of the identity; see `rmt_compress.layers.pivot_rows`.
            Not in the JSON where there are none, so that versions that know of none read all other files.
        patterned: names of tensors stored as the kept entries of their groups; see
            `rmt_compress.layers.group_patterns`. Likewise.
        ties: other name of a shared tensor -> the name it is stored under.
        architecture: the network in one word, see `rmt_compress.networks.architectures`; None where unknown.
        metadata: text entries carried over from the source; they stand beside the manifest, not in its JSON.
    """

    schema_: Literal["rmt-compress/manifest/1"] = Field(default="rmt-compress/manifest/1", alias="schema")
    tool_version: str
    source: SourceRecord | None = None
    plan: Plan | None = None
    layout: Layout = "factorized"
    factorized: tuple[FactorizedLayer, ...] = ()
    sparse: tuple[str, ...] = ()
    pivots: tuple[str, ...] = ()
    patterned: tuple[str, ...] = ()
    ties: dict[str, str] = Field(default_factory=dict)
    architecture: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict, exclude=True)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.layout == "dense" and (self.factorized or self.sparse or self.pivots or self.patterned):
            raise ValueError("a dense layout has neither factorized nor sparse tensors")
        names = [layer.weight for layer in self.factorized]
        names += [layer.bias for layer in self.factorized if layer.bias is not None]
        names += [name for layer in self.factorized for name in (layer.down, layer.up)]
        encoded = (*self.sparse, *self.pivots, *self.patterned)
        if len(set(names)) < len(names) or len(set(encoded)) < len(encoded):
            raise ValueError("a name stands for two things")
        if self.plan is not None:
            json.dumps(self.plan.settings, allow_nan=False)
        for layer in self.factorized:
            factor_shapes(layer.kind, layer.shape, layer.rank)
            if layer.transposed and len(layer.shape) != 2:
                raise ValueError(f"the factors of {layer.weight} cannot be transposed")
            if layer.bias is None:
                continue
            if not (is_weight(layer.up) and is_weight(layer.weight)):
                raise ValueError(f"{layer.up} is no weight")
            if layer.bias != beside(layer.weight, "bias"):
                raise ValueError(f"{layer.bias} is not the bias beside {layer.weight}")
        return self

    @property
    def pairs(self) -> dict[str, FactorPair]:
        """Name of the first factor -> the pair, of every weight that is stored as two."""
        return {layer.down: layer.pair for layer in self.factorized}

    def sentence(self) -> str:
        """What wrote the file and from what, for a user."""
        source = f" from {self.source.name}" if self.source else ""
        return printable(f"Compressed by rmt-compress {self.tool_version}{source}.")

    def to_json(self) -> str:
        """The manifest as one line of JSON, `metadata` left out."""
        empty = {name for name in ("pivots", "patterned") if not getattr(self, name)}
        return self.model_dump_json(by_alias=True, exclude=empty or None)

    @classmethod
    def from_json(cls, text: str, *, origin: str, metadata: Mapping[str, str] | None = None) -> Manifest:
        """A manifest from the text in the file `origin`, every field checked; an error names the first problems."""
        try:
            manifest = cls.model_validate_json(text)
        except ValidationError as error:
            problems = [
                f"{'.'.join(str(part) for part in problem['loc']) or 'the text'}: {problem['msg']}"
                for problem in error.errors(include_url=False, include_input=False, include_context=False)[:5]
            ]
            raise CheckpointError(
                f"{origin}: its manifest is damaged or newer than this version: "
                f"{'; '.join(problems)}; compress the source again"
            ) from error
        return manifest.model_copy(update={"metadata": dict(metadata or {})})

    def not_in(self, tensors: Mapping[str, TensorInfo]) -> str | None:
        """What the manifest says and its file's `tensors`, sparse ones under their own names, do not hold.

        Another program that copies a file's text entries may have renamed, cast, fused or dropped the tensors that
        they speak of. None where all is as it says; else the first differences, in words.
        """
        problems = []
        for layer in self.factorized:
            problems += _factor_problems(layer, tensors)
        for alias, kept in self.ties.items():
            if kept not in tensors:
                problems.append(f"{kept} (shared by {alias}) is missing")
        if self.plan is not None and not self.factorized:
            # Parts of a tensor and what is computed of several have names of their own, but never all.
            named = [decision.tensor for decision in self.plan.layers]
            if named and not any(name in tensors for name in named):
                problems += [f"{name} is missing" for name in named]
        return problems_listed(problems) if problems else None

    @staticmethod
    def no_longer_holds(difference: str) -> str:
        """What a user is told of a file whose tensors differ from its manifest, see `not_in`."""
        return printable(
            f"Another program has changed the file since rmt-compress wrote it ({difference}): read as an ordinary "
            "one."
        )


def _factor_problems(layer: FactorizedLayer, tensors: Mapping[str, TensorInfo]) -> list[str]:
    problems = []
    expected = dict(zip((layer.down, layer.up), layer.factor_shapes, strict=True))
    if layer.bias is not None:
        expected[layer.up_bias] = (layer.shape[KINDS[layer.kind].outputs],)
    for name, shape in expected.items():
        if name not in tensors:
            problems.append(f"{name} is missing")
        elif tensors[name].shape != shape:
            problems.append(f"{name} is {times(tensors[name].shape)} instead of {times(shape)}")
    if not problems and tensors[layer.down].dtype != tensors[layer.up].dtype:
        problems.append(f"{layer.down} and {layer.up} are of different types")
    elif not problems and tensors[layer.down].dtype not in FLOAT_DTYPES:
        problems.append(f"{layer.down} is stored as {tensors[layer.down].dtype}")
    problems += [f"{name} is there beside its factors" for name in (layer.weight, layer.bias) if name in tensors]
    return problems
