"""What a training run is asked: frozen, checked, every problem named at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.errors import SettingsError
from rmt_compress.planning.settings import PlanSettings, WhenNotSmaller
from rmt_compress.spectrum import QuantileRule
from rmt_compress.training import schedules

Optimizer = Literal["sgd", "adamw"]
Loss = Literal["cross-entropy", "mse"]
Augmentation = Literal["none", "flip-shift"]
Precision = Literal["no", "fp16", "bf16"]
Mode = Literal["recombine", "recursive"]
Masks = Literal["held", "released"]


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained.

    Attributes:
        epochs: passes over the training samples.
        batch_size: samples per step, of all processes together; the last, smaller batch is used as well.
        optimizer: ``sgd`` or ``adamw``.
        learning_rate: that of the first epoch.
        schedule: of the learning rate, see `schedules`.
        momentum: of SGD.
        weight_decay: the optimizer's own.
        l1: μ₁ of the term μ₁·Σ|w| over all weights, biases and norms left out (BSSZ24 (107)).
        l2: μ₂ of the term μ₂·Σw² over the same.
        loss: ``cross-entropy``, or ``mse`` of the outputs against the one-hot classes.
        augment: ``flip-shift``: half of the images mirrored, all shifted by up to 4 pixels.
        seed: of initial weights, order of samples, dropout and augmentation.
        device: where to train; None for what accelerate chooses.
        precision: ``no``, ``fp16`` or ``bf16`` mixed precision.
        max_seconds: no epoch is begun that would probably end later than this; None for no limit.
        min_accuracy: nothing more is cut once the test accuracy is below this, and the smallest network that
            reached it is the one that is kept; None for no limit.

    Raises:
        SettingsError: listing everything that is out of range.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.02
    schedule: str = "constant"
    momentum: float = 0.9
    weight_decay: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    loss: Loss = "cross-entropy"
    augment: Augmentation = "none"
    seed: int = 0
    device: str | None = None
    precision: Precision = "no"
    max_seconds: float | None = None
    min_accuracy: float | None = None

    def __post_init__(self) -> None:
        choices = (
            ("optimizer", self.optimizer, Optimizer),
            ("loss", self.loss, Loss),
            ("augment", self.augment, Augmentation),
            ("precision", self.precision, Precision),
        )
        problems = [
            f"{name} must be {' or '.join(get_args(known))}, got {value!r}"
            for name, value, known in choices
            if value not in get_args(known)
        ]
        problems += [
            f"{name} must be at least 1, got {value}"
            for name, value in (("epochs", self.epochs), ("batch-size", self.batch_size))
            if value < 1
        ]
        if not 0 < self.learning_rate < math.inf:
            problems.append(f"the learning rate must be above 0, got {self.learning_rate:g}")
        if not 0 <= self.momentum < 1:
            problems.append(f"momentum must lie in [0, 1), got {self.momentum:g}")
        problems += [
            f"{name} must be 0 or more, got {value:g}"
            for name, value in (("weight-decay", self.weight_decay), ("l1", self.l1), ("l2", self.l2))
            if not 0 <= value < math.inf
        ]
        if self.seed < 0:
            problems.append(f"the seed must be 0 or more, got {self.seed}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            problems.append(f"max-seconds must be above 0, got {self.max_seconds:g}")
        if self.min_accuracy is not None and not 0 < self.min_accuracy <= 1:
            problems.append(f"min-accuracy is a share above 0 and at most 1, got {self.min_accuracy:g}")
        try:
            self.rate(1)
        except ValueError as error:
            problems.append(str(error))
        if problems:
            raise SettingsError(problems)

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
        gof: largest fit error of a layer that is cut.
        gof_conv: the same for convolutions; None for `gof`.
        alpha: see `AnalysisSettings`.
        beta: see `AnalysisSettings`.
        quantiles: see `AnalysisSettings`.
        include: globs of layer names to cut.
        exclude: globs of layer names to leave alone.
        min_size: see `AnalysisSettings`.
        when_not_smaller: see `PlanSettings`.
        rank_multiple: see `PlanSettings`.
        sparsify: threshold ξ while training, see `schedules`; None for none.
        sparsify_every: epochs between two sparsifications.
        masks: ``held``: what has become 0 stays 0 until the layer is cut again; ``released``: it may grow back.
        sparsify_after: threshold ξ after the last epoch; None for none.

    Raises:
        SettingsError: listing everything that is out of range.
    """

    every: int = 2
    mode: Mode = "recombine"
    keep_bulk: str = "auto"
    gof: float = 0.1
    gof_conv: float | None = None
    alpha: float = 0.25
    beta: float = 0.1
    quantiles: QuantileRule = "midpoint"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_size: int = 32
    when_not_smaller: WhenNotSmaller = "keep"
    rank_multiple: int = 1
    sparsify: str | None = None
    sparsify_every: int = 1
    masks: Masks = "held"
    sparsify_after: float | None = None

    def __post_init__(self) -> None:
        problems: list[str] = []
        for name, value, known in (("mode", self.mode, Mode), ("masks", self.masks, Masks)):
            if value not in get_args(known):
                problems.append(f"{name} must be {' or '.join(get_args(known))}, got {value!r}")
        for name, count in (("prune-every", self.every), ("sparsify-every", self.sparsify_every)):
            if count < 1:
                problems.append(f"{name} must be at least 1, got {count}")
        checks: tuple[Callable[[], object], ...] = (
            lambda: self.analysis,
            lambda: self.plan(0.0),
            lambda: schedules.retained_share(self.keep_bulk, [0]),
            lambda: self.sparsify is None or schedules.threshold(self.sparsify, 1),
        )
        for check in checks:
            try:
                check()
            except SettingsError as error:
                problems += [problem for problem in error.problems if problem not in problems]
            except ValueError as error:
                problems.append(str(error))
        if self.sparsify_after is not None and not 0 <= self.sparsify_after < math.inf:
            problems.append(f"sparsify-after must be a threshold of 0 or more, got {self.sparsify_after:g}")
        if problems:
            raise SettingsError(problems)

    @property
    def analysis(self) -> AnalysisSettings:
        """The settings of each cut's analysis."""
        return AnalysisSettings(
            alpha=self.alpha,
            beta=self.beta,
            gof=self.gof,
            quantiles=self.quantiles,
            include=self.include,
            exclude=self.exclude,
            min_size=self.min_size,
        )

    def plan(self, share: float) -> PlanSettings:
        """The settings of the plan of a cut that keeps `share` of the bulk."""
        return PlanSettings(
            gof=self.gof,
            gof_conv=self.gof_conv,
            keep_bulk=share,
            rank_multiple=self.rank_multiple,
            when_not_smaller=self.when_not_smaller,
        )

    def cuts(self, epochs: int, *, trained: bool) -> tuple[int, ...]:
        """The epochs after which a cut is made: never after the last, which nothing would mend.

        Args:
            epochs: how many there will be.
            trained: whether the network comes trained; then the first cut comes at once, "after epoch 0".
        """
        return tuple(range(0 if trained else self.every, epochs, self.every))


def differences(
    ours: TrainingSettings | CycleSettings | None, theirs: dict[str, object] | None, *, free: tuple[str, ...] = ()
) -> list[str]:
    """Settings in which a resumed run differs from the one that was broken off, in words.

    Args:
        ours: of this run.
        theirs: of the other, as a plain dictionary.
        free: names that may differ.
    """
    if (ours is None) != (theirs is None):
        return ["one prunes, the other does not"]
    if ours is None or theirs is None:
        return []
    return [
        f"{name} {theirs.get(name)!r}, now {value!r}"
        for name, value in asdict(ours).items()
        if name not in free and _plain(theirs.get(name)) != _plain(value)
    ]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
