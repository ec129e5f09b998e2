"""Analysis on the workers of a Dask cluster: the same results, killed workers, and growth with their number.

    python benchmarks/cluster.py --output benchmarks/results/cluster.md

Two clusters: Dask's LocalCluster of two processes, and two workers with an address each in two network namespaces
(made as root and taken away again; where the system forbids it, two loopback addresses). Every process has one
thread for linear algebra, so that results can be compared bit for bit. Growth is measured with one worker and two,
and beyond simulated: layers in the order and in the units in which they are handed out, each of the processor time
that it was measured to take, to the worker that is free first.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from measuring import Report, Times, machine

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
SPACES = {"rmt-one": "10.91.7.1", "rmt-two": "10.91.7.2"}
NOBODY = "10.91.7.9"
PORT = 8786
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128)
# Rows and columns of the weights of one block, in multiples of its width.
BLOCK = {
    "q": (1, 1),
    "k": (1, 1),
    "v": (1, 1),
    "o": (1, 1),
    "gate": (8 / 3, 1),
    "up": (8 / 3, 1),
    "down": (1, 8 / 3),
}


def write_checkpoint(path: Path, width: int, blocks: int, names: Sequence[str] = tuple(BLOCK)) -> None:
    """The named layers of blocks as of a transformer, in bfloat16: noise and a few spikes."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    state = {}
    for block in range(blocks):
        for name, (rows, columns) in ((name, BLOCK[name]) for name in names):
            p, n = int(rows * width), int(columns * width)
            weight = torch.randn(p, n) / n**0.5 + 3 * torch.randn(p, 3) @ torch.randn(3, n) / (p * n) ** 0.5
            state[f"blocks.{block}.{name}.weight"] = weight.bfloat16()
    save_file(state, path)


def same_processes(report: Report, file: Path) -> None:
    """The LocalCluster: all results bit for bit, without and with a worker killed after the first of them."""
    import numpy as np
    from distributed import LocalCluster

    here = found_here(file)
    report.say("## A LocalCluster of two processes")
    rows = []
    for killed in (False, True):
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
            going = on_cluster(file, cluster.scheduler_address)
            found = dict([next(going)])
            if killed:
                os.kill(cluster.workers[0].pid, signal.SIGKILL)
            found |= dict(going)
        equal = [
            layer
            for layer, result in found.items()
            if result.to_json() == here[layer].to_json()
            and np.array_equal(result.singular_values, here[layer].singular_values)
        ]
        how = "one worker killed after the first result" if killed else "both workers to the end"
        rows.append((how, f"{len(found)} of {len(here)}", str(len(equal))))
    report.table(("", "layers done", "the same bit for bit as here"), rows)
    report.target("a LocalCluster of two processes: same results, a killed worker loses nothing", _all_same(rows))


def _all_same(rows: Sequence[tuple[str, str, str]]) -> bool:
    return all(done.split(" of ") == [equal, equal] for _, done, equal in rows)


def found_here(file: Path) -> dict[Any, Any]:
    """Layer -> what is found in this process, with two jobs of one thread."""
    import rmt_compress as rmt

    return {found.layer: found for found in rmt.analyze(file, jobs=2).analyzed}


def on_cluster(file: Path, scheduler: str | Path) -> Iterator[tuple[Any, Any]]:
    """Layers and results as they come from a cluster."""
    from rmt_compress.analysis.cluster import analyze_on_cluster
    from rmt_compress.analysis.settings import AnalysisSettings
    from rmt_compress.checkpoints import open_checkpoint

    checkpoint = open_checkpoint(file)
    return analyze_on_cluster(checkpoint.layers(), checkpoint, AnalysisSettings(), scheduler)


class Hosts:
    """Two addresses of this machine, and how a program is started at each."""

    def __init__(self, stack: ExitStack) -> None:
        self.spaces = True
        try:
            stack.enter_context(_spaces())
        except (OSError, subprocess.CalledProcessError) as error:
            self.spaces, self.why = False, str(error)
        self.addresses = tuple(SPACES.values()) if self.spaces else ("127.0.0.1", "127.0.0.2")
        self.nobody = NOBODY if self.spaces else "127.0.0.3"

    def start(self, host: int, *arguments: str | Path, **how: Any) -> subprocess.Popen[str]:
        """`python ARGUMENTS` at one of them."""
        inside = ("ip", "netns", "exec", list(SPACES)[host]) if self.spaces else ()
        environment = {**os.environ, **ONE_THREAD}
        command = [*inside, sys.executable, *map(str, arguments)]
        return subprocess.Popen(command, env=environment, text=True, **how)


@contextmanager
def _spaces() -> Iterator[None]:
    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    one, two = SPACES
    try:
        for space in SPACES:
            ip("netns", "add", space)
        ip("link", "add", "rmt-a", "netns", one, "type", "veth", "peer", "name", "rmt-b", "netns", two)
        for space, link in zip(SPACES, ("rmt-a", "rmt-b"), strict=True):
            ip("-n", space, "address", "add", f"{SPACES[space]}/24", "dev", link)
            ip("-n", space, "link", "set", link, "up")
            ip("-n", space, "link", "set", "lo", "up")
        yield
    finally:
        for space in SPACES:
            subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)


