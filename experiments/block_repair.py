"""Block-wise repair of two real networks after deep cuts, at the sizes of method.md §14.

    python experiments/block_repair.py lm resnet               # on two quiet cores some minutes
    python experiments/block_repair.py lm --keeps 0.4 --passes 8
    python experiments/block_repair.py lm --ranks balanced     # those of a search within a budget
    python experiments/block_repair.py --draw                  # the table again from the numbers

The language model: two-sided directions, every one of the 56 linear layers of its blocks cut to the same share of
its weights, or the ranks balanced between that and one price of relative energies; calibrated and repaired on 40
stretches of 512 bytes of calibration.txt, asked 24 of test.txt. The ResNet: 19 convolutions, input directions,
ranks by one price of relative energies; calibrated and repaired on 768 training images, batch-norm statistics
renewed before, asked the first 1,000 test images. One seed; on the CPU one thread of a machine that others used as
well. The uncut language model has another loss here than in method.md §14, on other stretches: rises are to be
compared. All runs are listed; they were compared on the questions themselves, so that the best of several says a
little too much.

Networks, texts and images lie under ../shared (``--shared``). Writes block_repair.json in experiments/data after
every measurement, and block_repair.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from real_networks import SHARED, SUBJECTS, Subject, calibration_text, stretches
from torch import nn

from rmt_compress.analysis import analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.compression import compress
from rmt_compress.decomposition.bases import BASES, directions_of
from rmt_compress.decomposition.moments import Moments
from rmt_compress.decomposition.moments_file import load_moments, save_moments
from rmt_compress.decomposition.svd import Decomposition
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.calibration.statistics import renew_statistics
from rmt_compress.networks.repair.repairing import PASSES, RATE, repair_blocks
from rmt_compress.outputs import replacing
from rmt_compress.plan import LayerDecision, Plan
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.candidates import Candidates, Rule
from rmt_compress.planning.costs import Parameters

DATA = Path(__file__).parent / "data"
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Cut:
    """A network and how it is cut.

    Attributes:
        subject: the network.
        inputs: to calibrate and repair, in batches.
        asked: how many of the test samples are.
        basis: which directions are kept.
        ranks: of the layers, for a share of their weights; None for a layer that stays whole.
        keeps: the shares.
    """

    subject: Subject
    inputs: list[torch.Tensor]
    asked: int
    basis: str
    ranks: Callable[[Moments, float], dict[str, int | None]]
    keeps: tuple[float, ...]


def language_model(shared: Path, scaling: str) -> Cut:
    """The Llama-style network of bytes."""
    subject = SUBJECTS["lm"](shared)
    text = calibration_text(shared)
    starts = range(0, len(text) - len(text) // 40 + 1, len(text) // 40)
    inputs = stretches(text, list(starts)[:40]).batches(1)
    shapes = {name: subject.model.get_parameter(name).shape for name in subject.layers}

    def ranks(moments: Moments, keep: float) -> dict[str, int | None]:
        if scaling == "uniform":
            return {name: int(keep * shape.numel() / sum(shape)) for name, shape in shapes.items()}
        whole = {"keep": Parameters(float(sum(shape.numel() for shape in shapes.values())))}
        analysis = analyze(subject.model, include=subject.layers)
        with open_checkpoint(subject.model) as checkpoint:
            settings = BudgetSettings(keep=keep, metric="two-sided")
            candidates = Candidates(checkpoint, analysis, moments, settings, whole)
            return candidates.at(Rule("two-sided", "balanced"), {"keep": keep}).allocation.ranks

    return Cut(subject, inputs, 24, "two-sided", ranks, (0.6, 0.4))


def residual_network(shared: Path, _: str) -> Cut:
    """The ResNet for CIFAR-10, by one price."""
    subject = SUBJECTS["resnet"](shared)

    def ranks(moments: Moments, keep: float) -> dict[str, int | None]:
        return _relative(subject.model, subject.layers, moments, "input", keep)

    return Cut(subject, subject.drawn(768, 0, 0).batches(96), 1000, "input", ranks, (0.15, 0.1))


CUTS = {"lm": language_model, "resnet": residual_network}


def _relative(
    model: nn.Module, layers: list[str], moments: Moments, basis: str, keep: float
) -> dict[str, int | None]:
    """Ranks by one price: directions in the order of their share of the layer's energy over what they cost."""
    with open_checkpoint(model) as checkpoint:
        found = directions_of(checkpoint.layers(), BASES[basis], moments, only=layers)
        gains = []
        whole = 0
        for name, directions in found.items():
            decomposition = directions.decompose(checkpoint.read(name))
            assert isinstance(decomposition, Decomposition)
            energies = decomposition.s.square()
            assert directions.layer.matrix is not None
            cost = sum(directions.layer.matrix)
            whole += directions.layer.parameters
            gains += [(float(gain) / cost, name, cost) for gain in energies / energies.sum()]
    ranks, spent = dict.fromkeys(found, 0), 0
    for _, name, cost in sorted(gains, reverse=True):
        if spent + cost > keep * whole:
            break
        ranks[name] += 1
        spent += cost
    return dict(ranks)


