"""One decision per layer: plain data that can be read, edited by hand and used again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer

from rmt_compress.errors import PlanError
from rmt_compress.notebooks.figures import figure_of
from rmt_compress.notebooks.notebook_tables import data_frame, html_table
from rmt_compress.wording import problems_listed, times

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Action = Literal["factorized", "truncated", "kept", "skipped"]
Shrink = Literal["frobenius", "operator", "nuclear"]
Shrinkages = dict[Literal["inputs", "outputs"], Annotated[float, Field(ge=0, le=1)]]


class LayerDecision(BaseModel):
    """What is done to one layer, and why.

    Attributes:
        name: the layer's name in the analysis.
        tensor: its weight's full name in the checkpoint.
        kind: its kind.
        shape: its weight's shape.
        action: ``factorized`` (two layers of rank `rank`), ``truncated`` (rank `rank` in the old shape), ``kept``
            or ``skipped`` (not looked at).
        rank: singular values kept; None unless factorized or truncated.
        sparsify: entries with |w| below this become 0, in the factors where there are two; None for none.
        sparsity: share of the smallest entries that become 0, all of them where a budget for the whole network
            takes a layer whole; None for none.
        pattern: ``K:N``: of N neighbouring entries of each row of the matrix, or of its factors, K are kept; None
            for none.
        pattern_by: ``inputs``: chosen by the second moments of what the layer reads, which carrying the plan out
            needs; None for by magnitude.
        shrink: the loss by which the kept singular values are shrunk, see `rmt_compress.spectrum.spikes`; None to
            keep them as they are.
        sigma: standard deviation of the noise that they are shrunk by; given with `shrink` only.
        predicted_loss: by how much the cut is expected to raise the loss, in its unit (method.md §13); None where
            nothing predicts it.
        reason: why, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    tensor: str
    kind: str
    shape: tuple[int, ...]
    action: Action
    rank: Annotated[int, Field(ge=1)] | None = None
    sparsify: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    sparsity: Annotated[float, Field(ge=0, le=1)] | None = None
    pattern: str | None = None
    pattern_by: Literal["inputs"] | None = None
    shrink: Shrink | None = None
    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    predicted_loss: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    reason: str = ""

    @property
    def changes(self) -> bool:
        """Whether applying this decision touches the weight at all."""
        return self.action in ("factorized", "truncated") or self.zeroes

    @property
    def zeroes(self) -> bool:
        """Whether it sets entries to zero."""
        return bool(self.sparsify or self.sparsity or self.pattern)


class Plan(BaseModel):
    """One decision per tensor of a checkpoint.

    Attributes:
        schema_: the format of the JSON text.
        settings: what the plan was made with, for the record.
        basis: which directions are kept, see `rmt_compress.decomposition.bases`; ``plain`` is left out of the JSON.
        shrinkage: how far the moments of a calibrated basis are shrunk, ``inputs`` and ``outputs``; None, left out
            of the JSON, for the default.
        layers: the decisions, in the checkpoint's order.
        curve: what other budgets would give, see `rmt_compress.planning.price_record`; None, left out of the JSON,
            where the ranks follow from no budget.
        times: what the layers take on one device, see `rmt_compress.planning.times`; None, left out of the JSON,
            where nothing was timed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["rmt-compress/plan/1"] = Field(default="rmt-compress/plan/1", alias="schema")
    settings: dict[str, Any] = Field(default_factory=dict)
    basis: str = "plain"
    shrinkage: Shrinkages | None = None
    layers: tuple[LayerDecision, ...]
    curve: dict[str, Any] | None = None
    times: dict[str, Any] | None = None

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialized: Callable[[Plan], dict[str, Any]]) -> dict[str, Any]:
        fields = serialized(self)
        if self.basis == "plain":
            fields.pop("basis", None)
        if self.shrinkage is None:
            fields.pop("shrinkage", None)
        for name in ("curve", "times"):
            if getattr(self, name) is None:
                fields.pop(name, None)
        return fields

    def to_json(self) -> str:
        """The plan as JSON text to be edited by hand: a line per setting and per layer, without what is not set."""
        fields = self.model_dump(mode="json", by_alias=True)
        ends = {name: fields.pop(name) for name in ("curve", "times") if name in fields}
        layers = [
            json.dumps({key: value for key, value in layer.items() if value is not None}, ensure_ascii=False)
            for layer in fields.pop("layers")
        ]
        head = json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
        lines = ",\n    ".join(layers)
        body = f'{head},\n  "layers": [' + (f"\n    {lines}\n  ]" if layers else "]")
        tail = [f',\n  "{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in ends.items()]
        return body + "".join(tail) + "\n}\n"

    def plot(self) -> Figure:
        """What is kept of each layer; of a plan within a budget also what was tried, and what other sizes cost.

        Raises:
            MissingDependencyError: there is no matplotlib.
        """
        return figure_of(self)

    def to_pandas(self) -> pd.DataFrame:
        """A row for each decision.

        Raises:
            MissingDependencyError: there is no pandas.
        """
        return data_frame(layer.model_dump() for layer in self.layers)

    def _repr_html_(self) -> str:
        """What a notebook shows of it: the layers that are changed, and those that were looked at and kept."""
        seen = [layer for layer in self.layers if layer.action != "skipped" or layer.changes]
        rows = [
            (
                layer.name,
                times(layer.shape),
                layer.action,
                "" if layer.rank is None else f"{layer.rank}",
                layer.reason,
            )
            for layer in seen
        ]
        changed = sum(layer.changes for layer in self.layers)
        summary = f"{changed} of {len(self.layers)} tensors are changed; directions: {self.basis}"
        return html_table("plan", ("layer", "shape", "action", "rank", "why"), rows, summary)

    @classmethod
    def from_json(cls, text: str, *, origin: str = "the plan") -> Plan:
        """A plan from JSON text, every field checked.

        Raises:
            PlanError: no JSON, or a field that is wrong; all problems in one line, after `origin`.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            problems = [
                f"{'.'.join(str(part) for part in problem['loc']) or 'the text'}: {problem['msg']}"
                for problem in error.errors()
            ]
            raise PlanError(f"{origin}: is no plan: {problems_listed(problems)}") from error

    @property
    def by_tensor(self) -> dict[str, LayerDecision]:
        """The decisions by the weight's name in the checkpoint."""
        return {decision.tensor: decision for decision in self.layers}


def load_plan(path: str | Path) -> Plan:
    """Read a plan from a JSON file.

    Raises:
        PlanError: the file cannot be read or is no plan.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise PlanError(f"{path}: cannot be read as a plan: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: cannot be read as a plan: it is no text") from error
    return Plan.from_json(text, origin=str(path))


Layout = Literal["factorized", "dense"]
