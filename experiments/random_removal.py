"""What the random model says of a cut, beside what happens: estimates in the manner of BSSZ24 §5.4 to §5.7.

    python experiments/random_removal.py           # minutes on one core
    python experiments/random_removal.py --quick --out DIR

The theory takes what is removed, R = W − W′, for independent entries of variance σ² that know nothing of the
layer's input a(s). Then R·a has independent Gaussian entries of variance σ²‖a‖², and to first order the confidence
δ moves by a Gaussian of variance σ²‖a‖²‖g‖², g the gradient of δ at the layer's output. Each layer is cut alone at
its edge, and asked is

* ``energy``: ‖R·a‖² over ‖R‖_F²‖a‖²/columns, median: 1 where R does not know a;
* ``size``, ``largest``: ‖R·a‖₂ over σ‖a‖√rows, and ‖R·a‖_∞ over σ‖a‖√(2 ln rows), medians: 1 in the model;
* ``kurtosis`` of the entries of R·a over σ‖a‖, without the Gaussian's 3: 0 in the model;
* ``spread``: standard deviation of the measured change of δ over σ‖a‖‖g‖: 1 in the model;
* ``promised``: the share of samples whose δ is above 2.33·σ‖a‖‖g‖, each of which the model lets stay right with
  99 %, beside the accuracy measured and the one that is certified. It stands for the good set of Theorem 5.7, whose
  exact form is the paper's.

Networks: the Fashion-MNIST perceptron of sample_models/, and perceptrons 64,N,N,10 of the embedded digits over the
width N, trained here. Writes random_removal.json and the table random_removal.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import rmt_compress as rmt
from rmt_compress.certificates.tally import confidences
from rmt_compress.data import Dataset, load_data
from rmt_compress.networks.architectures import build
from rmt_compress.networks.loading import load_model
from rmt_compress.plan import Plan

DATA = Path(__file__).parent / "data"
SAMPLES = Path(__file__).parents[1] / "sample_models"
WIDTHS = (100, 300, 1000, 2000)
SURE = 2.33
"""Standard deviations that a Gaussian exceeds on one side in one case of a hundred."""
COLUMNS = ("energy", "size", "largest", "kurtosis", "spread")


def trained(width: int, epochs: int = 20) -> nn.Module:
    """A perceptron of the digits."""
    data = load_data("digits", split="train")
    model = build(f"mlp:64,{width},{width},10", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for index in torch.split(torch.randperm(len(data), generator=order), 32):
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(model(data.images[index]), data.labels[index]))
            optimizer.step()
    return model.eval()


def subjects(quick: bool) -> Iterator[tuple[str, nn.Module, Dataset]]:
    """Name, network and the samples that it was not trained on."""
    for width in WIDTHS[:1] if quick else WIDTHS:
        yield f"digits, N = {width}", trained(width, 3 if quick else 20), load_data("digits", split="test")
    if not quick:
        data = load_data("fashion-mnist", split="test").thinned(2000)
        yield "Fashion-MNIST", load_model(SAMPLES / "fashion_mlp.safetensors"), data


def rows(name: str, model: nn.Module, data: Dataset) -> Iterator[dict[str, Any]]:
    """A row for every layer that has noise to be cut."""
    analysis = rmt.analyze(model)
    decisions = {each.name: each for each in rmt.make_plan(analysis).layers}
    for layer in analysis.analyzed:
        path, rank = layer.layer.name, max(1, layer.fit.spikes)
        if rank >= layer.fit.p:
            continue
        decision = decisions[path].model_copy(update={"action": "truncated", "rank": rank})
        plan = Plan(layers=(decision,))
        found = rmt.certify(model, plan, data)
        cut = rmt.compress(model, plan).get_submodule(path)
        whole = model.get_submodule(path)
        removed = (whole.get_parameter("weight") - cut.get_parameter("weight")).detach().double()
        sigma = math.sqrt(layer.fit.sigma2)
        inputs, gradients, answers = _at(model, path, data)
        change = inputs @ removed.T
        length = inputs.norm(dim=1)
        expected = removed.norm() ** 2 * length**2 / removed.shape[1]
        scaled = (change / (sigma * length[:, None])).flatten()
        sizes = sigma * length * gradients.norm(dim=1)
        moved = torch.from_numpy(found.confidence_after - found.confidence)
        yield {
            "network": name,
            "layer": path,
            "rank": f"{rank} of {layer.fit.p}",
            "gof": layer.fit.gof,
            "energy": float((change.norm(dim=1) ** 2 / expected).median()),
            "size": float((change.norm(dim=1) / (sigma * length * math.sqrt(len(removed)))).median()),
            "largest": float(
                (change.abs().amax(1) / (sigma * length * math.sqrt(2 * math.log(len(removed))))).median()
            ),
            "kurtosis": float(((scaled - scaled.mean()) ** 4).mean() / scaled.var() ** 2 - 3),
            "spread": float((moved / sizes).std()),
            "before": found.accuracy_before,
            "measured": found.accuracy_after,
            "promised": float((confidences(answers, data.labels) > SURE * sizes).double().mean()),
            "certified": found.accuracy_certified,
        }


def _at(model: nn.Module, path: str, data: Dataset) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer's inputs, the gradients of δ at its outputs, and the network's answers, in float64."""
    seen: dict[str, torch.Tensor] = {}

    def keep(_: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen["inputs"], seen["output"] = given[0].detach(), output

    handle = model.get_submodule(path).register_forward_hook(keep)
    answers = model(data.images)
    handle.remove()
    (gradients,) = torch.autograd.grad(confidences(answers, data.labels).sum(), seen["output"])
    return seen["inputs"].double(), gradients.double(), answers.detach().double()


def markdown(found: list[dict[str, Any]]) -> str:
    """The table."""
    text = [
        "# What the random model says of a cut",
        "",
        "Written by `experiments/random_removal.py`, which explains the columns. Each layer alone at its edge.",
        "",
        "| network | layer | rank | fit error | energy | size | largest | kurtosis | spread of δ "
        "| before, after | promised | certified |",
        "|---" * 12 + "|",
    ]
    for row in found:
        numbers = " | ".join(f"{row[column]:.2f}" for column in COLUMNS)
        text.append(
            f"| {row['network']} | {row['layer']} | {row['rank']} | {row['gof']:.3f} | {numbers} | "
            f"{row['before']:.2%}, {row['measured']:.2%} | {row['promised']:.2%} | {row['certified']:.2%} |"
        )
    return "\n".join([*text, ""])


def main() -> None:
    """Ask, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small network, seconds")
    parser.add_argument("--out", type=Path, default=DATA)
    asked = parser.parse_args()
    os.environ.setdefault("RMT_COMPRESS_DATA", str(Path(__file__).parents[2] / "shared" / "data"))
    found = [row for subject in subjects(asked.quick) for row in rows(*subject)]
    (asked.out / "random_removal.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    table = markdown(found)
    (asked.out / "random_removal.md").write_text(table, encoding="utf-8")
    print(table, end="")


if __name__ == "__main__":
    main()
