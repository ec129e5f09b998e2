"""Analyses on the workers of a Dask cluster: the same numbers, whoever dies, and one line where it cannot be."""

import json
import pickle
import signal
import socket
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import rmt_compress as rmt
from rmt_compress.analysis import cluster, on_worker
from rmt_compress.analysis.records import AnalyzedLayer
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.analysis.unfitted import AnalyzedPair, SkippedLayer
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.provenance import tool_version
from rmt_compress.checkpoints.shared_file import SharedFile
from rmt_compress.checkpoints.views import Renamed
from rmt_compress.errors import ClusterError, MissingDependencyError, SettingsError
from tests.samples.command_line import one_error_line
from tests.samples.fork_server import Process

NOBODY = "tcp://127.0.0.1:1"


def network(path):
    """Layers of several sizes and kinds, one of them damaged."""
    state = {f"fc{number}.weight": torch.randn(40 + 8 * number, 120) for number in range(12)}
    state |= {
        "fc0.bias": torch.randn(40),
        "conv.weight": torch.randn(48, 16, 3, 3),
        "half.weight": torch.randn(64, 96, dtype=torch.float16),
        "low.lora_A.weight": torch.randn(4, 60),
        "low.lora_B.weight": torch.randn(50, 4),
        "bad.weight": torch.full((40, 50), torch.nan),
    }
    save_file(state, path)
    return path


@pytest.fixture
def checkpoint(tmp_path):
    return network(tmp_path / "model.safetensors")


def unit(path, *names):
    """A parcel for a worker, with the layers of these names."""
    opened = open_checkpoint(path)
    layers = tuple(layer for layer in opened.layers() if layer.tensor in names)
    return on_worker.Unit(SharedFile.of(opened), layers, AnalysisSettings()).pack()


@pytest.fixture
def as_worker(monkeypatch):
    """This process as the worker that has this name."""
    monkeypatch.setattr(on_worker, "_name", lambda: "tcp://node7:1234")
    on_worker._opened.cache_clear()


@pytest.mark.usefixtures("as_worker")
def test_a_worker_of_another_version_says_so_and_unpacks_nothing():
    told = on_worker.analyze_unit("0.0.0", b"no pickle")
    own = tool_version()
    assert told == on_worker.Refused(
        "tcp://node7:1234", f"has rmt-compress {own}, and 0.0.0 asks it: install one version everywhere"
    )


@pytest.mark.usefixtures("as_worker")
def test_a_worker_names_a_file_that_it_does_not_see(checkpoint):
    asked = unit(checkpoint, "fc1.weight")
    checkpoint.rename(checkpoint.with_name("elsewhere.safetensors"))
    told = on_worker.analyze_unit(tool_version(), asked)
    assert told == on_worker.Refused("tcp://node7:1234", f"{checkpoint}: no such file or directory")


@pytest.mark.usefixtures("as_worker")
def test_a_worker_refuses_another_file_of_the_same_size(checkpoint):
    asked = unit(checkpoint, "fc1.weight")
    size = checkpoint.stat().st_size
    network(checkpoint)
    assert checkpoint.stat().st_size == size
    told = on_worker.analyze_unit(tool_version(), asked)
    assert isinstance(told, on_worker.Refused)
    assert told.why.startswith(f"{checkpoint}: is another file than the one that was asked about; copy it again")


@pytest.mark.usefixtures("as_worker")
def test_what_may_go_well_elsewhere_is_raised_and_can_be_sent(checkpoint, monkeypatch):
    def fail(*_):
        raise MemoryError("no room\nfor it")

    monkeypatch.setattr(on_worker, "_opened", fail)
    with pytest.raises(on_worker.WorkerError) as caught:
        on_worker.analyze_unit(tool_version(), unit(checkpoint, "fc1.weight"))
    assert str(pickle.loads(pickle.dumps(caught.value))) == "tcp://node7:1234: MemoryError: no room for it"


