"""Which of the networks that a budget allows is the best one, or the smallest that is good enough, by trying few.

No metric and no scaling wins everywhere (method.md §14), so at the wanted size each is tried. The smallest network
that loses no more than it may is found by bisection over sizes along one rule, the portfolio at the size that this
rule just missed, more bisection along the winner, and at last by giving its most harmful layers back. What is
returned was measured, and no network is measured twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rmt_compress.errors import SettingsError
from rmt_compress.planning.candidates import Candidate, Candidates, Rule

if TYPE_CHECKING:
    import torch

    from rmt_compress.layers.splitting import Factors
    from rmt_compress.progress import Progress

_FIRST_STEPS = 4
_ALONE_STEPS = 6
_LAST_STEPS = 3


@dataclass(frozen=True, eq=False)
class Trial:
    """A network that is to be scored.

    Attributes:
        tensors: name of every tensor that is another than in the network -> what it is, of the same shape.
        rule: what chose the ranks; empty for the network as it is.
        factors: name of a tensor -> the two thinner layers that the network becomes there, the same once more:
            where two layers are less work than one they may run in its place, see `networks.replacing.tried`.
    """

    tensors: Mapping[str, torch.Tensor]
    rule: str = ""
    factors: Mapping[str, Factors] = field(default_factory=dict)


Score = Callable[[Trial], float]
"""How good a network is: higher is better."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a search has found.

    Attributes:
        candidate: the answer.
        score: its score; None where nothing was tried.
        met: whether it keeps every budget.
        record: what was tried, plain JSON.
    """

    candidate: Candidate
    score: float | None
    met: bool
    record: dict[str, object]


@dataclass(eq=False)
class _Trials:
    """Networks that were scored, each once, as many as there may be."""

    candidates: Candidates
    score: Score
    limit: int
    progress: Progress | None
    seen: dict[object, tuple[Candidate, float]] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return self.limit - len(self.seen)

    def of(self, candidate: Candidate) -> float:
        """The score of a network, from memory where it has been asked before."""
        if candidate.key not in self.seen:
            rule = str(candidate.rule) if candidate.key[1] else ""
            trial = Trial(self.candidates.tensors(candidate), rule, self.candidates.factors(candidate))
            found = float(self.score(trial))
            # A network that answers NaN is worse than any other.
            self.seen[candidate.key] = candidate, found if math.isfinite(found) else -math.inf
            if self.progress is not None:
                self.progress(len(self.seen), self.limit, str(candidate.rule))
        return self.seen[candidate.key][1]

    def may_ask(self, candidate: Candidate) -> bool:
        """Whether the score of a network is known, or can be."""
        return candidate.key in self.seen or self.left > 0

    def record(self, **more: object) -> dict[str, object]:
        """What was tried, in order."""
        tried = [
            {
                "rule": str(each.rule) if each.key[1] else "uncut",
                **each.sizes,
                "score": score if math.isfinite(score) else None,
            }
            for each, score in self.seen.values()
        ]
        return {**more, "evaluations": len(self.seen), "tried": tried}


def search(candidates: Candidates, score: Score | None, *, progress: Progress | None = None) -> Found:
    """The network that the settings of `candidates` ask for.

    Args:
        candidates: all that there are.
        score: how good a network is; None where none can be run, which leaves one rule and no `max_drop`.
        progress: called with (networks tried, the most that are tried, rule).

    Raises:
        SettingsError: a budget that no cut reaches, or `max_drop` where nothing can be scored.
    """
    settings = candidates.settings
    if settings.max_drop is not None and score is None:
        raise SettingsError(["max-drop needs networks that can be scored: give data, or a size instead"])
    if score is None or (settings.max_drop is None and settings.search == "one"):
        candidate = candidates.at(candidates.rule, settings.shares)
        return Found(candidate, None, True, {"evaluations": 0})
    trials = _Trials(candidates, score, settings.evaluations, progress)
    if settings.max_drop is None:
        best = _best_rule(trials, settings.shares)
        return Found(best, trials.of(best), True, trials.record())
    return _smallest(trials, settings.max_drop)


def _best_rule(trials: _Trials, shares: Mapping[str, float]) -> Candidate:
    """The best of the portfolio at one size; the earlier of equals."""
    all_of_them = [trials.candidates.at(rule, shares) for rule in trials.candidates.portfolio]
    tried = [each for each in all_of_them if trials.may_ask(each) and trials.of(each) is not None]
    return max(tried, key=trials.of) if tried else all_of_them[0]


def _smallest(trials: _Trials, drop: float) -> Found:
    candidates, settings = trials.candidates, trials.candidates.settings
    # The size that counts is the first that has a budget; else the parameters.
    name = next(iter(settings.shares), "keep")
    uncut = candidates.with_ranks({}, candidates.rule)
    goal = trials.of(uncut) - drop
    if not math.isfinite(goal):
        raise SettingsError(["the network as it is has no finite score: there is nothing that it could lose"])
    # `low` was missed or cannot be reached, `high` is the largest that may be.
    low, high = candidates.smallest(name), settings.shares.get(name, 1.0)
    rule = candidates.rule

    def at(rule: Rule, share: float) -> Candidate:
        return candidates.at(rule, {**settings.shares, name: share})

    def bisect(rule: Rule, low: float, high: float, steps: int) -> tuple[float, float]:
        for _ in range(steps):
            middle = at(rule, (low + high) / 2)
            if not trials.may_ask(middle):
                break
            if trials.of(middle) >= goal:
                high = min(middle.sizes[name], (low + high) / 2)
            else:
                low = (low + high) / 2
        return low, high

    alone = settings.search == "one" or len(candidates.portfolio) == 1
    low, high = bisect(rule, low, high, _ALONE_STEPS if alone else _FIRST_STEPS)
    if not alone:
        best = _best_rule(trials, {**settings.shares, name: max(low, candidates.smallest(name))})
        if trials.may_ask(best) and trials.of(best) >= goal:
            low, high = candidates.smallest(name), low
        rule = best.rule
        low, high = bisect(rule, low, high, _LAST_STEPS)
    _give_back(trials, name, goal)
    within = [
        (each, score)
        for each, score in trials.seen.values()
        if all(each.sizes[size] <= share * (1 + 1e-9) for size, share in settings.shares.items())
    ]
    good = [each for each, score in within if score >= goal]
    record = trials.record(goal=goal)
    if good:
        answer = min(good, key=lambda each: each.sizes[name])
        return Found(answer, trials.of(answer), True, record)
    nearest = max(within or list(trials.seen.values()), key=lambda pair: pair[1])[0]
    return Found(nearest, trials.of(nearest), False, record)


def _give_back(trials: _Trials, name: str, goal: float) -> None:
    """Restore the most harmful layers of the best network that missed, one, two, four …, while that is smaller."""
    met = [each.sizes[name] for each, score in trials.seen.values() if score >= goal]
    missed = [(score, each) for each, score in trials.seen.values() if score < goal]
    if not missed:
        return
    _, nearest = max(missed, key=lambda pair: pair[0])
    count = 1
    while trials.left:
        candidate = trials.candidates.restored(nearest, count)
        if candidate.sizes[name] >= min(met, default=1.0):
            return
        if trials.of(candidate) >= goal:
            return
        count *= 2
