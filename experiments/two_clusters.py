"""BSSZ24 §10.4, figures 12 and 26, Theorem 5.7: how confidence moves when the noise of a wide layer is removed.

Two clusters of points in the square, above and below the polynomial y = x³ − x/2, none nearer to it than 0.03; a
perceptron 2,N,N,2 with ReLU, 20 epochs of 1,000 points by Adam at 0.03/√N; asked are 1,000 others. It begins in two
ways: as usual, N(0, 1/n) with n the inputs of a layer, or as the theory has it, N(0, 1/N) in the first two layers
and N(0, 1/N²) in the last. W is the N × N layer, W′ what the edge keeps of it, σ² the fitted variance of what goes.
Beside the trained W stand W″ = W′ + fresh Gaussian noise of that variance, three draws: of them all that the theory
assumes is true. δ is the confidence, ΔX = δ(W′) − δ(W) or δ(W′) − δ(W″).

In the model ΔX of a point is, to first order, Gaussian of variance σ²‖a‖²‖g‖², a the layer's input and g the
gradient of δ at its output: `spread` is the root mean square of ΔX over σ‖a‖‖g‖, and 1 in the model. The good set
G(ε) are the points of δ > ε; its share promises an accuracy without the noise, by ε(s) =

* 2τ, τ = ‖W₃‖_∞ σ‖a‖ √(2 ln(2N·1000/0.01)): the theorem's own, in the form that its group gives in 2026 (with
  99 % no output of any point moves by more than τ, which is their a(N) but for the root);
* √2 ‖W₃‖₂ σ‖a‖ (√N + √(2 ln(1000/0.01))): the same in Euclidean norms;
* 2.33 σ‖a‖‖g‖: each point stays right with 99 %, to first order.

`broken` counts points in these sets that are wrong without the noise. What the paper draws is known to us by its
subject alone; target, sizes and training are ours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from published import COLORS, GREY, INK, Arm, Arms, Example, Scale, Table, figure
from torch import nn
from torch.nn import functional

import rmt_compress as rmt
from rmt_compress.certificates.tally import confidences
from rmt_compress.data import Dataset
from rmt_compress.networks.architectures import build
from rmt_compress.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS = {"small": (100, 300, 1000, 2000), "full": (100, 300, 1000, 2000, 5000), "quick": (80,)}
GAP = 0.03
STARTS = ("usual", "theory")
DRAWS = 3
BINS = np.linspace(-10, 10, 81)
DELTAS = np.linspace(-5, 45, 101)
FAILS = 0.01
"""The share of networks, or of points, that the model lets break a promise."""
SURE = 2.33
"""Standard deviations that a Gaussian exceeds on one side in one case of a hundred."""
PROMISES = ("largest", "euclidean", "gaussian")


def points(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, 2) points of both clusters, and on which side they lie."""
    random = np.random.default_rng([26, seed])
    xy = random.uniform(-1, 1, (2 * count, 2))
    above = xy[:, 1] - xy[:, 0] ** 3 + xy[:, 0] / 2
    kept = np.flatnonzero(np.abs(above) > GAP)[:count]
    return torch.from_numpy(xy[kept]).float(), torch.from_numpy(above[kept] > 0).long()


def trained(width: int, start: str, epochs: int) -> nn.Module:
    """A perceptron of the first thousand points."""
    inputs, labels = points(1000, 0)
    model = build(f"mlp:2,{width},{width},2/init=normal", seed=0)
    first, *_, last = (each for each in model.modules() if isinstance(each, nn.Linear))
    if start == "theory":
        with torch.no_grad():
            first.weight.mul_(math.sqrt(2 / width))
            last.weight.div_(math.sqrt(width))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03 / math.sqrt(width))
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for index in torch.split(torch.randperm(len(inputs), generator=order), 50):
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(model(inputs[index]), labels[index]))
            optimizer.step()
    return model.eval()


def measure(scale: Scale) -> Iterator[tuple[str, Arm]]:
    """A width and a beginning at a time."""
    for width in WIDTHS[scale]:
        for start in STARTS:
            model = trained(width, start, 5 if scale == "quick" else 20)
            yield (
                f"{start}, N = {width}",
                {"settings": {"width": width, "start": start}, "records": [record(model)]},
            )


