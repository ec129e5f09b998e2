r"""A spectrum from a Krylov space: all p eigenvalues as quantiles of a distribution function whose error is known.

A block of v random orthonormal directions z and the k products of it with a symmetric matrix G span a space in
which G is a small matrix, with Ritz values θ. Those at the upper end converge to eigenvalues: each of them counts
as one. Of the other Ritz values a direction z sees the share wᵢ = (z·uᵢ)², and the average over the v of
them has the moments tr G^j/p, j < 2k, up to the chance in the choice of directions (stochastic Lanczos quadrature:
Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38, 2017; of a block: Chen and Hallman, arXiv 2202.09003). Three
things keep bias and chance small:

1. What has converged is left out of the average, so that no chance is in the spikes.
2. The trace is known exactly, and the three moments after it are asked of more directions, which two products do.
   Weights are tilted by a polynomial, w(1 + Σδ_j·P_j(θ)), until they have these moments. A step 1{λ ≤ x} is for the
   larger part a polynomial of such a degree: its part of degree j has a share of about 1/j² in what chance does.
3. The average is a density, no sum of k jumps: its first Jacobi coefficients are read off, and go on as the
   constant that they tend to where the density is smooth between two edges (Haydock's recursion method, Solid
   State Physics 35, 1980, with a terminator). The law of Marchenko and Pastur has such coefficients from the
   second on.

How wrong that is it says itself. Chance: directions are left out in groups (jackknife). Bias: fewer coefficients
are taken. Spectra with gaps, a heavy tail or a mass at zero have coefficients that tend to no constant, or too
late, and show it in the second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rmt_compress.spectrum.bulk import BulkFit, DegenerateSpectrumError
from rmt_compress.spectrum.marchenko_pastur import FloatArray

# Errors up to which a spectrum is believed: of the edge as a share, of the fit error, and of the spikes as a share
# of them, though never of less than one.
EDGE_TOLERANCE = 0.005
GOF_TOLERANCE = 0.005
SPIKES_TOLERANCE = 0.01

# A Ritz value of a residual up to this share of it has converged: it counts as one eigenvalue, from which it is off
# by the share's square over the distance to the next one. With a stricter one a long tail stays in the density.
_CONVERGED = 1e-2
# Up to this share its singular value is said to be no approximation.
_EXACT = 1e-3
# Of k coefficients the last ones suffer from what was left out as converged.
_COEFFICIENTS, _FEWER = 0.7, 0.5
# The constant is the mean of so many of the last coefficients, and goes on for this many times as many.
_AVERAGED = 4
_CONTINUED = 8
_GROUPS = 16
# Standard errors that an error is said to be: Student's t of 15 degrees of freedom is within them 98 times in 100.
# How many of many choices of directions stay within what is said: benchmarks/results/approximate_spectra.md.
_SURE = 2.6
# Standard errors that two means of one number never differ by.
_CHANCE = 6.0
# An eigenvalue at the lower end of the window below this share of that at the upper end could be rounding.
_LEAST = 1e-3


class UncertainSpectrumError(ValueError):
    """The error of an approximate spectrum is too large, or unknown; its text says of what."""


@dataclass(frozen=True)
class Approximation:
    """How exact an approximate spectrum is: 2.6 standard errors and the bias that is seen.

    Attributes:
        edge_error: of the edge s₊, as a share of it.
        gof_error: of the fit error.
        spikes_error: of the number of spikes.
        exact: how many of the largest singular values are no approximation.
    """

    edge_error: float
    gof_error: float
    spikes_error: float
    exact: int


@dataclass(frozen=True, eq=False)
class Quadrature:
    """What a Krylov space says of a symmetric matrix with p eigenvalues, none of them negative.

    Attributes:
        p: eigenvalues in all.
        trace: their sum.
        steps: k, products of the block with the matrix.
        values: Ritz values (m,), ascending.
        residuals: (m,), how far each Ritz vector is from being an eigenvector.
        weights: (v, m), the squared component of every random direction in each Ritz vector.
        moments: zᵀG^j z for j = 0 to 4, a row for each of the further directions z, of unit length before what has
            `converged` was taken out of them.
    """

    p: int
    trace: float
    steps: int
    values: FloatArray
    residuals: FloatArray
    weights: FloatArray
    moments: FloatArray

    @property
    def converged(self) -> int:
        """How many of the largest Ritz values are eigenvalues."""
        return converged(self.values, self.residuals)

    @property
    def exact(self) -> int:
        """How many of the largest Ritz values are eigenvalues to all digits that matter."""
        return converged(self.values, self.residuals, _EXACT)

    def eigenvalues(self, left_out: int | None = None, *, share: float = _COEFFICIENTS) -> FloatArray:
        """All p eigenvalues, ascending; those that have not converged as quantiles of their distribution.

        Args:
            left_out: one of the `groups`, which does not take part; None for all.
            share: of the k Jacobi coefficients, so many are used.
        """
        found = self.converged
        top, nodes = self.values[self.values.size - found :], self.values[: self.values.size - found]
        left = self.p - found
        members = self._taken(len(self.weights), left_out)
        weights = self.weights[members, : nodes.size].sum(axis=0)
        own, further = self._moments()
        sums = own[members].sum(axis=0) + further[self._taken(len(further), left_out)].sum(axis=0)
        weights = _tilted(nodes / self.rest, weights / weights.sum(), sums / sums[0])
        nodes, weights = _continued(nodes, weights, max(2, round(share * self.steps)))
        ranks = (np.arange(left) + 0.5) / left
        return np.concatenate([_quantiles(nodes, weights, ranks, top[0] if found else None), top])

    @property
    def rest(self) -> float:
        """The mean of the eigenvalues that have not converged."""
        top = self.values[self.values.size - self.converged :]
        return (self.trace - float(top.sum())) / (self.p - top.size)

    def _moments(self) -> tuple[FloatArray, FloatArray]:
        """Moments 0 to 4 of what has not converged, in units of its mean, by each direction and further one."""
        nodes = self.values[: self.values.size - self.converged] / self.rest
        powers = np.arange(5)
        own = self.weights[:, : nodes.size] @ (nodes[:, None] ** powers)
        return own, self.moments / self.rest**powers

    @property
    def contradicts_itself(self) -> bool:
        """Whether the moments by the directions and by the further ones differ by more than chance can."""
        own, further = self._moments()
        off = np.abs(own.mean(axis=0) - further.mean(axis=0))
        chance = np.sqrt(own.var(axis=0) / len(own) + further.var(axis=0) / len(further))
        return not bool((off <= _CHANCE * chance + 1e-3 * own.mean(axis=0)).all())

    @property
    def groups(self) -> int:
        """Into how many groups the random directions are split."""
        return min(_GROUPS, len(self.weights))

    def _taken(self, directions: int, left_out: int | None) -> NDArray[np.bool_]:
        """Which of so many directions take part where a group of them does not."""
        member = np.arange(directions) % self.groups
        taken: NDArray[np.bool_] = member != (-1 if left_out is None else left_out)
        return taken


def converged(values: FloatArray, residuals: FloatArray, share: float = _CONVERGED) -> int:
    """How many of the largest Ritz values, ascending with their residuals, are eigenvalues; never the last two."""
    good = residuals[::-1] <= share * np.maximum(values[::-1], 0.0)
    return min(int(good.argmin()) if not good.all() else good.size, values.size - 2)


def _tilted(nodes: FloatArray, weights: FloatArray, moments: FloatArray) -> FloatArray:
    """Weights that sum up to 1 with the mean 1 and these moments, as near to the given ones as can be.

    Moments, of degree 0 and up, are those of chance: what their mean is off by does not count.
    """
    now = float(weights @ nodes)
    tilt, polynomials = np.ones_like(nodes), [(np.ones_like(nodes), np.eye(moments.size)[0])]
    for degree in range(1, moments.size):
        # The next orthogonal polynomial, by its values at the nodes and by its coefficients.
        last, coefficients = polynomials[-1]
        value, known = nodes * last, np.roll(coefficients, 1)
        for _ in range(2):
            for earlier, its in polynomials:
                part = float(weights @ (value * earlier))
                value, known = value - part * earlier, known - part * its
        length = float(np.sqrt(weights @ value**2))
        if length <= 1e-6 * float(nodes.max()) ** degree:
            break
        polynomials.append((value / length, known / length))
        # Of degree 1 the mean is known; the others have nothing to do with it.
        off = (1 - now) / length if degree == 1 else float(moments @ polynomials[-1][1])
        tilt += off * polynomials[-1][0]
    tilted = weights * np.maximum(tilt, 0.0)
    return np.asarray(tilted / tilted.sum())


def _continued(nodes: FloatArray, weights: FloatArray, size: int) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights of a measure with the same first `size` Jacobi coefficients, continued as a constant."""
    from scipy.linalg import eigh_tridiagonal

    vector = np.sqrt(weights)
    basis = np.zeros((size, nodes.size))
    diagonal, beside = [], []
    for step in range(min(size, nodes.size)):
        basis[step] = vector
        image = nodes * vector
        diagonal.append(float(vector @ image))
        for _ in range(2):
            image -= basis[: step + 1].T @ (basis[: step + 1] @ image)
        length = float(np.linalg.norm(image))
        if length <= 1e-10 * float(np.abs(nodes).max()):
            # All of the measure is in so few nodes.
            beside.append(0.0)
            break
        beside.append(length)
        vector = image / length
    more = _CONTINUED * size
    middle, half = float(np.mean(diagonal[-_AVERAGED:])), float(np.mean(beside[-_AVERAGED:]))
    if beside[-1] == 0.0:
        found, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside[:-1]))
    else:
        found, vectors = eigh_tridiagonal(
            np.concatenate([diagonal, np.full(more, middle)]), np.concatenate([beside, np.full(more - 1, half)])
        )
    return np.maximum(found, 0.0), np.asarray(vectors[0] ** 2)


