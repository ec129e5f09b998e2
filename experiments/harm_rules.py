"""Whether features of a weight foretell what its cut costs: rules, judged by networks that they were not made on.

A rule answers a question, does the cut cost 1 % or more of what the network has learned (or 10 %), by one
threshold: on a feature, or on the logistic combination of the logarithms of two. Thresholds, directions and weights
are made on all networks but one (each counts the same, and so do both answers) and asked about that one.

Errors are *balanced*: the mean of the share of harmful cuts that are missed and of harmless ones that are called
harmful, each network counting the same. Whoever tosses a coin, or always says the same, has one half. Their spread
is that of networks drawn anew from those at hand, with replacement, 1,000 times.

A *grade* is two such thresholds for the 1 %: below the one at which a miss counts three times as much as an alarm a
cut is called low, above the one at which an alarm counts three times as much as a miss it is called high.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]
Floats = NDArray[np.float64]
LIMITS = (0.01, 0.1)
"""Shares of what was learned from which on a cut is called harmful, one question each."""
GRADES = ("low", "medium", "high")
CAUTION = 3.0
RULE = "removed energy · stable rank / p"
"""What is graded by: the only rule of the table whose interval stays below one half in every column."""
DRAWS = 1000
SEED = 7
CUTS = {"edge": ("edge",), "half": ("half",), "both": ("edge", "half")}

FEATURES: dict[str, Callable[[Row], float]] = {
    "fit error": lambda row: row["gof"],
    "fit error / null": lambda row: row["gof"] / row["gof_null"],
    "equalized fit error": lambda row: row["equalized_gof"],
    "equalized fit error / null": lambda row: row["equalized_gof"] / row["gof_null"],
    "Hill α": lambda row: row["alpha"],
    "stable rank": lambda row: row["stable_rank"],
    "stable rank / p": lambda row: row["stable_rank"] / row["p"],
    "α · stable rank": lambda row: row["alpha"] * row["stable_rank"],
    "bulk energy": lambda row: row["bulk_energy"],
    "removed energy": lambda row: row["removed"],
    "removed energy · stable rank / p": lambda row: row["removed"] * row["stable_rank"] / row["p"],
    "norm / edge": lambda row: row["norm_over_edge"],
    "smaller side p": lambda row: row["p"],
    "n / p": lambda row: row["n"] / row["p"],
    "convolution": lambda row: 1.0 + (row["kind"] != "linear"),
    "place": lambda row: 0.1 + row["place"],
    "layers in the network": lambda row: row["layers"],
}
"""What is known without inputs: positive numbers."""
PAIRS = (
    ("removed energy", "fit error"),
    ("removed energy", "equalized fit error"),
    ("removed energy", "α · stable rank"),
    ("removed energy", "stable rank / p"),
    ("removed energy", "place"),
    ("removed energy", "smaller side p"),
    ("removed energy", "layers in the network"),
    ("fit error", "stable rank / p"),
    ("fit error", "place"),
)
RULES: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in FEATURES},
    **{" & ".join(pair): pair for pair in PAIRS},
}


@dataclass(frozen=True)
class Table:
    """The cuts of one kind.

    Attributes:
        networks: the network of each, (N,).
        cuts: ``edge`` or ``half``, (N,).
        harm: the loss's rise over what was learned, (N,).
        logs: feature -> its logarithms, (N,).
        names: of the networks.
        foretold: what `foretold` has answered, since of two networks left out either may be the first.
        weighed: the `weights` that it asked with, which are the same for every rule.
    """

    networks: NDArray[np.str_]
    cuts: NDArray[np.str_]
    harm: Floats
    logs: dict[str, Floats]
    names: tuple[str, ...]
    foretold: dict[tuple[str, float, bytes], NDArray[np.bool_]] = field(default_factory=dict, repr=False)
    weighed: dict[tuple[float, bytes], Floats] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, rows: Sequence[Row], cuts: Sequence[str]) -> Table:
        """From the lines of harm.jsonl."""
        uncut = {row["network"]: row for row in rows if row["cut"] == "none"}
        chosen = [row for row in rows if row["cut"] in cuts]
        harm = [harm_of(row, uncut[row["network"]]) for row in chosen]
        logs = {name: np.log([max(of(row), 1e-6) for row in chosen]) for name, of in FEATURES.items()}
        names = tuple(dict.fromkeys(row["network"] for row in chosen))
        networks, kinds = (np.array([row[key] for row in chosen]) for key in ("network", "cut"))
        return cls(networks, kinds, np.array(harm), logs, names)

    def weights(self, which: NDArray[np.bool_], harmful: NDArray[np.bool_]) -> Floats:
        """Of cuts: networks count the same within each answer, and both answers do; 0 outside `which`."""
        # One number for each network and answer.
        groups = 2 * self.numbers + harmful
        counts = np.bincount(groups[which], minlength=2 * len(self.names))
        of_answer = (counts.reshape(-1, 2) > 0).sum(axis=0)
        return np.where(which, 1 / np.maximum(counts[groups] * of_answer[harmful.astype(int)], 1), 0.0)

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """Which of `names` the network of each cut is, (N,)."""
        return np.array([self.names.index(name) for name in self.networks], dtype=np.int64)


def harm_of(row: Row, uncut: Row) -> float:
    """The loss's rise as a share of what the network has learned."""
    return float((row["loss"] - uncut["loss"]) / (uncut["guess"] - uncut["loss"]))


