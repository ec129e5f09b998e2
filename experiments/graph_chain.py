"""The same cut of one network as a module, as a `.pt2` program and as an ONNX graph.

    python experiments/graph_chain.py resnet vit --out DIR         # half an hour on one core
    python experiments/graph_chain.py --draw

`prune --keep .25 --data` of each file, the data an `.npz` of 3,200 training images, of which one eighth calibrates,
and all test images there are, of which one half chooses and the other is what the table tells of. Once with
everything by default; once with one rule (input, relative) and without repair. Writes graph_chain.json and .md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from max_drop import SUBJECTS
from tiny_encoder import train_encoder

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.data import load_data
from rmt_compress.networks.calibration_settings import CalibrationSettings, Repair
from rmt_compress.networks.tasks.settings import TaskSettings
from rmt_compress.outputs import replacing
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.pruning.budgeted import Request
from rmt_compress.pruning.road import network_of, prune

DATA = Path(__file__).parent / "data"
FORMS = ("module", "pt2", "onnx")
KEEP = 0.25
Numbers = dict[str, Any]


def files(name: str, folder: Path) -> dict[str, tuple[Path, str | None]]:
    """The network in its three forms: file and architecture."""
    subject = SUBJECTS[name]
    if name == "vit" and not subject.checkpoint.exists():
        train_encoder(subject.checkpoint, subject.data)
    model = network_of(open_checkpoint(subject.checkpoint), subject.arch, folded=False, needed=True)
    assert model is not None
    # Files of half precision are read as such; graphs compute as they were exported.
    model = model.float().eval()
    example = torch.zeros(2, *((1, 28, 28) if name == "vit" else (3, 32, 32)))
    batch = {0: torch.export.Dim("batch", min=1, max=4096)}
    program = torch.export.export(model, (example,), dynamic_shapes=(batch,))
    torch.export.save(program, folder / f"{name}.pt2")
    torch.onnx.export(
        model, (example,), folder / f"{name}.onnx", dynamo=True, dynamic_shapes=(batch,), external_data=False
    )
    return {
        "module": (subject.checkpoint, subject.arch),
        "pt2": (folder / f"{name}.pt2", None),
        "onnx": (folder / f"{name}.onnx", None),
    }


def images(name: str, folder: Path) -> str:
    """What stands after ``--data``: pixels as the network takes them."""
    subject = SUBJECTS[name]
    train, test = (
        load_data(subject.data, split=split, allow_partial=name == "resnet") for split in ("train", "test")
    )
    mean, spread, shape = (0.0,), (1.0,), (-1, 1, 28, 28)
    if name == "resnet":
        sys.path.insert(0, str(subject.checkpoint.parent))
        network = __import__("network")
        mean, spread, shape = network.MEAN, network.STD, (-1, 3, 32, 32)
    arrays: dict[str, Any] = {}
    for split, data, count in (("train", train, 3200), ("test", test, None)):
        pixels = data.images[:count].reshape(shape)
        shift, scale = (torch.tensor(each)[:, None, None] for each in (mean, spread))
        arrays[f"x_{split}"] = ((pixels - shift) / scale).numpy()
        arrays[f"y_{split}"] = data.labels[:count].numpy()
    np.savez(folder / f"{name}.npz", **arrays)
    return f"array:{folder / f'{name}.npz'}"


def measure(name: str, numbers: Numbers, save: Callable[[], None]) -> None:
    """Every form and both ways; what is in `numbers` already is left out."""
    known = numbers.setdefault(name, {})
    ways: dict[str, tuple[BudgetSettings, Repair]] = {
        "one rule": (BudgetSettings(keep=KEEP, search="one", metric="input", scaling="relative"), "none"),
        "default": (BudgetSettings(keep=KEEP), "statistics"),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = images(name, folder)
        forms = files(name, folder)
        for way, (budget, mend) in ways.items():
            for form in FORMS:
                if form in known.setdefault(way, {}):
                    continue
                path, arch = forms[form]
                started = time.process_time()
                suffix = "" if path.is_dir() else path.suffix if form != "module" else ".safetensors"
                result = prune(
                    path,
                    folder / f"small_{way[0]}_{form}{suffix}",
                    data=data,
                    asked=TaskSettings(),
                    arch=arch,
                    within=Request(budget, CalibrationSettings(repair=mend)),
                )
                assert result.before is not None
                assert result.after is not None
                assert result.budget is not None
                known[way][form] = {
                    "images": result.before.score.samples,
                    "before": result.before.score.value,
                    "after": result.after.score.value,
                    "kept": result.budget["reached"]["keep"],
                    "rule": f"{result.plan.basis} {result.plan.settings['scaling']}",
                    "seconds": time.process_time() - started,
                }
                print(name, way, form, json.dumps(known[way][form]), flush=True)
                save()


def markdown(numbers: Numbers) -> str:
    """The table."""
    lines = [
        "| network | how | form | rule | weights left | images | before | after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, ways in numbers.items():
        for way, forms in ways.items():
            for form, found in forms.items():
                lines.append(
                    f"| {name} | {way} | {form} | {found['rule']} | {found['kept']:.1%} | {found['images']:,} | "
                    f"{found['before']:.3f} | {found['after']:.3f} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is asked for, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=["resnet", "vit", []])
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--draw", action="store_true", help="only the table")
    asked = parser.parse_args()
    path = asked.out / "graph_chain.json"
    numbers: Numbers = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def save() -> None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")

    torch.set_num_threads(1)
    for name in asked.networks if not asked.draw else ():
        measure(name, numbers, save)
    (asked.out / "graph_chain.md").write_text(markdown(numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
