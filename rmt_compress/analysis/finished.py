"""The layers that an analysis is done with, kept in a journal, so that an interrupted one goes on behind them.

A record is kept whole, its floating-point numbers to the last digit: what is taken from the journal is what was
found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmt_compress.analysis.noise_models import NoiseFit
from rmt_compress.analysis.one_layer import expert_of
from rmt_compress.analysis.records import AnalyzedLayer, AnalyzedStack, LayerAnalysis
from rmt_compress.analysis.unfitted import AnalyzedPair, SkippedLayer
from rmt_compress.checkpoints.journal import Journal, Say, identity_of
from rmt_compress.spectrum import BulkFit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rmt_compress.analysis.settings import AnalysisSettings
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.layers.layer import Layer

# They choose layers and change nothing of what is found of one: `prune` may have others than `analyze` had.
_CHOOSING = ("include", "exclude", "min_size", "embeddings")


class FinishedLayers:
    """What is known already of the layers of a checkpoint.

    Args:
        path: the journal.
        checkpoint: what is analysed.
        settings: of the analysis.
        device: where large weights are decomposed; their last digits depend on it.
        say: see `Journal`.

    Raises:
        SettingsError: the checkpoint is in no file.
        OutputError: see `Journal`.
    """

    def __init__(
        self, path: Path, checkpoint: Checkpoint, settings: AnalysisSettings, device: str, say: Say
    ) -> None:
        asked = {name: value for name, value in settings.to_json().items() if name not in _CHOOSING}
        self._settings = settings
        self._journal = Journal(path, identity_of(checkpoint) | {"settings": asked, "device": device}, say)

    def known(self, layers: Sequence[Layer]) -> dict[str, LayerAnalysis]:
        """Tensor of each of these layers that is finished -> what was found."""
        described = {layer.tensor: layer for layer in layers}
        return {
            layer.tensor: _restored(layer, entry.facts["found"], _arrays(entry.facts, values), self._settings)
            for entry in self._journal.entries
            if (layer := described.get(entry.facts["tensor"])) is not None
            for values in [self._journal.bytes_of(entry)]
        }

    def add(self, result: LayerAnalysis) -> None:
        """Keep what was found of a layer."""
        arrays: list[NDArray[np.float64]] = []
        found = _described(result, arrays)
        facts = {"tensor": result.tensor, "found": found, "lengths": [len(values) for values in arrays]}
        self._journal.add(facts, [np.ascontiguousarray(values, dtype="<f8").data.cast("B") for values in arrays])

    def close(self) -> None:
        """Let others have the journal."""
        self._journal.close()


def _arrays(facts: Mapping[str, Any], values: bytearray) -> Iterator[NDArray[np.float64]]:
    whole = np.frombuffer(values, dtype="<f8")
    return iter(np.split(whole, np.cumsum(facts["lengths"])[:-1]))


def _described(result: LayerAnalysis, arrays: list[NDArray[np.float64]]) -> dict[str, Any]:
    """The record as plain JSON; its arrays go to the others, in the order in which `_restored` asks for them."""
    if isinstance(result, SkippedLayer):
        return {"skipped": result.reason, "finite": result.finite, "low_rank": result.low_rank}
    arrays.append(result.singular_values)
    if isinstance(result, AnalyzedPair):
        return {}
    facts = {
        "fit": asdict(result.fit),
        "details": dict(result.details),
        "scaled": _put_aside(result.scaled, arrays),
        "models": {
            name: said
            if isinstance(said, str)
            else {
                "fit": asdict(said.fit),
                "details": said.details,
                "scaled": _put_aside(said.values, arrays),
            }
            for name, said in result.models.items()
        },
    }
    if isinstance(result, AnalyzedStack):
        facts["experts"] = [_described(expert, arrays) for expert in result.experts]
    return facts


def _put_aside(values: NDArray[np.float64] | None, arrays: list[NDArray[np.float64]]) -> bool:
    if values is None:
        return False
    arrays.append(values)
    return True


def _restored(
    layer: Layer, facts: Mapping[str, Any], arrays: Iterator[NDArray[np.float64]], settings: AnalysisSettings
) -> LayerAnalysis:
    if "skipped" in facts:
        return SkippedLayer(layer, facts["skipped"], finite=facts["finite"], low_rank=facts["low_rank"])
    values = next(arrays)
    if layer.pair is not None:
        return AnalyzedPair(layer, layer.pair, values)
    found = _fitted(layer, facts, values, arrays, settings)
    if "experts" not in facts:
        return found
    experts = tuple(
        _fitted(expert_of(layer, number), expert, next(arrays), arrays, settings)
        for number, expert in enumerate(facts["experts"])
    )
    return AnalyzedStack(
        layer,
        found.fit,
        values,
        settings,
        details=found.details,
        models=found.models,
        scaled=found.scaled,
        experts=experts,
    )


def _fitted(
    layer: Layer,
    facts: Mapping[str, Any],
    values: NDArray[np.float64],
    arrays: Iterator[NDArray[np.float64]],
    settings: AnalysisSettings,
) -> AnalyzedLayer:
    scaled = next(arrays) if facts["scaled"] else None
    models: dict[str, NoiseFit | str] = {
        name: said
        if isinstance(said, str)
        else NoiseFit(_bulk_fit(said["fit"]), said["details"], next(arrays) if said["scaled"] else None)
        for name, said in facts["models"].items()
    }
    fit = _bulk_fit(facts["fit"])
    return AnalyzedLayer(layer, fit, values, settings, details=facts["details"], models=models, scaled=scaled)


def _bulk_fit(facts: Mapping[str, Any]) -> BulkFit:
    return BulkFit(**{**facts, "window": tuple(facts["window"])})