def _quantiles(nodes: FloatArray, weights: FloatArray, ranks: FloatArray, above: float | None) -> FloatArray:
    """Quantiles of a density of which nodes and weights are a Gauss quadrature; `above` is where it ends."""
    from scipy.interpolate import PchipInterpolator

    reached = np.cumsum(weights) - weights / 2
    first = max(0.0, nodes[0] - (nodes[1] - nodes[0]) / 2) if nodes.size > 1 else nodes[0]
    last = nodes[-1] if above is None else max(nodes[-1], (nodes[-1] + above) / 2)
    levels = np.concatenate([[0.0], reached, [1.0]])
    places = np.maximum.accumulate(np.concatenate([[first], nodes, [last]]))
    rises = np.concatenate([[True], np.diff(levels) > 1e-12])
    values = np.asarray(PchipInterpolator(levels[rises], places[rises])(np.clip(ranks, 0.0, 1.0)))
    # A Ritz value that has not converged can be above one that has.
    return values if above is None else np.minimum(values, above)


def approximate_fit(
    quadrature: Quadrature, fit: Callable[[FloatArray], BulkFit]
) -> tuple[FloatArray, Approximation]:
    """The singular values that a quadrature says, descending, and how exact they and their fit are.

    Args:
        quadrature: of the smaller Gram matrix.
        fit: from p singular values, descending, to the fitted bulk.

    Raises:
        UncertainSpectrumError: an error is beyond its tolerance, or eigenvalues could be rounding of larger ones.
    """
    if not quadrature.rest > 0 or quadrature.contradicts_itself:
        raise UncertainSpectrumError("rounding of its largest eigenvalues hides the others")
    eigenvalues = quadrature.eigenvalues()
    best = _fitted(fit, eigenvalues)
    low, high = eigenvalues[best.window[0] - 1], eigenvalues[best.window[1] - 1]
    if not low > _LEAST * high:
        raise UncertainSpectrumError("the least eigenvalues of its bulk are too small")
    coarse = quadrature.eigenvalues(share=_FEWER)
    others = [quadrature.eigenvalues(group) for group in range(quadrature.groups)]
    edge, gof, spikes = map(float, _error([_numbers(fit, each) for each in (eigenvalues, coarse, *others)]))
    error = Approximation(edge, gof, spikes, quadrature.exact)
    _check(best, error)
    return np.sqrt(np.maximum(eigenvalues[::-1], 0.0)), error


