"""One run: epochs, cuts, sparsification, the log and the training state."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rmt_compress.networks.calibration.affordable import worth_seeing
from rmt_compress.networks.calibration.statistics import batch_norms, renew_statistics
from rmt_compress.networks.calling import without_cache
from rmt_compress.networks.file_names import SAME_NAMES, FileNames
from rmt_compress.networks.tasks.drops import allowed_drop
from rmt_compress.networks.tasks.task import Score
from rmt_compress.training import schedules
from rmt_compress.training.arithmetic import all_digits, deterministic
from rmt_compress.training.budgeted_cycle import BudgetedCycle
from rmt_compress.training.cycle import Cut, Cycle
from rmt_compress.training.event_log import EventLog
from rmt_compress.training.held_masks import HeldMasks, sparsify_model
from rmt_compress.training.optimizers import carry_over, make_optimizer, restore_state, state_by_name, state_kept
from rmt_compress.training.reallocation import STEPS, FreeEntries, way_at, zeros_of_share
from rmt_compress.training.recent_inputs import RecentInputs
from rmt_compress.training.starting import restored
from rmt_compress.training.state import Snapshot, TrainingState, plain_fits
from rmt_compress.training.steps import Course, StepProgress, first_inputs, train_epoch
from rmt_compress.training.workers import Workers

if TYPE_CHECKING:
    from rmt_compress.networks.tasks.task import Task
    from rmt_compress.training.settings import CycleSettings, TrainingSettings
    from rmt_compress.training.split_network import Network

# What else of a score goes into the log, where the task has it.
_DETAILS = ("dead_outputs", "never_predicted")


@dataclass(frozen=True)
class Job:
    """What a run is about.

    Attributes:
        dense: builds the network as it is without any split; its weights do not matter.
        start: the weights to begin with.
        trained: whether they are those of a trained network.
        train: what is trained on.
        test: what the score is measured on.
        training: how to train.
        cycle: how to cut; None to train only.
        identity: what makes it this run, compared when it is resumed.
        state_path: where the training state goes; None for nowhere.
        names: what the file that is begun with calls its layers.
    """

    dense: Callable[[], nn.Module]
    start: Snapshot
    trained: bool
    train: Task
    test: Task
    training: TrainingSettings
    cycle: CycleSettings | None
    identity: dict[str, Any] = field(default_factory=dict)
    state_path: Path | None = None
    names: FileNames = SAME_NAMES


class Run:
    """A run in progress; all of the processes, `workers`, make the same, and only the leading one writes the log.

    `step_progress` is called with (steps done, steps in all) during an epoch.
    """

    def __init__(
        self,
        job: Job,
        workers: Workers,
        log: EventLog,
        *,
        step_progress: Callable[[int], StepProgress] | None = None,
    ) -> None:
        self._job = job
        self._workers = workers
        self._course = Course(job.train, job.training, workers)
        self._log = log
        self._step_progress = step_progress
        self._seconds_before = 0.0
        self._begun = time.perf_counter()
        self._blocked = False
        self._best: Snapshot | None = None
        self._masks: dict[str, torch.Tensor] = {}
        self._limit = job.training.limit
        self._cycle = None if job.cycle is None else _cycle(job, job.cycle)
        self._cuts = () if job.cycle is None else job.cycle.cuts(job.training.epochs, trained=job.trained)
        self._network = restored(job.dense, job.start, job.names)
        self._sizes = self._cycle.sizes(self._network) if isinstance(self._cycle, BudgetedCycle) else {}
        self._wrap(None, {})

    @property
    def network(self) -> Network:
        """The network as it is."""
        return self._network

    def go(self, resumed: TrainingState | None = None) -> Network:
        """Train to the end, or go on from a state: the network the run leaves, splits inside splits joined."""
        with deterministic(self._workers.device):
            epoch = self._begin() if resumed is None else self._resume(resumed)
            if resumed is None or not resumed.ended:
                epoch, why = self._epochs(epoch)
                self._finish(epoch, why)
        self._network.join_nested()
        return self._network

    def _begin(self) -> int:
        if isinstance(self._cycle, BudgetedCycle):
            # Before hours of training, not after the first of them.
            self._workers.from_leader(partial(self._cycle.check, self._network))
        score = self._evaluated({"event": "epoch", "epoch": 0, "train_loss": None, "learning_rate": None}, {})
        if (drop := self._job.training.max_drop) is not None:
            metric = self._job.test.metric
            allowed = allowed_drop(drop, metric, score)
            self._limit = score - allowed if metric.higher_is_better else score + allowed
        if 0 in self._cuts:
            recent = self._recent(0)
            if recent is not None and self._workers.leads:
                first_inputs(self._course, 1, recent)
            self._cut(0, recent)
        self._save(0)
        return 0

    def _resume(self, state: TrainingState) -> int:
        with state.taken_up(self._job.state_path):
            self._network = restored(self._job.dense, state.network, self._job.names)
            self._masks = state.masks
            if self._cycle is not None:
                self._cycle.fits = state.bulk_fits()
            self._blocked, self._best, self._seconds_before = state.blocked, state.best, state.seconds
            if self._job.training.max_drop is not None:
                self._limit = state.limit
            self._wrap(None, {})
            restore_state(self._network.model, self._optimizer, state.optimizer)
        if self._workers.leads:
            self._log.take_up(state.events)
        return state.epoch

    def _epochs(self, epoch: int) -> tuple[int, str]:
        settings = self._job.training
        longest = 0.0
        while epoch < settings.epochs:
            elapsed = self._elapsed()
            if settings.max_seconds is not None and self._agreed(elapsed + longest > settings.max_seconds):
                return epoch, f"the next epoch would have ended after the {settings.max_seconds:g} seconds allowed"
            epoch += 1
            recent = self._recent(epoch)
            self._epoch(epoch, recent)
            if epoch in self._cuts and not self._blocked:
                self._cut(epoch, recent)
            self._save(epoch)
            longest = max(longest, self._elapsed() - elapsed)
        return epoch, "all epochs are done"

    def _epoch(self, epoch: int, recent: RecentInputs | None) -> None:
        job, start = self._job, time.perf_counter()
        held = HeldMasks(self._network.model, self._masks)
        progress = self._step_progress(epoch) if self._step_progress else None
        loss = self._trained(epoch, held=held if held.masks else None, recent=recent, progress=progress)
        event: dict[str, Any] = {"event": "epoch", "epoch": epoch, "train_loss": loss}
        event["learning_rate"] = job.training.rate(epoch)
        if job.cycle is not None and job.cycle.sparsify is not None and epoch % job.cycle.sparsify_every == 0:
            threshold = schedules.threshold(job.cycle.sparsify, job.training.epochs)(epoch)
            masks = sparsify_model(self._network.model, threshold)
            self._masks = masks if job.cycle.masks == "held" else {}
            event["threshold"] = threshold
        if job.cycle is not None and job.cycle.sparsity is not None and epoch % job.cycle.sparsify_every == 0:
            event["sparsity"] = job.cycle.share_at(epoch, job.training.epochs)
            rises = event["sparsity"] > job.cycle.share_at(epoch - job.cycle.sparsify_every, job.training.epochs)
            budget = way_at(job.cycle.sparsify_budget, event["sparsity"], rises=rises)
            masks = zeros_of_share(
                self._network.model, event["sparsity"], budget, partial(self._try, epoch), self._workers
            )
            self._masks = masks if job.cycle.masks == "held" else {}
        score = self._evaluated(event, {"train": time.perf_counter() - start})
        limit, metric = self._limit, job.test.metric
        if limit is None:
            return
        if metric.worse_by(score, limit) > 0:
            self._blocked = True
            return
        best, now = self._best, self._snapshot(score)
        if (
            best is None
            or now.parameters < best.parameters
            or (now.parameters == best.parameters and metric.worse_by(score, best.score) < 0)
        ):
            self._best = now.copied()

    def _trained(self, epoch: int, **asked: Any) -> float:
        """`train_epoch` of the network as it is."""
        with without_cache(self._network.model):
            return train_epoch(self._wrapped, self._wrapped_optimizer, self._course, epoch, **asked)

    def _try(self, epoch: int, free: FreeEntries) -> None:
        """Train what was removed for a short while."""
        with state_kept(self._optimizer):
            self._trained(epoch, held=free, most=STEPS)

    def _recent(self, epoch: int) -> RecentInputs | None:
        """What is to keep inputs for the cut after an epoch; None where there is none, or it does without."""
        cycle = self._job.cycle
        if cycle is None or epoch not in self._cuts or self._blocked:
            return None
        mends = cycle.repair != "none" and bool(batch_norms(self._network.model))
        if not mends and (not cycle.budget.shares or cycle.budget.metric == "plain"):
            return None
        count = cycle.calibration.calibration_samples
        return RecentInputs(count or worth_seeing(self._network.model, self._job.train))

    def _decided(self, cycle: Cycle, epoch: int, recent: RecentInputs | None) -> Cut:
        if not isinstance(cycle, BudgetedCycle):
            return cycle.decide(
                self._network, schedules.retained_share(cycle.settings.keep_bulk, self._cuts)(epoch)
            )
        return cycle.within(self._network, self._shares(cycle, epoch), recent or ())

    def _shares(self, cycle: BudgetedCycle, epoch: int) -> dict[str, float]:
        """What the cut after an epoch leaves."""
        settings = cycle.settings
        return {
            name: schedules.share_left(settings.way, self._sizes[name], goal, self._cuts)(epoch)
            for name, goal in settings.budget.shares.items()
        }

    def _renewed(self, recent: RecentInputs) -> None:
        """Estimate batch-norm statistics anew, in all processes what the leading one finds."""
        model = self._network.model

        def estimated() -> dict[str, torch.Tensor]:
            renew_statistics(model, recent)
            norms = batch_norms(model).items()
            return {f"{path}.{name}": each.cpu() for path, norm in norms for name, each in norm.named_buffers()}

        for name, values in self._workers.from_leader(estimated).items():
            model.get_buffer(name).copy_(values)

    @all_digits()
    def _cut(self, epoch: int, recent: RecentInputs | None) -> None:
        assert self._cycle is not None
        cycle, network = self._cycle, self._network
        if isinstance(cycle, BudgetedCycle):
            shares = self._shares(cycle, epoch)
            if all(size <= shares[name] for name, size in cycle.sizes(network).items()):
                return
        before = dict(network.model.named_parameters())
        last = self._log.events[-1] if self._log.events else {}
        cut: Cut = self._workers.from_leader(lambda: self._decided(cycle, epoch, recent))
        optimizer = self._optimizer
        seconds = cycle.apply(network, cut)
        # A mask belongs to the weight that was there.
        changed = {decision.tensor for decision in cut.plan.layers if decision.changes}
        self._masks = {name: mask for name, mask in self._masks.items() if name not in changed}
        self._wrap(optimizer, before)
        if recent is not None and cycle.settings.repair != "none":
            start = time.perf_counter()
            self._renewed(recent)
            seconds += time.perf_counter() - start
        event: dict[str, Any] = {"event": "cycle", "epoch": epoch, **cut.asked}
        if isinstance(cycle, BudgetedCycle):
            event["left"] = cycle.sizes(network)
        if self._job.test.kind == "classification":
            event["accuracy_before"] = last.get("test_accuracy")
        event["score_before"] = last.get("test_score")
        self._evaluated(event, {"analyze": cut.seconds + seconds}, layers=cut.records(network))

    def _finish(self, epoch: int, why: str) -> None:
        limit, threshold = self._limit, self._job.cycle and self._job.cycle.sparsify_after
        if self._best is not None and limit is not None:
            self._network = restored(self._job.dense, self._best, self._job.names)
            self._network.model.to(self._workers.device)
            why += f"; the smallest network of {self._job.test.metric.within(limit)} was kept"
        self._network.join_nested()
        if threshold:
            sparsify_model(self._network.model, threshold)
            event = {"event": "sparsify", "epoch": epoch, "threshold": threshold}
            self._evaluated(event, {})
        end: dict[str, Any] = {"event": "end", "epoch": epoch, "reason": why, "processes": self._workers.count}
        if self._job.training.max_drop is not None:
            end["limit"] = limit
        if isinstance(self._cycle, BudgetedCycle):
            end |= {"budget": self._cycle.settings.budget.shares, "left": self._cycle.sizes(self._network)}
        self._evaluated(end, {}, elapsed=self._elapsed())
        self._save(epoch, ended=why)

    def _evaluated(self, event: dict[str, Any], seconds: dict[str, float], **more: object) -> float:
        """Complete an event with what the test samples say and write it; the test score comes back."""
        start = time.perf_counter()
        model, test = self._network.model, self._job.test
        result: Score = self._workers.from_leader(lambda: test.score(model))
        split = {"train": 0.0, "analyze": 0.0, **seconds, "evaluate": time.perf_counter() - start}
        parameters = list(model.parameters())
        classes = test.kind == "classification"
        after: dict[str, Any] = {}
        if event["event"] == "cycle":
            after = {**({"accuracy_after": result.value} if classes else {}), "score_after": result.value}
        if self._workers.leads:
            self._log.add(
                {
                    **event,
                    **after,
                    **({"test_accuracy": result.value} if classes else {}),
                    "test_score": result.value,
                    "score": asdict(result.metric),
                    "guess": result.guess,
                    "samples": result.samples,
                    "test_loss": result.loss,
                    **{key: result.details[key] for key in _DETAILS if key in result.details},
                    "parameters": sum(each.numel() for each in parameters),
                    "nonzeros": sum(int(each.count_nonzero()) for each in parameters),
                    "seconds": split,
                    **more,
                }
            )
        return result.value

    def _wrap(self, old: torch.optim.Optimizer | None, before: dict[str, nn.Parameter]) -> None:
        """Make the optimizer of the network as it is, and what accelerate puts around both."""
        model = self._network.model.to(self._workers.device)
        if {4, 5} & {parameter.dim() for parameter in model.parameters()} == {4}:
            # Faster convolutions; with 3-d ones in it torch refuses. Its stubs do not know this form of `to`.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = make_optimizer(model, self._job.training)
        if old is not None:
            carry_over(old, self._optimizer, before, self._network)
        self._wrapped, self._wrapped_optimizer = self._workers.prepare(model, self._optimizer)
        self._network.model = self._workers.plain(self._wrapped)

    def _snapshot(self, score: float = 0.0) -> Snapshot:
        network = self._network
        return Snapshot(
            splits=[(tensor, pair.rank) for tensor, pair in network.pairs.items()],
            weights={name: value.detach() for name, value in network.model.state_dict().items()},
            score=score,
            parameters=sum(parameter.numel() for parameter in network.model.parameters()),
        )

    def _save(self, epoch: int, *, ended: str = "") -> None:
        if self._job.state_path is None or not self._workers.leads:
            return
        TrainingState(
            identity=self._job.identity,
            epoch=epoch,
            network=self._snapshot(),
            optimizer=state_by_name(self._network.model, self._optimizer),
            masks=self._masks,
            fits=plain_fits(self._cycle.fits) if self._cycle is not None else {},
            events=len(self._log.events),
            seconds=self._elapsed(),
            blocked=self._blocked,
            best=self._best,
            ended=ended,
            limit=self._limit,
        ).save(self._job.state_path)

    def _elapsed(self) -> float:
        return self._seconds_before + time.perf_counter() - self._begun

    def _agreed(self, answer: bool) -> bool:
        return self._workers.from_leader(lambda: answer)


def _cycle(job: Job, settings: CycleSettings) -> Cycle:
    if not settings.budget.shares:
        return Cycle(settings)
    return BudgetedCycle(settings, job.dense(), job.train, job.training.seed)
