"""Noise as it is and noise fitted to all classes, as calibration inputs of networks without batch norms.

    python experiments/fitted_noise.py vit resnet --out DIR         # half an hour on one core
    python experiments/fitted_noise.py --draw

A small vision transformer as a module, and the ResNet as an ONNX model, into whose convolutions the exporter has
folded the batch norms, cut to several sizes as `prune --keep` cuts them without data; three seeds. Weight and steps
of the fit were chosen on the first test images of both, so that others are asked here. `prune` fits noise where the
network gives most of it one answer: the ResNet gives one to all of it, the transformer to a third. Writes
fitted_noise.json and .md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from graph_chain import files, images

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.networks.calibration import fitted_images, made_up
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.outputs import replacing
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.pruning.budgeted import Request
from rmt_compress.pruning.road import network_of, prune

DATA = Path(__file__).parent / "data"
KEEPS = {"vit": (0.5, 0.25, 0.15), "resnet": (0.5, 0.25)}
FORM = {"vit": "module", "resnet": "onnx"}
SHAPES = {"vit": "1,28,28", "resnet": "3,32,32"}
FIRST = {"vit": 5000, "resnet": 1000}
ASKED = {"vit": 5000, "resnet": 2000}
SEEDS = (0, 1, 2)
KINDS = ("noise", "fitted")
Numbers = dict[str, Any]


class Images:
    """Test images that have chosen nothing, and how often a file's network is right about them."""

    def __init__(self, name: str, path: Path, arch: str | None) -> None:
        arrays = np.load(path)
        part = slice(FIRST[name], FIRST[name] + ASKED[name])
        self._images, self._labels = (torch.from_numpy(arrays[key][part]) for key in ("x_test", "y_test"))
        self._arch = arch

    def right(self, file: Path) -> float:
        """The share."""
        with open_checkpoint(file) as checkpoint:
            network = network_of(checkpoint, self._arch, folded=False, needed=True)
            assert network is not None
            network.float().eval()
            with torch.no_grad():
                answers = torch.cat([network(part).argmax(1) for part in self._images.float().split(250)])
        return float((answers == self._labels).double().mean())


def measure(name: str, numbers: Numbers, save: Any) -> None:
    """All sizes, kinds and seeds of a network; what is in `numbers` already is left out."""
    known = numbers.setdefault(name, {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images(name, folder)
        path, arch = files(name, folder)[FORM[name]]
        asked = Images(name, folder / f"{name}.npz", arch)
        known["uncut"], known["images"] = asked.right(path), ASKED[name]
        for seed in SEEDS:
            for kind in KINDS:
                rows = known.setdefault(kind, {}).setdefault(str(seed), {})
                moments = folder / f"{kind}_{seed}.safetensors"
                for keep in KEEPS[name]:
                    if str(keep) in rows:
                        continue
                    settings = CalibrationSettings(seed=seed, input_shape=SHAPES[name])
                    budget = BudgetSettings(keep=keep)
                    request = (
                        Request(budget, settings, moments=moments)
                        if moments.exists()
                        else Request(budget, settings, save_moments=moments)
                    )
                    out = folder / f"small{path.suffix}"
                    most, alike = fitted_images.MOST_WORK, made_up.ONE_ANSWER
                    fitted_images.MOST_WORK = most if kind == "fitted" else 0.0
                    # Whatever it answers to noise as it is.
                    made_up.ONE_ANSWER = 0.0
                    try:
                        result = prune(path, out, arch=arch, within=request, force=True)
                    finally:
                        fitted_images.MOST_WORK, made_up.ONE_ANSWER = most, alike
                    rule = f"{result.plan.basis} {result.plan.settings['scaling']}"
                    rows[str(keep)] = {"right": asked.right(out), "rule": rule}
                    print(name, kind, seed, keep, rows[str(keep)], flush=True)
                    save()


def markdown(numbers: Numbers) -> str:
    """The table."""
    lines = [
        "| network | images | uncut | kept | noise as it is | fitted to all classes |",
        "|---|---|---|---|---|---|",
    ]
    for name, known in numbers.items():
        for keep in KEEPS[name]:
            cells = []
            for kind in KINDS:
                right = [rows[str(keep)]["right"] for rows in known[kind].values()]
                cells.append(f"{statistics.median(right):.3f} ({min(right):.3f}–{max(right):.3f})")
            where = f"{name}, {FORM[name]} | {known['images']:,} | {known['uncut']:.3f}"
            lines.append(f"| {where} | {keep} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is asked for, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=["resnet", "vit", []])
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--draw", action="store_true", help="only the table")
    asked = parser.parse_args()
    path = asked.out / "fitted_noise.json"
    numbers: Numbers = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def save() -> None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")

    torch.set_num_threads(1)
    for name in asked.networks if not asked.draw else ():
        measure(name, numbers, save)
    (asked.out / "fitted_noise.md").write_text(markdown(numbers), encoding="utf-8")


if __name__ == "__main__":
    main()