def measure(name: str, asked: argparse.Namespace, numbers: Numbers, save: Callable[[], None]) -> None:
    """Every size: as cut, with batch-norm statistics renewed, and repaired."""
    cut = CUTS[name](asked.shared, asked.ranks)
    subject, questions = cut.subject, cut.subject.asked(cut.asked)
    subject.model.to(asked.device)
    file = asked.moments and asked.moments / f"{name}.moments.safetensors"
    if file and file.exists():
        moments = load_moments(file)
    else:
        moments = calibrate(subject.model, cut.inputs, layers=subject.layers)
        if file:
            save_moments(moments, file)
    about = numbers.setdefault(name, {"score": subject.unit, "runs": {}})
    if "uncut" not in about:
        about["uncut"] = questions.score(subject.model)
    for keep in asked.keeps or cut.keeps:
        small = compress(subject.model, _plan(cut, cut.ranks(moments, keep)), moments)
        row: Numbers = {"cut": questions.score(small)}
        if renew_statistics(small, cut.inputs).norms:
            row["renewed"] = questions.score(small)
        processor = time.process_time()
        report = repair_blocks(small, subject.model, cut.inputs, passes=asked.passes, rate=asked.rate)
        row |= {"processor_seconds": time.process_time() - processor, "seconds": report.seconds}
        row["repaired"] = questions.score(small)
        row |= {"passes": asked.passes, "rate": asked.rate, "errors": [report.before, report.after]}
        row["blocks"] = [[block.block, block.before, block.after] for block in report.blocks]
        run = f"{keep:g}, {asked.passes} passes at {asked.rate:g}, {asked.device}"
        ranks = asked.ranks if name == "lm" else "one price"
        run += ", balanced" * (ranks == "balanced")
        about["runs"][run] = {"keep": keep, "device": asked.device, "ranks": ranks, **row}
        print(name, keep, {key: value for key, value in row.items() if key != "blocks"}, flush=True)
        save()


def _plan(cut: Cut, found: dict[str, int | None]) -> Plan:
    ranks = {name: max(1, rank) for name, rank in found.items() if rank is not None}
    with open_checkpoint(cut.subject.model) as checkpoint:
        decisions = [
            LayerDecision(
                name=layer.name,
                tensor=layer.tensor,
                kind=layer.kind,
                shape=layer.shape,
                action="factorized",
                rank=ranks[layer.tensor],
            )
            for layer in checkpoint.layers()
            if layer.tensor in ranks and layer.factor_parameters(ranks[layer.tensor]) < layer.parameters
        ]
    return Plan(layers=tuple(decisions), basis=cut.basis)


def markdown(numbers: Numbers) -> str:
    """The table."""
    heading = (
        "network",
        "keep",
        "ranks",
        "uncut",
        "cut",
        "statistics renewed",
        "repaired",
        "passes, rate",
        "device",
        "processor seconds",
    )
    lines = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    for name, about in numbers.items():
        for row in sorted(
            about["runs"].values(),
            key=lambda row: (-row["keep"], _ranks(name, row), row["passes"], row["rate"], row["device"]),
        ):
            scores = [about["uncut"], row["cut"], row.get("renewed"), row["repaired"]]
            cells = ["–" if score is None else f"{score:.3f}" for score in scores]
            cells += [f"{row['passes']}, {row['rate']:g}", row["device"], f"{row['processor_seconds']:.0f}"]
            lines.append(
                f"| {name}, {about['score']} | {row['keep']:g} | {_ranks(name, row)} | {' | '.join(cells)} |"
            )
    return "\n".join([*_head(), *lines]) + "\n"


def _ranks(name: str, row: Numbers) -> str:
    """What chose them; the first runs did not say so."""
    return str(row.get("ranks", "uniform" if name == "lm" else "one price"))


def _head() -> Iterator[str]:
    title, _, rest = __doc__.partition("\n")
    yield f"# {title.rstrip('.')}\n"
    yield rest.split("\n\n")[1].strip().replace("\n", " ") + "\n"


def main() -> None:
    """Measure what is asked for, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*CUTS, []], help="which networks")
    parser.add_argument("--keeps", type=float, nargs="+", help="other shares of the weights")
    parser.add_argument("--ranks", choices=["uniform", "balanced"], default="uniform", help="of the language model")
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--moments", type=Path, help="a folder where moments are kept between runs")
    parser.add_argument("--draw", action="store_true", help="only the table")
    asked = parser.parse_args()
    path = asked.out / "block_repair.json"
    numbers: Numbers = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def save() -> None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")

    if not asked.draw:
        for name in asked.networks:
            measure(name, asked, numbers, save)
    (asked.out / "block_repair.md").write_text(markdown(numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