def threshold(values: Floats, harmful: NDArray[np.bool_], weights: Floats) -> tuple[float, float]:
    """(direction, limit) of the least weighted error: harmful is direction·value > limit."""
    best = (np.inf, 1.0, np.inf)
    for direction in (1.0, -1.0):
        turned = direction * values
        order = np.argsort(turned, kind="stable")
        ordered, signed = turned[order], np.where(harmful, weights, -weights)[order]
        # Below or at the limit go the first k: missed harmful ones of theirs, alarms of the rest.
        errors = weights[~harmful].sum() + np.concatenate([[0.0], np.cumsum(signed)])
        limits = np.concatenate([[ordered[0] - 1], (ordered[:-1] + ordered[1:]) / 2, [ordered[-1] + 1]])
        possible = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])
        k = int(np.argmin(np.where(possible, errors, np.inf)))
        if errors[k] < best[0] - 1e-12:
            best = (float(errors[k]), direction, float(limits[k]))
    return best[1], best[2]


def logistic(features: Floats, harmful: NDArray[np.bool_], weights: Floats) -> Floats:
    """Coefficients, the constant last, of a weighted logistic regression with a little ridge (Newton)."""
    x = np.column_stack([features, np.ones(len(features))])
    coefficients = np.zeros(x.shape[1])
    ridge = np.diag([*([0.01] * features.shape[1]), 1e-6])
    for _ in range(25):
        chance = 1 / (1 + np.exp(-np.clip(x @ coefficients, -30, 30)))
        slope = x.T @ (weights * (chance - harmful)) + ridge @ coefficients
        curve = (x * (weights * chance * (1 - chance))[:, None]).T @ x + ridge
        step = np.linalg.solve(curve, slope)
        coefficients = coefficients - step
        if np.abs(step).max() < 1e-9:
            break
    return coefficients


def foretold(table: Table, rule: str, made_on: NDArray[np.bool_], limit: float) -> NDArray[np.bool_]:
    """Whether each cut costs at least `limit`, by the rule as it is made on some of the cuts."""
    key = rule, limit, made_on.tobytes()
    if key not in table.foretold:
        table.foretold[key] = _foretold(table, rule, made_on, limit)
    return table.foretold[key]


def _foretold(table: Table, rule: str, made_on: NDArray[np.bool_], limit: float) -> NDArray[np.bool_]:
    harmful = table.harm >= limit
    key = limit, made_on.tobytes()
    if key not in table.weighed:
        table.weighed[key] = table.weights(made_on, harmful)
    weights = table.weighed[key]
    columns = np.column_stack([table.logs[name] for name in RULES[rule]])
    if columns.shape[1] == 1:
        values = columns[:, 0]
    else:
        middle, spread = columns[made_on].mean(axis=0), columns[made_on].std(axis=0) + 1e-12
        columns = (columns - middle) / spread
        coefficients = logistic(columns[made_on], harmful[made_on], weights[made_on])
        values = columns @ coefficients[:-1]
    direction, bound = threshold(values[made_on], harmful[made_on], weights[made_on])
    return np.asarray(direction * values > bound)


