"""The layers that an analysis is done with, kept in a journal, so that an interrupted one goes on behind them.

A record is kept whole, its floating-point numbers to the last digit: what is taken from the journal is what was
found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmt_compress.analysis.approximating import SpectrumRoute
from rmt_compress.analysis.noise_models import NoiseFit
from rmt_compress.analysis.one_layer import expert_of
from rmt_compress.analysis.records import AnalyzedLayer, LayerAnalysis
from rmt_compress.analysis.stack_record import AnalyzedStack
from rmt_compress.analysis.unfitted import AnalyzedPair, SkippedLayer
from rmt_compress.checkpoints.journal import Entry, Journal, Say, identity_of
from rmt_compress.spectrum import Approximation, BulkFit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rmt_compress.analysis.settings import AnalysisSettings
    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.layers.layer import Layer

# Of what records are made. What they say of their layer and settings is known where they are taken up.
_KEPT: dict[str, type[Any]] = {
    kept.__name__: kept
    for kept in (
        *(AnalyzedLayer, AnalyzedStack, AnalyzedPair, SkippedLayer, BulkFit, NoiseFit),
        *(SpectrumRoute, Approximation),
    )
}
_KNOWN = ("layer", "settings", "pair")
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
        """Tensor of each of these layers that is finished -> what was found.

        Raises:
            OutputError: see `Journal.restoring`.
        """
        described = {layer.tensor: layer for layer in layers}
        with self._journal.restoring():
            return {
                layer.tensor: self._restored(entry, layer)
                for entry in self._journal.entries
                if (layer := described.get(entry.facts["tensor"])) is not None
            }

    def _restored(self, entry: Entry, layer: Layer) -> LayerAnalysis:
        arrays = _arrays(entry.facts, self._journal.bytes_of(entry))
        found = _restored(entry.facts["found"], arrays, layer, self._settings)
        if not isinstance(found, LayerAnalysis):
            raise TypeError(f"{type(found).__name__} is nothing that is found of a layer")
        return found

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


def _described(value: Any, arrays: list[NDArray[np.float64]]) -> Any:
    """A record as plain JSON; its arrays go to the others, in the order in which `_restored` takes them."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"is": "array"}
    if (name := type(value).__name__) in _KEPT:
        own = {each.name: getattr(value, each.name) for each in fields(value) if each.name not in _KNOWN}
        return {"is": name, **{key: _described(held, arrays) for key, held in own.items()}}
    if isinstance(value, Mapping):
        return {"is": "map", "of": {key: _described(held, arrays) for key, held in value.items()}}
    if isinstance(value, tuple):
        return {"is": "tuple", "of": [_described(held, arrays) for held in value]}
    return [_described(held, arrays) for held in value] if isinstance(value, list) else value


def _restored(facts: Any, arrays: Iterator[NDArray[np.float64]], layer: Layer, settings: AnalysisSettings) -> Any:
    """What `_described` was given, of this layer and these settings."""
    if isinstance(facts, list):
        return [_restored(held, arrays, layer, settings) for held in facts]
    if not isinstance(facts, dict):
        return facts
    name = facts["is"]
    if name == "array":
        return next(arrays)
    if name == "map":
        return {key: _restored(held, arrays, layer, settings) for key, held in facts["of"].items()}
    if name == "tuple":
        return tuple(_restored(held, arrays, layer, settings) for held in facts["of"])
    kept = _KEPT[name]
    known = {"layer": layer, "settings": settings, "pair": layer.pair}
    given = {each.name: known[each.name] for each in fields(kept) if each.name in _KNOWN}
    for key, held in facts.items():
        if key == "experts":
            experts = enumerate(held["of"])
            given[key] = tuple(
                _restored(one, arrays, expert_of(layer, number), settings) for number, one in experts
            )
        elif key != "is":
            given[key] = _restored(held, arrays, layer, settings)
    return kept(**given)
