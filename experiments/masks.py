"""Sparse masks by four budgets, and low rank, sparse and their sum at equal size, on four networks.

    python experiments/masks.py fashion_mlp cifar10_cnn resnet lm   # without retraining
    python experiments/masks.py resnet lm --what masks
    python experiments/masks.py --train fashion_mlp cifar10_cnn resnet lm --seeds 0 1 2
    python experiments/masks.py --quick --out FOLDER      # seconds, on the embedded digits
    python experiments/masks.py --draw                    # table and picture again from the numbers

Masks: an exact share of the entries of all layers that may be pruned, by `rmt_compress.divide_sparsity`; without
retraining of the layers of `real_networks` alone, which leave first convolutions and heads as they are.

Training: a tenth more zeros before every epoch, by the weights as they are, held while the epoch lasts; an epoch
has so many training images, or stretches of text, as `TRAINED` says, other ones a seed. Images are the same in
every epoch, stretches are not: of the same sixteen the language model knew much by heart after three epochs, and
other text was worse than without training. What removed entries learn alone for a reallocation takes an epoch at
most. `TAUGHT` says how, by what was best of what was tried with seed 0, by the loss of other training samples under
masks by magnitude. At .7, reached by .3 and .5 with an epoch each, that was .495 of the CNN (.607 at the MLP's rate
and steps, .565 at its rate in steps of 32, 1.154 without training) and .294 of the ResNet (.602, .462 and 1.694; no
number at that rate with its batch norms in evaluation mode). Of the language model at .3 after three epochs it was
.767 (.778 at rate .01, .769 without training). All but the MLP multiply in bfloat16 while they learn, which takes
half of the time here, and answer in float32.

Equal size: the same share of every layer's numbers, as factors (rank), as entries (sparse), half of each in a sum,
or as factors twice as large, half of whose entries are zero; places are not counted.

One JSON line per result in masks.jsonl: what is there already is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from low_rank_and_sparse import low_rank_and_sparse
from real_networks import SAMPLES, SHARED, SUBJECTS, Questions, Subject
from torch import nn
from torch.nn import functional

from rmt_compress.analysis import Analysis, analyze
from rmt_compress.compression import compress
from rmt_compress.compression.zero_budget import SparsifyBudget, divide_sparsity
from rmt_compress.data import load_data
from rmt_compress.layers.kinds import KINDS
from rmt_compress.layers.layer import Layer, as_matrix, as_weight
from rmt_compress.layers.zeroing import sparsify_quantile
from rmt_compress.networks.loading import load_model
from rmt_compress.planning.making import make_plan
from rmt_compress.training.held_masks import HeldMasks
from rmt_compress.training.reallocation import STEPS, FreeEntries, MaskBudget, way_at, zeros_of_share

DATA = Path(__file__).parent / "data"
BUDGETS: tuple[SparsifyBudget, ...] = get_args(SparsifyBudget)
TRAINED_BUDGETS: tuple[MaskBudget, ...] = get_args(MaskBudget)
# K:N patterns that leave as much as a share of zeros.
PATTERNS = {0.5: "2:4", 0.75: "1:4"}
SHARES = (0.3, 0.5, 0.7, 0.9)
FORMS = ("sparse", "rank", "sum", "sparse factors")
KEEPS = (0.7, 0.5, 0.3, 0.1)
ASKED = {"fashion_mlp": 10_000, "cifar10_cnn": 1000, "resnet": 1000, "lm": 16, "digits": 360}
# Of the quick version.
QUICK: tuple[MaskBudget, ...] = ("magnitude", "reallocation")
QUICK_SHARES, QUICK_KEEPS = (0.5, 0.9), (0.5, 0.1)
TRAINED = {"fashion_mlp": 10_000, "cifar10_cnn": 1000, "resnet": 500, "lm": 16, "digits": 500}


@dataclass(frozen=True)
class Taught:
    """How a network is trained.

    Attributes:
        rate: of stochastic gradients with momentum .9.
        together: images, or stretches of text, of a step.
        half: whether products are taken in bfloat16.
    """

    rate: float
    together: int
    half: bool = True

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """For all of its parameters."""
        return torch.optim.SGD(module.parameters(), lr=self.rate, momentum=0.9)


TAUGHT = {
    "fashion_mlp": Taught(0.01, 128, half=False),
    "cifar10_cnn": Taught(0.003, 32),
    "resnet": Taught(0.003, 32),
    "lm": Taught(0.003, 2),
    "digits": Taught(0.01, 128, half=False),
}
# What is masked in training, all that may be zero there: of the language model all but its head, of which half of
# the entries, taken by magnitude, cost a nat by themselves.
MASKED = dict.fromkeys(TAUGHT, "") | {"lm": "model"}
# On the result's axis: accuracy, or nats a byte.
UNITS = {"lm": "nats a byte"}
Record = dict[str, Any]


def digits(_shared: Path = SHARED) -> Subject:
    """The embedded digits, for the quick version."""
    parts = {part: load_data("digits", split=part) for part in ("train", "test")}

    def drawn(count: int, seed: int, ahead: int) -> Questions:
        del seed, ahead
        return Questions(parts["train"].images[:count], parts["train"].labels[:count])

    def asked(count: int | None) -> Questions:
        return Questions(parts["test"].images[:count], parts["test"].labels[:count])

    model = load_model(SAMPLES / "digits_mlp.safetensors").eval()
    return Subject(model, ["fc1.weight", "fc2.weight", "fc3.weight"], drawn, asked, "accuracy")


def masks(name: str, subject: Subject, known: set[str]) -> Iterator[Record]:
    """Every budget at every share, nothing retrained."""
    analysis, questions = analyze(subject.model, include=subject.layers), subject.asked(ASKED[name])
    whole = {"network": name, "what": "whole", "asked": ASKED[name]}
    if key(whole) not in known:
        yield {**whole, "score": questions.score(subject.model)}
    for share in _shares(name):
        plan = make_plan(analysis, gof=0.0, sparsity=share)
        for budget in BUDGETS:
            record = {"network": name, "what": "mask", "budget": budget, "share": share, "asked": ASKED[name]}
            if key(record) in known:
                continue
            divided = divide_sparsity(plan, analysis, budget, source=subject.model)
            yield {**record, "score": questions.score(compress(subject.model, divided))}
    for share, pattern in PATTERNS.items():
        record = {"network": name, "what": "mask", "budget": "pattern", "share": share, "asked": ASKED[name]}
        if key(record) not in known:
            plan = make_plan(analysis, gof=0.0, pattern=pattern)
            yield {**record, "score": questions.score(compress(subject.model, plan))}


def forms(name: str, subject: Subject, known: set[str]) -> Iterator[Record]:
    """Low rank, sparse, their sum and sparse factors at equal size."""
    analysis, questions = analyze(subject.model, include=subject.layers), subject.asked(ASKED[name])
    for keep in QUICK_KEEPS if name == "digits" else KEEPS:
        for form in FORMS:
            record = {"network": name, "what": "form", "form": form, "keep": keep, "asked": ASKED[name]}
            if key(record) not in known:
                yield {**record, "score": questions.score(_changed(subject.model, analysis, form, keep))}


def _shares(name: str) -> tuple[float, ...]:
    return QUICK_SHARES if name == "digits" else SHARES


def _changed(model: nn.Module, analysis: Analysis, form: str, keep: float) -> nn.Module:
    changed = copy.deepcopy(model)
    parameters = dict(changed.named_parameters())
    with torch.no_grad():
        for each in analysis.analyzed:
            layer = each.layer
            if layer.part is None and layer.tensor in parameters and not KINDS[layer.kind].stacked:
                parameters[layer.tensor].copy_(_formed(layer, parameters[layer.tensor], form, keep))
    return changed


def _formed(layer: Layer, weight: torch.Tensor, form: str, keep: float) -> torch.Tensor:
    matrix = as_matrix(layer, weight.detach()).float()
    rows, columns = matrix.shape
    size, numbers = rows + columns, int(keep * matrix.numel())
    if form == "sparse factors":
        made = low_rank_and_sparse(matrix, min(rows, columns, 2 * numbers // size), 0, turns=1)
        factors = [made.down, made.up]
        gone = max(0.0, 1 - numbers / sum(factor.numel() for factor in factors))
        down, up = sparsify_quantile(factors, gone)
        return as_weight(layer, up @ down)
    share = {"sparse": 0.0, "rank": 1.0, "sum": 0.5}[form]
    rank = min(rows, columns, int(share * numbers / size))
    entries = 0 if form == "rank" else numbers - rank * size
    turns = 3 if form == "sum" else 1
    return as_weight(layer, low_rank_and_sparse(matrix, rank, entries, turns=turns).joined())


def trained(
    name: str, subject: Subject, seed: int, known: set[str], budgets: Sequence[MaskBudget]
) -> Iterator[Record]:
    """Budgets, each with a tenth more zeros an epoch, from the network as it is."""
    questions, count = subject.asked(ASKED[name]), TRAINED[name]
    drawn = subject.drawn(count, seed, 0)
    lessons = [drawn] * 9
    if drawn.text:
        every = subject.drawn(9 * count, seed, 0)
        lessons = [every.between(start, start + count) for start in range(0, 9 * count, count)]
    for budget in QUICK if name == "digits" else budgets:
        records = [
            {
                **{"network": name, "what": "trained", "budget": budget, "share": share, "seed": seed},
                **{"asked": ASKED[name], "lesson": TRAINED[name]},
            }
            for share in _shares(name)
        ]
        if all(key(record) in known for record in records):
            continue
        model = copy.deepcopy(subject.model)
        generator = torch.Generator().manual_seed(seed)
        masked = model.get_submodule(MASKED[name])
        optimizer = TAUGHT[name].optimizer(model)
        for step, lesson in enumerate(lessons, start=1):
            teach = partial(_teach, model, lesson, TAUGHT[name], generator)
            way = way_at(budget, step / 10, rises=True)
            alone = partial(_alone, teach, TAUGHT[name], masked)
            held = HeldMasks(masked, zeros_of_share(masked, step / 10, way, alone))
            teach(held, optimizer)
            for record in records:
                if record["share"] == step / 10:
                    yield {**record, "score": questions.score(model.eval())}


def _alone(teach: Callable[..., None], taught: Taught, masked: nn.Module, free: FreeEntries) -> None:
    """Some steps of the removed entries, by an optimizer that moves nothing of what is not masked."""
    teach(free, taught.optimizer(masked), STEPS)


def _teach(
    model: nn.Module,
    lesson: Questions,
    taught: Taught,
    generator: torch.Generator,
    held: HeldMasks | FreeEntries,
    optimizer: torch.optim.Optimizer,
    most: int | None = None,
) -> None:
    """An epoch, or its first steps."""
    model.train()
    order = torch.randperm(len(lesson.inputs), generator=generator)
    for chosen in torch.split(order, taught.together)[:most]:
        optimizer.zero_grad()
        inputs, answers = lesson.inputs[chosen], lesson.answers[chosen].flatten()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=taught.half):
            if lesson.text:
                outputs = model(input_ids=inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
            else:
                outputs = model(inputs)
        loss = functional.cross_entropy(outputs.float(), answers)
        loss.backward()
        optimizer.step()
        held.enforce()


def key(record: Record) -> str:
    """What was measured, without the result."""
    return json.dumps({name: value for name, value in record.items() if name != "score"}, sort_keys=True)


def markdown(records: list[Record]) -> str:
    """The tables."""
    parts = []
    for what, rows, row, column in (
        ("mask", (*BUDGETS, "pattern"), "budget", "share"),
        ("trained", TRAINED_BUDGETS, "budget", "share"),
        ("form", FORMS, "form", "keep"),
    ):
        for name in dict.fromkeys(record["network"] for record in records):
            own = _most_asked(records, name, what)
            if not own:
                continue
            columns = sorted({record[column] for record in own}, reverse=column == "keep")
            whole, unit = _whole(records, own[0]), f"{' ' * (name in UNITS)}{UNITS.get(name, '')}"
            lesson = f", an epoch of {own[0]['lesson']:,}" if what == "trained" else ""
            parts.append(
                f"{name}, {TITLES[what]}{lesson}; {own[0]['asked']:,} samples asked, whole {whole:.3f}{unit}\n"
            )
            parts.append(f"| {row} | " + " | ".join(f"{value:g}" for value in columns) + " |")
            parts.append("|---" * (len(columns) + 1) + "|")
            for each in (one for one in rows if any(record[row] == one for record in own)):
                cells = [
                    _cell([one["score"] for one in own if one[row] == each and one[column] == value])
                    for value in columns
                ]
                parts.append(f"| {each} | " + " | ".join(cells) + " |")
            parts.append("")
    return "\n".join(parts)


def _most_asked(records: list[Record], name: str, what: str) -> list[Record]:
    """What was measured of a network on the most samples."""
    own = [record for record in records if record["network"] == name and record["what"] == what]
    return [record for record in own if record["asked"] == max(each["asked"] for each in own)]


def _whole(records: list[Record], like: Record) -> float:
    """What the network scores as it is, on as many samples as in a record."""
    wanted = {"network": like["network"], "what": "whole", "asked": like["asked"]}
    return float(next(record["score"] for record in records if wanted.items() <= record.items()))


TITLES = {
    "mask": "share of zeros, nothing retrained",
    "trained": "share of zeros, one epoch a tenth",
    "form": "share of the numbers kept, nothing retrained",
}


def _cell(scores: list[float]) -> str:
    if not scores:
        return "–"
    spread = f" ({min(scores):.3f}–{max(scores):.3f})" if len(scores) > 1 else ""
    return f"{statistics.median(scores):.3f}{spread}"


def draw(records: list[Record], path: Path) -> None:
    """Which form is best at which size: one panel a network."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(each["network"] for each in records))
    names = [name for name in names if any(each["what"] == "form" and each["network"] == name for each in records)]
    figure = Figure(figsize=(3.2 * len(names), 3.4), layout="constrained")
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), place)
        own = _most_asked(records, name, "form")
        for form in FORMS:
            points = sorted((each["keep"], each["score"]) for each in own if each.get("form") == form)
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=form)
        alike = {"network": name, "what": "mask", "budget": "magnitude", "asked": own[0]["asked"]}
        masked = [each for each in records if alike.items() <= each.items()]
        points = sorted((1 - each["share"], each["score"]) for each in masked)
        axes.plot(
            *zip(*points, strict=True),
            marker="s",
            markersize=4,
            linestyle="--",
            label="sparse, all layers together",
        )
        axes.axhline(_whole(records, own[0]), color="0.6", linewidth=1)
        axes.set_title(name)
        axes.set_xlabel("share of the numbers kept")
        axes.set_ylabel(UNITS.get(name, "accuracy"))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure what is asked for, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*SUBJECTS, []], help="which networks")
    parser.add_argument("--train", nargs="+", default=[], choices=list(TRAINED), help="train these under masks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--budgets", nargs="+", choices=TRAINED_BUDGETS, default=TRAINED_BUDGETS)
    parser.add_argument("--what", nargs="+", choices=("masks", "forms"), default=["masks", "forms"])
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--quick", action="store_true", help="the digits alone")
    parser.add_argument("--draw", action="store_true", help="only table and picture")
    asked = parser.parse_args()
    subjects: dict[str, Callable[[Path], Subject]] = {"digits": digits, **SUBJECTS}
    if asked.quick and asked.out == DATA:
        parser.error("--quick writes what is no result: add --out")
    path = asked.out / "masks.jsonl"
    records: list[Record] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {key(record) for record in records}

    def keep(found: Iterator[Record]) -> None:
        with path.open("a", encoding="utf-8") as file:
            for record in found:
                records.append(record)
                print(json.dumps(record), file=file, flush=True)
                print(json.dumps(record), flush=True)

    if not asked.draw:
        for name in ["digits"] if asked.quick else asked.networks:
            subject = subjects[name](asked.shared)
            if "masks" in asked.what:
                keep(masks(name, subject, known))
            if "forms" in asked.what:
                keep(forms(name, subject, known))
        # Seeds outermost, so that what is interrupted leaves whole ones.
        for seed in asked.seeds:
            for name in ["digits"] if asked.quick else asked.train:
                keep(trained(name, subjects[name](asked.shared), seed, known, asked.budgets))
    (asked.out / "masks.md").write_text(markdown(records), encoding="utf-8")
    draw(records, asked.out / "masks.png")


if __name__ == "__main__":
    main()
