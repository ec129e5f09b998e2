"""What an analysis is asked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from rmt_compress.layers.treating import treatment_problem
from rmt_compress.settings.declaring import setting
from rmt_compress.settings.validation import problems_of, refuse

# Those of `spectrum`, which brings scipy with it and would keep `--help` waiting.
Quantiles = Literal["spiked", "midpoint", "paper"]
Noise = Literal["mp", "equalized", "signflip", "general", "all"]
Flips = Literal["upper", "pairwise"]

NOISE_AND_CUTS = "Noise and cuts"
# 199 flips resolve it; more take too long.
LEAST_FLIPPED_BETA = 0.005


@dataclass(frozen=True)
class AnalysisSettings:
    """What decides the numbers of an analysis; names every problem at once.

    Attributes:
        alpha: share of the ranks BEMA leaves out at either end of the spectrum, in (0, ½).
        beta: the chance that the largest noise eigenvalue passes the edge, in (0, 1).
        gof: largest fit error at which a layer counts as Marchenko–Pastur noise plus spikes.
        quantiles: ``midpoint``, ``spiked`` or ``paper``, see `rmt_compress.spectrum.bulk`.
        noise: ``mp``, ``equalized``, ``signflip`` or ``general``, see `rmt_compress.analysis.noise_models`; ``all``
            sets them side by side, and Marchenko and Pastur's decides.
        flips: ``upper`` or ``pairwise``, see `rmt_compress.spectrum.sign_flips`.
        include: globs of layer names; when given, only these are analysed.
        exclude: globs of layer names that are left out.
        min_size: the least min(rows, columns) that is analysed.
        treat_as: ``KIND:GLOB`` each: what the layers of such a name are, where nothing else says it; see
            `rmt_compress.layers.treating`.
        embeddings: whether embedding tables are analysed too.
        exact: whether approximate spectra are forbidden, see `rmt_compress.analysis.approximating`.

    Raises:
        SettingsError: listing everything that is out of range.
    """

    alpha: float = setting(
        0.25,
        "Share of the spectrum left out at either end when the noise is fitted.",
        within="(0, 0.5)",
        panel=NOISE_AND_CUTS,
    )
    beta: float = setting(
        0.1, "Chance that pure noise shows a spike.", within="[0.000001, 0.999999]", panel=NOISE_AND_CUTS
    )
    gof: float = setting(
        0.1,
        "Largest fit error of a layer that counts as noise and is cut.",
        within="[0, 1]",
        panel=NOISE_AND_CUTS,
    )
    quantiles: Quantiles = setting(
        "midpoint",
        "How edge and noise are estimated: our calibrated rule, that with the spikes left out of the ranks, or the "
        "papers' formula.",
        panel=NOISE_AND_CUTS,
    )
    noise: Noise = setting(
        "mp",
        "What noise is: Marchenko-Pastur, the same once scales of rows and columns are taken out, what flipped "
        "signs leave, rows of gamma-distributed variances, or all side by side.",
        panel=NOISE_AND_CUTS,
    )
    flips: Flips = setting(
        "upper",
        "For --noise signflip: compare all singular values with the largest of a flipped matrix, or each with "
        "its own.",
        panel=NOISE_AND_CUTS,
    )
    include: tuple[str, ...] = setting(
        (), "Only layers with such a name; repeatable.", metavar="GLOB", panel=NOISE_AND_CUTS
    )
    exclude: tuple[str, ...] = setting(
        (), "Leave out layers with such a name; repeatable.", metavar="GLOB", panel=NOISE_AND_CUTS
    )
    # With fewer than 32 singular values BEMA's window holds fewer than 16 eigenvalues, and the 95 % null point of
    # the fit error comes near the default threshold of 0.1: noise and structure can no longer be told apart.
    min_size: int = setting(
        32, "Skip weights with fewer rows or columns than this.", minimum=2, panel=NOISE_AND_CUTS
    )
    treat_as: tuple[str, ...] = setting(
        (),
        "What a layer is that names and shapes leave open, such as stack:*.experts.* or skip:norm; repeatable.",
        metavar="KIND:GLOB",
        panel=NOISE_AND_CUTS,
    )
    embeddings: bool = setting(False, "Analyse embedding tables too.")
    exact: bool = setting(
        False,
        "Find every singular value. Spectra of large weights are otherwise approximated, where the error is known "
        "to be small.",
    )

    def __post_init__(self) -> None:
        problems = problems_of(self)
        problems += [problem for text in self.treat_as if (problem := treatment_problem(text)) is not None]
        # A window needs two ranks whatever alpha: (1 − 2α)·p ≥ 3 leaves at least two whole numbers.
        if self.min_size < 2 or (0 < self.alpha < 0.5 and (1 - 2 * self.alpha) * self.min_size < 3):
            problems.append(
                f"min-size {self.min_size} with alpha {self.alpha:g} leaves fewer than two eigenvalues to fit"
            )
        if self.noise in ("signflip", "all") and 0 < self.beta < LEAST_FLIPPED_BETA:
            problems.append(f"sign flips resolve a beta of {LEAST_FLIPPED_BETA:g} at least, got {self.beta:g}")
        refuse(problems)

    def to_json(self) -> dict[str, Any]:
        """The object ``settings`` in `analyze --json`."""
        return {name: list(each) if isinstance(each, tuple) else each for name, each in asdict(self).items()}
