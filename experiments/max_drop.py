"""Whether `prune --max-drop` keeps its budget on data that chose nothing, and what is left of the network.

    python experiments/max_drop.py                                  # all pairs, hours on one core
    python experiments/max_drop.py --pairs "fashion .5" "lm 5%"
    python experiments/max_drop.py --again                          # the plans of small networks, made twice
    python experiments/max_drop.py --draw                           # the table again from the numbers
    python experiments/max_drop.py --quick --out DIR                # one embedded network

A pair is a network and a budget. The command is run as a user runs it, with its defaults, up to the point where a
file would be written: calibration and selection on the parts of the data that the tool makes, the test part asked
of the uncut network and of the winner alone. MNIST, Fashion-MNIST, CIFAR-10 and the digits have test splits of
their own (10,000, 10,000, 5,000 and 360 images), half of which chooses and half scores; a quarter of test.txt
scores. Seconds are those of the processor, one thread, on a machine that others used as well. Networks and data lie
under ../shared; `vit` is trained here, in two minutes, on MNIST. Writes max_drop.json in experiments/data after
every pair, so that a run that is broken off goes on, and max_drop.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tiny_encoder import train_encoder

from rmt_compress.data.settings import DataSettings
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.networks.tasks.settings import TaskSettings
from rmt_compress.outputs import replacing
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.pruning.budgeted import Request
from rmt_compress.pruning.road import prune

DATA = Path(__file__).parent / "data"
SAMPLES = Path(__file__).parents[1] / "sample_models"
SHARED = Path(__file__).parents[2] / "shared"
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A network and its data, as they are typed.

    Attributes:
        checkpoint: the file or folder.
        data: what stands after ``--data``.
        arch: what stands after ``--arch``.
        reading: how the data are read.
    """

    checkpoint: Path
    data: str
    arch: str | None = None
    reading: dict[str, Any] = field(default_factory=dict)

    def asked(self, seed: int) -> TaskSettings:
        """The task, its data divided by a seed."""
        return TaskSettings(data=DataSettings(seed=seed, **self.reading))


_CIFAR10 = str(SHARED / "data" / "cifar10" / "cifar-10-batches-bin")
_RESNET = SHARED / "models" / "resnet"
_ENCODER = Path(__file__).parent / "tiny_encoder.py"
_MNIST = str(SHARED / "data" / "mnist")
SUBJECTS = {
    "fashion": Subject(SAMPLES / "fashion_mlp.safetensors", str(SHARED / "data" / "fashion_mnist")),
    "mnist": Subject(SAMPLES / "mnist_mlp.safetensors", _MNIST),
    "digits": Subject(SAMPLES / "digits_mlp.safetensors", "digits"),
    "cnn": Subject(SAMPLES / "cifar10_cnn.pt", _CIFAR10, reading={"allow_partial": True}),
    "resnet": Subject(
        _RESNET / "resnet.pt", _CIFAR10, f"{_RESNET / 'network.py'}:Net", {"allow_partial": True, "mean": "cifar10"}
    ),
    "lm": Subject(SHARED / "models" / "lm", f"text:{SHARED / 'text' / 'test.txt'}"),
    "vit": Subject(Path(tempfile.gettempdir()) / "rmt_compress_tiny_vit.pt", _MNIST, f"{_ENCODER}:Net"),
}
PAIRS = (
    "digits 1", "fashion .5", "fashion 1", "mnist .2", "mnist .5", "vit .5", "vit 1", "cnn 1", "cnn 2",
    "resnet .5", "resnet 1", "resnet 2", "lm 1%", "lm 5%",
)  # fmt: skip