def record(model: nn.Module) -> dict[str, Any]:
    """All that is asked of one network."""
    data = Dataset("two clusters", "test", *points(1000, 1), 2)
    analysis = rmt.analyze(model)
    (layer,) = analysis.analyzed
    (decision,) = (each for each in rmt.make_plan(analysis).layers if each.name == layer.layer.name)
    rank = max(1, layer.fit.spikes)
    plan = Plan(layers=(decision.model_copy(update={"action": "truncated", "rank": rank}),))
    cut = rmt.compress(model, plan).eval()
    found = rmt.certify(model, cut, data)
    path, sigma = layer.layer.name, math.sqrt(layer.fit.sigma2)
    with torch.inference_mode():
        after = confidences(copy.deepcopy(cut).double()(data.images.double()), data.labels)
    random = torch.Generator().manual_seed(54)
    noisy = []
    for _ in range(DRAWS):
        other = copy.deepcopy(cut)
        weight = other.get_submodule(path).get_parameter("weight").detach()
        weight += sigma * torch.randn(weight.shape, generator=random)
        noisy.append(asked(other, path, sigma, data))
    trained_part = summed([asked(model, path, sigma, data)], after)
    return {
        "rank": rank,
        "of": layer.fit.p,
        "gof": layer.fit.gof,
        "after": float((after > 0).double().mean()),
        "certified": found.accuracy_certified,
        "violations": found.violations,
        "trained": trained_part,
        "planted": summed(noisy, after),
        "deltas after": np.histogram(after.numpy().clip(*DELTAS[[0, -1]]), DELTAS)[0].tolist(),
    }


def summed(draws: list[dict[str, torch.Tensor]], after: torch.Tensor) -> dict[str, Any]:
    """What `asked` says of several networks, and the confidence without the noise."""
    delta = torch.cat([each["delta"] for each in draws])
    limits = {name: torch.cat([each[name] for each in draws]) for name in PROMISES}
    without = after.repeat(len(draws))
    change = without - delta
    scaled = (change * SURE / limits["gaussian"]).numpy()
    return {
        "before": float((delta > 0).double().mean()),
        "spread": float(np.sqrt((scaled**2).mean())),
        "mean": float(scaled.mean()),
        "change": float(change.abs().max()),
        "histogram": np.histogram(scaled.clip(*BINS[[0, -1]]), BINS)[0].tolist(),
        "deltas": np.histogram(delta.numpy().clip(*DELTAS[[0, -1]]), DELTAS)[0].tolist(),
        "good": {name: float((delta > limits[name]).double().mean()) for name in PROMISES},
        "epsilon": {name: float(limits[name].median()) for name in PROMISES},
        "broken": {name: int(((delta > limits[name]) & (without <= 0)).sum()) for name in PROMISES},
        "asked": len(delta),
    }


