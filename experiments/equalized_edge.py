"""The largest eigenvalue of noise whose scales were taken out: how far it lies from that of noise without scales.

    python experiments/equalized_edge.py          # about ten minutes on one core
    python experiments/equalized_edge.py --quick

Scales leave no trace in what the equalizer gives back, so noise of one variance stands for noise of any scales. For
each size T = (n·(1+b)·λ_max/σ̂² − μ)/τ is simulated, which of noise that was not equalized follows the Tracy–Widom
law but for a factor ω (`rmt_compress.spectrum.bulk`, the module's text). A line through its quantiles against those
of Tracy and Widom gives a shift, and a factor beside ω; both are then fitted over the sizes by
p^(−1/3)·(1, √c, c, p^(−1/3)), c = p/n: the constants in `rmt_compress.spectrum.bulk`.

Writes one line of JSON per size to experiments/data/equalized_edge.jsonl and prints the constants.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmt_compress.spectrum import equalize, fit_bulk, tracy_widom

DATA = Path(__file__).parent / "data"
DRAWS = {
    (32, 32): 6000,
    (50, 50): 6000,
    (100, 100): 3000,
    (200, 200): 1200,
    (400, 400): 250,
    (32, 64): 4000,
    (50, 100): 3000,
    (100, 200): 1500,
    (200, 400): 500,
    (32, 128): 3000,
    (50, 200): 2400,
    (100, 400): 800,
    (200, 800): 250,
    (32, 320): 1500,
    (50, 500): 1200,
    (100, 1000): 400,
    (32, 1000): 600,
}
PROBABILITIES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98)
SEED = 5


def simulated(p: int, n: int, draws: int) -> dict[str, float]:
    """A row: shift and factor of one size, and the quantiles they come from."""
    generator = np.random.default_rng([SEED, p, n])
    largest, errors = [], []
    for _ in range(draws):
        values = np.linalg.svd(equalize(generator.standard_normal((p, n))).matrix, compute_uv=False)
        fit = fit_bulk(values**2 / n, n)
        largest.append(values[0] ** 2 / n / fit.sigma2)
        errors.append(fit.gof)
    # The edge of noise that was not equalized, at each probability: T there is Tracy–Widom's, up to ω.
    edges = [fit_bulk(values**2 / n, n, beta=1 - level) for level in PROBABILITIES]
    plain = np.array([edge.lambda_plus / edge.sigma2 for edge in edges])
    wide = np.array([tracy_widom.quantile(level) for level in PROBABILITIES]) - tracy_widom.MEAN
    # plain = (centre + scale·ω·(t − m))/…: its slope and middle give the units of T without writing them again.
    unit, middle = np.polyfit(wide, plain, 1)
    reached = (np.quantile(largest, PROBABILITIES) - middle) / unit
    factor, shift = np.polyfit(wide, reached, 1)
    omega = unit / _scale(p, n)
    return {
        "p": p,
        "n": n,
        "draws": draws,
        "shift": float(shift * omega),
        "factor": float(factor),
        "fit_error_95": float(np.quantile(errors, 0.95)),
    }


def _scale(p: int, n: int) -> float:
    """τ/n."""
    long, short = np.sqrt(n - 0.5), np.sqrt(p - 0.5)
    return float((long + short) * (1 / long + 1 / short) ** (1 / 3) / n)


def fitted(rows: list[dict[str, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Constants of shift and factor, each size weighted with the root of its draws."""
    p, n, draws = (np.array([row[key] for row in rows], dtype=float) for key in ("p", "n", "draws"))
    size, c = p ** (-1 / 3), p / n
    terms = size * np.array([np.ones_like(c), np.sqrt(c), c, size])
    weight = np.sqrt(draws)

    def through(values: list[float]) -> NDArray[np.float64]:
        return np.asarray(np.linalg.lstsq((terms * weight).T, np.array(values) * weight, rcond=None)[0])

    return through([row["shift"] for row in rows]), through([row["factor"] - 1 for row in rows])


def main() -> None:
    """Simulate, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four small sizes, few draws")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the file")
    asked = parser.parse_args()
    sizes = {(32, 32): 60, (50, 50): 60, (32, 64): 60, (32, 128): 60} if asked.quick else DRAWS
    rows = []
    with (asked.out / "equalized_edge.jsonl").open("w", encoding="utf-8") as file:
        for (p, n), draws in sizes.items():
            rows.append(simulated(p, n, draws))
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
            print(json.dumps(rows[-1]), flush=True)
    shift, factor = fitted(rows)
    print("shift ", np.round(shift, 3).tolist())
    print("factor", np.round(factor, 3).tolist())


if __name__ == "__main__":
    main()
