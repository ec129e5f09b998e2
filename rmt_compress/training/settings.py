"""What a training run is asked: frozen, checked, every problem named at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from rmt_compress.analysis.settings import NOISE_AND_CUTS, AnalysisSettings
from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.networks.tasks.drops import drop_number
from rmt_compress.planning.budgets import PANEL as BUDGETS
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.settings.declaring import held, setting
from rmt_compress.settings.validation import problems_of, refuse
from rmt_compress.training import schedules

Optimizer = Literal["sgd", "adamw"]
Loss = Literal["cross-entropy", "mse"]
Augmentation = Literal["none", "flip-shift"]
Precision = Literal["no", "fp16", "bf16"]
Mode = Literal["recombine", "recursive"]
Masks = Literal["held", "released"]
# Those of `reallocation`, which brings torch with it and would keep `--help` waiting.
MaskBudget = Literal["uniform", "magnitude", "edge", "alpha", "reallocation", "hybrid"]
Way = Literal["geometric", "linear", "once"]

BATCH, TEXT_BATCH = 128, 8
"""Samples per step by default; windows of text are many places each."""

_TRAINING, _SPARSITY = "Training", "Sparsification"
_COUNTED = {2: "two", 3: "three"}

# What a cycle does not ask its plan.
_CYCLES_OWN = ("gof", "rule", "keep_bulk", "shrink", "sparsify", "sparsity", "sparsify_budget", "pattern")

# What cuts while training cannot do, or what is asked elsewhere: of a budget, and of calibration.
_NOT_OF_CUTS = ("latency", "max_drop", "search", "multiple", "exclude", "evaluations")
_NOT_OF_STEPS = ("calibrate", "selection_samples", "input_shape", "seed", "data")

_ALWAYS_KEPT = (
    *("every", "mode", "keep_bulk", "gof", "gof_conv", "alpha", "beta", "quantiles", "include", "exclude"),
    *("min_size", "when_not_smaller", "rank_multiple", "sparsify", "sparsify_every", "masks", "sparsify_after"),
)


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained.

    Attributes:
        epochs: passes over the training samples.
        batch_size: samples per step, of all processes together; the last, smaller batch is used as well. None for
            `BATCH`, of text `TEXT_BATCH`.
        optimizer: ``sgd`` or ``adamw``.
        learning_rate: that of the first epoch.
        schedule: of the learning rate, see `schedules`.
        momentum: of SGD.
        weight_decay: the optimizer's own.
        l1: μ₁ of the term μ₁·Σ|w| over all weights, biases and norms left out (BSSZ24 (107)).
        l2: μ₂ of the term μ₂·Σw² over the same.
        loss: of classes ``cross-entropy``, or ``mse`` of the outputs against the one-hot classes; other tasks have
            their own.
        augment: ``flip-shift``: half of the images mirrored, all shifted by up to 4 pixels.
        seed: of initial weights, order of samples, dropout and augmentation.
        device: where to train; None for what accelerate chooses.
        precision: ``bf16``, or on a GPU ``fp16``: what products are computed in while training, of one process
            and of several; weights, losses and scores stay in float32. ``no``: everything in the weights' own type.
        max_seconds: no epoch is begun that would probably end later than this; None for no limit.
        min_accuracy: nothing more is cut once the test accuracy is below this, and the smallest network that
            reached it is the one that is kept; None for no limit.
        worst_score: the same for the score of any task, in its own unit and direction; None for no limit.
        max_drop: the same, said by how much the score may fall below that of the network that comes: points of a
            share as ``0.5``, else a number or ``2%`` of the score; None for no limit.

    Raises:
        SettingsError: listing everything that is out of range.
    """

    epochs: int = setting(10, "Passes over the training samples.", within="[1, inf)", panel=_TRAINING)
    batch_size: int | None = setting(
        None, "Samples per step; by default 128, of text 8 windows.", within="[1, inf)", panel=_TRAINING
    )
    optimizer: Optimizer = setting("sgd", "SGD with momentum, or AdamW.", panel=_TRAINING)
    learning_rate: float = setting(
        0.02,
        "Of the first epoch; by default 0.02 afresh, 0.005 from a checkpoint.",
        within="(0, inf)",
        called="the learning rate",
        flags=("--learning-rate", "--lr"),
        default_shown=False,
        panel=_TRAINING,
    )
    schedule: str = setting("constant", "Of the rate: constant, cosine or step:FACTOR,EPOCHS.", panel=_TRAINING)
    momentum: float = setting(0.9, "Of SGD.", within="[0, 1)", panel=_TRAINING)
    weight_decay: float = setting(0.0, "The optimizer's own.", within="[0, inf)", panel=_TRAINING)
    l1: float = setting(0.0, "Times the sum of |w|, in the loss.", within="[0, inf)", panel=_TRAINING)
    l2: float = setting(0.0, "Times the sum of w², in the loss.", within="[0, inf)", panel=_TRAINING)
    loss: Loss = setting(
        "cross-entropy", "What is made small where classes are told; other tasks have their own.", panel=_TRAINING
    )
    augment: Augmentation = setting("none", "Mirror and shift training images.", panel=_TRAINING)
    seed: int = setting(
        0, "Of weights, order and dropout.", within="[0, inf)", called="the seed", minimum=0, panel=_TRAINING
    )
    device: str | None = setting(None, "cpu, cuda, mps …; by default what there is.", panel=_TRAINING)
    precision: Precision = setting(
        "no",
        "Products of a training step in bf16, or on a GPU fp16; weights and scores stay float32.",
        flags=("--mixed-precision",),
        panel=_TRAINING,
    )
    max_seconds: float | None = setting(
        None, "Begin no epoch that would end later.", within="(0, inf]", panel=_TRAINING
    )
    min_accuracy: float | None = setting(
        None,
        "Cut no more below this test accuracy (0.97), and keep the smallest network that reached it.",
        within="(0, 1]",
        said="is a share above 0 and at most 1",
        panel=_TRAINING,
    )
    worst_score: float | None = setting(
        None,
        "The same for the score of any task: cut no more once it is worse (a loss above this).",
        within="(-inf, inf)",
        said="must be a number",
        metavar="SCORE",
        panel=_TRAINING,
    )
    max_drop: str | None = setting(
        None,
        "The same, said by how much the score of the checkpoint may fall: points of accuracy (0.5), or a "
        "percentage of a loss (2%).",
        metavar="DROP",
        panel=_TRAINING,
    )

    def __post_init__(self) -> None:
        problems = problems_of(self)
        limits = ("min_accuracy", "worst_score", "max_drop")
        given = [name.replace("_", "-") for name in limits if getattr(self, name) is not None]
        if len(given) > 1:
            problems.append(f"{' and '.join(given)} are {_COUNTED[len(given)]} words for one limit: give one")
        if self.max_drop is not None:
            try:
                drop_number(self.max_drop)
            except SettingsError as error:
                problems += error.problems
        try:
            self.rate(1)
        except ValueError as error:
            problems.append(str(error))
        refuse(problems)

    @property
    def limit(self) -> float | None:
        """The worst test score that is good enough; None for no limit, or one that the first score decides."""
        return self.min_accuracy if self.worst_score is None else self.worst_score

    def plain(self) -> dict[str, Any]:
        """All of it, as files keep it; what the first versions had not, only where it is asked."""
        return {name: value for name, value in vars(self).items() if name != "max_drop" or value is not None}

    def at_once(self, *, text: bool) -> int:
        """Samples per step."""
        return self.batch_size or (TEXT_BATCH if text else BATCH)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        return schedules.learning_rate(self.schedule, self.learning_rate, self.epochs)(epoch)