def two_addresses(report: Report, file: Path, folder: Path) -> None:
    """Scheduler and a worker at one address, another worker at the other; the program is run as a user types it."""
    with ExitStack() as stack:
        hosts = Hosts(stack)
        kind = "network namespaces" if hosts.spaces else f"loopback (no namespaces: {hosts.why})"
        report.say(f"## Two addresses: {' and '.join(hosts.addresses)}, {kind}")
        scheduler = f"tcp://{hosts.addresses[0]}:{PORT}"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}

        def service(host: int, *arguments: str) -> subprocess.Popen[str]:
            process = hosts.start(host, "-m", *arguments, "--no-dashboard", **quiet)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        def worker(host: int) -> subprocess.Popen[str]:
            at = ("--host", hosts.addresses[host], "--local-directory", str(folder))
            return service(host, "distributed.cli.dask_worker", scheduler, *at, "--no-nanny", "--nthreads", "1")

        service(0, "distributed.cli.dask_scheduler", "--host", hosts.addresses[0], "--port", str(PORT))
        workers = [worker(0), worker(1)]
        time.sleep(5)  # the program waits 5 s for the scheduler, and 30 s for workers, itself

        def analyze(*options: str) -> subprocess.Popen[str]:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            return hosts.start(0, "-m", "rmt_compress", "analyze", file, "--json", *options, **pipes)

        expected, _ = analyze("--jobs", "2").communicate()
        rows = []
        both, _ = analyze("--scheduler", scheduler).communicate()
        rows.append(("both workers to the end", both == expected))
        going = analyze("--scheduler", scheduler)
        _busy(workers[1], 0.5)
        workers[1].kill()
        killed, said = going.communicate()
        rows.append(("the worker at the other address killed while it computes", killed == expected))
        layers = len(json.loads(expected)["layers"])
        table = [(how, f"{layers}", "yes" if same else "no") for how, same in rows]
        report.table(("", "layers", "`--json` the same byte for byte as with `--jobs 2`"), table)
        report.target("two addresses: same results, a killed worker loses nothing", all(same for _, same in rows))
        start = time.perf_counter()
        unreachable = analyze("--scheduler", f"tcp://{hosts.nobody}:{PORT}")
        _, said = unreachable.communicate()
        lines = said.strip().splitlines()
        seconds = time.perf_counter() - start
        report.say(f"A scheduler that nobody is: exit status {unreachable.returncode} after {seconds:.0f} s.")
        report.say("```\n" + "\n".join(lines) + "\n```")
        report.target("an unreachable scheduler is one line", unreachable.returncode == 2 and len(lines) == 1)


def _busy(process: subprocess.Popen[str], seconds: float) -> None:
    """Wait until a process has taken so much more processor time."""
    before = _taken(process)
    while _taken(process) < before + seconds:
        time.sleep(0.01)


def _taken(process: subprocess.Popen[str]) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _started(folder: Path, count: int) -> Iterator[tuple[Path, list[subprocess.Popen[str]]]]:
    """A scheduler's file and its workers, each a process of its own with one thread."""
    file = folder / f"scheduler{count}.json"
    with ExitStack() as stack:

        def start(*arguments: str | Path) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", *map(str, arguments), "--no-dashboard", "--scheduler-file", str(file)]
            nothing = subprocess.DEVNULL
            process = subprocess.Popen(command, text=True, cwd=folder, stdout=nothing, stderr=nothing)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        while not file.exists():
            time.sleep(0.1)
        yield file, [start("distributed.cli.dask_worker", "--no-nanny", "--nthreads", "1") for _ in range(count)]


