"""Which of the networks that a budget allows is the best one, or the smallest that is good enough, by trying few.

No metric and no scaling wins everywhere (method.md §14), so at the wanted size each is tried: where samples are
many, on a part of them, and only the best of these on all. The smallest network that loses no more than it may is
found by halving the sizes along one rule, the portfolio at the size that this rule just missed, sizes between what
was met and what was missed along the winner, by the law of powers that losses nearly follow, and at last by giving
its most harmful layers back. What it has lost is counted with a margin for the noise of the samples that were asked
(`margins`). What is returned was measured on all samples, and no network is measured twice on the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rmt_compress.errors import SettingsError
from rmt_compress.planning.candidates import Candidate, Candidates, Rule
from rmt_compress.planning.margins import Judgement, margin

if TYPE_CHECKING:
    import torch

    from rmt_compress.layers.splitting import Factors
    from rmt_compress.progress import Progress

_FIRST_STEPS = 4
_ALONE_STEPS = 8
_LAST_STEPS = 6
_NEAR = 0.02
"""Two sizes of so little difference are one."""
_STEP = 0.2
_FINALISTS = 4
"""So many rules are asked all samples after a part of them has been asked about every rule."""


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


Score = Callable[[Trial], float | Judgement]
"""How good a network is: higher is better. What says it sample by sample gets a margin for their noise."""


@dataclass(frozen=True, eq=False)
class Asking:
    """How networks are asked what they are worth.

    Attributes:
        score: how good one is; None where none can be run, which leaves one rule and no `max_drop`.
        rough: the same on a part of the samples: of a size that is asked for it says which rules of the portfolio
            are worth all of them. These evaluations are not counted. None where samples are few.
        fresh: of how many other samples a `max_drop` is to hold; None for the population.
    """

    score: Score | None = None
    rough: Score | None = None
    fresh: int | None = None


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
    fresh: int | None
    rough: Score | None
    roughly: dict[str, float] = field(default_factory=dict)
    seen: dict[object, tuple[Candidate, Judgement]] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return self.limit - len(self.seen)

    def of(self, candidate: Candidate) -> float:
        """The score of a network, from memory where it has been asked before."""
        if candidate.key not in self.seen:
            self.seen[candidate.key] = candidate, self._judged(candidate, self.score)
            if self.progress is not None:
                self.progress(len(self.seen), self.limit, str(candidate.rule))
        return self.seen[candidate.key][1].value

    def promising(self, rules: Sequence[Rule], shares: Mapping[str, float]) -> Sequence[Rule]:
        """The rules that are best on a part of the samples, in their order; all where no part can be asked."""
        if self.rough is None or len(rules) <= _FINALISTS:
            return rules
        found: dict[object, tuple[Rule, float]] = {}
        for rule in rules:
            candidate = self.candidates.at(rule, shares)
            if candidate.key not in found:
                found[candidate.key] = rule, self._judged(candidate, self.rough).value
                if self.progress is not None:
                    self.progress(len(found), len(rules), f"{rule}, on a part of the samples")
        self.roughly = {str(rule): score for rule, score in found.values()}
        best = sorted(found.values(), key=lambda each: -each[1])[:_FINALISTS]
        return [rule for rule, _ in found.values() if rule in [one for one, _ in best]]

    def _judged(self, candidate: Candidate, score: Score) -> Judgement:
        rule = str(candidate.rule) if candidate.key[1] else ""
        found = score(Trial(self.candidates.tensors(candidate), rule, self.candidates.factors(candidate)))
        if not isinstance(found, Judgement):
            found = Judgement(float(found))
        # A network that answers NaN is worse than any other.
        return found if math.isfinite(found.value) else Judgement(-math.inf)

    def margin(self, candidate: Candidate) -> float:
        """How much more than it has lost a network that was scored may have lost on other samples."""
        whole, cut = next(iter(self.seen.values()))[1], self.seen[candidate.key][1]
        return margin(whole, cut, self.candidates.settings.confidence, self.fresh)

    def lost(self, candidate: Candidate) -> float:
        """How far its score is below that of the first one scored, the network as it is, with the margin."""
        fell = next(iter(self.seen.values()))[1].value - self.of(candidate)
        return fell + self.margin(candidate) if math.isfinite(fell) else fell

    def may_ask(self, candidate: Candidate) -> bool:
        """Whether the score of a network is known, or can be."""
        return candidate.key in self.seen or self.left > 0

    def record(self, **more: object) -> dict[str, object]:
        """What was tried, in order."""
        tried = []
        for each, found in self.seen.values():
            score = found.value if math.isfinite(found.value) else None
            tried.append({"rule": str(each.rule) if each.key[1] else "uncut", **each.sizes, "score": score})
            if found.each is not None and "goal" in more:
                tried[-1]["margin"] = self.margin(each)
        if self.roughly:
            part = {rule: score if math.isfinite(score) else None for rule, score in self.roughly.items()}
            more = {**more, "on_a_part": part}
        return {**more, "evaluations": len(self.seen), "tried": tried}


def search(
    candidates: Candidates,
    asking: Asking,
    *,
    progress: Progress | None = None,
) -> Found:
    """The network that the settings of `candidates` ask for.

    Args:
        candidates: all that there are.
        asking: how they are asked what they are worth.
        progress: called with (networks tried, the most that are tried, rule).

    Raises:
        SettingsError: a budget that no cut reaches, or `max_drop` where nothing can be scored.
    """
    settings, score = candidates.settings, asking.score
    if settings.max_drop is not None and score is None:
        raise SettingsError(["max-drop needs networks that can be scored: give data, or a size instead"])
    if score is None or (settings.max_drop is None and settings.search == "one"):
        candidate = candidates.at(candidates.rule, settings.shares)
        return Found(candidate, None, True, {"evaluations": 0})
    trials = _Trials(candidates, score, settings.evaluations, progress, asking.fresh, asking.rough)
    if settings.max_drop is None:
        best = _best_rule(trials, settings.shares)
        return Found(best, trials.of(best), True, trials.record())
    return _smallest(trials, settings.max_drop)


def _best_rule(trials: _Trials, shares: Mapping[str, float]) -> Candidate:
    """The best of the portfolio at one size; the earlier of equals."""
    return _best_of(trials, trials.promising(trials.candidates.portfolio, shares), shares)


def _best_of(trials: _Trials, rules: Sequence[Rule], shares: Mapping[str, float]) -> Candidate:
    all_of_them = [trials.candidates.at(rule, shares) for rule in rules]
    tried = [each for each in all_of_them if trials.may_ask(each) and trials.of(each) is not None]
    return max(tried, key=trials.of) if tried else all_of_them[0]


def _good_rule(trials: _Trials, shares: Mapping[str, float]) -> Candidate:
    """A good one of the portfolio for half the evaluations: the best scaling, then the best metric with it."""
    portfolio = trials.candidates.portfolio
    first = _best_of(trials, [rule for rule in portfolio if rule.metric == portfolio[0].metric], shares).rule
    return _best_of(trials, [first, *(r for r in portfolio if r.scaling == first.scaling and r != first)], shares)


def _smallest(trials: _Trials, drop: float) -> Found:
    candidates, settings = trials.candidates, trials.candidates.settings
    # The size that counts is the first that has a budget; else the parameters.
    name = next(iter(settings.shares), "keep")
    uncut = trials.of(candidates.with_ranks({}, candidates.rule))
    if not math.isfinite(uncut):
        raise SettingsError(["the network as it is has no finite score: there is nothing that it could lose"])
    # `low` was missed or cannot be reached, `high` is the largest that may be.
    low, high = _End(candidates.smallest(name)), _End(settings.shares.get(name, 1.0))

    def narrowed(rule: Rule, low: _End, high: _End, steps: int) -> tuple[_End, _End]:
        for _ in range(steps):
            if high.share - low.share <= _NEAR * high.share:
                break
            share = _between(low, high, drop)
            middle = candidates.at(rule, {**settings.shares, name: share})
            if not trials.may_ask(middle):
                break
            lost = trials.lost(middle)
            if lost <= drop:
                high = _End(min(middle.sizes[name], share), lost)
            else:
                low = _End(share, lost)
        return low, high

    rule = candidates.rule
    alone = settings.search == "one" or len(candidates.portfolio) == 1
    low, high = narrowed(rule, low, high, _ALONE_STEPS if alone else _FIRST_STEPS)
    if not alone:
        best = _good_rule(trials, {**settings.shares, name: low.share})
        if trials.may_ask(best):
            end = _End(low.share, trials.lost(best))
            low, high = (_End(candidates.smallest(name)), end) if trials.lost(best) <= drop else (end, high)
        rule = best.rule
        low, high = narrowed(rule, low, high, _LAST_STEPS)
    _give_back(trials, name, drop)
    within = [
        (each, score)
        for each, score in trials.seen.values()
        if all(each.sizes[size] <= share * (1 + 1e-9) for size, share in settings.shares.items())
    ]
    good = [each for each, _ in within if trials.lost(each) <= drop]
    record = trials.record(goal=uncut - drop)
    if good:
        answer = min(good, key=lambda each: each.sizes[name])
        return Found(answer, trials.of(answer), True, record)
    nearest = min((each for each, _ in within or trials.seen.values()), key=trials.lost)
    return Found(nearest, trials.of(nearest), False, record)


@dataclass(frozen=True)
class _End:
    """An end of the sizes among which the smallest good one lies, and what was lost there, where that is known."""

    share: float
    lost: float | None = None


def _between(low: _End, high: _End, drop: float) -> float:
    """The size to try next: losses are powers of the size, nearly; a half where one of them is not known."""
    if low.lost is None or high.lost is None or not 0 < high.lost < drop < low.lost < math.inf:
        return (low.share + high.share) / 2
    place = math.log(low.lost / drop) / math.log(low.lost / high.lost)
    # Never so near to an end that one step says next to nothing.
    place = min(max(place, _STEP), 1 - _STEP)
    return math.exp((1 - place) * math.log(low.share) + place * math.log(high.share))


def _give_back(trials: _Trials, name: str, drop: float) -> None:
    """Restore the most harmful layers of the best network that missed, one, two, four …, while that is smaller."""
    seen = [each for each, _ in trials.seen.values()]
    met = [each.sizes[name] for each in seen if trials.lost(each) <= drop]
    missed = [each for each in seen if trials.lost(each) > drop]
    if not missed:
        return
    nearest = min(missed, key=trials.lost)
    count = 1
    while trials.left:
        candidate = trials.candidates.restored(nearest, count)
        if candidate.sizes[name] >= min(met, default=1.0):
            return
        if trials.lost(candidate) <= drop:
            return
        count *= 2
