"""By what to choose among the rules of a portfolio at one size: the score of a few samples, the loss, or both.

    python experiments/choosing_rules.py                      # half an hour of one core; goes on where it stopped
    python experiments/choosing_rules.py resnet --seeds 0 1 2
    python experiments/choosing_rules.py --draw               # the table again from the numbers
    python experiments/choosing_rules.py --quick --out DIR    # a network as initialised, on noise

Each rule cuts a network to the sizes of benchmarks/budget.py and is asked the samples that choose there, drawn from
the training data, and as many others again: two choices a seed. What a choice is worth is the accuracy of its
network on 1,000 test images, below that of the best rule on them: images behind those that the benchmark scores on,
so that these choose how to choose and nothing else; of Fashion-MNIST, all of which it scores on, the last. Batch-
norm statistics are renewed as in the benchmark. One JSON line per seed and size in choosing_rules.jsonl in
experiments/data, and choosing_rules.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from real_networks import SHARED, SUBJECTS, Questions, Subject
from torch import nn

from rmt_compress.analysis import analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.calibration.statistics import batch_norms, renew_statistics
from rmt_compress.networks.replacing import tried
from rmt_compress.networks.tasks.task import Score
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.candidates import Candidate, Candidates
from rmt_compress.planning.costs import Parameters
from rmt_compress.planning.searching import Trial

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from budget import QUICK, SIZES, Size, tiny

DATA = Path(__file__).parent / "data"
ASKED = 1000
Record = dict[str, Any]


def _highest(found: Sequence[Score]) -> int:
    return max(range(len(found)), key=lambda place: found[place].value)


def _highest_least_loss(found: Sequence[Score]) -> int:
    return max(range(len(found)), key=lambda place: (found[place].value, -_loss(found[place])))


def _least_loss(found: Sequence[Score]) -> int:
    return min(range(len(found)), key=lambda place: _loss(found[place]))


def _least_loss_of_equals(found: Sequence[Score]) -> int:
    """Of all that are no more than two standard errors of the paired difference behind the highest score."""
    highest = found[_highest(found)].each
    assert highest is not None
    equals = []
    for place, other in enumerate(found):
        assert other.each is not None
        behind = highest - other.each
        if behind.mean() <= 2 * behind.std(ddof=1) / len(behind) ** 0.5:
            equals.append(place)
    return min(equals, key=lambda place: _loss(found[place]))


def _loss(score: Score) -> float:
    assert score.loss is not None
    return score.loss


WAYS: dict[str, Callable[[Sequence[Score]], int]] = {
    "the highest score (as built)": _highest,
    "of equal scores the least loss": _highest_least_loss,
    "the least loss": _least_loss,
    "the least loss of scores within two standard errors": _least_loss_of_equals,
}


def measure(name: str, subject: Subject, size: Size, seed: int, known: set[tuple[Any, ...]]) -> Iterator[Record]:
    """Every size of a network and seed that is not known: what each way chooses."""
    keeps = [keep for keep in size.keeps if (name, seed, keep) not in known]
    if not keeps:
        return
    model, ahead = subject.model, max(size.renewing, size.calibration)
    batches = subject.drawn(size.calibration, seed, 0).batches(size.batch)
    renewing = subject.drawn(ahead, seed, 0).batches(size.batch)
    twice, test = subject.drawn(2 * size.selection, seed, ahead), subject.asked(size.asked + ASKED)
    choosing = [_part(twice, slice(size.selection)), _part(twice, slice(size.selection, None))]
    test = _part(test, slice(-ASKED, None))
    moments = calibrate(model, batches, seed=seed, layers=subject.layers)
    whole = Parameters(float(sum(model.get_parameter(layer).numel() for layer in subject.layers)))
    with open_checkpoint(model) as checkpoint:
        settings, analysis = BudgetSettings(keep=keeps[0]), analyze(model, include=subject.layers)
        candidates = Candidates(checkpoint, analysis, moments, settings, {"keep": whole})
        for keep in keeps:
            cuts = {str(rule): candidates.at(rule, {"keep": keep}) for rule in candidates.portfolio}
            asked = [[_asked(model, candidates, cut, part, batches) for cut in cuts.values()] for part in choosing]
            left = [_asked(model, candidates, cut, test, renewing).value for cut in cuts.values()]
            yield {
                **{"network": name, "seed": seed, "keep": keep, "samples": size.selection},
                **{"asked": len(test.inputs), "rules": list(cuts), "left": left},
                "chosen": {way: [choose(found) for found in asked] for way, choose in WAYS.items()},
            }


def _part(questions: Questions, which: slice) -> Questions:
    return replace(questions, inputs=questions.inputs[which], answers=questions.answers[which])


def _asked(
    model: nn.Module, candidates: Candidates, cut: Candidate, questions: Questions, batches: list[torch.Tensor]
) -> Score:
    """Of a candidate, batch norms renewed."""
    trial = Trial(candidates.tensors(cut), str(cut.rule), candidates.factors(cut))
    with tried(model, trial) as network:
        renewed = renew_statistics(network, batches) if batch_norms(network) else None
        try:
            return questions.task.score(network)
        finally:
            if renewed is not None:
                renewed.undo()


def markdown(records: list[Record]) -> str:
    """The table."""
    title, _, rest = __doc__.partition("\n")
    lines = [f"# {title.rstrip('.')}\n", rest.split("\n\n")[1].strip().replace("\n", " ") + "\n"]
    lines.append("Accuracy below the best of the rules, in points: mean over the choices, and the worst.\n")
    lines.append(f"| network, kept | seeds | samples | {' | '.join(WAYS)} |")
    lines.append("|---" * (len(WAYS) + 3) + "|")
    for name, keep in dict.fromkeys((each["network"], each["keep"]) for each in records):
        own = [each for each in records if (each["network"], each["keep"]) == (name, keep)]
        cells = [_cell([each for one in own for each in _behind(one, way)]) for way in WAYS]
        seeds = ", ".join(str(each["seed"]) for each in sorted(own, key=lambda each: int(each["seed"])))
        lines.append(f"| {name}, {keep:g} | {seeds} | {own[0]['samples']} | {' | '.join(cells)} |")
    cells = [_cell([each for one in records for each in _behind(one, way)]) for way in WAYS]
    lines.append(f"| all | | | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _behind(record: Record, way: str) -> list[float]:
    left = record["left"]
    return [100 * (max(left) - left[place]) for place in record["chosen"][way]]


def _cell(behind: list[float]) -> str:
    return f"{statistics.mean(behind):.2f} ({max(behind):.1f})"


def main() -> None:
    """Measure what is asked for, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name in SIZES if name != "lm"]
    parser.add_argument("networks", nargs="*", choices=[*names, []], help="which networks; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--quick", action="store_true", help="a tiny network, to see that it runs")
    parser.add_argument("--draw", action="store_true", help="only the table")
    asked = parser.parse_args()
    if asked.quick and asked.out == DATA:
        parser.error("--quick writes what is no result: add --out")
    subjects, sizes = ({"tiny": tiny}, QUICK) if asked.quick else (SUBJECTS, SIZES)
    path = asked.out / "choosing_rules.jsonl"
    records: list[Record] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {(each["network"], each["seed"], each["keep"]) for each in records}
    for name in () if asked.draw else (["tiny"] if asked.quick else asked.networks or names):
        subject = subjects[name](asked.shared)
        for seed in asked.seeds:
            for record in measure(name, subject, sizes[name], seed, known):
                records.append(record)
                with path.open("a", encoding="utf-8") as file:
                    print(json.dumps(record), file=file, flush=True)
    path.with_suffix(".md").write_text(markdown(records), encoding="utf-8")


if __name__ == "__main__":
    main()