def growth(report: Report, file: Path, folder: Path, runs: int, wide: int | None) -> dict[str, Any]:
    """Seconds with one worker and two, and what the layers' own times make of more."""
    from distributed import Client

    from rmt_compress.analysis.cluster import _together
    from rmt_compress.checkpoints import open_checkpoint

    layers = open_checkpoint(file).layers()
    costs = layer_costs(file)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    own, theirs = [], []
    with ExitStack() as stack:
        clusters = {count: stack.enter_context(_started(folder, count)) for count in seconds}
        for count, (scheduler, _) in clusters.items():
            with Client(scheduler_file=str(scheduler), set_as_default=False) as client:
                client.wait_for_workers(count)
                client.run(_warm)
            list(on_cluster(file, scheduler))
        for _ in range(runs):
            for count, (scheduler, workers) in clusters.items():
                begun, mine, work = time.perf_counter(), time.process_time(), sum(map(_taken, workers))
                list(on_cluster(file, scheduler))
                seconds[count].append(time.perf_counter() - begun)
                own.append(time.process_time() - mine)
                theirs.append(sum(map(_taken, workers)) - work)
    serial, worked = statistics.median(own), statistics.median(theirs)
    times = {count: Times(tuple(each)) for count, each in seconds.items()}
    report.say("## Growth with workers")
    faster = times[1].median / times[2].median
    report.say(
        f"One worker of one thread: {times[1]}. Two: {times[2]}, {faster:.2f} times as fast. In processor time: "
        f"all layers {sum(costs.values()):.1f} s, the longest {max(costs.values()):.2f} s; the workers "
        f"{worked:.1f} s, with what Dask does there; the client (opening, its digest, results) {serial:.2f} s, "
        "which no worker shortens."
    )

    def units(count: int) -> list[float]:
        return [sum(costs[layer.name] for layer in unit) for unit in _together(layers, count)]

    table = {f"the measured network, {len(layers)} layers": simulated(units, serial)}
    if wide is not None:
        each = _costs_of_block(wide)
        blocks = sorted((took for took in each.values() for _ in range(32)), reverse=True)
        table[f"32 blocks of width {wide}, 224 layers"] = simulated(lambda _: blocks, serial)
        said = ", ".join(f"{name} {took:.1f} s" for name, took in each.items())
        report.say(f"Layers of width {wide}, measured once for each shape, on one thread: {said}.")
    report.say(
        "Simulated: T(k) = client + the end of the last of k workers, units handed out largest first to whoever is "
        "free. It leaves out the network and the disk, which workers share. Limit: client + longest unit."
    )
    header = ("workers", *(str(count) for count in WORKERS), "limit")
    rows = []
    for name, row in table.items():
        one, limit = row["seconds"][0], row["limit"]
        rows.append((f"{name}, s", *(f"{value:.1f}" for value in row["seconds"]), f"{limit:.1f}"))
        rows.append(("times as fast", *(f"{one / value:.1f}" for value in row["seconds"]), f"{one / limit:.0f}"))
    report.table(header, rows)
    return {"seconds": seconds, "client": serial, "workers": worked, "layers": costs, "simulated": table}


def _warm() -> None:
    import torch

    torch.linalg.eigvalsh(torch.eye(3))


def simulated(units: Callable[[int], Sequence[float]], serial: float) -> dict[str, Any]:
    """Seconds of each number of workers, which are given such units, and the least that any number has."""
    seconds = []
    for count in WORKERS:
        free = [0.0] * count
        for cost in units(count):
            heapq.heapreplace(free, free[0] + cost)
        seconds.append(serial + max(free))
    return {"seconds": seconds, "limit": serial + max(units(WORKERS[-1]))}


def layer_costs(file: Path) -> dict[str, float]:
    """Name of a layer -> processor seconds of reading and analysing it on one thread."""
    from rmt_compress.analysis.settings import AnalysisSettings
    from rmt_compress.analysis.threads import analyze_beside_others
    from rmt_compress.checkpoints import open_checkpoint

    checkpoint, costs = open_checkpoint(file), {}
    smallest = min(checkpoint.layers(), key=lambda layer: layer.parameters)
    for layer in (smallest, *checkpoint.layers()):  # one of them twice: libraries wake up
        begun = time.thread_time()
        analyze_beside_others(layer, checkpoint, AnalysisSettings())
        costs[layer.name] = time.thread_time() - begun
    return costs


def _costs_of_block(width: int) -> dict[str, float]:
    """`layer_costs` of one block, of which only one layer of each shape is measured."""
    first = {shape: name for name, shape in reversed(BLOCK.items())}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "block.safetensors"
        write_checkpoint(file, width, 1, tuple(first.values()))
        costs = {name.rpartition(".")[2]: seconds for name, seconds in layer_costs(file).items()}
    return {name: costs[first[shape]] for name, shape in BLOCK.items()}


def main() -> None:
    """Read the command line, run the parts, write report and numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=("processes", "addresses", "growth"))
    parser.add_argument("--width", type=int, default=768, help="of the checkpoint's blocks")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--wide", type=int, help="width of further blocks whose growth is simulated")
    parser.add_argument("--output", type=Path, help="Markdown; the numbers of growth go beside it as JSON")
    asked = parser.parse_args()
    os.environ |= ONE_THREAD
    # So that processes and namespaces go too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    report = Report()
    report.say("# Clusters", f"`python benchmarks/cluster.py{_typed()}`")
    report.say("\n".join(f"- {each}" for each in machine()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "model.safetensors"
        write_checkpoint(file, asked.width, asked.blocks)
        report.say(
            f"The checkpoint: {asked.blocks} blocks of width {asked.width}, {7 * asked.blocks} layers, "
            f"{file.stat().st_size / 1e6:.0f} MB of bfloat16."
        )
        numbers = {}
        if "processes" in asked.parts:
            same_processes(report, file)
        if "addresses" in asked.parts:
            two_addresses(report, file, folder)
        if "growth" in asked.parts:
            numbers = growth(report, file, folder, asked.runs, asked.wide)
    if asked.output is not None:
        asked.output.write_text(report.text, encoding="utf-8")
        if numbers:
            asked.output.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def _typed() -> str:
    return "".join(f" {each}" for each in sys.argv[1:])


if __name__ == "__main__":
    main()