def run(pair: str, seed: int) -> Numbers:
    """What becomes of one pair; nothing is written."""
    name, drop = pair.split()
    subject = SUBJECTS[name]
    if name == "vit" and not subject.checkpoint.exists():
        train_encoder(subject.checkpoint, subject.data)
    asked = subject.asked(seed)
    within = Request(BudgetSettings(), CalibrationSettings(seed=seed, data=asked.data), drop)
    started, began = time.process_time(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        suffix = "" if subject.checkpoint.is_dir() else ".safetensors"
        result = prune(
            subject.checkpoint,
            Path(folder) / f"small{suffix}",
            data=subject.data,
            asked=asked,
            arch=subject.arch,
            within=within,
            dry_run=True,
        )
    found = result.budget
    assert found is not None
    return {
        "kept": found["reached"]["keep"],
        "rule": f"{result.plan.basis} {result.plan.settings['scaling']}",
        **{key: found[key] for key in ("full", "left", "drop", "allowed", "samples", "confidence", "calibration")},
        "held": not result.missed,
        "evaluations": found["evaluations"] + found["test_evaluations"],
        "tried": found["tried"],
        "seconds": time.process_time() - started,
        "wall": time.perf_counter() - began,
        "plan": result.plan.to_json(),
    }


def measure(pairs: tuple[str, ...], seeds: list[int], numbers: Numbers, save: Callable[[], None]) -> None:
    """The pairs that are not in `numbers` yet."""
    for pair in pairs:
        for seed in seeds:
            known = numbers.setdefault("pairs", {}).setdefault(pair, {})
            if str(seed) in known:
                continue
            found = run(pair, seed)
            del found["plan"]
            known[str(seed)] = found
            print(pair, seed, json.dumps({key: found[key] for key in found if key != "tried"}), flush=True)
            save()


def again(pairs: tuple[str, ...], numbers: Numbers, save: Callable[[], None]) -> None:
    """Whether one seed gives one plan, bit for bit."""
    for pair in pairs:
        numbers.setdefault("same plan", {})[pair] = run(pair, 0)["plan"] == run(pair, 0)["plan"]
        print(pair, "the same plan:", numbers["same plan"][pair], flush=True)
        save()


def markdown(numbers: Numbers) -> str:
    """The table, and how many budgets were kept."""
    lines = [
        "| pair | seed | weights left | drop | allowed | kept to | chosen on | scored on | evaluations | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    held = []
    for pair, seeds in numbers["pairs"].items():
        for seed, found in seeds.items():
            held.append(found["held"])
            share = 100 if not pair.endswith("%") else 1
            digits = 2 if share == 100 else 4
            sizes = f"{found['calibration'].get('asked', '–'):,} | {found['samples']:,}"
            lines.append(
                f"| {pair} | {seed} | {found['kept']:.1%} | {share * found['drop']:.{digits}f} | "
                f"{share * found['allowed']:.{digits}f} | {'yes' if found['held'] else 'no'} | {sizes} | "
                f"{found['evaluations']} | {found['seconds']:.0f} |"
            )
    same = [pair for pair, equal in numbers.get("same plan", {}).items() if equal]
    lines += [
        "",
        f"{sum(held)} of {len(held)} budgets were kept on samples that chose nothing. Drops are points of "
        "accuracy; of the language model nats a byte.",
    ]
    if same:
        lines.append(f"The same plan from the same seed, byte by byte: {', '.join(same)}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is asked for, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), help="NETWORK DROP each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--again", action="store_true", help="make the plans twice and compare them")
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--quick", action="store_true", help="one small network; needs --out")
    parser.add_argument("--draw", action="store_true", help="only the table")
    asked = parser.parse_args()
    if asked.quick and asked.out == DATA:
        parser.error("--quick would overwrite the results: add --out DIR")
    path = asked.out / "max_drop.json"
    numbers: Numbers = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def save() -> None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")

    torch.set_num_threads(1)
    pairs = ("digits 1",) if asked.quick else tuple(asked.pairs)
    if not asked.draw:
        if asked.again or asked.quick:
            again(pairs, numbers, save)
        if not asked.again:
            measure(pairs, asked.seeds, numbers, save)
    (asked.out / "max_drop.md").write_text(markdown(numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
