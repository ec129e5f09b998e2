"""What `prune` decided, did and measured: plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from rmt_compress.analysis.risk import Risk, risk_of
from rmt_compress.compression.weights import LayerOutcome
from rmt_compress.decomposition.bases import PLAIN
from rmt_compress.notebooks.figures import figure_of
from rmt_compress.notebooks.notebook_tables import data_frame, html_table
from rmt_compress.plan import Plan
from rmt_compress.wording import times

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from rmt_compress.analysis.records import Analysis
    from rmt_compress.certificates.certificate import Certificate
    from rmt_compress.checkpoints.beside import Beside
    from rmt_compress.networks.evaluation import Evaluation
    from rmt_compress.plan import Layout
    from rmt_compress.sweep import Sweep

SCHEMA = "rmt-compress/prune/1"

Verified = Literal["measured", "synthetic", "unverified"]


@dataclass(frozen=True)
class PruneResult:
    """What was decided, done and measured.

    Attributes:
        source: the checkpoint that was read.
        output: the file that was written; None where nothing was.
        analysis: None where a ready plan was carried out.
        plan: the decisions.
        outcomes: what was done to each tensor; empty where nothing was written.
        notes: remarks for the user.
        bytes_in: size of the source's files.
        bytes_out: size of the output; None where nothing was written.
        before: the source's evaluation; None without data.
        after: the output's evaluation; None without data.
        written: further files, (what they are, paths).
        layout: of the output.
        dry_run: whether nothing was to be written.
        buffers: names of the tensors that are no parameters.
        left_out: what the source holds beside its weights and the output does not, (name, kind).
        weights_in: bytes of the source's tensors.
        weights_out: bytes of the output's; None where they are not known.
        advice: what to do where next to nothing was saved; None where enough was.
        verified: whether what the cut costs was ``measured`` with data, is ``synthetic``, seen on inputs that the
            network made, or ``unverified``.
        budget: of a plan within one: what was asked and reached; see `pruning.budgeted`.
        missed: why the budget was missed; empty where it was kept or none was asked for.
        wreck: why the output is worth nothing, with the way out; None where it is not, or unmeasured.
        warnings: what makes the measured numbers doubtful.
        certificate: how far the cut can move the answers; None where that was not asked.
        sweep: the score against each layer's rank, with data and without a budget; None elsewhere.
    """

    source: str
    output: str | None
    analysis: Analysis | None
    plan: Plan
    outcomes: tuple[LayerOutcome, ...]
    notes: tuple[str, ...]
    bytes_in: int
    bytes_out: int | None = None
    before: Evaluation | None = None
    after: Evaluation | None = None
    written: tuple[tuple[str, tuple[str, ...]], ...] = ()
    layout: Layout = "factorized"
    dry_run: bool = False
    buffers: frozenset[str] = frozenset()
    left_out: tuple[Beside, ...] = ()
    weights_in: int = 0
    weights_out: int | None = None
    advice: str | None = None
    verified: Verified = "unverified"
    budget: dict[str, Any] | None = None
    missed: str = ""
    wreck: str | None = None
    warnings: tuple[str, ...] = ()
    certificate: Certificate | None = None
    sweep: Sweep | None = None

    @cached_property
    def risks(self) -> dict[str, Risk]:
        """The risk of each layer's cut alone, by tensor; none of what was measured or is no plain cut."""
        if self.analysis is None or self.verified != "unverified" or self.plan.basis != PLAIN.name:
            return {}
        ranks = {decision.tensor: decision.rank for decision in self.plan.layers}
        return {
            layer.tensor: risk_of(layer, rank)
            for layer in self.analysis.analyzed
            if (rank := ranks.get(layer.tensor)) is not None
        }

    @property
    def changes(self) -> bool:
        """Whether the plan touches anything."""
        return any(decision.changes for decision in self.plan.layers)

    @property
    def sizes(self) -> tuple[int, int] | None:
        """Bytes before and after, like with like: of weights alone where something beside them was left out."""
        if self.bytes_out is None:
            return None
        if self.left_out and self.weights_out is not None:
            return self.weights_in, self.weights_out
        return self.bytes_in, self.bytes_out

    @property
    def grew(self) -> bool:
        """Whether two layers for one have made the file larger than it was."""
        split = any(outcome.action == "factorized" for outcome in self.outcomes)
        return split and self.sizes is not None and self.sizes[1] > self.sizes[0]

    @property
    def totals(self) -> dict[str, Any]:
        """Counts over all tensors; what is left is None where nothing was written."""
        actions = [decision.action for decision in self.plan.layers]
        done = [outcome for outcome in self.outcomes if outcome.tensor not in self.buffers]
        entries = {decision.tensor: math.prod(decision.shape) for decision in self.plan.layers}
        buffers = sum(count for tensor, count in entries.items() if tensor in self.buffers)
        return {
            "parameters": sum(entries.values()) - buffers,
            "parameters_after": sum(outcome.parameters_after for outcome in done) if done else None,
            "nonzeros": sum(outcome.nonzeros for outcome in done) if done else None,
            "buffers": buffers,
            "layers_analyzed": len(self.analysis.analyzed) if self.analysis else None,
            "layers_skipped": actions.count("skipped"),
            "layers_factorized": actions.count("factorized"),
            "layers_truncated": actions.count("truncated"),
            "layers_kept": actions.count("kept"),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "weight_bytes_in": self.weights_in,
            "weight_bytes_out": self.weights_out,
        }

    def plot(self) -> Figure:
        """What is kept of each layer, and the curves of the page: networks tried, other sizes, the sweep.

        Raises:
            MissingDependencyError: there is no matplotlib.
        """
        return figure_of(self)

    def to_pandas(self) -> pd.DataFrame:
        """A row for each tensor with the keys of `prune --json`, but for what is nested in them.

        Raises:
            MissingDependencyError: there is no pandas.
        """
        return data_frame(self.to_json()["layers"])

    def _repr_html_(self) -> str:
        """What a notebook shows of it: the layers that were looked at or changed."""
        outcomes = {outcome.tensor: outcome for outcome in self.outcomes}
        rows = []
        for decision in self.plan.layers:
            if decision.action == "skipped" and not decision.changes:
                continue
            done = outcomes.get(decision.tensor)
            left = "" if done is None else f"{done.nonzeros / max(1, done.parameters):.1%}"
            action = decision.action if done is None else done.action
            rank = "" if decision.rank is None else f"{decision.rank}"
            risk = self.risks.get(decision.tensor) or ""
            rows.append((decision.name, times(decision.shape), action, rank, left, risk, decision.reason))
        columns = ("layer", "shape", "action", "rank", "weights left", "risk", "why")
        return html_table(f"{self.source} → {self.output or 'nothing written'}", columns, rows, self._in_brief())

    def _in_brief(self) -> str:
        """What is left and what it cost, as far as that is known."""
        totals = self.totals
        left = "" if totals["nonzeros"] is None else f", {totals['nonzeros'] / totals['parameters']:.1%} left"
        said = f"{totals['parameters']:,} parameters{left}; {self.missed or self.wreck or self.verified}"
        if self.before is None or self.after is None:
            return said
        metric = self.after.score.metric
        scores = " → ".join(metric.shown(each.score.value) for each in (self.before, self.after))
        return f"{said}: {metric.name} {scores}"

    def to_json(self) -> dict[str, Any]:
        """The object printed by `prune --json`: that of `analyze --json`, with what was done to each layer."""
        report: dict[str, Any] = self.analysis.to_json() if self.analysis else {"checkpoint": {"path": self.source}}
        analyzed = {layer["tensor"]: layer for layer in report.get("layers", ())}
        outcomes = {outcome.tensor: outcome.to_json() for outcome in self.outcomes}
        layers = []
        for decision in self.plan.layers:
            done = outcomes.get(decision.tensor) or decision.model_dump(include={"action", "rank", "reason"})
            risk = {"risk": self.risks.get(decision.tensor)}
            layers.append({**analyzed.get(decision.tensor, {}), **decision.model_dump(mode="json"), **done, **risk})
        report |= {
            "schema": SCHEMA,
            "output": self.output,
            "settings": {**report.get("settings", {}), **self.plan.settings},
            "layers": layers,
            "totals": self.totals,
            "left_out": [entry._asdict() for entry in self.left_out],
            "advice": self.advice,
            "verified": self.verified,
            "metric": self.plan.basis,
            "budget": self.budget,
            "wreck": self.wreck,
            "written": {what: list(paths) for what, paths in self.written},
        }
        if self.before is not None and self.after is not None:
            if self.after.score.accuracy is not None:
                report["accuracy"] = {"before": self.before.score.accuracy, "after": self.after.score.accuracy}
            report["score"] = {"before": self.before.score.value, "after": self.after.score.value}
            report["evaluation"] = {"before": self.before.to_json(), "after": self.after.to_json()}
        if self.certificate is not None:
            report["certificate"] = {"data": self.certificate.data, **self.certificate.to_json()}
        return report
