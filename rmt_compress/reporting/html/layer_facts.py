"""What a page says of one analysed layer where it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmt_compress.reporting.html.layer_picture import LAW_POINTS, in_words, picture, sparkline
from rmt_compress.reporting.html.page_parts import Fact
from rmt_compress.reporting.spectrum_series import spectrum_series
from rmt_compress.wording import listed, printable, times

if TYPE_CHECKING:
    from markupsafe import Markup

    from rmt_compress.analysis import AnalyzedLayer

_VERDICTS = {
    "noise": "Noise: it fits the law of noise, and at most 1 % of its energy is in spikes.",
    "mixed": "Mixed: it fits the law of noise, with spikes that carry what was learned.",
    "structured": "Structured: it does not fit the law of noise, so that the edge says little of what can be cut.",
}


def share(part: float, whole: float) -> str:
    """``38.2%``; of nothing all."""
    return f"{part / whole:.1%}" if whole else "100%"


def pictured(layer: AnalyzedLayer) -> tuple[Markup, dict[str, Any], tuple[str, str]]:
    """A layer's small picture, what its large ones are drawn from, and both in words."""
    series = spectrum_series(layer, points=LAW_POINTS)
    return sparkline(layer, series), picture(layer, series), in_words(layer, series)


def sentences_of(layer: AnalyzedLayer) -> tuple[str, ...]:
    """The verdict and the diagnosis in words."""
    diagnosis = layer.diagnosis
    said = [_VERDICTS[layer.verdict], f"It looks like {diagnosis.word}: {printable(diagnosis.reason)}."]
    if len(layer.matrices) > 1:
        said.append(
            f"It is a stack of {len(layer.matrices)} matrices; the pictures are of the one with the most spikes."
        )
    return tuple(said)


def _approximate_facts(layer: AnalyzedLayer) -> tuple[Fact, ...]:
    error = layer.route.approximation
    if error is None:
        return ()
    said = f"edge to ±{error.edge_error:.2%}, fit error to ±{error.gof_error:.4f} (98 times in 100)"
    return (Fact("approximate spectrum", said),)


def facts_of(layer: AnalyzedLayer) -> tuple[Fact, ...]:
    """The numbers of a layer."""
    fit, own = layer.fit, layer.layer
    aliases = (Fact("also called", printable(listed(own.aliases)), is_name=True),) if own.aliases else ()
    return (
        *aliases,
        Fact("tensor", printable(layer.tensor), is_name=True),
        Fact("kind", str(own.kind)),
        Fact("shape", times(own.shape)),
        Fact("stored as", str(own.dtype)),
        Fact("weights", f"{layer.parameters:,}"),
        Fact("weights if cut to spikes", f"{layer.parameters_after:,}"),
        Fact("noise variance σ̂²", f"{fit.sigma2:.4g}"),
        Fact("edge s₊ of singular values", f"{fit.edge:.4g}"),
        Fact("largest singular value", f"{float(layer.singular_values[0]):.4g}"),
        Fact("fit error, and that of noise", f"{fit.gof:.3f}, {layer.gof_null:.3f}"),
        Fact("chance of such an error in noise", f"{layer.gof_p_value:.2g}"),
        Fact("spikes", f"{layer.spikes_shown} of {fit.p}"),
        Fact("bulk energy", f"{layer.bulk_energy:.1%}"),
        *_approximate_facts(layer),
    )
