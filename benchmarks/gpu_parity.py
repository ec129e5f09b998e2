"""Whether every command gives on a device what it gives on the CPU: each is run on both, as a user types it."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import rmt_compress as rmt
from rmt_compress.cli.app import main as program
from rmt_compress.data.in_memory import InMemory
from rmt_compress.networks.tasks.classification import Classification

MODELS = Path(__file__).parents[1] / "sample_models"
DIGITS = MODELS / "digits_mlp.safetensors"
SUFFIXES = (".safetensors", ".pt")
Row = dict[str, object]
Said = tuple[dict[str, Any], float]
"""The JSON of a command and its seconds."""


@dataclass(frozen=True)
class Place:
    """Where and how much is run.

    Attributes:
        device: what is set beside the CPU.
        carried: a folder with resnet.pt, network.py and cifar10/, the start of that set; None without.
        folder: for what is written.
        quick: small networks, to see that it runs.
    """

    device: str
    carried: Path | None
    folder: Path
    quick: bool

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU of NVIDIA's."""
        return self.device.startswith("cuda")

    @property
    def sides(self) -> tuple[str, str]:
        """The CPU and the device."""
        return "cpu", self.device

    def wait(self) -> None:
        """For all that the device still does."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def output(self, name: str, side: int) -> Path:
        """Where a command writes on the CPU (0) and on the device (1)."""
        return self.folder / f"{name}-{side}.pt"

    def resnet(self) -> tuple[str, ...]:
        """The options of a command that runs the carried network on the carried images."""
        assert self.carried is not None
        data = ("--data", str(self.carried / "cifar10"), "--mean", "0.4914,0.4822,0.4465")
        arch = f"{self.carried / 'network.py'}:Net"
        return (str(self.carried / "resnet.pt"), *data, "--std", "0.2470,0.2435,0.2616", "--arch", arch)


def program_says(*arguments: object) -> str:
    """What the program prints on stdout; a RuntimeError with its last line where it fails.

    A goal that was not reached, of work that was done, is none.
    """
    words = [str(each) for each in arguments]
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["rmt-compress", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            program()
    except SystemExit as stopped:
        if stopped.code not in (0, 1, None):
            last = (err.getvalue().strip().splitlines() or ["nothing was said"])[-1]
            raise RuntimeError(f"rmt-compress {shlex.join(words)}: {last}") from stopped
    finally:
        sys.argv = before
    return out.getvalue()


def both(place: Place, *arguments: object, output: str | None = None) -> tuple[Said, Said]:
    """What a command says on the CPU and on the device, with its seconds; `output` names what it writes."""
    said = []
    for side, device in enumerate(place.sides):
        written = () if output is None else ("-o", place.output(output, side), "--force")
        start = time.perf_counter()
        found = json.loads(program_says(*arguments, *written, "--device", device, "--json"))
        said.append((found, time.perf_counter() - start))
    return said[0], said[1]


def tuned(output: Path, *arguments: object) -> list[dict[str, Any]]:
    """What `finetune` leaves in its log of each epoch."""
    program_says("finetune", *arguments, "-o", output, "--force")
    lines = output.with_name(f"{output.stem}.log.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == "epoch"]


def relative(ours: float, theirs: float) -> float:
    """How far one number is from another, as a share of that."""
    return abs(ours - theirs) / max(abs(theirs), 1e-30)


def row(what: str, here: object, there: object, difference: float, within: float) -> Row:
    """One line of the comparison; `within` is the largest difference that is expected."""
    sides = {"what": what, "CPU": here, "device": there}
    return {**sides, "difference": difference, "expected within": within, "met": difference <= within}


def times(what: str, here: float, there: float) -> Row:
    """One line of seconds."""
    return {"what": what, "CPU, s": here, "device, s": there, "CPU/device": here / there}


def analyze(place: Place) -> list[Row]:
    """Spikes, variance and edge of every layer of the sample networks."""
    files = [DIGITS] if place.quick else sorted(file for file in MODELS.iterdir() if file.suffix in SUFFIXES)
    if place.carried is not None:
        files.append(place.carried / "resnet.pt")
    rows: list[Row] = []
    for file in files:
        (here, slow), (there, fast) = both(place, "analyze", file)
        pairs = [
            (one, other)
            for one, other in zip(here["layers"], there["layers"], strict=True)
            if one["status"] == other["status"] == "analyzed"
        ]
        first, second = (sum(pair[side]["spikes"] for pair in pairs) for side in (0, 1))
        differing = sum(one["spikes"] != other["spikes"] for one, other in pairs)
        worst = {key: max(relative(other[key], one[key]) for one, other in pairs) for key in ("sigma2", "edge")}
        rows += [
            row(f"{file.name}: spikes of {len(pairs)} layers; layers that differ", first, second, differing, 0),
            row(f"{file.name}: sigma2, worst layer", "", "", worst["sigma2"], 2e-4),
            row(f"{file.name}: edge, worst layer", "", "", worst["edge"], 1e-4),
            times(file.name, slow, fast),
        ]
    return rows


def prune(place: Place) -> list[Row]:
    """Ranks, and the weights that the factors stand for."""
    files = [DIGITS] if place.quick else [DIGITS, MODELS / "mnist_mlp.safetensors", MODELS / "cifar10_cnn.pt"]
    cases: list[tuple[Path, tuple[str, ...]]] = [(file, ()) for file in files]
    cases += [(DIGITS, ("--pattern", "2:4")), (DIGITS, ("--sparsity", "0.7"))]
    rows: list[Row] = []
    for number, (file, options) in enumerate(cases):
        name, output = " ".join((file.name, *options)), f"pruned-{number}"
        (here, slow), (there, fast) = both(place, "prune", file, *options, output=output)
        rows += [_ranks(name, here, there)]
        # What found nothing to cut has written nothing.
        if place.output(output, 0).exists():
            rows.append(_weights(name, place, output))
        rows.append(times(name, slow, fast))
    return rows


def budget(place: Place) -> list[Row]:
    """`prune` within a budget: calibrated, searched, written and measured."""
    return _within_budget(place, str(DIGITS), "--data", "digits")


def carried_budget(place: Place) -> list[Row]:
    """The same of the carried network."""
    if place.carried is None or place.quick:
        return [{"what": "the carried network: left out"}]
    return _within_budget(place, *place.resnet(), "--metric", "input", "--calibration-samples", "64")


def _within_budget(place: Place, *source: str) -> list[Row]:
    name = f"{Path(source[0]).name} --keep 0.4"
    options = ("--keep", "0.4", "--search", "one")
    (here, slow), (there, fast) = both(place, "prune", *source, *options, output="budget")
    first, second = here["accuracy"]["after"], there["accuracy"]["after"]
    return [
        _ranks(name, here, there, of=4),
        _weights(name, place, "budget", within=0.05),
        row(f"{name}: accuracy after", first, second, abs(first - second), 0.01),
        times(name, slow, fast),
    ]


def evaluate(place: Place) -> list[Row]:
    """Accuracy and loss of networks as they are."""
    cases: list[tuple[str, ...]] = [(str(DIGITS), "--data", "digits")]
    if place.carried is not None and not place.quick:
        cases.append(place.resnet())
    rows: list[Row] = []
    for case in cases:
        (here, slow), (there, fast) = both(place, "evaluate", *case)
        one, other, name = here["model"], there["model"], Path(case[0]).name
        apart = abs(one["accuracy"] - other["accuracy"])
        rows += [
            row(f"{name}: accuracy", one["accuracy"], other["accuracy"], apart, 0.004),
            row(f"{name}: loss", one["loss"], other["loss"], relative(other["loss"], one["loss"]), 1e-3),
            times(name, slow, fast),
        ]
    return rows


def moments(place: Place) -> list[Row]:
    """What calibration measures: C and G of each layer, the worst one."""
    model = _network(place).eval()
    images = torch.randn(256, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    here = rmt.calibrate(model, torch.chunk(images, 4), seed=3)
    there = rmt.calibrate(model.to(place.device), torch.chunk(images, 4), seed=3)
    rows: list[Row] = []
    # The gradients are of classes that are drawn, of which a rounding may change a few.
    for what, within in (("inputs", 1e-3), ("mean", 1e-3), ("outputs", 0.1)):
        worst = 0.0
        for name, own in here.layers.items():
            one, other = getattr(own, what), getattr(there.layers[name], what)
            if one is not None:
                worst = max(worst, float((other.cpu() - one).norm() / one.norm()))
        rows.append(
            row(f"{what} of {len(here.layers)} layers, relative distance of the worst", "", "", worst, within)
        )
    return rows


def sweep(place: Place) -> list[Row]:
    """Scores of all networks of the sweeps."""
    rows: list[Row] = []
    for what in ("rank",) if place.quick else ("rank", "budget"):
        options = ("--data", "digits", "--what", what, "--points", 4)
        (here, slow), (there, fast) = both(place, "sweep", DIGITS, *options, output=f"sweep-{what}")
        scores = [
            [point["accuracy"] for each in said["sweeps"] for curve in each["curves"] for point in curve["points"]]
            for said in (here, there)
        ]
        worst = max(abs(one - other) for one, other in zip(*scores, strict=True))
        # Two of 360 test images.
        rows.append(row(f"{what}: {len(scores[0])} scores, the largest difference", "", "", worst, 0.006))
        rows.append(times(what, slow, fast))
    return rows


def certify(place: Place) -> list[Row]:
    """The certified accuracy and the largest bound."""
    plan = place.folder / "plan.json"
    rule = ("--rule", "energy:0.98", "--when-not-smaller", "truncate")
    program_says("prune", DIGITS, *rule, "--dry-run", "--force", "--save-plan", plan)
    (here, slow), (there, fast) = both(place, "certify", DIGITS, "--data", "digits", "--plan", plan)
    one, other = here["accuracy"]["certified"], there["accuracy"]["certified"]
    first, second = (max(layer["bound"]["max"] for layer in each["layers"]) for each in (here, there))
    return [
        row("certified accuracy", one, other, abs(one - other), 0.003),
        row("largest bound of a layer", first, second, relative(second, first), 1e-4),
        times("digits_mlp.safetensors", slow, fast),
    ]


def finetune(place: Place) -> list[Row]:
    """Epochs with cuts between, in float32."""
    last, seconds = [], []
    for side, device in enumerate(place.sides):
        start = time.perf_counter()
        options = ("--data", "digits", "--epochs", "1" if place.quick else "2", "--device", device)
        last.append(tuned(place.output("tuned", side), DIGITS, *options)[-1])
        seconds.append(time.perf_counter() - start)
    one, other = (each["test_accuracy"] for each in last)
    left = [each["parameters"] for each in last]
    return [
        row("digits: test accuracy", one, other, abs(one - other), 0.01),
        row("digits: weights left", left[0], left[1], relative(left[1], left[0]), 0.05),
        times("digits, the first start of accelerate included", seconds[0], seconds[1]),
    ]


def agreeing(model: torch.nn.Module, images: torch.Tensor) -> Classification:
    """The task of giving the answers that a network gives to images."""
    with torch.inference_mode():
        labels = model(images.to(next(model.parameters()).device)).argmax(1).cpu()
    return Classification(InMemory(images, labels, "classes", 10))


def _network(place: Place) -> torch.nn.Module:
    """A small convolutional network, made from a seed."""
    from torch import nn

    torch.manual_seed(0)
    width = 8 if place.quick else 64
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=4, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 16, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


def _ranks(name: str, here: dict[str, Any], there: dict[str, Any], of: int = 0) -> Row:
    """The ranks of two results, and how many differ by more than `of`."""
    pairs = [
        (one.get("rank"), other.get("rank")) for one, other in zip(here["layers"], there["layers"], strict=True)
    ]
    cut = [pair for pair in pairs if pair != (None, None)]
    differing = sum(None in pair or abs(pair[0] - pair[1]) > of for pair in cut)
    first, second = (" ".join(str(pair[side]) for pair in cut) for side in (0, 1))
    return row(
        f"{name}: ranks; those that differ{f' by more than {of}' if of else ''}", first, second, differing, 0
    )


def _weights(name: str, place: Place, written: str, within: float = 1e-3) -> Row:
    """The relative distance of the weights that two files stand for, of the worst tensor."""
    here, there = (rmt.load_dense(place.output(written, side)) for side in (0, 1))
    worst = 0.0 if list(here) == list(there) else math.inf
    for tensor, one in here.items():
        if one.dim() > 1 and tensor in there:
            far = float((there[tensor].double() - one.double()).norm())
            worst = max(worst, far / max(float(one.double().norm()), 1e-30))
    return row(f"{name}: weights, relative distance of the worst", "", "", worst, within)