def _fitted(fit: Callable[[FloatArray], BulkFit], eigenvalues: FloatArray) -> BulkFit:
    try:
        return fit(np.sqrt(np.maximum(eigenvalues[::-1], 0.0)))
    except DegenerateSpectrumError as error:
        raise UncertainSpectrumError("its bulk comes out as zero") from error


def _numbers(fit: Callable[[FloatArray], BulkFit], eigenvalues: FloatArray) -> FloatArray:
    """Edge, fit error and the number of spikes, the last with fractions."""
    found = _fitted(fit, eigenvalues)
    below = np.interp(found.edge**2, eigenvalues, np.arange(1, eigenvalues.size + 1))
    return np.array([np.log(found.edge), found.gof, eigenvalues.size - below])


def _error(said: list[FloatArray]) -> FloatArray:
    """Chance and bias of numbers as said by all, by fewer coefficients, and with groups left out."""
    best, coarse, others = said[0], said[1], np.array(said[2:])
    return np.asarray(_SURE * np.sqrt((len(others) - 1) * others.var(axis=0)) + np.abs(coarse - best))


def _check(fit: BulkFit, error: Approximation) -> None:
    if not error.edge_error <= EDGE_TOLERANCE:
        raise UncertainSpectrumError(f"its edge is uncertain by {error.edge_error:.1%}")
    if not error.gof_error <= GOF_TOLERANCE:
        raise UncertainSpectrumError(f"its fit error is uncertain by {error.gof_error:.3f}")
    # A number whose fraction is off by half more than it may be is itself off by too much half the time.
    if not error.spikes_error <= max(1.0, SPIKES_TOLERANCE * fit.spikes) + 0.5:
        raise UncertainSpectrumError(f"its {fit.spikes:,} spikes are uncertain by {error.spikes_error:.1f}")
