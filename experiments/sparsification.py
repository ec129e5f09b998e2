"""BSSZ24 4.2.1: 95 % and 99 % of all weights removed, by magnitude alone and after a cut to low rank.

784,800,800,400,10 on 10,000 Fashion-MNIST images, 8 epochs, 0.02 × 0.96 an epoch, 5e-6 Σ|w| + 5e-6 Σw². Low rank:
cut after 2, 4 and 6 epochs, the share of the bulk falling to 0. After training: the smallest entries of all
layers together, in the factors where there are two. During training: ξ rises evenly to the very threshold that
the same seed needed after training, what has become 0 is held, and the rest is trimmed to the exact share. Shares
are of the weights of the network as it was before any cut; biases are not counted. The paper removes more than
99.5 % of the weights of 784,3000,3000,3000,3000,500,10 (about 90 % right) with a small drop, after 70 epochs and
more.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from published import (
    COLORS,
    GREY,
    INK,
    Arm,
    Arms,
    Example,
    Recipe,
    Scale,
    Table,
    Tell,
    Work,
    figure,
    percent,
    tell_all,
)
from torch import nn

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.data import Dataset, load_data
from rmt_compress.layers.zeroing import sparsify_quantile
from rmt_compress.networks.evaluation import score
from rmt_compress.networks.loading import load_model
from rmt_compress.training import CycleSettings, TrainingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = Recipe(
    arch="mlp:784,800,800,400,10/init=normal",
    data="fashion-mnist",
    training=TrainingSettings(epochs=8, schedule="step:0.96,1", l1=5e-6, l2=5e-6),
    cycle=CycleSettings(every=2),
    seeds=(0, 1, 2),
    samples=10_000,
)
RECIPES = {
    "small": SMALL,
    "full": replace(
        SMALL.trained(epochs=70),
        arch="mlp:784,3000,3000,3000,3000,500,10/init=normal",
        cycle=CycleSettings(every=7),
        samples=None,
    ),
    "quick": SMALL.on_digits("mlp:64,128,10/init=normal", epochs=3, seeds=(0,)),
}
TARGETS = (0.95, 0.99)
HARDEST = 0.995
CURVE = (0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995)
# A layer fits no threshold of 0: nothing is ever cut, and ξ is all there is.
NEVER = CycleSettings(analysis=AnalysisSettings(gof=0.0))
SIDES = {"alone": NEVER, "low rank": None}


def measure(scale: Scale) -> Iterator[tuple[str, Arm]]:
    """After and during training, alone and with low rank; an arm is complete when its last seed is."""
    recipe = RECIPES[scale]
    test = load_data(recipe.data, split="test")
    for side, cycle in SIDES.items():
        how = cycle or recipe.cycle
        assert how is not None
        arms: Arms = {when: {"settings": recipe.settings(), "records": []} for when in ("after", "during")}
        for seed in recipe.seeds:
            one = replace(recipe, seeds=(seed,), cycle=how)
            model, dense = _trained(one)
            whole = {"seed": seed, "share": _removed(model, dense), "accuracy": score(model, test).accuracy}
            arms["after"]["records"] += [{**whole, "whole": True}]
            arms["after"]["records"] += [_trim(model, dense, share, test, seed) for share in CURVE]
            yield f"{side}, after", arms["after"]
            for share in TARGETS:
                threshold = next(
                    each["xi"] for each in arms["after"]["records"][::-1] if each.get("target") == share
                )
                rising = replace(how, sparsify=f"0.001:{max(threshold, 0.001):.6g}")
                model, dense = _trained(replace(one, cycle=rising))
                record = {"reached": _removed(model, dense), **_trim(model, dense, share, test, seed)}
                arms["during"]["records"].append({**record, "xi_max": threshold})
            yield f"{side}, during", arms["during"]


def _trained(recipe: Recipe, tell: Tell = tell_all) -> tuple[nn.Module, int]:
    """A network, and the weights it had before any cut."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.safetensors"
        run = recipe.one(recipe.seeds[0], tell, keep=file)
        model = load_model(file)
    biases = sum(each.numel() for each in model.parameters() if each.dim() == 1)
    return model, run["events"][0]["parameters"] - biases


@dataclass(frozen=True)
class Trimming:
    """One training of the published length, and what is left of it at every share of `CURVE`.

    Attributes:
        recipe: the training; its cycle's `sparsify` says whether ξ rises.
    """

    recipe: Recipe

    @property
    def seeds(self) -> tuple[int, ...]:
        """One run each."""
        return self.recipe.seeds

    def settings(self) -> dict[str, Any]:
        """All of it as plain data."""
        return self.recipe.settings()

    def one(self, seed: int, tell: Tell) -> dict[str, Any]:
        """A run and its records."""
        test = load_data(self.recipe.data, split="test")
        model, dense = _trained(replace(self.recipe, seeds=(seed,)), tell)
        if torch.cuda.is_available():
            model = model.cuda()
            test = replace(test, images=test.images.cuda(), labels=test.labels.cuda())
        whole = {"seed": seed, "share": _removed(model, dense), "accuracy": score(model, test).accuracy}
        records = [{**whole, "whole": True}, *(_trim(model, dense, share, test, seed) for share in CURVE)]
        return {"seed": seed, "records": records}


