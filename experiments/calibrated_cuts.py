"""Cuts of two real networks by every metric and scaling, at the sizes of method.md §14.

    python experiments/calibrated_cuts.py lm --seeds 0        # some 40 minutes on one core
    python experiments/calibrated_cuts.py resnet --seeds 0 1 2
    python experiments/calibrated_cuts.py resnet --rules "input relative 0.15" "plain absolute 0.25"
    python experiments/calibrated_cuts.py lm --seeds 1 2 3 --calibration 64 --out experiments/data/more_text
    python experiments/calibrated_cuts.py lm --seeds 1 --calibration 64 --made-up --out DIR
    python experiments/calibrated_cuts.py --draw              # the tables again from the numbers

Networks, texts and images lie under ../shared (``--shared``). Seeds choose the calibration inputs and the labels
that are drawn from the network; what is asked stays the same. Nothing is retrained. Writes calibrated_cuts.json
in experiments/data after every measurement, so that a run that is broken off goes on, and calibrated_cuts.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from real_networks import SHARED, SUBJECTS, Subject

from rmt_compress.analysis import analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.calibration.made_up import make_inputs
from rmt_compress.networks.calibration.statistics import renew_statistics
from rmt_compress.networks.replacing import replaced
from rmt_compress.outputs import replacing
from rmt_compress.planning.allocation import SCALINGS
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.candidates import METRICS, Candidates, Rule
from rmt_compress.planning.costs import Parameters

DATA = Path(__file__).parent / "data"
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much of a network's samples is taken.

    Attributes:
        calibration: how many calibrate.
        batch: so many at a time.
        asked: how many are asked.
        keeps: shares of the weights that are left.
        samples: the same in words.
    """

    calibration: int
    batch: int
    asked: int
    keeps: tuple[float, ...]
    samples: str


SIZES = {
    "lm": Size(
        *(32, 4, 24),
        keeps=(0.8, 0.6, 0.4),
        samples="32 stretches of 512 bytes to calibrate, 24 of the test text asked; nats a byte",
    ),
    "resnet": Size(
        *(256, 64, 1000),
        keeps=(0.6, 0.4, 0.25, 0.15, 0.1),
        samples="256 training images to calibrate, the first 1,000 test images asked; accuracy",
    ),
}


def measure(name: str, seed: int, asked: argparse.Namespace, numbers: Numbers, save: Callable[[], None]) -> None:
    """Every rule at every size, or those that are asked for; what is in `numbers` already is left out."""
    subject, rules = SUBJECTS[name](asked.shared), asked.rules
    subject.model.to(asked.device)
    size = _size(name, asked)
    questions = subject.asked(size.asked)
    about = numbers.setdefault(name, {"samples": size.samples, "keeps": list(size.keeps), "seeds": {}})
    if "uncut" not in about:
        about["uncut"] = questions.score(subject.model)
        save()
    known = about["seeds"].setdefault(str(seed), {"seconds": {}, "scores": {}, "renewed": {}})
    seconds, batches = known["seconds"], _batches(subject, size, seed, asked.made_up)
    started = time.perf_counter()
    moments = calibrate(subject.model, batches, seed=seed, layers=subject.layers)
    seconds["moments"] = time.perf_counter() - started
    analysis = analyze(subject.model, include=subject.layers)
    for metric in METRICS:
        if rules and not any(rule.startswith(metric) for rule in rules):
            continue
        settings = BudgetSettings(keep=1.0, metric=metric)
        with open_checkpoint(subject.model) as checkpoint:
            # Shares are of the layers that are cut, as in method.md.
            whole = sum(layer.parameters for layer in analysis.analyzed)
            candidates = Candidates(checkpoint, analysis, moments, settings, {"keep": Parameters(whole)})
            started = time.perf_counter()
            candidates.smallest("keep")
            seconds[f"{metric}: decompositions"] = time.perf_counter() - started
            for scaling in SCALINGS:
                for keep in size.keeps:
                    rule = f"{metric} {scaling} {keep:g}"
                    if rule in known["scores"] or (rules and rule not in rules):
                        continue
                    candidate = candidates.at(Rule(metric, scaling), {"keep": keep})
                    with replaced(subject.model, candidates.tensors(candidate)) as network:
                        known["scores"][rule] = questions.score(network)
                        if name == "resnet":
                            renewed = renew_statistics(network, batches)
                            known["renewed"][rule] = questions.score(network)
                            renewed.undo()
                    print(name, seed, rule, known["scores"][rule], known["renewed"].get(rule, ""), flush=True)
                    save()


def _size(name: str, asked: argparse.Namespace) -> Size:
    size = SIZES[name]
    count = asked.calibration or size.calibration
    samples = size.samples.replace(str(size.calibration), str(count), 1)
    if asked.made_up:
        samples = samples.replace(" to calibrate", " that the network made itself to calibrate")
    return replace(size, calibration=count, samples=samples)


def _batches(subject: Subject, size: Size, seed: int, made_up: bool) -> Sequence[Any]:
    """What calibrates, as the network is called with it."""
    if not made_up:
        return subject.drawn(size.calibration, seed, 0).batches(size.batch)
    return make_inputs(subject.model, count=size.calibration, seed=seed).batches


def markdown(numbers: Numbers) -> str:
    """The tables: medians over the seeds, and how far they lie apart."""
    parts = []
    for name, about in numbers.items():
        seeds = about["seeds"]
        parts.append(f"## {name}\n\n{about['samples']}. Uncut {about['uncut']:.3f}. Seeds {', '.join(seeds)}.\n")
        for kind, title in (
            ("scores", "as cut"),
            ("renewed", "batch-norm statistics renewed on the calibration images"),
        ):
            if not any(each[kind] for each in seeds.values()):
                continue
            keeps = [f"{keep:g}" for keep in about["keeps"]]
            parts.append(f"| {title} | " + " | ".join(f"keep {keep}" for keep in keeps) + " |")
            parts.append("|---" * (len(keeps) + 1) + "|")
            for rule in (f"{metric} {scaling}" for metric in METRICS for scaling in SCALINGS):
                found = [[each[kind].get(f"{rule} {keep}") for each in seeds.values()] for keep in keeps]
                if any(score is not None for scores in found for score in scores):
                    parts.append(f"| {rule} | " + " | ".join(map(_cell, found)) + " |")
            parts.append("")
    return "\n".join(parts)


def _cell(scores: list[float | None]) -> str:
    known = [score for score in scores if score is not None]
    if not known:
        return "–"
    spread = f" ({min(known):.3f}–{max(known):.3f})" if len(known) > 1 and max(known) - min(known) >= 0.0005 else ""
    return f"{statistics.median(known):.3f}{spread}"


def main() -> None:
    """Measure what is asked for, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*SIZES, []], help="which networks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--rules", nargs="+", default=[], help="only these, METRIC SCALING KEEP each")
    parser.add_argument("--calibration", type=int, help="so many samples calibrate; needs --out")
    parser.add_argument("--made-up", action="store_true", help="with inputs that the network makes; needs --out")
    parser.add_argument("--draw", action="store_true", help="only the tables")
    asked = parser.parse_args()
    if (asked.calibration is not None or asked.made_up) and asked.out == DATA:
        parser.error("other inputs to calibrate with would mix with the results: add --out DIR")
    path = asked.out / "calibrated_cuts.json"
    numbers: Numbers = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def save() -> None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")

    if not asked.draw:
        for name in asked.networks:
            for seed in asked.seeds:
                measure(name, seed, asked, numbers, save)
    (asked.out / "calibrated_cuts.md").write_text(markdown(numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