def test_a_file_is_the_same_wherever_its_path_leads(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = SharedFile.of(open_checkpoint(checkpoint.name))
    assert named == SharedFile.of(open_checkpoint(checkpoint))
    assert pickle.loads(pickle.dumps(named)).open().tensors == open_checkpoint(checkpoint).tensors


def test_what_workers_cannot_read_is_refused_before_anyone_is_asked(checkpoint):
    state = {"fc.weight": torch.randn(40, 50)}
    with pytest.raises(SettingsError, match=r"^scheduler: this state dict is in memory, and workers read files"):
        rmt.analyze(state, scheduler=NOBODY)
    seen = Renamed(open_checkpoint(checkpoint), lambda name: f"network.{name}")
    with pytest.raises(SettingsError, match=r"model.safetensors: weights changed after reading are in memory"):
        rmt.analyze(seen, scheduler=NOBODY)
    with pytest.raises(SettingsError, match=r"jobs is for this machine: .*; device cuda is for this machine"):
        rmt.analyze(checkpoint, scheduler=NOBODY, jobs=2, device="cuda")


def test_without_dask_one_line_says_what_to_install(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(
        MissingDependencyError, match=r"a scheduler needs dask.distributed: pip install 'rmt-compress\[cluster\]'"
    ):
        rmt.analyze(checkpoint, scheduler=NOBODY)


def test_units_are_full_where_there_is_work_and_many_where_there_is_little(checkpoint):
    layers = [layer for layer in open_checkpoint(checkpoint).layers() if min(layer.matrix or (0,)) >= 32]
    counts = []
    for threads in (1, 2, 1000):
        units = list(cluster._together(layers, threads))
        assert sorted(layer.name for each in units for layer in each) == sorted(layer.name for layer in layers)
        counts.append(len(units))
    assert counts[0] < counts[1] < counts[2] == len(layers)
    assert [each.name for each in units[0]] == ["fc11"]  # the largest
    many = [replace(layer, tensor=f"{number}.{layer.tensor}") for number in range(20) for layer in layers]
    assert max(len(each) for each in cluster._together(many, 1)) == cluster._MOST_TOGETHER


@dataclass
class Cluster:
    """A scheduler and its workers, each a process of one thread."""

    file: Path
    scheduler: Process
    workers: list[Process]
    start: object


@pytest.fixture(scope="module")
def dask(python, tmp_path_factory):
    """A scheduler and two workers, one on another address of this machine than the scheduler."""
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"

    def start(number):
        host = f"127.0.0.{number}"
        where = ("--scheduler-file", file, "--host", host, "--local-directory", folder / f"worker{number}")
        alone = ("--no-nanny", "--nthreads", "1", "--no-dashboard")
        return python.start("-m", "distributed.cli.dask_worker", *where, *alone, cwd=folder)

    listens = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file)
    scheduler = python.start("-m", "distributed.cli.dask_scheduler", *listens, cwd=folder)
    while not file.exists():
        assert scheduler.poll() is None
        time.sleep(0.02)
    found = Cluster(file, scheduler, [start(1), start(2)], start)
    yield found
    for process in (*found.workers, scheduler):
        process.send_signal(signal.SIGKILL)
        process.wait(60)


def same(one, other):
    """Whether two analyses of a layer hold the same bits."""
    values = [getattr(each, "singular_values", None) for each in (one, other)]
    return one.to_json() == other.to_json() and np.array_equal(*values)


@pytest.mark.slow
def test_two_workers_find_what_is_found_here_bit_for_bit(dask, run, checkpoint, monkeypatch):
    monkeypatch.setattr(cluster, "_FIRST_WORKER", 600)
    found = rmt.analyze(checkpoint, scheduler=dask.file)
    torch.set_num_threads(1)  # as the workers
    here = rmt.analyze(checkpoint, jobs=2)
    assert [layer.name for layer in found.layers] == [layer.name for layer in here.layers]
    assert all(map(same, found.layers, here.layers))
    assert {type(layer) for layer in found.layers} == {AnalyzedLayer, AnalyzedPair, SkippedLayer}
    address = json.loads(dask.file.read_text())["address"]
    outputs = [checkpoint.with_name(f"{name}.safetensors") for name in ("there", "here")]
    for options, output in zip((["--scheduler", address], ["--jobs", "2"]), outputs, strict=True):
        assert run("prune", checkpoint, "-o", output, "--exclude", "bad", *options).returncode == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing_and_what_is_left_early_is_taken_back(dask, checkpoint):
    from distributed import Client

    opened = open_checkpoint(checkpoint)
    work = [layer for layer in opened.layers() if layer.skip_reason(min_size=32, embeddings=False) is None]
    with Client(scheduler_file=str(dask.file), set_as_default=False) as client:
        client.wait_for_workers(2)
        going = cluster.analyze_on_cluster(work, opened, AnalysisSettings(), client)
        found = dict([next(going)])
        dask.workers[0].send_signal(signal.SIGKILL)
        found |= dict(going)
        torch.set_num_threads(1)
        here = {layer.layer: layer for layer in rmt.analyze(checkpoint, jobs=2).layers}
        assert found.keys() == set(work)
        assert all(same(result, here[layer]) for layer, result in found.items())
        assert dask.workers[0].wait(60) == -signal.SIGKILL
        dask.workers[0] = dask.start(1)
        going = cluster.analyze_on_cluster(work, opened, AnalysisSettings(), client)
        next(going)
        going.close()  # as Ctrl-C does
        del going
        tasks = 1
        while tasks:
            tasks = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))


