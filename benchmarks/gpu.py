"""What a GPU makes of every command and of every kind of smaller network: run once where one is at hand.

Parity: each command on the CPU and on the device, with the differences that are expected. And the ratios: many
small layers, large ones, blocks of a language model, training in bf16, 2:4, CUDA graphs. Each part stands by
itself: one that fails says so in its place, and what is known is written after every part.

    python benchmarks/gpu.py --device cuda --out OUT        gpu.md and gpu.json in this folder
    python benchmarks/gpu.py --device cpu:0 --quick         that it runs, without a GPU
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import gpu_parity
import gpu_speed
import torch
from gpu_parity import Place, Row
from measuring import Report, machine

REPOSITORY = Path(__file__).parents[1]


def start_up(place: Place) -> list[Row]:
    """The device's first product and first eigenvalues, which load what all others use."""
    rows: list[Row] = []
    matrix = torch.eye(64)
    for what in ("first copy and product", "first eigenvalues", "the same again"):
        start = time.perf_counter()
        there = matrix.to(place.device)
        values = there @ there if what.endswith("product") else torch.linalg.eigvalsh(there[None].repeat(2, 1, 1))
        values.cpu()
        rows.append({"what": what, "seconds": time.perf_counter() - start})
    return rows


def tests(place: Place) -> list[Row]:
    """The tests that take a device."""
    if place.quick:
        return [{"what": "tests: left out of a quick run"}]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_devices.py", "-k", "GPU"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=90)
    lines = (done.stdout + done.stderr).strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))]
    return [
        {"what": "tests/test_devices.py", "status": done.returncode, "said": "; ".join([*failed[:6], lines[-1]])}
    ]


# What was never run on a GPU comes first: what comes late may not have its time.
PARTS: dict[str, Callable[[Place], list[Row]]] = {
    "The device's first calls": start_up,
    "The tests that take a device": tests,
    "The road from calibration to a repaired cut": gpu_speed.road,
    "Files of many layers": gpu_speed.many_layers,
    "Layers analysed by size": gpu_speed.by_size,
    "Two blocks of Llama 7B's size": gpu_speed.blocks,
    "Thin layers in eager mode and in CUDA graphs, ms": gpu_speed.graphs,
    "`prune --data` of the ResNet within a budget, CPU and device": gpu_parity.carried_budget,
    "`analyze`, CPU and device": gpu_parity.analyze,
    "`prune`, CPU and device": gpu_parity.prune,
    "`prune --data` within a budget, CPU and device": gpu_parity.budget,
    "`sweep`, CPU and device": gpu_parity.sweep,
    "Calibration moments, CPU and device": gpu_parity.moments,
    "2:4 as semi-structured tensors": gpu_speed.semi_structured,
    "`finetune` on the device, float32 and bf16": gpu_speed.half_precision,
    "`evaluate`, CPU and device": gpu_parity.evaluate,
    "`finetune` in float32, CPU and device": gpu_parity.finetune,
    "`certify`, CPU and device": gpu_parity.certify,
    "Singular vectors by size, seconds": gpu_speed.vectors_by_size,
}


def main() -> None:
    """Run the parts and write a page and its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="folder for gpu.md and gpu.json")
    parser.add_argument("--carried", type=Path, help="folder with resnet.pt, network.py and cifar10/")
    parser.add_argument("--seconds", type=float, default=120, help="no part is begun later")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="parts whose title has such a word in it")
    parser.add_argument("--quick", action="store_true", help="small networks, to see that it runs")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else f"the CPU as {arguments.device}"
    report, found, where = Report(), {}, machine()
    report.say(f"# {name}", "; ".join(where))
    with tempfile.TemporaryDirectory() as folder:
        place = Place(arguments.device, arguments.carried, Path(folder), arguments.quick)
        for title, part in PARTS.items():
            if arguments.only and not any(word in title for word in arguments.only):
                continue
            report.say(f"## {title}")
            found[title] = _part(part, place, report, late=time.perf_counter() - begun > arguments.seconds)
            if arguments.out is not None:
                record = {"device": name, "machine": where, "parts": found}
                arguments.out.mkdir(parents=True, exist_ok=True)
                (arguments.out / "gpu.md").write_text(report.text, encoding="utf-8")
                (arguments.out / "gpu.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


def _part(part: Callable[[Place], list[Row]], place: Place, report: Report, *, late: bool) -> dict[str, object]:
    """Run one part and say what it found, or why it found nothing."""
    if late:
        report.say("Not run: there was no time left.")
        return {"rows": [], "error": "no time left"}
    start = time.perf_counter()
    error, rows = "", []
    try:
        rows = part(place)
        place.wait()
    # Whatever a part may fail of stands in the report: the other parts are worth their own.
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}".strip().splitlines()[0]
        print(traceback.format_exc(), file=sys.stderr)
    seconds = time.perf_counter() - start
    for names in dict.fromkeys(tuple(row) for row in rows):
        report.table(names, ([_shown(value) for value in row.values()] for row in rows if tuple(row) == names))
    report.say(*([f"**Failed:** {error}"] if error else []), f"{seconds:.1f} s")
    return {"rows": rows, "error": error, "seconds": round(seconds, 2)}


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


if __name__ == "__main__":
    main()
