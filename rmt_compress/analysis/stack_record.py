"""What an analysis finds of a stack of matrices, as the experts of a layer are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rmt_compress.analysis.diagnosis import Measures
from rmt_compress.analysis.noise_models import null_quantile
from rmt_compress.analysis.records import NOISE_ENERGY, AnalyzedLayer, Verdict

# What an expert's object in `analyze --json` has of a layer's.
_OF_EXPERTS = (
    *("sigma2", "sigma2_error", "lambda_plus", "edge", "gof", "gof_p_value", "fits", "spikes", "bulk"),
    *("bulk_energy", "spectral_norm", "verdict", "diagnosis", "signals"),
)


@dataclass(frozen=True)
class AnalyzedStack(AnalyzedLayer):
    """What the spectra say of a stack of matrices, all of which are cut to one rank.

    Shown for the whole are the spikes and the edge of the expert that has the most, and so decides the rank; the
    worst fit error; and the energy of all. It fits where every expert does, and is noise where every expert is.
    Among many experts one of pure noise may pass the threshold: where that is below what the worst of so many
    matrices of noise reaches in one case of twenty, the latter counts.

    Attributes:
        experts: each matrix by itself, in the order of the stack.
    """

    experts: tuple[AnalyzedLayer, ...] = ()

    @property
    def matrices(self) -> tuple[AnalyzedLayer, ...]:
        """The experts."""
        return self.experts

    def fits_at(self, threshold: float) -> bool:
        """Whether every expert fits as well as noise does."""
        return self.fit.gof <= max(threshold, self.gof_null)

    @property
    def bulk_energy(self) -> float:
        """Share of ‖W‖_F² of all experts in singular values at or below their edges."""
        energies = [float((expert.singular_values**2).sum()) for expert in self.experts]
        bulk = sum(own * expert.bulk_energy for own, expert in zip(energies, self.experts, strict=True))
        return bulk / sum(energies)

    @property
    def verdict(self) -> Verdict:
        """*structured*: an expert does not fit; *noise*: all are; *mixed*: the rest, where some have spikes."""
        if not self.fits:
            return "structured"
        noise = all(1.0 - expert.bulk_energy <= NOISE_ENERGY for expert in self.experts)
        return "noise" if noise else "mixed"

    @property
    def gof_null(self) -> float:
        """95 % point of the worst fit error of as many matrices of pure noise."""
        return null_quantile(0.95 ** (1 / len(self.experts)), self.fit, self.settings) + self.route.gof_error

    @property
    def gof_p_value(self) -> float:
        """The chance that the worst of as many matrices of pure noise fits as badly or worse."""
        return 1.0 - (1.0 - super().gof_p_value) ** len(self.experts)

    @cached_property
    def measures(self) -> Measures:
        """Those of the expert that fits worst."""
        return max(self.experts, key=lambda expert: expert.fit.gof).measures

    @property
    def signals(self) -> None:
        """Each expert has its own."""

    @property
    def spikes_shown(self) -> str:
        """The fewest and the most of an expert, as text: ``3–5``."""
        counts = [expert.fit.spikes for expert in self.experts]
        return "–".join(map(str, sorted({min(counts), max(counts)})))

    def to_json(self) -> dict[str, Any]:
        """The layer's object in `analyze --json`, with one for each expert in it."""
        each = [expert.to_json() for expert in self.experts]
        return super().to_json() | {"experts": [{key: expert[key] for key in _OF_EXPERTS} for expert in each]}
