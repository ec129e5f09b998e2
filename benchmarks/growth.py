"""How the time of an analysis grows: with the size of a weight, the number of layers, bytes, and workers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from cluster import WORKERS, layer_costs, simulated, write_checkpoint
from measuring import Report, Scale, Times, cores, duration, interleaved, processor_seconds, ratio, stopwatch
from safetensors.torch import save_file

import rmt_compress


def part_size(report: Report, scale: Scale) -> None:
    """One square weight of noise, exactly and as `analyze` does it."""
    report.say(
        "## Growth with the size of a weight",
        "`rmt_compress.analyze` of p × p even noise, in processor time: every singular value (`exact=True`), and "
        "the default, which approximates large spectra.",
    )
    rows = []
    for p in scale.widths:
        state = {"fc.weight": torch.randn(p, p, generator=torch.Generator().manual_seed(p))}
        exact, default = (
            processor_seconds(partial(rmt_compress.analyze, state, exact=exact, jobs=1)) for exact in (True, False)
        )
        rows.append([f"{p:,}", duration(exact), duration(default), f"{exact / default:.3g}×"])
        report.number(f"approximate, p = {p}", exact / default)
    report.table(["p", "exact", "default", "ratio"], rows)


def part_layers(report: Report, scale: Scale) -> None:
    """More and more layers of one size."""
    report.say("## Growth with the number of layers", "Layers of 128 × 256, in processor time.")
    rows, taken = [], {}
    for count in scale.layers:
        state = {f"l{number}.weight": torch.randn(128, 256) for number in range(count)}
        taken[count] = processor_seconds(partial(rmt_compress.analyze, state, jobs=1))
        rows.append([f"{count:,}", duration(taken[count]), duration(taken[count] / count)])
    report.table(["layers", "all", "each"], rows)
    first, last = scale.layers[0], scale.layers[-1]
    report.number("a layer among many beside one among few", taken[last] * first / (taken[first] * last))


def part_bytes(report: Report, scale: Scale) -> None:
    """Larger and larger files of layers of one size: what reading adds."""
    report.say(
        "## Growth with the bytes of a checkpoint",
        "safetensors files of bfloat16 layers of 512 × 2048, 2.1 MB each, in processor time.",
    )
    rows, each = [], []
    with tempfile.TemporaryDirectory() as folder:
        for count in (number // 8 for number in scale.layers):
            file = Path(folder) / f"{count}.safetensors"
            save_file({f"l{number}.weight": torch.randn(512, 2048).bfloat16() for number in range(count)}, file)
            megabytes = file.stat().st_size / 1e6
            taken = processor_seconds(partial(rmt_compress.analyze, file, jobs=1), 1)
            each.append(taken / megabytes)
            rows.append([f"{megabytes:.0f} MB", duration(taken), duration(each[-1])])
    report.table(["file", "all", "a MB"], rows)
    report.number("a MB of a large file beside one of a small", each[-1] / each[0])


def part_workers(report: Report, scale: Scale) -> None:
    """One worker and two as measured, more as simulated."""
    from rmt_compress.analysis.threads import default_jobs

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        write_checkpoint(file, scale.block, 4)
        most = min(2, default_jobs())
        sides = {
            str(jobs): partial(stopwatch, partial(rmt_compress.analyze, file, jobs=jobs)) for jobs in (1, most)
        }
        times: dict[str, Times] = interleaved(sides, scale.runs)
        costs = layer_costs(file)
        whole = processor_seconds(partial(rmt_compress.analyze, file, jobs=1))
    serial = max(0.0, whole - sum(costs.values()))
    largest_first: Sequence[float] = sorted(costs.values(), reverse=True)
    report.say(
        "## Growth with workers",
        f"{len(costs)} layers of 4 transformer blocks of width {scale.block}. By the wall, which other programs on "
        f"the {cores()} cores disturb: one worker {times['1']}, {most} workers {times[str(most)]}, "
        f"{ratio(times['1'], times[str(most)])} as fast.",
        "Simulated from processor times, T(k) = serial + the end of the last of k workers, layers handed out "
        f"largest first. Amdahl's terms: serial (opening, planning, results) {duration(serial)}, "
        f"{serial / (serial + sum(costs.values())):.1%} of all; layers {duration(sum(costs.values()))}; the "
        f"longest {duration(largest_first[0])}, below which no number of workers comes. Memory and disk, which "
        "workers share, are left out.",
    )
    found = simulated(lambda _: largest_first, serial)
    one = found["seconds"][0]
    header = ["workers", *map(str, WORKERS), "limit"]
    rows = [["times as fast", *(f"{one / taken:.1f}" for taken in (*found["seconds"], found["limit"]))]]
    report.table(header, rows)
    report.number("two workers, simulated", one / found["seconds"][1])
    report.number("two workers, by the wall", times["1"].median / times[str(most)].median)
