"""Simulate the fit error of pure noise over a grid of sizes and fit the law in `rmt_compress/spectrum/null.py`.

    python experiments/null_fit_error.py simulate   # about 45 minutes on one core
    python experiments/null_fit_error.py fit        # seconds; prints the constants and their accuracy

`simulate` writes experiments/data/null_fit_error.csv: one row per (rule, p, n, alpha) with the quantiles of p·gof.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path

import numpy as np

from rmt_compress.spectrum import QuantileRule, fit_bulk, noise_eigenvalues
from rmt_compress.spectrum.null import PROBABILITIES, law_features

# Of noise `spiked` says the same as `midpoint`.
RULES: tuple[QuantileRule, ...] = ("midpoint", "paper")

DATA = Path(__file__).parent / "data" / "null_fit_error.csv"
SEED = 20240601
ALPHAS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
SIZES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096)
RATIOS = (1.0, 0.75, 0.5, 0.2, 0.05, 0.01)


def draws(p: int) -> int:
    """Number of matrices simulated at size p."""
    return 6000 if p <= 256 else max(300, 6000 * 256 // p)


def simulate() -> None:
    """Write the table of quantiles of p·gof, one rule and size at a time."""
    with DATA.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["rule", "p", "n", "alpha", "draws", *(f"q{q}" for q in PROBABILITIES)])
        for rule, p, ratio in itertools.product(RULES, SIZES, RATIOS):
            # The law is all but independent of the ratio: 4,096 is simulated for square matrices alone. The
            # published rule serves reproduction only; its law is continued above 512.
            if (p == 4096 and ratio != 1.0) or (rule == "paper" and p > 512):
                continue
            n = round(p / ratio)
            generator = np.random.default_rng([SEED, p, n])
            spectra = (noise_eigenvalues(p, n, generator) for _ in range(draws(p)))
            errors = p * np.array([[fit_bulk(s, n, alpha=a, quantiles=rule).gof for a in ALPHAS] for s in spectra])
            for alpha, column in zip(ALPHAS, errors.T, strict=True):
                row = np.quantile(column, PROBABILITIES)
                table.writerow([rule, p, n, alpha, draws(p), *(f"{value:.4f}" for value in row)])
            file.flush()
            print(f"{rule}, p = {p}, n = {n}: 95 % null point of p·gof {np.quantile(errors[:, 4], 0.95):.3f}")


def fit() -> None:
    """Least squares for each rule and probability; prints the constants for null.py and how far they are off."""
    with DATA.open(newline="") as file:
        rows = list(csv.DictReader(file))
    report = []
    print("_LAWS: dict[QuantileRule, FloatArray] = {")
    for rule in RULES:
        mine = [row for row in rows if row["rule"] == rule]
        p, n, alpha, count = (np.array([float(row[key]) for row in mine]) for key in ("p", "n", "alpha", "draws"))
        measured = np.array([[float(row[f"q{q}"]) for q in PROBABILITIES] for row in mine])
        features = law_features(p, n, alpha)
        weight = np.sqrt(count)[:, None]
        constants = np.linalg.lstsq(features * weight, measured * weight, rcond=None)[0].T
        off = (features @ constants.T / measured - 1)[p >= 24]
        print(f'    "{rule}": np.array(\n        [')
        for row in constants:
            print("            [" + ", ".join(f"{value:.4f}" for value in row) + "],")
        print("        ]\n    ),")
        report += [
            f"{rule:8}  {probability:5}  {np.sqrt(np.mean(column**2)):.4f}  {np.abs(column).max():.4f}"
            for probability, column in zip(PROBABILITIES, off.T, strict=True)
        ]
    print("}\n\nrule, probability, rms and largest relative error for p ≥ 24:", *report, sep="\n  ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("simulate", "fit"))
    {"simulate": simulate, "fit": fit}[parser.parse_args().step]()
