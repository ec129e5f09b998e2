"""Several states of one network side by side: what training did to its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.analysis.analyzing import analyze_with
from rmt_compress.analysis.records import Analysis, AnalyzedLayer
from rmt_compress.analysis.run_settings import RunSettings
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.errors import CheckpointError, SettingsError
from rmt_compress.notebooks.figures import figure_of
from rmt_compress.notebooks.notebook_tables import data_frame, html_table
from rmt_compress.progress import Progress
from rmt_compress.wording import counted, listed, times

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from rmt_compress.checkpoints.opening import Source

SCHEMA = "rmt-compress/trend/1"

QUANTITIES: dict[str, Callable[[AnalyzedLayer], float]] = {
    "spikes": lambda layer: layer.fit.spikes,
    "edge": lambda layer: layer.fit.edge,
    "bulk_energy": lambda layer: layer.bulk_energy,
    "gof": lambda layer: layer.fit.gof,
    "sigma2": lambda layer: layer.fit.sigma2,
    "spectral_norm": lambda layer: float(layer.singular_values[0]),
}
"""What is followed over the states, by its key in JSON."""


@dataclass(frozen=True)
class LayerTrend:
    """One layer in every state.

    Attributes:
        states: what the spectrum says of it in each, in their order.
    """

    states: tuple[AnalyzedLayer, ...]

    @property
    def name(self) -> str:
        """Of the layer."""
        return self.states[0].name

    def series(self, quantity: str) -> tuple[float, ...]:
        """One of `QUANTITIES` in every state."""
        return tuple(map(QUANTITIES[quantity], self.states))

    def to_json(self) -> dict[str, Any]:
        """The layer's object in `analyze --json` of several states: a list with a value per state for each key."""
        first = self.states[0]
        lists = {key: list(self.series(key)) for key in QUANTITIES}
        return {
            "name": self.name,
            "tensor": first.tensor,
            "kind": first.kind,
            "matrix": list(first.matrix),
            **lists,
            "verdict": [layer.verdict for layer in self.states],
        }


@dataclass(frozen=True)
class Trend:
    """The layers that can be analysed in every state.

    Attributes:
        names: one per state, in the order in which they were given.
        analyses: of each state, whole.
        layers: those that all states share, in the order of the first.
        missing: name of a layer that is analysed in some states only -> why it is not in one of the others.
    """

    names: tuple[str, ...]
    analyses: tuple[Analysis, ...]
    layers: tuple[LayerTrend, ...]
    missing: dict[str, str]

    def plot(self) -> Figure:
        """Spikes, edge, bulk energy and fit error over the states, as `analyze --plots` draws them.

        Raises:
            MissingDependencyError: there is no matplotlib.
        """
        return figure_of(self)

    def to_pandas(self) -> pd.DataFrame:
        """A row for each layer and state, with `QUANTITIES` and the verdict.

        Raises:
            MissingDependencyError: there is no pandas.
        """
        return data_frame(
            {
                "name": layer.name,
                "state": name,
                "place": place,
                "matrix": state.matrix,
                **{key: measured(state) for key, measured in QUANTITIES.items()},
                "verdict": state.verdict,
            }
            for layer in self.layers
            for place, (name, state) in enumerate(zip(self.names, layer.states, strict=True))
        )

    def _repr_html_(self) -> str:
        """What a notebook shows of it: the first state and the last."""
        rows = [
            (
                layer.name,
                times(layer.states[0].matrix),
                *(
                    f"{said(layer.states[0])} → {said(layer.states[-1])}"
                    for said in (
                        lambda state: f"{state.fit.spikes} of {state.fit.p}",
                        lambda state: f"{state.fit.gof:.3f}",
                        lambda state: f"{state.bulk_energy:.0%}",
                        lambda state: state.verdict,
                    )
                ),
            )
            for layer in self.layers
        ]
        columns = ("layer", "matrix", "spikes", "fit error", "bulk energy", "verdict")
        left = " → ".join(f"{analysis.parameters_after:,}" for analysis in self.analyses)
        summary = f"cut to their spikes those that fit leave {left} of {self.analyses[0].parameters:,} parameters"
        return html_table(f"{self.names[0]} → {self.names[-1]}", columns, rows, summary)

    def to_json(self) -> dict[str, Any]:
        """The object printed by `analyze --json` of several states."""
        return {
            "schema": SCHEMA,
            "states": [
                {
                    "name": name,
                    "format": analysis.format,
                    "parameters": analysis.parameters,
                    "parameters_after": analysis.parameters_after,
                    "notes": list(analysis.notes),
                }
                for name, analysis in zip(self.names, self.analyses, strict=True)
            ],
            "settings": self.analyses[0].settings.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
            "missing": [{"name": name, "reason": reason} for name, reason in self.missing.items()],
        }


