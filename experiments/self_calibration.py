"""Cuts of networks without any data, and what agreement on inputs that a network made says of real samples.

    python experiments/self_calibration.py resnet --threads 1      # some 20 minutes on one core
    python experiments/self_calibration.py lm --threads 1          # an hour
    python experiments/self_calibration.py fashion mnist digits cnn
    python experiments/self_calibration.py --draw                  # the tables again from the numbers
    python experiments/self_calibration.py digits --quick --out DIR

A network makes its own inputs (``--calibrate self``): three quarters calibrate, every fourth chooses. At each size
every rule of the portfolio is asked on the inputs that choose how often the cut network answers as the uncut one,
and on real test samples how far its score falls; a star marks the rule that the inputs chose. Nothing is repaired
or retrained; of networks with batch norm a second figure has the statistics of the made-up inputs, a third those of
training moved by what the cut changes on the made-up inputs, as `prune` does it. Sizes are shares of the weights of
the layers that are cut, as in method.md §14. Writes self_calibration.json in experiments/data after every
measurement, so that a run that is broken off goes on, and self_calibration.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from max_drop import SUBJECTS, Subject

from rmt_compress.analysis import analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.data.in_memory import InMemory
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.calibration.made_up import FITTED_INPUTS, SAMPLED_TEXT, SPIKED_NOISE
from rmt_compress.networks.calibration.statistics import batch_norms, renew_statistics, seen_statistics
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.networks.replacing import replaced
from rmt_compress.networks.tasks.questions import Question
from rmt_compress.networks.tasks.task import Score, Task
from rmt_compress.outputs import replacing
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.candidates import Candidates
from rmt_compress.planning.costs import Parameters
from rmt_compress.pruning.calibration import calibration_for
from rmt_compress.pruning.drop import lasting
from rmt_compress.pruning.prediction import FLOOR
from rmt_compress.pruning.road import network_of

DATA = Path(__file__).parent / "data"
KEEPS = {
    "lm": (0.8, 0.6, 0.4),
    "resnet": (0.4, 0.25, 0.15, 0.1),
    "cnn": (0.6, 0.4, 0.25, 0.15),
}
MLP_KEEPS = (0.2, 0.1, 0.07, 0.05, 0.03)
FIRST = {"resnet": 1000, "cnn": 1000}
"""So many real samples from the front, as method.md §14 asks them."""
ASKED = {"lm": 24}
"""So many real samples spread over all; of the others 5,000."""
SHAPES = {"resnet": "3,32,32", "cnn": "3,32,32"}
Numbers = dict[str, Any]


def real_task(subject: Subject, model: torch.nn.Module, name: str) -> Task:
    """What is asked of real samples."""
    with open_checkpoint(subject.checkpoint) as checkpoint:
        task = Question(subject.data, model, checkpoint, subject.asked(0)).whole()
    assert task.samples is not None
    if name not in FIRST:
        return task.of(task.samples.thinned(ASKED.get(name, 5000)))
    first = next(iter(task.samples.batches(FIRST[name])))
    return task.of(InMemory(first.inputs, first.targets, "classes", task.samples.classes, task.samples.name))


def measure(
    name: str, seed: int, keeps: tuple[float, ...], quick: bool, numbers: Numbers, save: Callable[[], None]
) -> None:
    """Every rule at every size of `keeps`; what is in `numbers` already is left out."""
    subject = SUBJECTS[name]
    checkpoint = open_checkpoint(subject.checkpoint)
    model = network_of(checkpoint, subject.arch, folded=False, needed=True)
    assert model is not None
    model = model.float().eval()
    task = real_task(subject, model, name)
    about = numbers.setdefault(name, {"metric": task.metric.name, "unit": task.metric.unit, "seeds": {}})
    if "uncut" not in about:
        whole = task.score(model)
        about |= {"uncut": whole.value, "samples": whole.samples}
    known = about["seeds"].setdefault(str(seed), {"cuts": []})
    started = time.process_time()
    calibration = calibration_for(
        model, None, CalibrationSettings(seed=seed, input_shape=SHAPES.get(name)), checkpoint
    )
    known["seconds"] = {"inputs": time.process_time() - started}
    known["inputs"] = calibration.record
    selection = lasting(calibration.selection)
    started = time.process_time()
    moments = calibrate(model, calibration.inputs, seed=seed)
    known["seconds"]["moments"] = time.process_time() - started
    analysis = analyze(model)
    layers = [layer for layer in analysis.analyzed if not _kept(name, layer.tensor)]
    settings = BudgetSettings(keep=1.0, exclude=tuple(x.name for x in analysis.analyzed if _kept(name, x.tensor)))
    whole_cost = {"keep": Parameters(float(sum(layer.parameters for layer in layers)))}
    candidates = Candidates(checkpoint, analysis, moments, settings, whole_cost)
    renews = bool(batch_norms(model))
    whole_seen = seen_statistics(model, calibration.inputs)
    done = {(cut["rule"], cut["keep"]) for cut in known["cuts"]}
    for keep in keeps[: 1 if quick else None]:
        for rule in candidates.portfolio[: 2 if quick else None]:
            if (str(rule), keep) in done:
                continue
            tensors = candidates.tensors(candidates.at(rule, {"keep": keep}))
            with replaced(model, {key: tensor.float() for key, tensor in tensors.items()}) as cut:
                found: Numbers = {"rule": str(rule), "keep": keep, **_asked(cut, selection, task)}
                for how, uncut in (("renewed", None), ("moved", whole_seen)) if renews else ():
                    renewed = renew_statistics(cut, calibration.inputs, uncut=uncut)
                    found[how] = _asked(cut, selection, task)
                    renewed.undo()
            known["cuts"].append(found)
            print(name, seed, json.dumps(found), flush=True)
            save()


def _kept(name: str, tensor: str) -> bool:
    """Stem of the ResNet and head of the language model, which method.md §14 leaves as they are."""
    return (name == "resnet" and tensor == "conv1.weight") or tensor.startswith("lm_head")


def _asked(network: torch.nn.Module, made_up: Task, real: Task) -> Numbers:
    agreed: Score = made_up.score(network)
    return {"agreement": agreed.value, "divergence": agreed.loss, "score": real.score(network).value}


@dataclass(frozen=True)
class Cut:
    """One cut, as the inputs that the network made see it, and as real samples do.

    Attributes:
        network: which.
        seen: changed answers and half a point; of a language model the divergence.
        lost: points of accuracy as a share, or the rise of the loss.
    """

    network: str
    seen: float
    lost: float

    @property
    def ratio(self) -> float:
        """Lost over seen."""
        return self.lost / self.seen


def cuts_of(numbers: Numbers, kind: str) -> list[Cut]:
    """Every cut of networks that made inputs of this kind, batch-norm statistics moved as `prune` does."""
    text = kind == SAMPLED_TEXT
    found = []
    for name, about in numbers.items():
        made = [known for known in about["seeds"].values() if known["inputs"]["kind"] == kind]
        for cut in (each for known in made for each in known["cuts"]):
            if "renewed" in cut and "moved" not in cut:
                continue
            last = cut.get("moved", cut)
            rise = last["score"] - about["uncut"]
            seen = last["divergence"] if text else 1 - last["agreement"] + FLOOR
            found.append(Cut(name, seen, rise if text else -rise))
    return found


def quantiles(cuts: list[Cut]) -> tuple[float, float, float]:
    """The ratios that a twentieth, a half and nineteen twentieths have at most; networks weigh alike."""
    sizes = Counter(cut.network for cut in cuts)
    ordered = sorted(cuts, key=lambda cut: cut.ratio)
    weights = np.cumsum([1 / sizes[cut.network] for cut in ordered]) / len(sizes)
    places = np.searchsorted(weights, (0.05, 0.5, 0.95)).clip(max=len(ordered) - 1)
    low, middle, high = (ordered[place].ratio for place in places)
    return low, middle, high


def left_out(cuts: list[Cut]) -> dict[str, float]:
    """Network -> the share of its cuts whose loss lies in the range that the other networks tell."""
    shares = {}
    for name in sorted({cut.network for cut in cuts}):
        low, _, high = quantiles([cut for cut in cuts if cut.network != name])
        own = [cut for cut in cuts if cut.network == name]
        shares[name] = statistics.mean(low <= cut.ratio <= high for cut in own)
    return shares


def markdown(numbers: Numbers) -> str:
    """What the inputs chose at each size, and what agreement on them says."""
    parts = []
    for name, about in numbers.items():
        sign = 1 if about["unit"] == "share" else -1
        for seed, known in about["seeds"].items():
            parts += [
                f"## {name}\n\n{known['inputs']['count']} inputs: {known['inputs']['kind']}. Uncut "
                f"{about['uncut']:.3f} on {about['samples']:,} real samples. Seed {seed}.\n",
                "| keep | statistics | chosen | agreement | real score | best | its score |",
                "|---|---|---|---|---|---|---|",
            ]
            for keep in sorted({cut["keep"] for cut in known["cuts"]}, reverse=True):
                cuts = [cut for cut in known["cuts"] if cut["keep"] == keep]
                parts.append(_row(keep, "as they were", cuts, sign))
                for how in ("renewed", "moved"):
                    if how in cuts[0]:
                        parts.append(_row(keep, how, [{"rule": cut["rule"], **cut[how]} for cut in cuts], sign))
            parts.append("")
    parts.append("## What agreement says\n")
    return "\n".join(parts + _told(numbers)) + "\n"


def _row(keep: float, how: str, cuts: list[Numbers], sign: int) -> str:
    chosen = min(cuts, key=lambda cut: float(cut["divergence"]))
    best = max(cuts, key=lambda cut: sign * float(cut["score"]))
    return (
        f"| {keep:g} | {how} | {chosen['rule']} | {chosen['agreement']:.3f} | {chosen['score']:.3f} | "
        f"{best['rule']} | {best['score']:.3f} |"
    )


def _told(numbers: Numbers) -> list[str]:
    lost = "points of accuracy lost over points of changed answers and half a point are"
    whats = {SPIKED_NOISE: lost, FITTED_INPUTS: lost, SAMPLED_TEXT: "the rise of the loss over the divergence is"}
    lines = []
    for kind, what in whats.items():
        if not (cuts := cuts_of(numbers, kind)):
            continue
        low, middle, high = quantiles(cuts)
        networks = sorted({cut.network for cut in cuts})
        middles = f"{middle:.2f} in the median, {low + 0.0:.2f} to {high:.2f} in nine of ten"
        lines.append(
            f"{kind[0].upper()}{kind[1:]}, {len(cuts)} cuts of {', '.join(networks)}: {what} {middles}, each "
            "network weighing the same."
        )
        if len(networks) > 2:
            shares = ", ".join(f"{name} {part:.0%}" for name, part in left_out(cuts).items())
            lines.append(f"Of a network that is left out, so many cuts lie in the range of the others: {shares}.")
        lines.append("")
    return lines


def main() -> None:
    """Measure what is asked for, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*SUBJECTS, []], help="which networks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--keeps", type=float, nargs="+", default=[], help="only these sizes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--quick", action="store_true", help="two cuts; needs --out")
    parser.add_argument("--draw", action="store_true", help="only the tables")
    asked = parser.parse_args()
    if asked.quick and asked.out == DATA:
        parser.error("--quick would overwrite the results: add --out DIR")
    path = asked.out / "self_calibration.json"

    def read() -> Numbers:
        found: Numbers = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return found

    torch.set_num_threads(asked.threads)
    for name in asked.networks if not asked.draw else ():
        for seed in asked.seeds:
            numbers = read()

            def save(name: str = name, numbers: Numbers = numbers) -> None:
                # Two runs may be at work on two networks.
                both = read() | {name: numbers[name]}
                with replacing(path) as temporary:
                    temporary.write_text(json.dumps(both, indent=1) + "\n", encoding="utf-8")

            keeps = tuple(asked.keeps) or KEEPS.get(name, MLP_KEEPS)
            measure(name, seed, keeps, asked.quick, numbers, save)
    (asked.out / "self_calibration.md").write_text(markdown(read()), encoding="utf-8")


if __name__ == "__main__":
    main()