@dataclass(frozen=True)
class CycleSettings:
    """When and how much is cut while training (method.md §8).

    Attributes:
        every: epochs between two cuts, ℓ.
        mode: ``recombine`` (BSSZ24): two factors are looked at as their product and cut again as one;
            ``recursive`` (SJK23): they are layers like any other, and may be split themselves.
        keep_bulk: share of the bulk that each cut keeps, see `schedules`.
        analysis: how each cut looks at the layers.
        plan: what becomes of them; its `gof` is the analysis's, its share of the bulk this one's.
        budget: shares of the dense network that the last cut leaves, and how its layers are cut to that; without
            any, layers are cut at their edges.
        way: how the cuts before the last come to that, see `schedules`.
        calibration: how many samples of the last steps tell the moments of the layers, and what is repaired after
            a cut.
        sparsify: threshold ξ while training, see `schedules`; None for none.
        sparsify_every: epochs between two sparsifications.
        sparsity: share of the entries that are zero in the end, rising evenly; not with `sparsify`.
        sparsify_budget: what divides it between layers, see `compression.zero_budget` and `reallocation`.
        masks: ``held``: what has become 0 stays 0 until the layer is cut again; ``released``: it may grow back.
        sparsify_after: threshold ξ after the last epoch; None for none.

    Raises:
        SettingsError: listing everything that is out of range.
    """

    every: int = setting(
        2,
        "Epochs between two cuts; from a checkpoint the first comes at once.",
        within="[1, inf)",
        called="prune-every",
        flags=("--prune-every",),
        panel=NOISE_AND_CUTS,
    )
    mode: Mode = setting(
        "recombine",
        "Two factors are cut again as their product (BSSZ24), or each as a layer (SJK23).",
        panel=NOISE_AND_CUTS,
    )
    keep_bulk: str = setting(
        "auto",
        "Share of the noise directions a cut keeps: auto falls to 0 from cut to cut; 0.45; a list 0.6,0.3,0; "
        "slope:0.005 for 1 − 0.005·epoch.",
        panel=NOISE_AND_CUTS,
    )
    analysis: AnalysisSettings = held(AnalysisSettings)
    plan: PlanSettings = held(PlanSettings, without=_CYCLES_OWN)
    budget: BudgetSettings = held(BudgetSettings, without=_NOT_OF_CUTS)
    way: Way = setting(
        "geometric",
        "How the cuts come to the budget: each leaves the same share of what there was, or takes the same amount, "
        "or the first takes all.",
        panel=BUDGETS,
    )
    calibration: CalibrationSettings = held(CalibrationSettings, without=_NOT_OF_STEPS)
    sparsify: str | None = setting(
        None,
        "While training, set weights smaller than this to zero: 0.01, or 0.001:0.02 to rise evenly.",
        metavar="XI",
        panel=_SPARSITY,
    )
    sparsify_every: int = setting(
        1, "Epochs between two sparsifications.", within="[1, inf)", minimum=1, panel=_SPARSITY
    )
    sparsity: float | None = setting(
        None,
        "Instead, set this share of all layers' weights to zero, rising evenly until the epoch before the last.",
        within="[0, 1)",
        panel=_SPARSITY,
    )
    sparsify_budget: MaskBudget = setting(
        "uniform",
        "How --sparsity is divided between layers: as in prune, or by a short training of what the edge budget "
        "removes (reallocation), up to 0.2 by magnitude (hybrid).",
        panel=_SPARSITY,
    )
    masks: Masks = setting("held", "Zeros stay zero while training, or may grow back.", panel=_SPARSITY)
    sparsify_after: float | None = setting(
        None,
        "The same once, after the last epoch.",
        within="[0, inf)",
        said="must be a threshold of 0 or more",
        metavar="XI",
        panel=_SPARSITY,
    )

    def __post_init__(self) -> None:
        problems = problems_of(self)
        checks: tuple[Callable[[], object], ...] = (
            lambda: schedules.retained_share(self.keep_bulk, [0]),
            lambda: self.sparsify is None or schedules.threshold(self.sparsify, 1),
        )
        for check in checks:
            try:
                check()
            except ValueError as error:
                problems.append(str(error))
        problems += [
            f"{name.replace('_', '-')} of the cycle's plan is not asked: the cycle decides it itself"
            for name in _CYCLES_OWN
            if getattr(self.plan, name) != getattr(PlanSettings, name)
        ]
        if self.sparsity is not None and (self.sparsify is not None or self.sparsify_after is not None):
            problems.append("sparsity says itself how many entries go: leave out sparsify and sparsify-after")
        if self.sparsify_budget != "uniform" and self.sparsity is None:
            problems.append(f"sparsify-budget {self.sparsify_budget} divides a share of zeros: add --sparsity")
        if self.sparsify_budget in ("reallocation", "hybrid") and self.masks == "released":
            problems.append(f"sparsify-budget {self.sparsify_budget} decides what comes back: leave masks held")
        if self.analysis.noise == "all":
            problems.append("noise all sets models side by side and is for analyze: name the one that decides here")
        if self.analysis.noise == "equalized":
            problems.append("noise equalized is not for finetune: a layer in two has lost the scales of its edge")
        refuse([*problems, *self._problems_of_the_budget()])

    def _problems_of_the_budget(self) -> list[str]:
        """What does not go together with a budget, or without one."""
        problems = [
            f"{name.replace('_', '-')} of the cycle's budget is not asked: it is decided elsewhere"
            for name in _NOT_OF_CUTS
            if getattr(self.budget, name) != getattr(BudgetSettings, name)
        ]
        if self.calibration.repair == "blocks":
            problems.append("repair blocks is of prune: here training itself mends what was cut")
        if self.budget.shares:
            edges = {
                "keep-bulk": self.keep_bulk != CycleSettings.keep_bulk,
                "gof-conv": self.plan.gof_conv is not None,
                "when-not-smaller": self.plan.when_not_smaller != PlanSettings.when_not_smaller,
            }
            if own := [name for name, given in edges.items() if given]:
                problems.append(f"{', '.join(own)} is of cuts at the edge: a budget finds the ranks itself")
            if self.mode == "recursive":
                problems.append("mode recursive cuts factors as layers of their own, and a budget whole layers")
            return problems
        useless = _asked(self.budget, _NOT_OF_CUTS)
        useless += ["way"] if self.way != CycleSettings.way else []
        if self.calibration.calibration_samples is not None and self.repair == "none":
            useless.append("calibration-samples")
        if useless:
            problems.append(f"{', '.join(useless)} needs a budget: add --keep or --macs")
        return problems

    @property
    def repair(self) -> str:
        """What is repaired after a cut: batch-norm statistics or nothing."""
        return self.calibration.mends if self.budget.shares else self.calibration.repair or "none"

    @property
    def within(self) -> BudgetSettings:
        """The budget with all that is said of its ranks."""
        return replace(self.budget, multiple=self.plan.rank_multiple)

    def plain(self) -> dict[str, Any]:
        """All of it in one flat dictionary, as files keep it.

        What the files of the first version hold comes first, in their order; the rest only where it is not as by
        default, so that files written before a setting was there can be compared with later ones.
        """
        ours, default = _flat(self), _flat(CycleSettings())
        later = {name: value for name, value in ours.items() if value != default[name]}
        return {**{name: ours[name] for name in _ALWAYS_KEPT}, **later}

    def share_at(self, epoch: int, epochs: int) -> float:
        """The share of zeros after an epoch, counted from 1, of so many: all of it before the last one begins."""
        assert self.sparsity is not None
        return self.sparsity * min(1.0, epoch / max(1, epochs - 1))

    def cuts(self, epochs: int, *, trained: bool) -> tuple[int, ...]:
        """The epochs after which a cut is made: never after the last, which nothing would mend.

        Args:
            epochs: how many there will be.
            trained: whether the network comes trained; then the first cut comes at once, "after epoch 0".
        """
        return tuple(range(0 if trained else self.every, epochs, self.every))


