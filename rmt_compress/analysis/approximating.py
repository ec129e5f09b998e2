"""Approximate spectra of large weights: where they are tried, and what is said of them.

Exact eigenvalues of p × p matrices take p³ steps, half of which wait for memory. Products with a block of random
directions say nearly the same of the bulk for a fraction of that (`rmt_compress.spectrum.quadrature`), with an
error that they tell themselves. Where it is beyond its tolerance the exact route is taken, and the reason kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rmt_compress import spectrum
from rmt_compress.analysis.noise_models import NoiseFit
from rmt_compress.analysis.settings import AnalysisSettings

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from rmt_compress.decomposition.block_lanczos import KrylovSpace

# Least min(rows, columns) at which it is tried: there it takes half of the exact route's time, a third from 3000 on
# (benchmarks/results/approximate_spectra.md). Below that it is given up after four stages, as all take longer.
SMALLEST = 2000
_ALL_STAGES = 3000


@dataclass(frozen=True)
class SpectrumRoute:
    """By which route the singular values of a layer came.

    Attributes:
        approximation: how exact they are; None where they are those of the exact route.
        fell_back: why an approximate spectrum was not believed; None where none was tried, or it was.
    """

    approximation: spectrum.Approximation | None = None
    fell_back: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The object ``spectrum`` of a layer in `analyze --json`."""
        if self.approximation is None:
            return {"route": "exact", "fell_back": self.fell_back}
        return {"route": "approximate", **asdict(self.approximation)}

    @property
    def gof_error(self) -> float:
        """How wrong a fit error of these singular values can be."""
        return 0.0 if self.approximation is None else self.approximation.gof_error


def may_approximate(matrix: torch.Tensor | NDArray[Any], settings: AnalysisSettings) -> bool:
    """Whether the approximate route is tried for a matrix (rows, columns).

    Its error is known for Marchenko and Pastur's noise alone, and on a GPU exact eigenvalues take no time.
    """
    # Before numpy 2.0 its arrays do not say where they are.
    place = str(getattr(matrix, "device", "cpu"))
    return not settings.exact and settings.noise == "mp" and place == "cpu" and min(matrix.shape) >= SMALLEST


class ApproximateSpectrum:
    """The approximate spectrum of one matrix, found in two steps as `spectrum.SingularValues` is.

    Args:
        matrix: (rows, columns), on the CPU.
        seed: of the random directions.
    """

    def __init__(self, matrix: torch.Tensor | NDArray[Any], seed: int = 0) -> None:
        self._matrix, self._seed = matrix, seed
        self._space: KrylovSpace | None = None

    def multiply(self) -> None:
        """The first step, most of the products, which `fit` makes up for if it was left out.

        Raises:
            UncertainSpectrumError: the entries are no numbers, or too large or small.
        """
        from rmt_compress.decomposition.block_lanczos import STAGES, KrylovSpace

        self._space = KrylovSpace(self._matrix, self._seed)
        self._space.grow(STAGES[0])

    def fit(
        self, fitted: Callable[[NDArray[np.float64]], NoiseFit]
    ) -> tuple[NDArray[np.float64], NoiseFit, SpectrumRoute]:
        """Singular values, descending, what the noise model says of them, and how exact that is.

        Args:
            fitted: what the noise model says of singular values.

        Raises:
            UncertainSpectrumError: an error is beyond its tolerance, or as `multiply`.
        """
        from rmt_compress.decomposition.block_lanczos import STAGES

        if self._space is None:
            self.multiply()
        assert self._space is not None
        stages = STAGES if min(self._matrix.shape) >= _ALL_STAGES else STAGES[:4]
        for stage in stages:
            self._space.grow(stage)
            try:
                values, error = spectrum.approximate_fit(
                    self._space.quadrature(), lambda values: fitted(values).fit
                )
            except spectrum.UncertainSpectrumError:
                if stage == stages[-1]:
                    raise
            else:
                return values, fitted(values), SpectrumRoute(approximation=error)
        raise AssertionError("the last stage answers or raises")
