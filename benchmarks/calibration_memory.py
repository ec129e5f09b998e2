"""How much memory calibration takes beside the network and what running it takes, against the limit it was given.

    python benchmarks/calibration_memory.py [--width 8192] [--layers 3] [--memory 1200] [--kill] [--json]

A network of `layers` layers of `width` × `width` is gone through forward and backward, then calibrated. What this
process holds itself is looked at every five milliseconds; pages of files that are mapped, from which the system
takes memory back when it needs it, are told apart. With ``--kill`` the calibration runs with a folder for partial
results in a process that is killed (SIGKILL) in the middle of its second pass, goes on in another, and must end at
the moments of one that was left alone, bit for bit. Linux only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEBI = 2**20


class Watch:
    """The most of its own memory, and of mapped files, that this process held while the block ran, in MiB."""

    def __enter__(self) -> Watch:
        self.before = _held()
        self.anonymous = self.mapped = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._start = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._stop.set()
        self._thread.join()

    @property
    def grown(self) -> float:
        """By how much its own memory grew at most."""
        return self.anonymous - self.before[0]

    def _look(self) -> None:
        while not self._stop.is_set():
            own, mapped = _held()
            self.anonymous, self.mapped = max(self.anonymous, own), max(self.mapped, mapped - self.before[1])
            self._stop.wait(0.005)


def _held() -> tuple[float, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return int(found["RssAnon"]) / 1024, int(found["RssFile"]) / 1024


def network(width: int, layers: int) -> Any:
    """Layers of `width` × `width` with something bent between, and ten outputs; the same at every call."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    with torch.device("meta"):
        parts = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.Tanh())]
        model = nn.Sequential(*parts, nn.Linear(width, 10)).eval()
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=width**-0.5)
    return model


def batches(width: int, vectors: int) -> list[Any]:
    """Two batches of so many vectors together."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(vectors, width, generator=generator).chunk(2))


def pass_over(model: Any, inputs: list[Any]) -> None:
    """What every calibration does: forward and backward, gradients of activations alone."""
    for batch in inputs:
        model(batch.requires_grad_()).square().sum().backward()
        batch.grad = None
        batch.requires_grad_(False)


def measure(width: int, layers: int, memory: int, vectors: int) -> dict[str, float]:
    """The growth over a bare pass, in MiB.

    Args:
        width: of the layers.
        layers: how many.
        memory: the limit, MiB.
        vectors: how many are seen.
    """
    import rmt_compress as rmt

    # What is imported on the way is not meant.
    rmt.calibrate(network(8, 1), batches(8, 4))
    model, inputs = network(width, layers), batches(width, vectors)
    model.requires_grad_(requires_grad=False)
    pass_over(model, inputs)
    with Watch() as bare:
        pass_over(model, inputs)
    with Watch() as calibrating:
        moments = rmt.calibrate(model, inputs, memory=memory * MEBI)
    return {
        "width": width,
        "layers": layers,
        "limit": memory,
        "bare": round(bare.grown),
        "grown": round(calibrating.grown),
        "beside": round(calibrating.grown - bare.grown),
        "mapped": round(calibrating.mapped),
        "passes": moments.record["passes"],
        "seconds": round(calibrating.seconds, 1),
    }


def _calibrate(width: int, layers: int, memory: int, vectors: int, folder: str, target: str) -> None:
    import rmt_compress as rmt
    from rmt_compress.networks.calibration import interrupted

    interrupted.SECONDS = 0.0
    inputs = batches(width, vectors)
    moments = rmt.calibrate(network(width, layers), inputs, memory=memory * MEBI, partial=folder or None)
    rmt.save_moments(moments, target)


def killed(width: int, layers: int, memory: int, vectors: int) -> dict[str, Any]:
    """Whether a calibration that was killed in its second pass ends at the same file as one that was not."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "rmt_compress.networks.calibration.calibrating"])
    with tempfile.TemporaryDirectory() as root:
        folder, whole, again = (Path(root) / name for name in ("partial", "whole", "again"))
        words = (width, layers, memory, vectors)

        def begin(partial: str, target: Path) -> Any:
            process = context.Process(target=_calibrate, args=(*words, partial, str(target)))
            process.start()
            return process

        _until(begin("", whole), lambda: False)
        process = begin(str(folder), again)
        _until(
            process, lambda: (folder / "block-0.safetensors").exists() and (folder / "sums.safetensors").exists()
        )
        stopped = process.exitcode is None
        if stopped:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        left = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        start = time.perf_counter()
        _until(begin(str(folder), again), lambda: False)
        same = whole.read_bytes() == again.read_bytes()
        return {"killed": stopped, "left": left, "same": same, "seconds": round(time.perf_counter() - start, 1)}


def _until(process: Any, reached: Callable[[], bool]) -> None:
    while process.is_alive() and not reached():
        time.sleep(0.02)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8192)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--memory", type=int, default=1200, help="limit of moments, MiB")
    parser.add_argument("--vectors", type=int, default=256)
    parser.add_argument("--kill", action="store_true")
    asked = parser.parse_args()
    words = (asked.width, asked.layers, asked.memory, asked.vectors)
    print(json.dumps(killed(*words) if asked.kill else measure(*words)))


if __name__ == "__main__":
    main()
