"""Peak memory of asking a network about a generated stream of data that no memory holds, as one JSON object.

    python benchmarks/streaming.py --gigabytes 20

The stream is divided into its parts, and a small convolutional network is scored on the test part as `evaluate`
does it; every batch is made anew.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

SHAPE = (3, 224, 224)
BATCH = 32
GIGABYTE = 1e9
MEGABYTE = 1e6


def batches(gigabytes: float) -> Iterator[tuple[Any, Any]]:
    """Images of one grey each, and labels, `gigabytes` in all; named as `--data` names its source."""
    import torch

    each = 4 * BATCH * SHAPE[0] * SHAPE[1] * SHAPE[2]
    for number in range(int(gigabytes * GIGABYTE / each)):
        yield torch.full((BATCH, *SHAPE), number % 256 / 255), torch.arange(BATCH) % 10


def peak() -> float:
    """Resident memory of this process at its highest, in 10⁶ bytes."""
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE


def main() -> None:
    """Read the command line, go through the stream, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    gigabytes = parser.parse_args().gigabytes

    from torch import nn

    from rmt_compress.data import DataSettings, open_samples
    from rmt_compress.networks.tasks.classification import Classification

    model = nn.Sequential(
        nn.Conv2d(3, 16, 7, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10)
    ).eval()
    samples = open_samples(f"{__file__}:batches({gigabytes})", DataSettings(mean="imagenet")).part("test")
    before, start = peak(), time.perf_counter()
    score = Classification(samples).score(model)
    report = {
        "gigabytes": gigabytes,
        "test_samples": score.samples,
        "peak_megabytes": peak(),
        "peak_megabytes_before": before,
        "seconds": time.perf_counter() - start,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
