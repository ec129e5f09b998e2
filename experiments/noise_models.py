"""How often pure noise of several kinds passes the edge of each noise model, and whether planted spikes are found.

    python experiments/noise_models.py            # about half an hour on one core
    python experiments/noise_models.py --quick

Kinds of noise: independent normal entries (iid); those times scales of rows and of columns, log-normal of deviation
1 (scaled); those with rows of gamma-distributed variances, 1/θ = 0.3 (gamma); those with columns that follow one
another with correlation 0.5 (correlated). A model should show a spike with probability β = 0.1 on noise of its own
kind.
Power: three spikes at 1.5, 2 and 3 times the limit above which one shows, in units of the model's own noise: how
often exactly those are found, on draws where the same noise alone shows none.

Writes one line of JSON per row to experiments/data/noise_models.jsonl and the table to
experiments/data/noise_models.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmt_compress.analysis.noise_models import NOISE_MODELS, Measured, NoiseFit
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.spectrum import NumpyKernels, singular_values

DATA = Path(__file__).parent / "data"
SIZES = ((50, 50), (100, 1000), (384, 1536))
DRAWS = {(50, 50): 3000, (100, 1000): 1000, (384, 1536): 100}
BETA = 0.1
SPREAD = 0.3
CORRELATION = 0.5
SPIKES = (1.5, 2.0, 3.0)
SEED = 11

Matrix = NDArray[np.float64]


def _scaled(noise: Matrix, generator: np.random.Generator) -> tuple[Matrix, Matrix]:
    rows, columns = (np.exp(generator.standard_normal(side)) for side in noise.shape)
    scales = rows[:, None] * columns
    return noise * scales, scales


def _gamma(noise: Matrix, generator: np.random.Generator) -> tuple[Matrix, Matrix]:
    scales = np.sqrt(generator.gamma(1 / SPREAD, SPREAD, noise.shape[0]))[:, None]
    return noise * scales, np.ones((1, 1))


def _correlated(noise: Matrix, generator: np.random.Generator) -> tuple[Matrix, Matrix]:
    del generator
    followed = noise.copy()
    for column in range(1, noise.shape[1]):
        followed[:, column] = CORRELATION * followed[:, column - 1] + np.sqrt(1 - CORRELATION**2) * noise[:, column]
    return followed, np.ones((1, 1))


KINDS: dict[str, Callable[[Matrix, np.random.Generator], tuple[Matrix, Matrix]]] = {
    "iid": lambda noise, generator: (noise, np.ones((1, 1))),
    "scaled": _scaled,
    "gamma": _gamma,
    "correlated": _correlated,
}
# Which noise each model is made for.
OWN = {
    "mp": ("iid",),
    "equalized": ("iid", "scaled"),
    "signflip": ("iid", "scaled", "gamma"),
    "general": ("iid", "gamma"),
}


def ask(name: str, matrix: Matrix, settings: AnalysisSettings) -> NoiseFit:
    """What a model says of a matrix."""
    values = singular_values(matrix, NumpyKernels())
    return NOISE_MODELS[name].fit(Measured(values, max(matrix.shape), lambda: matrix), settings)


def measure(size: tuple[int, int], kind: str, draws: int) -> list[dict[str, object]]:
    """A row for each model: shares of draws with a false spike, and with exactly the planted ones found."""
    settings = AnalysisSettings(beta=BETA)
    p, n = size
    generator = np.random.default_rng([SEED, p, n, list(KINDS).index(kind)])
    false = dict.fromkeys(NOISE_MODELS, 0)
    quiet, exact = dict.fromkeys(NOISE_MODELS, 0), dict.fromkeys(NOISE_MODELS, 0)
    planted_draws = max(1, draws // 10)
    strengths = np.array(SPIKES) * np.sqrt(n) * (p / n) ** 0.25
    for draw in range(draws):
        plain = generator.standard_normal((p, n))
        noise, scales = KINDS[kind](plain, generator)
        alone = {name: ask(name, noise, settings).fit.spikes for name in NOISE_MODELS}
        for name, spikes in alone.items():
            false[name] += spikes > 0
        if draw >= planted_draws:
            continue
        left, right = (np.linalg.qr(generator.standard_normal((side, len(SPIKES))))[0] for side in size)
        # In the scales of the noise, where it has them, so that the strengths mean the same.
        planted = noise + scales * ((left * strengths) @ right.T)
        for name, spikes in alone.items():
            if spikes == 0:
                quiet[name] += 1
                exact[name] += ask(name, planted, settings).fit.spikes == len(SPIKES)
    return [
        {
            "p": p,
            "n": n,
            "noise": kind,
            "model": name,
            "own": kind in OWN[name],
            "draws": draws,
            "false": false[name] / draws,
            "planted": quiet[name],
            "exact": exact[name] / quiet[name] if quiet[name] else None,
        }
        for name in NOISE_MODELS
    ]


def table(rows: list[dict[str, object]]) -> str:
    """The rows as Markdown, a model a column; what a model is made for in bold."""
    lines = ["| p × n | noise | draws | " + " | ".join(NOISE_MODELS) + " |", "|---" * (3 + len(NOISE_MODELS)) + "|"]
    places = {(row["p"], row["n"], row["noise"]): row["draws"] for row in rows}
    for (p, n, kind), draws in places.items():
        cells = []
        for name in NOISE_MODELS:
            row = next(r for r in rows if (r["p"], r["n"], r["noise"], r["model"]) == (p, n, kind, name))
            found = "–" if row["exact"] is None else f"{row['exact']:.2f}"
            cell = f"{row['false']:.3f} / {found}"
            cells.append(f"**{cell}**" if row["own"] else cell)
        lines.append(f"| {p} × {n} | {kind} | {draws:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="forty draws of the smallest size")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the two files")
    asked = parser.parse_args()
    sizes = {SIZES[0]: 40} if asked.quick else DRAWS
    rows: list[dict[str, object]] = []
    with (asked.out / "noise_models.jsonl").open("w", encoding="utf-8") as file:
        for size, draws in sizes.items():
            for kind in KINDS:
                found = measure(size, kind, draws)
                rows += found
                file.writelines(json.dumps(row) + "\n" for row in found)
                file.flush()
    (asked.out / "noise_models.md").write_text(table(rows), encoding="utf-8")
    print(table(rows), end="")


if __name__ == "__main__":
    main()
