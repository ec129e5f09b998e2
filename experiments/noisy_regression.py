"""Noisy regression: does cutting the bulk keep an overparametrised network from learning the noise?

The paper's own target is not known to us. Ours: y = sin(πx₁) + x₂·x₃ + ½cos(2πx₄) + noise of deviation 0.5, x
uniform on [−1, 1]¹⁰ (six inputs mean nothing), 500 samples, and a network of 10,400,400,400,1, 326,000 weights,
that begins as U(−1/√n, 1/√n). SGD at 0.02 with momentum 0.9, batches of 50, 120 epochs. The mean squared error is
that to the noise-free target on 5,000 other points: 0.25 would be as bad as the data themselves, and the target's
own variance is 0.74. Cut: every 20 epochs to the spikes and the share f of the bulk.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from published import COLORS, GREY, Arms, Example, Scale, Table, Tell, Work, figure, measuring
from torch.nn import functional

from rmt_compress.networks.architectures import build
from rmt_compress.training import CycleSettings, TrainingSettings, schedules
from rmt_compress.training.cycle import Cycle
from rmt_compress.training.optimizers import carry_over, make_optimizer
from rmt_compress.training.split_network import Network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEVIATION = 0.5
_AT_THE_RIGHT: dict[str, Any] = {
    **{"xycoords": ("axes fraction", "data"), "textcoords": "offset points"},
    **{"ha": "right", "va": "bottom", "fontsize": 8},
}


@dataclass(frozen=True)
class Problem:
    """All that determines the runs but the seed."""

    arch: str
    training: TrainingSettings
    cycle: CycleSettings | None
    samples: int = 500
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def settings(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "cycle": self.cycle and self.cycle.plain()}

    def one(self, seed: int, tell: Tell) -> dict[str, Any]:
        """A run."""
        return _run(self, seed, tell)


def target(x: torch.Tensor) -> torch.Tensor:
    """The noise-free values (N, 1) at the points x (N, 10)."""
    wave = torch.sin(torch.pi * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * torch.cos(2 * torch.pi * x[:, 3])
    return wave[:, None]


SETTINGS = {
    "small": ("mlp:10,400,400,400,1", 120, 20, range(5)),
    "full": ("mlp:10,2000,2000,2000,1", 600, 60, range(10)),
    "quick": ("mlp:10,48,48,1", 20, 10, range(2)),
}


def works(scale: Scale) -> dict[str, Work]:
    """Not cut; cut to nothing of the bulk in the end; cut to nothing of it every time."""
    arch, epochs, every, seeds = SETTINGS[scale]
    training = TrainingSettings(epochs=epochs, batch_size=50, learning_rate=0.02)
    falling = CycleSettings(every=every, keep_bulk="auto")
    at_once = CycleSettings(every=every, keep_bulk="0")
    arms = {"not cut": None, "f falling to 0": falling, "f = 0": at_once}
    return {name: Problem(arch, training, cycle, seeds=tuple(seeds)) for name, cycle in arms.items()}


def _run(problem: Problem, seed: int, tell: Tell) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    random = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(problem.samples, 10, generator=random) - 1
    y = target(x) + DEVIATION * torch.randn(problem.samples, 1, generator=random)
    unseen = 2 * torch.rand(5000, 10, generator=random) - 1
    x, y, unseen = (each.to(device) for each in (x, y, unseen))
    network = Network(build(problem.arch, seed=seed).to(device))
    optimizer = make_optimizer(network.model, problem.training)
    cycle = None if problem.cycle is None else Cycle(problem.cycle)
    epochs = problem.training.epochs
    cuts = () if problem.cycle is None else problem.cycle.cuts(epochs, trained=False)
    points, begun = [], time.perf_counter()
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(x), generator=random).to(device)
        for batch in torch.split(order, problem.training.at_once(text=False)):
            optimizer.zero_grad()
            torch.autograd.backward(functional.mse_loss(network.model(x[batch]), y[batch]))
            optimizer.step()
        if epoch % 5 == 0:
            points.append([epoch, *_errors(network, x, y, unseen)])
            tell({"event": "epoch", "epoch": epoch, "seen": points[-1][1], "unseen": points[-1][2]})
        if cycle is not None and epoch in cuts:
            share = schedules.retained_share(cycle.settings.keep_bulk, cuts)(epoch)
            before, old = dict(network.model.named_parameters()), optimizer
            cycle.apply(network, cycle.decide(network, share))
            optimizer = make_optimizer(network.model, problem.training)
            carry_over(old, optimizer, before, network)
            points.append([epoch, *_errors(network, x, y, unseen)])
    left = sum(parameter.numel() for parameter in network.model.parameters())
    return {"seed": seed, "points": points, "parameters": left, "seconds": time.perf_counter() - begun}


def _errors(network: Network, x: torch.Tensor, y: torch.Tensor, unseen: torch.Tensor) -> tuple[float, float]:
    """Mean squared error to the noisy samples seen, and to the noise-free target elsewhere."""
    with torch.inference_mode():
        seen = functional.mse_loss(network.model(x), y)
        return float(seen), float(functional.mse_loss(network.model(unseen), target(unseen)))


def table(arms: Arms) -> Table:
    """Errors at the end, and the best on the way, which nobody without the target could have picked."""
    rows = [["", "error to the target, at the end", "best on the way", "error to the noisy samples", "parameters"]]
    for name, arm in arms.items():
        points = [np.array(run["points"]) for run in arm["runs"]]
        end, best, seen = (
            [float(value) for value in values]
            for values in zip(*((each[-1, 2], each[:, 2].min(), each[-1, 1]) for each in points), strict=True)
        )
        left = np.mean([run["parameters"] for run in arm["runs"]])
        rows.append(
            [name, *(f"{np.mean(v):.4f} ± {np.std(v, ddof=1):.4f}" for v in (end, best, seen)), f"{left:,.0f}"]
        )
    return rows


def draw(arms: Arms) -> Figure:
    """Both errors over the epochs, the mean of the seeds."""
    result, (unseen, seen) = figure(2, width=5.8)
    for color, (name, arm) in zip((GREY, COLORS[0], COLORS[1]), arms.items(), strict=False):
        mean = np.mean([run["points"] for run in arm["runs"]], axis=0)
        for axes, column in ((unseen, 2), (seen, 1)):
            axes.plot(mean[:, 0], mean[:, column], color=color, lw=1.6, label=name)
    unseen.set(title="Error to the noise-free target", ylabel="mean squared error", ylim=(0.25, 0.6))
    seen.set(title="Error to the noisy samples it has seen", yscale="log")
    seen.axhline(DEVIATION**2, color="k", lw=0.8, ls="--")
    seen.annotate("variance of the noise", (1, DEVIATION**2), (0, 3), **_AT_THE_RIGHT)
    for axes in (unseen, seen):
        axes.set_xlabel("epoch")
    unseen.legend(frameon=False, fontsize=8)
    return result


EXAMPLE = Example("noisy_regression", __doc__ or "", measuring(works), table, draw, works)

if __name__ == "__main__":
    EXAMPLE.main()
