"""Is the certificate ever wrong? Every layer of three networks, cut to every rank of a grid, on all test samples.

    python experiments/soundness.py                   # three quarters of an hour on one core; goes on where it was
    python experiments/soundness.py --only fashion    # two minutes
    python experiments/soundness.py --quick --out DIR

Networks and data are those of certificates.py; here each layer is cut alone, the first and the last ones as well,
and nothing is left out of the test samples: 10,000 of Fashion-MNIST, 5,000 of CIFAR-10. What makes that affordable:
a truncated layer gives U_r U_rᵀ y in place of y = Wx, so that from the largest rank of the grid to the smallest a
cut costs a product with the directions that go. What stands behind the layer is gone through again, to measure.

Asked of every sample and rank: has δ moved farther than its bound, has an answer changed that was certified to
stay? ``closest`` is the largest share of its bound that any sample reached. Convolutional networks are measured in
float32, with a slack of 10⁻⁴ of the largest answer for rounding, perceptrons in float64 with one of 10⁻⁹. Writes
soundness.json, sums over the samples so far, and the table soundness.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from certificates import ABOUT, DATA, SHARED, network, task
from torch import nn

import rmt_compress as rmt
from rmt_compress.certificates.network_graph import NetworkGraph, Unit
from rmt_compress.certificates.tally import confidences
from rmt_compress.certificates.telescoping import Telescope

GRIDS = {
    "fashion": tuple(2 ** (-step / 3) for step in range(1, 24)),
    "cnn": (0.05, 0.1, 0.25, 0.5, 0.75, 0.9),
    "resnet": (0.25, 0.75),
    "digits": (0.1, 0.5, 0.9),
}
"""Shares of the singular values that are kept; the edge is asked beside them."""
TOGETHER = {"fashion": 1000, "cnn": 100, "resnet": 50, "digits": 360}
"""Samples at once."""
SLACK = {torch.float32: 1e-4, torch.float64: 1e-9}


def grid(name: str, spikes: int | None, p: int) -> list[int]:
    """The ranks that a layer with p singular values is cut to, the largest first."""
    ranks = {max(1, round(share * p)) for share in GRIDS[name]} | {spikes or 1}
    return sorted((rank for rank in ranks if rank < p), reverse=True)


class Layer:
    """One that is cut, alone.

    Args:
        name: of the network.
        unit: the layer.
        module: the layer without its batch norm.
        spikes: above its edge; None where it was not analysed.
    """

    def __init__(self, name: str, unit: Unit, module: nn.Module, spikes: int | None) -> None:
        assert unit.operator is not None
        weight = unit.operator.weight.flatten(1)
        self.unit, self.module = unit, module
        self.directions = torch.linalg.svd(weight, full_matrices=False).U
        self.ranks = grid(name, spikes, min(weight.shape))
        self.rows: list[dict[str, Any]] = [
            {"layer": unit.name, "rank": rank, "of": min(weight.shape), "edge": rank == spikes, "samples": 0}
            | dict.fromkeys(("right", "kept", "certified", "lemma", "same", "same_certified", "violations"), 0)
            | {"closest": 0.0, "moved": 0, "logs": 0.0}
            for rank in self.ranks
        ]

    def cut(self, whole: torch.Tensor) -> Iterator[torch.Tensor]:
        """What it gives at each of its ranks, (N, outputs, …), in place of `whole`."""
        bias = self.module._parameters["bias"]
        linear = whole.flatten(2) if whole.dim() > 2 else whole[:, :, None]
        if bias is not None:
            linear = linear - bias[:, None]
        directions = self.directions.to(linear.dtype)
        gone = torch.zeros_like(linear)
        last = directions.shape[1]
        for rank in self.ranks:
            these = directions[:, rank:last]
            gone += these @ (these.T @ linear)
            last = rank
            yield whole - gone.reshape(whole.shape)


def add(telescope: Telescope, layers: list[Layer], inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """A batch of samples to the sums of every layer and rank."""
    graph = telescope.graph
    values = graph.run(inputs)
    before = values[graph.result].double()
    answer, confidence = before.argmax(1), confidences(before, labels)
    slack = SLACK[inputs.dtype] * before.abs().amax(1)
    for layer in layers:
        unit = layer.unit
        whole = values[unit.last]
        norms = nn.Sequential(*(graph.modules[0][path] for path in unit.paths[1:]))
        for row, cut in zip(layer.rows, layer.cut(values[unit.first]), strict=True):
            moved = norms(cut)
            after = graph.run(inputs, [*values[: unit.last], moved])[graph.result].double()
            move = telescope.move(unit, whole.double(), moved.double())
            own = telescope.bounds(move, labels)["best"].scatter(1, labels[:, None], 0.0).amax(1)
            gap = before.gather(1, answer[:, None]) - before
            reach = telescope.bounds(move, answer)
            safe = {
                bound: (gap > reach[bound]).scatter(1, answer[:, None], True).all(1) for bound in ("lemma", "best")
            }
            change = (confidences(after, labels) - confidence).abs()
            same, right = after.argmax(1) == answer, answer == labels
            counted = change > slack
            ratio = own[counted] / change[counted]
            row["samples"] += len(labels)
            row["right"] += int(right.sum())
            row["kept"] += int((after.argmax(1) == labels).sum())
            row["certified"] += int((safe["best"] & right).sum())
            row["lemma"] += int((safe["lemma"] & right).sum())
            row["same"] += int(same.sum())
            row["same_certified"] += int(safe["best"].sum())
            row["violations"] += int(((change > own + slack) | (safe["best"] & ~same)).sum())
            if len(ratio):
                row["closest"] = max(row["closest"], float(1 / ratio.min()))
                row["moved"] += len(ratio)
                row["logs"] += float(ratio.log().sum())


def ask(name: str, known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The sums of a network after every thousand samples or so, from those that are known on."""
    model = network(name)
    kind = torch.float32 if name in ("cnn", "resnet") else torch.float64
    analysis = rmt.analyze(model)
    spikes = {each.layer.name: each.fit.spikes for each in analysis.analyzed}
    model = model.to(kind).eval()
    samples = task(name, model, 10**6).samples
    assert samples is not None
    example = next(iter(samples.batches(3))).inputs.to(kind)
    graph = NetworkGraph(model, model, example)
    telescope = Telescope(graph)
    layers = [Layer(name, unit, graph.modules[0][unit.paths[0]], spikes.get(unit.name)) for unit in graph.units]
    done, seconds = known.get("samples", 0), known.get("processor_seconds", 0.0)
    if done:
        rows = iter(known["rows"])
        for layer in layers:
            layer.rows = [next(rows) for _ in layer.rows]
    seen, started = 0, time.process_time()
    for batch in samples.batches(TOGETHER[name]):
        seen += len(batch.inputs)
        if seen <= done:
            continue
        assert batch.targets is not None
        with torch.inference_mode():
            add(telescope, layers, batch.inputs.to(kind), batch.targets.long())
        if seen % 250 == 0 or seen == samples.count:
            spent = seconds + time.process_time() - started
            rows = [row for layer in layers for row in layer.rows]
            yield {"samples": seen, "of": samples.count, "processor_seconds": round(spent, 1), "rows": rows}


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """The table."""
    rows = [row for each in found.values() for row in each["rows"]]
    checked, violations = sum(row["samples"] for row in rows), sum(row["violations"] for row in rows)
    above = sum(row["certified"] > row["kept"] for row in rows)
    text = [
        "# Is the certificate ever wrong?",
        "",
        "Written by `experiments/soundness.py`, which explains what is asked. One layer cut at a time.",
        "",
        f"{violations} violations in {checked:,} bounds on single samples, {len(rows)} cuts; certified accuracy "
        f"above the measured one for {above} of them.",
        "",
    ]
    for name, each in found.items():
        first = each["rows"][0]
        text += [
            f"## {ABOUT[name]}",
            "",
            f"{each['samples']:,} of {each['of']:,} test samples, {first['right'] / first['samples']:.2%} before; "
            f"{each['processor_seconds'] / 60:.1f} processor minutes.",
            "",
            "| layer | rank | measured | certified | by Lemma 5.1 alone | same answer: measured, certified "
            "| bound over change, geometric mean | closest | violations |",
            "|---" * 9 + "|",
        ]
        for row in each["rows"]:
            shares = {key: f"{row[key] / row['samples']:.2%}" for key in ("kept", "certified", "lemma")}
            same = f"{row['same'] / row['samples']:.2%}, {row['same_certified'] / row['samples']:.2%}"
            mean = f"{math.exp(row['logs'] / row['moved']):.3g}" if row["moved"] else "–"
            edge = " (edge)" if row["edge"] else ""
            text.append(
                f"| {row['layer']} | {row['rank']} of {row['of']}{edge} | {shares['kept']} | {shares['certified']} "
                f"| {shares['lemma']} | {same} | {mean} | {row['closest']:.2g} | {row['violations']} |"
            )
        text.append("")
    return "\n".join(text)


def main() -> None:
    """Go on where the numbers end; then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(GRIDS), action="append", help="one network; repeatable")
    parser.add_argument("--quick", action="store_true", help="on the embedded digits, seconds")
    parser.add_argument("--out", type=Path, default=DATA)
    asked = parser.parse_args()
    os.environ.setdefault("RMT_COMPRESS_DATA", str(SHARED / "data"))
    kept = asked.out / "soundness.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for name in ("digits",) if asked.quick else (asked.only or ("fashion", "cnn", "resnet")):
        if name in found and found[name]["samples"] == found[name]["of"]:
            continue
        for sums in ask(name, found.get(name, {})):
            found[name] = sums
            kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(name, sums["samples"], sums["processor_seconds"], file=sys.stderr)
        (asked.out / "soundness.md").write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
