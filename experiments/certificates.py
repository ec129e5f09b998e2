"""How tight certificates are: bounds beside measured changes on three trained networks, layer by layer, over ranks.

    python experiments/certificates.py                  # an hour on one core; goes on where it was
    python experiments/certificates.py --only fashion   # minutes
    python experiments/certificates.py --quick --out DIR

Networks: the Fashion-MNIST perceptron and the CIFAR-10 network of sample_models/, and the ResNet beside the
repository (shared/models/resnet). Asked are test samples that they were not trained on. Writes certificates.jsonl,
one line per certificate, and the tables certificates.md.

* ``alone``: one layer cut at a time, at its edge and at shares of its singular values;
* ``together``: all of them cut to the same share; every layer's own step is bounded and measured;
* ``norms``: the bound on every layer's norm beside power iteration on the layer, which comes from below;
* ``search``: random inputs, and steps uphill from the worst of them, that try to break the bound.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.certificates.network_graph import NetworkGraph
from rmt_compress.certificates.telescoping import Telescope
from rmt_compress.compression import compress
from rmt_compress.data.settings import DataSettings
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.tasks.questions import open_task
from rmt_compress.networks.tasks.settings import TaskSettings
from rmt_compress.networks.tasks.task import Task
from rmt_compress.plan import LayerDecision, Plan

DATA = Path(__file__).parent / "data"
SAMPLES = Path(__file__).parents[1] / "sample_models"
SHARED = Path(__file__).parents[2] / "shared"
RESNET = SHARED / "models" / "resnet"
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
FEW_SHARES = (0.1, 0.5, 0.9)
"""Of convolutional networks, which take longer."""
SUBJECTS = {
    "fashion": ("fashion-mnist", 10_000, ("alone", "together", "norms", "search")),
    "cnn": ("cifar10", 100, ("alone", "together", "norms")),
    "resnet": ("cifar10", 60, ("together", "norms")),
    "digits": ("digits", 40, ("alone", "together", "norms", "search")),
}
"""Name -> data, samples, what is asked."""
ABOUT = {
    "fashion": "Fashion-MNIST perceptron 784,1000,1000,500,10",
    "cnn": "CIFAR-10 network, five convolutions and two linear layers",
    "resnet": "ResNet of eight blocks on CIFAR-10",
    "digits": "Perceptron of the embedded digits, for the quick version",
}


FILES = {"fashion": "fashion_mlp.safetensors", "cnn": "cifar10_cnn.pt", "digits": "digits_mlp.safetensors"}


def network(name: str) -> nn.Module:
    """One of the three."""
    if name == "resnet":
        return load_model(RESNET / "resnet.pt", arch=f"{RESNET / 'network.py'}:Net")
    return load_model(SAMPLES / FILES[name])


def task(name: str, model: nn.Module, samples: int) -> Task:
    """What it is asked."""
    pixels = DataSettings()
    if name == "resnet":
        pixels = DataSettings(mean="0.4914,0.4822,0.4465", std="0.2470,0.2435,0.2616")
    return open_task(SUBJECTS[name][0], model, None, TaskSettings(data=pixels), limit=samples)


def inputs_of(asked: Task, samples: int) -> torch.Tensor:
    """The first samples of a task, (samples, …), in double precision."""
    assert asked.samples is not None, "a task of a data set has samples"
    inputs: torch.Tensor = next(iter(asked.samples.batches(samples))).inputs
    return inputs.double()


def cuttable(model: nn.Module) -> list[tuple[LayerDecision, int, int]]:
    """Layers that are analysed as a plan names them, their spikes, and how many singular values they have."""
    analysis = rmt.analyze(model)
    decisions = {each.tensor: each for each in rmt.make_plan(analysis).layers}
    layers = [each for each in analysis.analyzed if each.layer.matrix is not None]
    return [(decisions[each.layer.tensor], each.fit.spikes, each.fit.p) for each in layers]


def usual(name: str, model: nn.Module) -> list[tuple[LayerDecision, int, int]]:
    """Those that are cut together: of convolutional networks not the first."""
    return cuttable(model)[int(name in ("cnn", "resnet")) :]


def shares(name: str) -> tuple[float, ...]:
    """Of the singular values that are kept."""
    return SHARES if name in ("fashion", "digits") else FEW_SHARES


def plan_of(ranks: dict[str, int], layers: list[tuple[LayerDecision, int, int]]) -> Plan:
    """Layers truncated to these ranks."""
    return Plan(
        layers=tuple(
            each.model_copy(update={"action": "truncated", "rank": ranks[each.name], "sparsify": None})
            for each, _, _ in layers
            if each.name in ranks
        )
    )


def alone(name: str, samples: int, known: set[str]) -> Iterator[dict[str, Any]]:
    """One layer at a time."""
    model = network(name)
    question = task(name, model, samples)
    layers = cuttable(model)
    for decision, spikes, p in layers:
        for label, rank in [("edge", spikes), *((f"{share:.0%}", round(share * p)) for share in shares(name))]:
            key = f"{name} alone {decision.name} {label}"
            if rank < 1 or key in known:
                continue
            found = rmt.certify(model, plan_of({decision.name: rank}, layers), question)
            yield {"key": key, "rank": rank, "of": p} | found.to_json()


def together(name: str, samples: int, known: set[str]) -> Iterator[dict[str, Any]]:
    """All layers at once."""
    model = network(name)
    question = task(name, model, samples)
    layers = usual(name, model)
    for label in ("edge", *(f"{share:.0%}" for share in shares(name))):
        key = f"{name} together {label}"
        if key in known:
            continue
        share = None if label == "edge" else int(label[:-1]) / 100
        ranks = {each.name: max(1, spikes if share is None else round(share * p)) for each, spikes, p in layers}
        yield {"key": key} | rmt.certify(model, plan_of(ranks, layers), question).to_json()


def norms(name: str, samples: int, known: set[str]) -> Iterator[dict[str, Any]]:
    """Bounds on the norms of layers, batch norms with them, and power iteration."""
    key = f"{name} norms"
    if key in known:
        return
    model = network(name).double()
    example = inputs_of(task(name, model, 3), 3)
    graph = NetworkGraph(model, model, example)
    with torch.inference_mode():
        values = graph.run(example)
    rows = []
    for unit in graph.units:
        before = graph.steps.index(graph.steps[unit.first].all_input_nodes[0])
        parts = [model.get_submodule(path) for path in unit.paths]
        rows.append([unit.name, unit.gain.two, _power_iteration(parts, values[before][:1].clone())])
    yield {"key": key, "norms": rows}


def _power_iteration(parts: list[nn.Module], example: torch.Tensor, rounds: int = 60) -> float:
    """The largest singular value of an affine map, from below."""

    def linear(x: torch.Tensor) -> torch.Tensor:
        for part in parts:
            x = part(x)
        return x

    torch.manual_seed(0)
    x = torch.randn_like(example)
    offset = linear(torch.zeros_like(example)).detach()
    size = 0.0
    for _ in range(rounds):
        x = (x / x.norm()).requires_grad_()
        y = linear(x) - offset
        size = float(y.detach().norm())
        (x,) = torch.autograd.grad(y, x, y.detach())
    return size


def search(name: str, samples: int, known: set[str]) -> Iterator[dict[str, Any]]:
    """Inputs that come as near to the bound as random search finds them, all layers cut at the edge."""
    key = f"{name} search"
    if key in known:
        return
    model = network(name).double()
    layers = usual(name, model)
    cut = compress(model, plan_of({each.name: spikes for each, spikes, _ in layers}, layers))
    question = task(name, model, 1000)
    inputs = inputs_of(question, 1000)
    telescope = Telescope(NetworkGraph(model, cut, inputs[:3]))
    torch.manual_seed(0)
    tries = violations = 0
    worst, first = 0.0, 0.0
    while tries < max(10 * samples, 1000):
        with torch.inference_mode():
            values = telescope.graph.run(inputs)
            answers = values[telescope.graph.result]
            labels = answers.argmax(1)
            change = cut(inputs) - answers
            moved = (change.gather(1, labels[:, None]) - change).abs()
            bounds = [telescope.bounds(move, labels)["best"] for move in telescope.moves(values)]
        share = (moved / torch.stack(bounds).sum(0).clamp(min=1e-300)).amax(1)
        violations += int((share > 1 + 1e-9).sum())
        worst, tries = max(worst, float(share.max())), tries + len(inputs)
        first = first or float(share.max())
        best = inputs[share.argsort(descending=True)[:50]].repeat(20, *[1] * (inputs.dim() - 1))
        size = 10.0 ** torch.empty(len(best), *[1] * (inputs.dim() - 1)).uniform_(-3, 1)
        inputs = best + size * torch.randn_like(best) * best.std()
        inputs[:50] = best[::20]
    yield {"key": key, "tries": tries, "violations": violations, "of_bound": worst, "of_bound_at_samples": first}


ASKED = {"alone": alone, "together": together, "norms": norms, "search": search}


def markdown(lines: list[dict[str, Any]]) -> str:
    """The tables."""
    by_key = {line["key"]: line for line in lines}
    text = [
        "# How tight certificates are",
        "",
        "Written by `experiments/certificates.py` from certificates.jsonl.",
        "",
    ]
    certificates = [line for line in lines if "accuracy" in line]
    checked = sum(line["samples"] * (len(line["layers"]) + 1) for line in certificates)
    violations = sum(line["violations"] for line in certificates)
    text += [f"{violations} violations in {checked:,} bounds on single samples.", ""]
    for name, about in ABOUT.items():
        mine = [line for line in certificates if line["key"].startswith(f"{name} ")]
        if not mine:
            continue
        text += [f"## {about}", ""]
        if single := [line for line in mine if " alone " in line["key"]]:
            text += [
                f"One layer cut at a time, {single[0]['samples']:,} test samples, "
                f"{single[0]['accuracy']['before']:.2%} before.",
                "",
                _heading(
                    "layer",
                    "rank",
                    "measured",
                    "certified",
                    "by Lemma 5.1 alone",
                    "same answer: measured, certified",
                )
                + " median bound | median ratio |",
                "|---" * 8 + "|",
            ]
            for line in single:
                layer, same = line["layers"][0], line["same_answer"]
                edge = " (edge)" if line["key"].endswith(" edge") else ""
                text.append(
                    f"| {layer['name']} | {line['rank']} of {line['of']}{edge} | {line['accuracy']['after']:.2%} | "
                    f"{line['accuracy']['certified']:.2%} | {line['bounds']['lemma']['accuracy']:.2%} | "
                    f"{same['measured']:.2%}, {same['certified']:.2%} | {layer['bound']['median']:.3g} | "
                    f"{_ratio(line['ratio'])} |"
                )
            text.append("")
        if joint := [line for line in mine if " together " in line["key"]]:
            text += [
                f"Cut together: {', '.join(each['name'] for each in joint[0]['layers'])}; "
                f"{joint[0]['samples']:,} test samples, {joint[0]['accuracy']['before']:.2%} before.",
                "",
                _heading("kept", "measured", "certified", "median bound", "median ratio")
                + " ratio of the first, of the last cut layer | violations |",
                "|---" * 7 + "|",
            ]
            for line in joint:
                ends = [_ratio(line["layers"][place]["ratio"]) for place in (0, -1)]
                text.append(
                    f"| {line['key'].rpartition(' ')[2]} | {line['accuracy']['after']:.2%} | "
                    f"{line['accuracy']['certified']:.2%} | {line['bounds']['best']['bound']['median']:.3g} | "
                    f"{_ratio(line['ratio'])} | {', '.join(ends)} | {line['violations']} |"
                )
            text.append("")
        if f"{name} search" in by_key:
            line = by_key[f"{name} search"]
            text += [
                f"Random search over {line['tries']:,} inputs, cut together at the edge: {line['violations']} "
                f"violations, {line['of_bound']:.2%} of the bound reached, {line['of_bound_at_samples']:.2%} by "
                "test samples.",
                "",
            ]
        if f"{name} norms" in by_key:
            line = by_key[f"{name} norms"]
            ratios = sorted(bound / below for _, bound, below in line["norms"])
            text += [
                f"Norms of its {len(ratios)} layers over power iteration on them, from below: median "
                f"{ratios[len(ratios) // 2]:.4f}, largest {ratios[-1]:.4f}.",
                "",
            ]
    return "\n".join(text)


def _heading(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def main() -> None:
    """Certify what is not known yet, line by line; then the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(SUBJECTS), action="append", help="one network; repeatable")
    parser.add_argument("--samples", type=int, help="samples asked; by default as many as fit")
    parser.add_argument("--quick", action="store_true", help="on the embedded digits, seconds")
    parser.add_argument("--out", type=Path, default=DATA)
    asked = parser.parse_args()
    kept = asked.out / "certificates.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    if "RMT_COMPRESS_DATA" not in os.environ:
        os.environ["RMT_COMPRESS_DATA"] = str(SHARED / "data")
    for name in ("digits",) if asked.quick else (asked.only or ("fashion", "cnn", "resnet")):
        _, samples, kinds = SUBJECTS[name]
        for kind in kinds:
            started = time.process_time()
            known = {line["key"] for line in lines}
            for line in ASKED[kind](name, asked.samples or samples, known):
                line["processor_seconds"] = round(time.process_time() - started, 1)
                started = time.process_time()
                lines.append(line)
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(line["key"], line.get("accuracy"), line["processor_seconds"], file=sys.stderr)
    (asked.out / "certificates.md").write_text(markdown(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