def _flat(cycle: CycleSettings) -> dict[str, Any]:
    others = {**_without(cycle.budget, _NOT_OF_CUTS), **_without(cycle.calibration, _NOT_OF_STEPS)}
    flat = {**others, **vars(cycle.plan), **vars(cycle.analysis), **vars(cycle)}
    for name in ("analysis", "plan", "budget", "calibration"):
        del flat[name]
    return flat


def _without(settings: BudgetSettings | CalibrationSettings, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in vars(settings).items() if name not in names}


def _asked(settings: BudgetSettings, without: tuple[str, ...]) -> list[str]:
    """The names, as options have them, of settings that are not as by default."""
    default = vars(BudgetSettings())
    return [name.replace("_", "-") for name, value in _without(settings, without).items() if value != default[name]]


def differences(
    ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None, *, free: tuple[str, ...] = ()
) -> list[str]:
    """Settings in which a resumed run differs from the one that was broken off, in words.

    Both are plain dictionaries; those named in `free` may differ.
    """
    if (ours is None) != (theirs is None):
        return ["one prunes, the other does not"]
    if ours is None or theirs is None:
        return []
    return [
        f"{name} {theirs.get(name)!r}, now {ours.get(name)!r}"
        for name in dict.fromkeys((*ours, *theirs))
        if name not in free and _plain(theirs.get(name)) != _plain(ours.get(name))
    ]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