@pytest.mark.slow
def test_a_cluster_that_cannot_be_had_is_one_line(run, checkpoint, monkeypatch):
    monkeypatch.setattr(cluster, "_ANSWER", 0.2)
    line = one_error_line(run("analyze", checkpoint, "--scheduler", NOBODY))
    assert line.startswith(f"error: no Dask scheduler answers at {NOBODY}: Timed out trying to connect")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"answers at {address}: it takes connections and says nothing"):
            rmt.analyze(checkpoint, scheduler=address)
    with pytest.raises(ClusterError, match=r"^.*/none.json: no such file or directory; a scheduler is named by"):
        rmt.analyze(checkpoint, scheduler=checkpoint.with_name("none.json"))
    other = checkpoint.with_name("other.json")
    other.write_text("[1]")
    with pytest.raises(ClusterError, match=r"^.*/other.json: is no scheduler file of Dask's"):
        rmt.analyze(checkpoint, scheduler=other)


@pytest.mark.slow
def test_a_scheduler_that_is_lost_and_workers_that_die_are_named(dask, checkpoint):
    from concurrent.futures import Future

    from distributed import KilledWorker

    asked = pickle.loads(unit(checkpoint, "fc1.weight"))
    for error, said in (
        (KilledWorker("task", type("Last", (), {"address": "tcp://node7:1"}), 3), "4 workers died of it"),
        (on_worker.WorkerError("tcp://node7:1: MemoryError: no room"), "failed 3 times, at last on tcp://node7:1"),
        (ModuleNotFoundError("No module named 'rmt_compress'"), "install rmt-compress .* and the same dask"),
    ):
        failed = Future()
        failed.set_exception(error)
        with pytest.raises(ClusterError, match=rf"^{checkpoint}: fc1: .*{said}"):
            cluster._result(failed, asked, "tcp://head:1")
    opened = open_checkpoint(checkpoint)
    work = [layer for layer in opened.layers() if layer.matrix is not None]
    analyses = cluster.analyze_on_cluster(work, opened, AnalysisSettings(), dask.file)
    next(analyses)
    dask.scheduler.send_signal(signal.SIGKILL)
    with pytest.raises(ClusterError, match=r"the scheduler at tcp://127.0.0.1:\d+ was lost"):
        list(analyses)
