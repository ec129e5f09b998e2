"""Whole networks: `analyze` against WeightWatcher, against bare eigenvalues, and by number of workers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import networks
import torch
from measuring import Report, Scale, Times, cores, duration, interleaved, ratio, stopwatch
from safetensors.torch import save_file
from torch import nn
from weightwatcher_peer import ours, weightwatcher

import rmt_compress
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.layers.layer import as_matrix


def part_peer(report: Report, scale: Scale) -> None:
    """Whole networks against WeightWatcher."""
    rows, used_rows = [], []
    ratios: dict[tuple[str, str], float] = {}
    with weightwatcher() as peer, tempfile.TemporaryDirectory() as folder:
        report.say(
            f"## Whole networks against WeightWatcher {peer.version}",
            "`rmt_compress.analyze(model)` against `WeightWatcher(model=model).analyze(mp_fit=True)`, both on the "
            "live module and with their default settings, imports excluded; *exact*: ours with every singular "
            "value (`exact=True`); *from file*: ours on a safetensors file of the same weights. Linear algebra has "
            "the threads named above; ours works on as many layers at once as there are cores. "
            "WeightWatcher also fits power laws, and takes a convolution apart into one matrix per kernel "
            "position, where we read it as one matrix. Ours ran three times in each turn.",
        )
        for name in scale.names:
            model = networks.build(name)
            file = Path(folder) / f"{name}.safetensors"
            save_file(model.state_dict(), file)
            processor: dict[str, list[float]] = {"peer": [], "module": [], "exact": [], "file": []}
            sides: dict[str, Callable[[], tuple[float, float]]] = {
                "peer": partial(peer.run, name),
                "module": _analysis_run(model),
                "exact": _analysis_run(model, exact=True),
                "file": _analysis_run(file),
            }
            times = interleaved(
                {side: partial(_noting_processor, run, processor[side]) for side, run in sides.items()},
                scale.peer_runs,
                short=("module", "exact", "file"),
            )
            used = {side: Times(tuple(seconds)) for side, seconds in processor.items()}
            for kind, side in (("exact", "exact"), ("default", "module")):
                ratios[name, kind] = used["peer"].median / used[side].median
                report.number(f"WeightWatcher, {name}, {kind}", ratios[name, kind])
            cells = [networks.describe(name), *map(str, times.values())]
            rows.append([*cells, *(ratio(times["peer"], times[side]) for side in ("module", "exact", "file"))])
            seconds = [duration(each.median) for each in used.values()]
            used_rows.append(
                [cells[0], *seconds, *(ratio(used["peer"], used[side]) for side in ("module", "exact", "file"))]
            )
    header = ["network", "WeightWatcher", "ours", "exact", "from file", "ratio", "exact", "from file"]
    report.table(header, rows)
    report.say(
        "Processor time of all threads. The targets are judged by it: other programs disturb it less than the "
        "wall, and no side gains by a core that the other leaves idle."
    )
    report.table(header, used_rows)
    for name, kind, target in (
        ("large-mlp", "exact", 9),
        ("large-mlp", "default", 20),
        ("200-layers", "exact", 15),
    ):
        if (name, kind) in ratios:
            found = ratios[name, kind]
            what = f"at least {target} times faster on {networks.describe(name)}, {kind}: {found:.1f}"
            report.target(what, found >= target)
    _own_threads(report, scale)


def _own_threads(report: Report, scale: Scale) -> None:
    """The first network with the threads that both take where nobody sets any."""
    name, *_ = scale.names
    with weightwatcher(own_threads=True) as peer, ours(own_threads=True) as us:
        runs = {"peer": (peer, name), "module": (us, name), "exact": (us, f"exact {name}")}
        processor: dict[str, list[float]] = {side: [] for side in runs}
        times = interleaved(
            {
                side: partial(_noting_processor, partial(process.run, asked), processor[side])
                for side, (process, asked) in runs.items()
            },
            scale.peer_runs,
            short=("module", "exact"),
        )
    used = {side: Times(tuple(seconds)) for side, seconds in processor.items()}
    report.say(
        f"{networks.describe(name)} once more, both in processes of their own with the threads that they take "
        "where nobody sets any. By the wall this is what a user sees on an idle machine; on a busy one threads "
        "wait for each other in loops, which is processor time too, so nothing is judged by it."
    )
    report.table(
        ["", "WeightWatcher", "ours", "exact", "ratio", "exact"],
        [
            [what, *map(str, by.values()), *(ratio(by["peer"], by[side]) for side in ("module", "exact"))]
            for what, by in (("wall", times), ("processor", used))
        ],
    )
    for kind, side in (("exact", "exact"), ("default", "module")):
        report.number(
            f"WeightWatcher, {name}, {kind}, wall, own threads", times["peer"].median / times[side].median
        )


def _noting_processor(run: Callable[[], tuple[float, float]], noted: list[float]) -> float:
    seconds, processor = run()
    noted.append(processor)
    return seconds


def _analysis_run(source: nn.Module | Path, *, exact: bool = False) -> Callable[[], tuple[float, float]]:
    def run() -> tuple[float, float]:
        before = time.process_time()
        seconds = stopwatch(partial(rmt_compress.analyze, source, exact=exact))
        return seconds, time.process_time() - before

    return run


def part_eigenvalues(report: Report, scale: Scale) -> None:
    """Whole networks against the bare eigenvalue computations of their layers."""
    report.say(
        "## Whole networks against their bare eigenvalues",
        "The float32 Gram matrix and `torch.linalg.eigvalsh` of every analysed layer: *in a row*, one layer after "
        "the other with torch's threads or with one, or on the *same pool* as ours, one single-threaded worker "
        "per core, largest layer first. Nothing is checked, fitted or converted there.",
    )
    headers = ["network", "ours", "eigvalsh in a row", "Gram + eigvalsh in a row", "the same, one thread"]
    rows, ratio_rows, ratios = [], [], {}
    for name in scale.names:
        model = networks.build(name)
        matrices = _analysed_matrices(model)
        times = interleaved(
            {
                "ours": _analysis_seconds(model),
                "eigenvalues": partial(_eigenvalue_seconds, matrices),
                "gram": partial(stopwatch, partial(_in_a_row, matrices, torch.get_num_threads())),
                "one thread": partial(stopwatch, partial(_in_a_row, matrices, 1)),
                "pool": partial(stopwatch, partial(_on_a_pool, matrices)),
            },
            scale.runs,
        )
        ours = times.pop("ours")
        rows.append([networks.describe(name), str(ours), *(str(bare) for bare in times.values())])
        ratio_rows.append([networks.describe(name), *(ratio(ours, bare) for bare in times.values())])
        ratios[name] = {side: ours.median / bare.median for side, bare in times.items()}
    report.table([*headers, "same pool"], rows)
    report.say("Ours as a multiple of each:")
    report.table([headers[0], *headers[2:], "same pool"], ratio_rows)
    for side, meaning in (
        ("gram", "Gram + eigvalsh in a row"),
        ("eigenvalues", "eigvalsh alone, its Gram matrices given"),
    ):
        worst = max(ratio[side] for ratio in ratios.values())
        report.target(f"at most 1.5 times {meaning}: {worst:.2f} at worst", worst <= 1.5)


def _analysed_matrices(model: nn.Module) -> list[torch.Tensor]:
    """The float32 matrices our analysis looks at, largest first as it takes them."""
    with open_checkpoint(model) as checkpoint:
        layers = [found.layer for found in rmt_compress.analyze(model).analyzed]
        matrices = [as_matrix(layer, checkpoint.read(layer.tensor)) for layer in layers]
    return sorted(matrices, key=lambda matrix: matrix.numel() * min(matrix.shape), reverse=True)


def _gram(matrix: torch.Tensor) -> torch.Tensor:
    return matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix


def _eigenvalue_seconds(matrices: list[torch.Tensor]) -> float:
    grams = [_gram(matrix) for matrix in matrices]
    return stopwatch(lambda: [torch.linalg.eigvalsh(gram) for gram in grams])


def _in_a_row(matrices: list[torch.Tensor], threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for matrix in matrices:
            torch.linalg.eigvalsh(_gram(matrix))
    finally:
        torch.set_num_threads(before)


def _on_a_pool(matrices: list[torch.Tensor]) -> None:
    before = torch.get_num_threads()
    with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(lambda matrix: torch.linalg.eigvalsh(_gram(matrix)), matrices))
    torch.set_num_threads(before)


def part_jobs(report: Report, scale: Scale) -> None:
    """One worker with all threads against one single-threaded worker per core."""
    report.say(
        "## Workers",
        f"`rmt_compress.analyze(model, jobs=…)`: one worker with {cores()} threads, or {cores()} workers with one "
        "thread each (the default).",
    )
    rows = []
    for name in scale.names:
        model = networks.build(name)
        sides = {str(jobs): _analysis_seconds(model, jobs) for jobs in (1, cores())}
        times = interleaved(sides, scale.runs)
        one, many = times["1"], times[str(cores())]
        rows.append([networks.describe(name), str(one), str(many), ratio(one, many)])
    report.table(["network", "jobs=1", f"jobs={cores()}", "ratio"], rows)


def _analysis_seconds(source: nn.Module | Path, jobs: int | None = None) -> Callable[[], float]:
    return partial(stopwatch, partial(rmt_compress.analyze, source, jobs=jobs))
