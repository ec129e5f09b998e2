"""How often pure noise of several kinds passes the edge of each noise model, and whether planted spikes are found.

    python experiments/noise_models.py                    # an hour and a half on one core
    python experiments/noise_models.py --rows rates --sizes 50x50
    python experiments/noise_models.py --quick --out FOLDER
    python experiments/noise_models.py --table            # the tables again from the numbers

Kinds of noise: independent normal entries (iid); those times scales of rows and of columns, log-normal of deviation
1 (scaled); those with rows of gamma-distributed variances, 1/θ = 0.3 (gamma); those with columns that follow one
another with correlation 0.5 (correlated). A model should show a spike with probability β = 0.1 on noise of its own
kind; where the first draws left that open, `further` asks more of them. `spreads` asks the same of `general` for
other 1/θ, and for columns of such variances.
Power: three spikes at 1, 1.25 and 1.5 times a strength, which is given in units of the largest singular value that
the very noise they are planted in has; how often exactly three are found, on draws where the noise alone shows
none. In `equalized` they lie in the scales of the noise, and the strength is in units of the largest singular value
of the noise without them: there it sees them. Half of that unit is the limit below which spikes of even square
noise do not show.

Writes one line of JSON per row to experiments/data/noise_models.jsonl (what is there is not measured again) and the
tables to experiments/data/noise_models.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmt_compress.analysis.noise_models import NOISE_MODELS, Measured, NoiseFit
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.spectrum import NumpyKernels, singular_values

DATA = Path(__file__).parent / "data"
SIZES = ((50, 50), (100, 1000), (384, 1536))
# Draws of noise that a model is made for, and of other noise; of each size.
DRAWS = {(50, 50): (20_000, 1000), (100, 1000): (20_000, 200), (384, 1536): (20_000, 50)}
POWER_DRAWS = {(50, 50): 400, (100, 1000): 200, (384, 1536): 40}
# Of a kind whose first 40 draws, three of which failed, said too little.
MORE_POWER_DRAWS = {((384, 1536), "gamma"): 400}
SPREADS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SPREAD_DRAWS = {(50, 50): 2000, (100, 1000): 500}
ROWS = ("rates", "spreads", "power")
BETA = 0.1
SPREAD = 0.3
CORRELATION = 0.5
STRENGTHS = (0.7, 1.0, 1.5, 2.0, 3.0)
TOGETHER = (1.0, 1.25, 1.5)
SEED = 12

Matrix = NDArray[np.float64]
Row = dict[str, Any]


def _scaled(noise: Matrix, generator: np.random.Generator) -> tuple[Matrix, Matrix]:
    rows, columns = (np.exp(generator.standard_normal(side)) for side in noise.shape)
    scales = rows[:, None] * columns
    return noise * scales, scales


def _gamma(noise: Matrix, generator: np.random.Generator) -> tuple[Matrix, Matrix]:
    scales = np.sqrt(generator.gamma(1 / SPREAD, SPREAD, noise.shape[0]))[:, None]
    return noise * scales, scales


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


def ask(name: str, matrix: Matrix, values: Matrix | None = None) -> NoiseFit:
    """What a model says of a matrix, whose singular values may be known."""
    if values is None:
        # Through the Gram matrix: a third of the time of a decomposition, and no difference above the window.
        values = singular_values(matrix, NumpyKernels())
    return NOISE_MODELS[name].fit(Measured(values, max(matrix.shape), lambda: matrix), AnalysisSettings(beta=BETA))


def rates(size: tuple[int, int], kind: str, draws: tuple[int, int]) -> Iterator[Row]:
    """A row for each model: the share of draws of noise with a spike."""
    p, n = size
    wanted = {name: draws[0] if kind in OWN[name] else draws[1] for name in NOISE_MODELS}
    generator = np.random.default_rng([SEED, p, n, list(KINDS).index(kind)])
    false = dict.fromkeys(NOISE_MODELS, 0)
    for draw in range(max(wanted.values())):
        noise, _ = KINDS[kind](generator.standard_normal((p, n)), generator)
        values = singular_values(noise, NumpyKernels())
        for name in NOISE_MODELS:
            if draw < wanted[name]:
                false[name] += ask(name, noise, values).fit.spikes > 0
    for name in NOISE_MODELS:
        yield {
            **{"row": "rate", "p": p, "n": n, "noise": kind, "model": name, "own": kind in OWN[name]},
            **{"draws": wanted[name], "false": false[name] / wanted[name]},
        }


def spreads(size: tuple[int, int], draws: int) -> Iterator[Row]:
    """Rates of `general` on noise of other spreads, of rows and of columns."""
    p, n = size
    for side in ("short", "long") if p < n else ("short",):
        for spread in SPREADS:
            generator = np.random.default_rng([SEED, p, n, round(1000 * spread), side == "long"])
            false = 0
            for _ in range(draws):
                scales = np.sqrt(generator.gamma(1 / spread, spread, n if side == "long" else p))
                noise = generator.standard_normal((p, n)) * (scales if side == "long" else scales[:, None])
                false += ask("general", noise).fit.spikes > 0
            yield {"row": "spread", "p": p, "n": n, "side": side, "spread": spread, "draws": draws} | {
                "false": false / draws
            }


def power(size: tuple[int, int], kind: str, draws: int) -> Iterator[Row]:
    """A row for each model and strength: the share of draws in which exactly the planted spikes are found."""
    p, n = size
    generator = np.random.default_rng([SEED, 1, p, n, list(KINDS).index(kind)])
    quiet = dict.fromkeys(NOISE_MODELS, 0)
    exact = {(name, strength): 0 for name in NOISE_MODELS for strength in STRENGTHS}
    for _ in range(draws):
        plain = generator.standard_normal((p, n))
        noise, scales = KINDS[kind](plain, generator)
        left, right = (np.linalg.qr(generator.standard_normal((side, len(TOGETHER))))[0] for side in size)
        spikes = (left * np.array(TOGETHER)) @ right.T
        for name in (each for each in NOISE_MODELS if kind in OWN[each]):
            if ask(name, noise).fit.spikes:
                continue
            quiet[name] += 1
            unit = np.linalg.norm(plain if name == "equalized" else noise, 2)
            shape = scales * spikes if name == "equalized" else spikes
            for strength in STRENGTHS:
                exact[name, strength] += ask(name, noise + strength * unit * shape).fit.spikes == len(TOGETHER)
    for (name, strength), found in exact.items():
        if quiet[name]:
            yield {
                **{"row": "power", "p": p, "n": n, "noise": kind, "model": name, "strength": strength},
                **{"draws": quiet[name], "exact": found / quiet[name]},
            }


def tables(rows: list[Row]) -> str:
    """The rows as Markdown: rates with a model a column, spreads, and power."""
    lines = ["| p × n | noise | " + " | ".join(NOISE_MODELS) + " |", "|---" * (2 + len(NOISE_MODELS)) + "|"]
    rate = {(row["p"], row["n"], row["noise"], row["model"]): row for row in rows if row["row"] == "rate"}
    for p, n, kind in dict.fromkeys(place[:3] for place in rate):
        cells = []
        for name in NOISE_MODELS:
            row = rate[p, n, kind, name]
            cell = f"{row['false']:.3f} ({row['draws']:,})"
            cells.append(f"**{cell}**" if row["own"] else cell)
        lines.append(f"| {p} × {n} | {kind} | " + " | ".join(cells) + " |")
    spread = [row for row in rows if row["row"] == "spread"]
    lines += ["", "| p × n | variances of | draws | " + " | ".join(f"1/θ = {each:g}" for each in SPREADS) + " |"]
    lines.append("|---" * (3 + len(SPREADS)) + "|")
    for p, n, side, draws in dict.fromkeys((row["p"], row["n"], row["side"], row["draws"]) for row in spread):
        own = {row["spread"]: row["false"] for row in spread if (row["p"], row["n"], row["side"]) == (p, n, side)}
        of = "rows" if side == "short" else "columns"
        lines.append(
            f"| {p} × {n} | {of} | {draws:,} | " + " | ".join(f"{own[each]:.3f}" for each in SPREADS) + " |"
        )
    found = [row for row in rows if row["row"] == "power"]
    lines += ["", "| p × n | noise | model | draws | " + " | ".join(f"× {each:g}" for each in STRENGTHS) + " |"]
    lines.append("|---" * (4 + len(STRENGTHS)) + "|")
    for place in dict.fromkeys((row["p"], row["n"], row["noise"], row["model"], row["draws"]) for row in found):
        own = {
            row["strength"]: row["exact"]
            for row in found
            if (row["p"], row["n"], row["noise"], row["model"]) == place[:4]
        }
        p, n, kind, name, draws = place
        curve = " | ".join(f"{own[each]:.2f}" for each in STRENGTHS)
        lines.append(f"| {p} × {n} | {kind} | {name} | {draws} | {curve} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--sizes", nargs="+", default=[f"{p}x{n}" for p, n in SIZES])
    parser.add_argument("--quick", action="store_true", help="forty draws of the smallest size")
    parser.add_argument("--table", action="store_true", help="only the tables")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the two files")
    asked = parser.parse_args()
    if asked.quick and asked.out == DATA:
        parser.error("--quick writes what is no result: add --out")
    path = asked.out / "noise_models.jsonl"
    rows: list[Row] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["row"], row["p"], row["n"], row.get("noise")) for row in rows}

    def keep(what: str, size: tuple[int, int], kind: str | None, found: Callable[[], Iterator[Row]]) -> None:
        if (what, *size, kind) in done:
            return
        measured = list(found())
        rows.extend(measured)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in measured)
        for row in measured:
            print(json.dumps(row), flush=True)

    sizes = [(int(p), int(n)) for p, n in (size.split("x") for size in asked.sizes)]
    for size in [] if asked.table else SIZES[:1] if asked.quick else sizes:
        if "rates" in asked.rows:
            for kind in KINDS:
                keep("rate", size, kind, partial(rates, size, kind, (40, 40) if asked.quick else DRAWS[size]))
        if "spreads" in asked.rows and size in SPREAD_DRAWS:
            keep("spread", size, None, partial(spreads, size, 10 if asked.quick else SPREAD_DRAWS[size]))
        if "power" in asked.rows:
            for kind in list(KINDS)[:3]:
                draws = MORE_POWER_DRAWS.get((size, kind), POWER_DRAWS[size])
                keep("power", size, kind, partial(power, size, kind, 10 if asked.quick else draws))
    (asked.out / "noise_models.md").write_text(tables(rows), encoding="utf-8")
    print(tables(rows), end="")


if __name__ == "__main__":
    main()
