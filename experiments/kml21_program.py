"""General BEMA beside the program of its authors.

    python experiments/kml21_program.py                   # our numbers beside theirs, seconds
    python experiments/kml21_program.py --write FOLDER    # the matrices as CSV, for their program

KML21's program (ZhengTracyKe/BEMA at commit b88e598, BEMA.R) searches θ in [0.1, 50] with ten simulated spectra a
step and takes the edge from five hundred. Its numbers here come from R 4.2.2 and MASS, α = 0.2, seed 1, its last
lines changed to print θ, the mean variance and the edge beside the count. The tables of the paper cannot be made
again: what they were drawn from is not in the program. So the matrices are ours, (n × p), rows the samples, columns
with gamma-distributed variances of squared variation 1/θ, three planted spikes.

Theirs is in experiments/data/kml21_program.jsonl; the table goes to experiments/data/kml21_program.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmt_compress.spectrum import fit_gamma_noise, uneven_side

DATA = Path(__file__).parent / "data"
ALPHA, BETA = 0.2, 0.1
CASES = ((100, 500, 0.0), (100, 500, 0.3), (50, 200, 0.5), (200, 100, 0.3), (100, 1000, 0.1))
SEEDS = range(3)


def drawn(p: int, n: int, spread: float, seed: int) -> NDArray[np.float64]:
    """One matrix (n, p)."""
    generator = np.random.default_rng([21, p, n, int(100 * spread), seed])
    noise = generator.standard_normal((n, p))
    if spread:
        noise *= np.sqrt(generator.gamma(1 / spread, spread, p))
    left = np.linalg.qr(generator.standard_normal((n, 3)))[0]
    right = np.linalg.qr(generator.standard_normal((p, 3)))[0]
    limit = np.sqrt(n) * (min(p, n) / max(p, n)) ** 0.25
    return np.asarray(noise + (left * np.array([4.0, 6.0, 8.0]) * limit * (1 + 3 * spread)) @ right.T)


def ours(row: dict[str, Any]) -> dict[str, float]:
    """What we say of the matrix of one row, in the units of theirs."""
    p, n = row["p"], row["n"]
    longer = max(p, n)
    matrix = drawn(p, n, row["spread"], row["seed"])
    values = np.linalg.svd(matrix, compute_uv=False)
    found = fit_gamma_noise(values**2 / longer, longer, alpha=ALPHA, beta=BETA, side=uneven_side(matrix))
    return {
        "spread": found.spread,
        "sigma2": found.fit.sigma2,
        "edge": found.fit.lambda_plus * longer / n,
        "spikes": found.fit.spikes,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Both beside each other, as Markdown."""
    lines = ["| p × n | 1/θ drawn | 1/θ: theirs, ours | mean variance | edge | spikes |", "|---" * 6 + "|"]
    for row in rows:
        own = ours(row)
        cells = [f"{1 / row['theta']:.3f}, {own['spread']:.3f}", f"{row['sigma2']:.3f}, {own['sigma2']:.3f}"]
        cells += [f"{row['edge']:.3f}, {own['edge']:.3f}", f"{row['spikes']}, {own['spikes']}"]
        lines.append(f"| {row['p']} × {row['n']} | {row['spread']:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the matrices, or the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="the matrices instead of the table")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the table")
    asked = parser.parse_args()
    if asked.write is not None:
        for p, n, spread in CASES:
            for seed in SEEDS:
                path = asked.write / f"{p}_{n}_{spread:g}_{seed}.csv"
                np.savetxt(path, drawn(p, n, spread, seed), delimiter=",", fmt="%.17g")
        return
    rows = [json.loads(line) for line in (DATA / "kml21_program.jsonl").read_text(encoding="utf-8").splitlines()]
    (asked.out / "kml21_program.md").write_text(table(rows), encoding="utf-8")
    print(table(rows), end="")


if __name__ == "__main__":
    main()