def left_out(table: Table, rule: str, limit: float, among: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """`foretold` of every network by the others; of those `among` alone where it is given."""
    among = np.ones(table.harm.size, dtype=bool) if among is None else among
    result = np.zeros(table.harm.size, dtype=bool)
    for name in table.names:
        mine = table.networks == name
        if (among & mine).any():
            result[mine] = foretold(table, rule, among & ~mine, limit)[mine]
    return result


def balanced_error(table: Table, said: NDArray[np.bool_], limit: float, which: NDArray[np.bool_]) -> float:
    """The mean of the shares of harmful cuts that are missed and of harmless ones that are called harmful."""
    harmful = table.harm >= limit
    return float((table.weights(which, harmful) * (said != harmful)).sum() / 2)


@cache
def draws(count: int) -> NDArray[np.int64]:
    """How often each of `count` networks is drawn, (DRAWS, count)."""
    chosen = np.random.default_rng(SEED).integers(count, size=(DRAWS, count))
    return np.stack([np.bincount(row, minlength=count) for row in chosen])


def spread(table: Table, said: NDArray[np.bool_], limit: float) -> tuple[float, float]:
    """The 2.5 and 97.5 % points of the balanced error over networks drawn anew."""
    harmful = table.harm >= limit
    shares = np.full((len(table.names), 2, 2), 0.0)
    for number, name in enumerate(table.names):
        for answer in (0, 1):
            mine = (table.networks == name) & (harmful == bool(answer))
            if mine.any():
                shares[number, answer] = (said[mine] != harmful[mine]).mean(), 1
    sums = np.tensordot(draws(len(table.names)), shares, axes=1)
    sums = sums[(sums[:, :, 1] > 0).all(axis=1)]
    low, high = np.quantile((sums[:, :, 0] / sums[:, :, 1]).mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def chosen_rule(table: Table, limit: float, among: NDArray[np.bool_]) -> str:
    """The rule with the least balanced error, one of these networks left out; the simpler first."""
    errors = {
        rule: round(balanced_error(table, left_out(table, rule, limit, among), limit, among), 3) for rule in RULES
    }
    return min(errors, key=lambda rule: (errors[rule], len(RULES[rule])))


def nested(table: Table, limit: float) -> tuple[NDArray[np.bool_], list[str]]:
    """What is foretold of every network when the rule too is chosen on the others; and those rules."""
    said, rules = np.zeros(table.harm.size, dtype=bool), []
    for name in table.names:
        mine = table.networks == name
        rules.append(chosen_rule(table, limit, ~mine))
        said[mine] = foretold(table, rules[-1], ~mine, limit)[mine]
    return said, rules


def grade_limits(table: Table, made_on: NDArray[np.bool_]) -> tuple[float, float]:
    """Values of the feature of `RULE` above which a cut is no longer low, and above which it is high."""
    harmful = table.harm[made_on] >= LIMITS[0]
    weights = table.weights(made_on, table.harm >= LIMITS[0])[made_on]
    limits = []
    for miss, alarm in ((CAUTION, 1.0), (1.0, CAUTION)):
        direction, limit = threshold(table.logs[RULE][made_on], harmful, weights * np.where(harmful, miss, alarm))
        assert direction > 0  # more of it has never been better
        limits.append(float(np.exp(limit)))
    return limits[0], max(limits)


def graded(table: Table) -> NDArray[np.int64]:
    """0, 1 or 2 for low, medium and high of every cut, foretold by the other networks."""
    grades = np.zeros(table.harm.size, dtype=np.int64)
    for name in table.names:
        mine = table.networks == name
        grades[mine] = np.digitize(np.exp(table.logs[RULE][mine]), grade_limits(table, ~mine), right=True)
    return grades


def share(table: Table, grades: NDArray[np.int64], grade: int, limit: float) -> tuple[float, float, float]:
    """The share of a grade's cuts that cost at least `limit`, with its 95 % interval over networks drawn anew."""
    mine, harmful = grades == grade, table.harm >= limit
    numbers, count = table.numbers, len(table.names)
    counts = np.column_stack([np.bincount(numbers[each], minlength=count) for each in (mine & harmful, mine)])
    sums = np.tensordot(draws(len(table.names)), counts, axes=1)
    sums = sums[sums[:, 1] > 0]
    low, high = np.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
    return float(harmful[mine].mean()), float(low), float(high)