def asked(model: nn.Module, path: str, sigma: float, data: Dataset) -> dict[str, torch.Tensor]:
    """δ of every point, and how large it has to be by every promise."""
    model = copy.deepcopy(model).double()
    seen: dict[str, torch.Tensor] = {}

    def keep(_: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen["inputs"], seen["output"] = given[0].detach(), output

    handle = model.get_submodule(path).register_forward_hook(keep)
    delta = confidences(model(data.images.double()), data.labels)
    handle.remove()
    (gradients,) = torch.autograd.grad(delta.sum(), seen["output"])
    *_, last = (each for each in model.modules() if isinstance(each, nn.Linear))
    head, length = last.weight.detach(), seen["inputs"].norm(dim=1)
    rows, count = model.get_submodule(path).get_parameter("weight").shape[0], len(data)
    entry = math.sqrt(2 * math.log(2 * rows * count / FAILS))
    whole = math.sqrt(rows) + math.sqrt(2 * math.log(count / FAILS))
    return {
        "delta": delta.detach(),
        "largest": 2 * head.abs().sum(1).max() * sigma * length * entry,
        "euclidean": math.sqrt(2) * torch.linalg.matrix_norm(head, 2) * sigma * length * whole,
        "gaussian": SURE * sigma * length * gradients.norm(dim=1),
    }


def table(arms: Arms) -> Table:
    """A row for every width, trained and planted."""
    rows = [
        [
            *("begins", "N", "kept", "fit error", "noise", "accuracy", "without the noise", "spread of ΔX", "mean"),
            *("largest",),
            *("G by 2τ", "G, Euclidean", "G by 2.33 s.d.", "broken", "certified"),
        ]
    ]
    for arm in arms.values():
        settings, (found,) = arm["settings"], arm["records"]
        for name in ("trained", "planted"):
            part = found[name]
            whose = [settings["start"], str(settings["width"]), f"{found['rank']} of {found['of']}"]
            good = [f"{part['good'][each]:.2%}" for each in PROMISES]
            broken = [f"{part['broken'][each]}" for each in PROMISES]
            rows.append(
                [
                    *(*whose, f"{found['gof']:.3f}", name, f"{part['before']:.2%}", f"{found['after']:.2%}"),
                    *(f"{part['spread']:.2f}", f"{part['mean']:+.2f}", f"{part['change']:.3g}", *good),
                    f"{', '.join(broken)} of {part['asked']:,}",
                    f"{found['certified']:.2%}" if name == "trained" else "",
                ]
            )
    return rows


def draw(arms: Arms) -> Figure:
    """A row for each beginning: confidence, its change, and what is promised over the width."""
    result, panels = figure(3, rows=2, width=4.9, height=3.7)
    for row, start in enumerate(STARTS):
        records = {
            arm["settings"]["width"]: arm["records"][0]
            for arm in arms.values()
            if arm["settings"]["start"] == start
        }
        if not records:
            continue
        deltas, changes, promised = panels[3 * row : 3 * row + 3]
        widest = max(records)
        for values, color, label in (
            (records[widest]["trained"]["deltas"], GREY, "with the noise"),
            (records[widest]["deltas after"], COLORS[0], "without"),
        ):
            deltas.stairs(np.array(values) / sum(values), DELTAS, color=color, lw=1.6, label=label)
        called = {"usual": "N(0, 1/n)", "theory": "as the theory has it"}[start]
        deltas.set(title=f"{called}: confidence, N = {widest}", xlabel="δ of a point", ylabel="share of points")
        middle = (BINS[1:] + BINS[:-1]) / 2
        changes.plot(middle, np.exp(-(middle**2) / 2) / math.sqrt(2 * math.pi), color=INK, lw=1, label="Gaussian")
        for color, width in zip(COLORS, records, strict=False):
            values = records[width]["trained"]["histogram"]
            density = np.array(values) / sum(values) / (BINS[1] - BINS[0])
            changes.stairs(density, BINS, color=color, lw=1.3, label=f"N = {width}")
        changes.set(title="ΔX, trained", xlabel="ΔX over σ‖a‖‖g‖", ylabel="density", xlim=(-5, 5))
        lines = {
            "measured": [each["after"] for each in records.values()],
            "certified": [each["certified"] for each in records.values()],
            "G, 2.33 s.d.": [each["trained"]["good"]["gaussian"] for each in records.values()],
            "G, Euclidean": [each["trained"]["good"]["euclidean"] for each in records.values()],
            "G, 2τ": [each["trained"]["good"]["largest"] for each in records.values()],
        }
        for color, (label, values) in zip((INK, *COLORS), lines.items(), strict=False):
            promised.plot(list(records), [100 * value for value in values], "o-", ms=4, color=color, label=label)
        promised.set(title="Promised and measured", xlabel="width N", ylabel="accuracy, %", xscale="log")
        deltas.legend(frameon=False, fontsize=8, loc="upper right")
        changes.legend(frameon=False, fontsize=8, loc="upper left")
        promised.legend(frameon=False, fontsize=8, loc=(0.02, 0.46))
    return result


EXAMPLE = Example("two_clusters", __doc__ or "", measure, table, draw)

if __name__ == "__main__":
    EXAMPLE.main()