def analyze_states(
    sources: Sequence[Source],
    settings: AnalysisSettings | None = None,
    *,
    names: Sequence[str] | None = None,
    running: RunSettings | None = None,
    progress: Progress | None = None,
) -> Trend:
    """Analyse several states of one network, or two networks of one architecture, and set them side by side.

    Layers are the same where the name of their tensor is. The states are analysed one after the other.

    Args:
        sources: at least two of what `analyze` takes, the earliest first.
        settings: of every analysis; None for the default.
        names: what the states are called; None for their paths, without what these have in common.
        running: where and within what, without `resume`; None for the default.
        progress: as in `analyze`, once through for each state, the names with that of the state before them.

    Raises:
        CheckpointError: a source cannot be read, a layer has another shape in another state, or no layer can be
            analysed in all of them.
        SettingsError: a setting is out of range, a glob matches nothing, or one file is to resume them all.
        ValueError: fewer than two sources, or another number of names.
    """
    if len(sources) < 2:
        raise ValueError("a trend is of two states at least")
    if running is not None and running.resume is not None:
        raise SettingsError(
            ["--resume is for one checkpoint, and these are several: analyse each with a file of its own"]
        )
    called = tuple(names) if names is not None else short_names([_path(source) for source in sources])
    if len(called) != len(sources):
        raise ValueError(f"{counted(len(called), 'name')} for {counted(len(sources), 'state')}")
    analyses = []
    for name, source in zip(called, sources, strict=True):
        tell: Progress | None = None
        if progress is not None:
            tell = _of_state(progress, name)
        analyses.append(analyze_with(source, settings or AnalysisSettings(), running, progress=tell))
    return _side_by_side(called, analyses)


def short_names(paths: Sequence[str]) -> tuple[str, ...]:
    """Paths without the folders and the ending that all of them share, where they differ without."""
    parts = [Path(path).parts or (path,) for path in paths]
    shared = 0
    while all(len(each) > shared + 1 for each in parts) and len({each[shared] for each in parts}) == 1:
        shared += 1
    short = [str(Path(*each[shared:])) for each in parts]
    endings = {Path(name).suffix for name in short}
    if len(endings) == 1 and not endings <= {""} and not any(ending[1:].isdecimal() for ending in endings):
        short = [name.removesuffix(*endings) for name in short]
    return tuple(short if len(set(short)) == len(set(paths)) else paths)


def _path(source: Source) -> str:
    path = getattr(source, "path", source)
    return str(path) if isinstance(path, str | Path) else type(source).__name__


def _of_state(progress: Progress, state: str) -> Progress:
    def tell(done: int, total: int, name: str) -> None:
        progress(done, total, f"{state}: {name}")

    return tell


def _side_by_side(names: tuple[str, ...], analyses: Sequence[Analysis]) -> Trend:
    records = [{layer.tensor: layer for layer in analysis.layers} for analysis in analyses]
    candidates = dict.fromkeys(layer.tensor for analysis in analyses for layer in analysis.analyzed)
    layers, missing = [], {}
    for tensor in candidates:
        found = [record.get(tensor) for record in records]
        states = [layer for layer in found if isinstance(layer, AnalyzedLayer)]
        if len(states) == len(analyses):
            _same_shape(names, states)
            layers.append(LayerTrend(tuple(states)))
            continue
        place, other = next((i, layer) for i, layer in enumerate(found) if not isinstance(layer, AnalyzedLayer))
        reason = "there is no such layer" if other is None else str(other.reason)
        missing[states[0].name] = f"{names[place]}: {reason}"
    if not layers:
        said = listed([f"{name} ({reason})" for name, reason in missing.items()]) or "there is none to analyse"
        raise CheckpointError(f"{names[0]} and {names[-1]} share no layer that can be analysed in both: {said}")
    return Trend(names, tuple(analyses), tuple(layers), missing)


def _same_shape(names: Sequence[str], states: Sequence[AnalyzedLayer]) -> None:
    first = states[0]
    for name, layer in zip(names, states, strict=True):
        if layer.layer.shape != first.layer.shape:
            raise CheckpointError(
                f"{name} is another network than {names[0]}: {first.name} is {times(layer.layer.shape)} in it and "
                f"{times(first.layer.shape)} there; only states of one architecture can be set side by side"
            )