def works(scale: Scale) -> dict[str, Work]:
    """Each side after training, and with ξ rising as in the paper, from 0.001 to 0.02 (method.md §7)."""
    recipe = RECIPES[scale]
    arms: dict[str, Work] = {}
    for side, cycle in SIDES.items():
        how = cycle or recipe.cycle
        assert how is not None
        if side == "alone":  # looked at once, for nothing
            how = replace(how, every=recipe.training.epochs - 1)
        arms[f"{side}, after"] = Trimming(replace(recipe, cycle=how))
        arms[f"{side}, during"] = Trimming(replace(recipe, cycle=replace(how, sparsify="0.001:0.02")))
    return arms


def _weights(model: nn.Module) -> list[nn.Parameter]:
    return [each for each in model.parameters() if each.dim() > 1]


def _removed(model: nn.Module, dense: int) -> float:
    return 1 - sum(int(each.count_nonzero()) for each in _weights(model)) / dense


def _trim(model: nn.Module, dense: int, target: float, test: Dataset, seed: int) -> dict[str, Any]:
    """Accuracy with all but the largest entries at 0, so that the share `target` of the original is gone."""
    trimmed = copy.deepcopy(model)
    weights = _weights(trimmed)
    zero = 1 - (1 - target) * dense / sum(each.numel() for each in weights)
    with torch.no_grad():
        for weight, new in zip(weights, sparsify_quantile(weights, max(0.0, zero)), strict=True):
            weight.copy_(new)
    xi = min(float(each.detach()[each != 0].abs().min()) for each in weights if bool(each.count_nonzero()))
    share, accuracy = _removed(trimmed, dense), score(trimmed, test).accuracy
    return {"seed": seed, "target": target, "share": share, "accuracy": accuracy, "xi": xi}


def table(arms: Arms) -> Table:
    """Mean accuracy at 95 % and 99 %."""
    targets = (*TARGETS, HARDEST)
    rows = [["", "after training alone", *(f"{100 * target:g}% removed" for target in targets)]]
    rows.append(["BSSZ24 4.2.1, low rank and sparsification", "≈ 90 %", "", "", "more than that: “small drop”"])
    for name, arm in arms.items():
        whole = [each["accuracy"] for each in arm["records"] if each.get("whole")]
        share = [each["share"] for each in arm["records"] if each.get("whole")]
        start = f"{percent(whole)}, {100 * np.mean(share):.1f} % removed" if whole else ""
        cells = []
        for target in targets:
            found = [each for each in arm["records"] if each.get("target") == target]
            if not found:
                cells.append("")
                continue
            beyond = np.mean([each["share"] for each in found])
            more = f" (at {beyond:.1%})" if beyond > target + 0.001 else ""
            cells.append(percent([each["accuracy"] for each in found]) + more)
        rows.append([f"ours, {name}", start, *cells])
    return rows


def draw(arms: Arms) -> Figure:
    """Accuracy over the weights left: lines are means after training, diamonds single seeds during it."""
    result, (axes,) = figure(1, width=8, height=4.8)
    for side, color in (("alone", GREY), ("low rank", COLORS[0])):
        after, during = arms.get(f"{side}, after"), arms.get(f"{side}, during")
        if after is None:
            continue
        whole = [each for each in after["records"] if each.get("whole")]
        if not whole:
            continue
        fewest = max(each["share"] for each in whole)
        values = [[each for each in after["records"] if each.get("target") == share] for share in CURVE]
        values = [whole, *(found for share, found in zip(CURVE, values, strict=True) if share > fewest)]
        left = [100 * (1 - np.mean([each["share"] for each in found])) for found in values]
        mean = [100 * np.mean([each["accuracy"] for each in found]) for found in values]
        axes.plot(left, mean, "o-", color=color, ms=4, label=f"{side}, after training (mean)")
        for found, place in zip(values, left, strict=True):
            axes.plot([place] * len(found), [100 * each["accuracy"] for each in found], ".", color=color, ms=3)
        trimmed = [] if during is None else during["records"]
        x = [100 * (1 - each["share"]) for each in trimmed]
        y = [100 * each["accuracy"] for each in trimmed]
        if trimmed:
            label = f"{side}, ξ rising during training (a seed each)"
            axes.plot(x, y, "D", mfc="none", color=color, ms=6, label=label)
    for target in TARGETS:
        axes.axvline(100 * (1 - target), color=INK, lw=0.7, ls="--", zorder=0)
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50, 100], ["0.5", "1", "2", "5", "10", "20", "50", "100"])
    axes.set(xlabel="weights left, % of the original", ylabel="test accuracy, %", ylim=(0, 95))
    axes.set_title("Fashion-MNIST: sparsified alone, and with low rank first")
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    return result


EXAMPLE = Example("sparsification", __doc__ or "", measure, table, draw, works)

if __name__ == "__main__":
    EXAMPLE.main()
