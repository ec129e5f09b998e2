"""What leaving spikes out of the ranks is worth: planted spikes in 0 to 30 % of the directions.

    python experiments/many_spikes.py   # about two minutes on one core

Unit noise with spikes of 2 to 6 times the limit √n·(p/n)^¼ at which one shows (BGN12). Writes
experiments/data/many_spikes.csv and prints it as the table of docs/statistics.md.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from rmt_compress.spectrum import QuantileRule, fit_bulk

DATA = Path(__file__).parent / "data" / "many_spikes.csv"
DRAWS = {(50, 50): 40, (100, 1000): 40, (200, 200): 40, (384, 1536): 10}
SHARES = (0.0, 0.02, 0.1, 0.2, 0.3)
RULES: tuple[QuantileRule, ...] = ("midpoint", "spiked")
SEED = 5


def planted(p: int, n: int, spikes: int, generator: np.random.Generator) -> np.ndarray:
    """Eigenvalues s²/n of one draw."""
    matrix = generator.standard_normal((p, n))
    if spikes:
        left, right = (np.linalg.qr(generator.standard_normal((side, spikes)))[0] for side in (p, n))
        matrix += (left * np.sqrt(n) * (p / n) ** 0.25 * generator.uniform(2.0, 6.0, spikes)) @ right.T
    return np.linalg.svd(matrix, compute_uv=False) ** 2 / n


def row(p: int, n: int, share: float) -> list[str]:
    """Size, spikes, draws, and for each rule the error of σ̂², how often exactly these were found, the fit error."""
    spikes, generator = int(share * p), np.random.default_rng([SEED, p, n, round(100 * share)])
    spectra = [planted(p, n, spikes, generator) for _ in range(DRAWS[p, n])]
    cells = [f"{p} × {n}", f"{spikes}", f"{len(spectra)}"]
    for rule in RULES:
        fits = [fit_bulk(spectrum, n, quantiles=rule) for spectrum in spectra]
        cells += [
            f"{np.mean([fit.sigma2 for fit in fits]) - 1:+.1%}",
            f"{np.mean([fit.spikes == spikes for fit in fits]):.2f}",
            f"{np.median([fit.gof for fit in fits]):.3f}",
        ]
    return cells


def table(rows: list[list[str]]) -> str:
    """The rows as Markdown."""
    head = ["p × n", "spikes", "draws"]
    head += [f"{what}, {rule}" for rule in RULES for what in ("σ̂²", "exactly found", "fit error")]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    """Simulate, write, print."""
    rows = [row(p, n, share) for p, n in DRAWS for share in SHARES]
    with DATA.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    print(table(rows), end="")


if __name__ == "__main__":
    main()
