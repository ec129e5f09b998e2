"""What a device (a GPU) makes of thin layers, and whether all that runs a network runs there: `--device cuda`.

Two parts. Milliseconds of a product with a weight whole and split in two, in eager mode and in a CUDA graph, by
batch and rank: the ratio says how many times faster the two thin layers are. And the road from calibration to a
repaired cut on the device, each number beside the CPU's.

    python benchmarks/device.py --device cuda --out benchmarks/results/device.md
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from torch import nn

import rmt_compress as rmt
from rmt_compress.data.in_memory import InMemory
from rmt_compress.networks.calibration.statistics import renew_statistics
from rmt_compress.networks.evaluation import compare, evaluate
from rmt_compress.networks.latency import measure_latency
from rmt_compress.networks.tasks.agreement import Agreement
from rmt_compress.networks.tasks.classification import Classification


def timed(
    shape: tuple[int, int], ranks: list[int], batches: list[int], device: str, kind: torch.dtype
) -> list[str]:
    """Rows of a table: batch, rank, whole and split in eager mode and in a graph, and the ratios."""
    rows, columns = shape
    lines = []
    for batch in batches:
        whole = nn.Linear(columns, rows, device=device, dtype=kind)
        for rank in ranks:
            split = nn.Sequential(
                nn.Linear(columns, rank, bias=False, device=device, dtype=kind),
                nn.Linear(rank, rows, device=device, dtype=kind),
            )
            inputs = torch.randn(batch, columns)
            task = Agreement(InMemory(inputs), whole)
            dense, thin = measure_latency([whole, split], task, batches=(batch,))
            size = str(batch)
            cells = [
                f"{rows}×{columns}",
                str(batch),
                str(rank),
                f"{dense.eager[size]:.4f}",
                f"{thin.eager[size]:.4f}",
            ]
            cells.append(f"{dense.eager[size] / thin.eager[size]:.2f}")
            if dense.graph and thin.graph:
                cells += [f"{dense.graph[size]:.4f}", f"{thin.graph[size]:.4f}"]
                cells.append(f"{dense.graph[size] / thin.graph[size]:.2f}")
            else:
                cells += ["–", "–", "–"]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def network() -> nn.Module:
    """A small convolutional network with norms, made from the seed."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, stride=2, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 * 16, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


def road(device: str) -> dict[str, float]:
    """Numbers of the road from calibration to a repaired cut, on one device."""
    model = network()
    images = torch.randn(256, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    renew_statistics(model, torch.chunk(images, 4))
    model = model.eval().to(device)
    batches = torch.chunk(images, 4)
    labels = model(images.to(device)).argmax(1).cpu() if device != "cpu" else model(images).argmax(1)
    found: dict[str, float] = {}
    moments = rmt.calibrate(model, batches, seed=3)
    for name, own in list(moments.layers.items())[:3]:
        found[f"tr C of {name}"] = float(own.inputs.diagonal().sum())
    analysis = rmt.analyze(model)
    plan = rmt.plan_within(analysis, moments, keep=0.4, metric="two-sided", scaling="uniform", search="one")
    found["share kept"] = plan.settings["budget"]["reached"]["keep"]
    small = rmt.compress(model, plan, moments)
    task = Classification(InMemory(images, labels, "classes", 10))
    after, before = compare(small, model, task, latency=False)
    found["accuracy before"], found["accuracy after"] = before.score.value, after.score.value
    assert after.agreement is not None
    found["distance of outputs"] = after.agreement.details["relative_error"]
    renew_statistics(small, batches)
    found["accuracy, statistics renewed"] = task.score(small).value
    repaired = copy.deepcopy(small)
    report = rmt.repair_blocks(repaired, model, batches, passes=3, rate=1e-3)
    found["error of the last block before repair"], found["after"] = report.before, report.after
    found["accuracy, repaired"] = task.score(repaired).value
    found["peak memory, bytes"] = float(evaluate(model, task, latency=False).peak_memory or 0)
    return found


def main() -> None:
    """Measure and write a Markdown page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--small", action="store_true", help="small shapes, to see that it runs")
    arguments = parser.parse_args()
    device = arguments.device
    cuda = device.startswith("cuda")
    name = torch.cuda.get_device_name() if cuda else "the CPU"
    kind = torch.float16 if cuda else torch.float32
    large: list[tuple[tuple[int, int], list[int]]] = [
        ((4096, 4096), [256, 512, 1024]),
        ((11008, 4096), [256, 512, 1024]),
    ]
    shapes = [((64, 64), [8])] if arguments.small else large
    lines = [
        f"# Thin layers on {name}",
        "",
        f"torch {torch.__version__}, {str(kind).removeprefix('torch.')}, ms",
        "",
    ]
    lines += [
        "| weight | batch | rank | whole | split | times faster | whole, graph | split, graph | times faster |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for shape, ranks in shapes:
        lines += timed(shape, ranks, [1, 32] if arguments.small else [1, 32, 512, 4096], device, kind)
    lines += ["", "## The road from calibration to a repaired cut", "", f"| | CPU | {name} |", "|---|---|---|"]
    here, there = road("cpu"), road(device)
    lines += [f"| {key} | {here[key]:.6g} | {there[key]:.6g} |" for key in here]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
