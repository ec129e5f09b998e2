"""What the spectra of all networks at hand look like, beside published figures and WeightWatcher's exponents.

    python experiments/spectra_of_networks.py                                    # two minutes on one core
    python experiments/spectra_of_networks.py --weightwatcher VENV/bin/python   # WeightWatcher's side too

Of every layer: the fit error raw and equalized, its spikes in the ranks and left out of them, the exponent of its
tail with its error, and its word (`rmt_compress.analysis.diagnosis`). WeightWatcher (0.7.7) runs in an environment
of its own, on Linear layers of the same matrices, so that it sees a convolution as we do; without --weightwatcher
its numbers are those on record.

Writes experiments/data/spectra_of_networks.json and the tables to experiments/data/spectra_of_networks.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import rmt_compress
from rmt_compress import spectrum
from rmt_compress.analysis.diagnosis import WORDS
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.layers.layer import as_matrix

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
SAMPLES, SHARED = HERE.parent / "sample_models", HERE.parents[1] / "shared" / "models"
NETWORKS = {
    "MNIST MLP": SAMPLES / "mnist_mlp.safetensors",
    "Fashion-MNIST MLP": SAMPLES / "fashion_mlp.safetensors",
    "digits MLP": SAMPLES / "digits_mlp.safetensors",
    "CIFAR-10 CNN": SAMPLES / "cifar10_cnn.pt",
    "language model": SHARED / "lm",
    "ResNet": SHARED / "resnet" / "resnet.pt",
}
# method.md §12, fit errors as the papers' rule has them; the CNN's and the encoder's are §7's and §12's medians.
PUBLISHED = {
    "MNIST MLP": ".005–.012",
    "Fashion-MNIST MLP": ".005–.012",
    "CIFAR-10 CNN": "median .234, equalized .220 (another training)",
    "language model": ".01–.07",
    "ResNet": ".09–.43",
}
# Above this a difference of exponents is to be explained.
LARGE = 0.1

# Run by the Python of WeightWatcher's environment: a folder of .npy files in, JSON out. Its fit of the tail is
# called on eigenvalues that it computes itself.
WORKER = """
import json, logging, sys, warnings
from pathlib import Path
import numpy as np, torch
warnings.simplefilter("ignore")
logging.disable(logging.ERROR)
out, sys.stdout = sys.stdout, sys.stderr
import weightwatcher
files = sorted(Path(sys.argv[1]).glob("*.npy"), key=lambda file: int(file.stem))
model = torch.nn.Sequential()
for file in files:
    matrix = torch.from_numpy(np.load(file))
    layer = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    layer.weight.data = matrix
    model.append(layer)
details = weightwatcher.WeightWatcher(model=model).analyze(min_evals=1)
keys = ("alpha", "xmin", "D", "sigma", "num_pl_spikes", "num_evals", "warning")
rows = [{key: row[key] for key in keys} for _, row in details.iterrows()]
json.dump({"version": weightwatcher.__version__, "rows": rows}, out, default=float)
"""


def measure(path: Path) -> list[dict[str, Any]]:
    """A row for each layer of a network that is analysed."""
    rows = []
    for layer in rmt_compress.analyze(path, noise="equalized").analyzed:
        raw = spectrum.fit_bulk(layer.singular_values**2 / max(layer.matrix), max(layer.matrix))
        found = layer.measures
        assert found.raw is not None
        assert found.equalized is not None
        assert found.tail is not None
        rows.append(
            {
                "layer": layer.name,
                "matrix": list(layer.matrix),
                "gof": raw.gof,
                "gof_equalized": layer.fit.gof,
                "gof_left_out": found.raw.gof,
                "times_noise": found.raw.gof / found.raw.null,
                "gof_equalized_left_out": found.equalized.gof,
                "times_noise_equalized": found.equalized.gof / found.equalized.null,
                "spikes": found.raw.spikes,
                "alpha": found.tail.alpha,
                "alpha_error": found.tail.error,
                "alpha_size": found.tail.size,
                "alpha_start": found.tail.start,
                "stable_rank": found.stable_rank,
                "word": layer.diagnosis.word,
                "reason": layer.diagnosis.reason,
            }
        )
    return rows


def weightwatcher(python: Path, path: Path) -> list[dict[str, Any]]:
    """What WeightWatcher finds for the same matrices, in the order of `measure`."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder, open_checkpoint(path) as checkpoint:
        for number, layer in enumerate(rmt_compress.analyze(checkpoint).analyzed):
            matrix = as_matrix(layer.layer, checkpoint.weight(layer.layer)).float().numpy()
            np.save(Path(folder) / f"{number}.npy", matrix)
        done = subprocess.run([python, "-c", WORKER, folder], check=True, capture_output=True, text=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


def explanation(ours: dict[str, Any], peer: dict[str, Any]) -> str:
    """Why two exponents differ."""
    if ours["alpha_size"] == peer["num_pl_spikes"] or ours["alpha_size"] == peer["num_pl_spikes"] + 1:
        return "the same tail"
    return f"another start: its tail has {peer['num_pl_spikes']:.0f} eigenvalues of distance {peer['D']:.3f}"


def markdown(numbers: dict[str, Any]) -> str:
    """Both tables and the differences."""
    lines = [
        "| network | layers | fit error: median (range) | equalized | published | spikes left out | equalized |",
        "|---|---|---|---|---|---|---|",
    ]
    for network, rows in numbers["networks"].items():
        cells = []
        for key in ("gof", "gof_equalized", "gof_left_out", "gof_equalized_left_out"):
            values = [row[key] for row in rows]
            cells.append(f"{statistics.median(values):.3f} ({min(values):.3f}–{max(values):.3f})")
        cells.insert(2, PUBLISHED.get(network, "–"))
        lines.append(f"| {network} | {len(rows)} | {' | '.join(cells)} |")
    lines += ["", "| network | words |", "|---|---|"]
    for network, rows in numbers["networks"].items():
        words = Counter(row["word"] for row in rows)
        lines.append(f"| {network} | {', '.join(f'{words[word]} {word}' for word in WORDS if word in words)} |")
    lines += [
        "",
        "| network | layers | α within .1 of WeightWatcher's | largest difference |",
        "|---|---|---|---|",
    ]
    different = []
    for network, rows in numbers["networks"].items():
        pairs = [(row, peer) for row, peer in zip(rows, numbers["weightwatcher"][network], strict=True)]
        gaps = [abs(row["alpha"] - peer["alpha"]) for row, peer in pairs]
        lines.append(f"| {network} | {len(rows)} | {sum(gap <= LARGE for gap in gaps)} | {max(gaps):.3f} |")
        different += [(network, *pair) for pair, gap in zip(pairs, gaps, strict=True) if gap > LARGE]
    lines += ["", "| network | layer | ours | of | WeightWatcher | why |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {network} | {row['layer']} | {row['alpha']:.2f} ± {row['alpha_error']:.2f} | {row['alpha_size']} | "
        f"{peer['alpha']:.2f} ± {peer['sigma']:.2f} | {explanation(row, peer)} |"
        for network, row, peer in different
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weightwatcher", type=Path, metavar="PYTHON", help="a Python that has WeightWatcher")
    parser.add_argument("--out", type=Path, default=DATA, help="folder to write to")
    asked = parser.parse_args()
    recorded = DATA / "spectra_of_networks.json"
    if asked.weightwatcher is None:
        peers = json.loads(recorded.read_text(encoding="utf-8"))["weightwatcher"]
    else:
        peers = {name: weightwatcher(asked.weightwatcher, path) for name, path in NETWORKS.items()}
    numbers = {"networks": {name: measure(path) for name, path in NETWORKS.items()}, "weightwatcher": peers}
    target = asked.out / recorded.name
    target.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    target.with_suffix(".md").write_text(markdown(numbers), encoding="utf-8")
    print(markdown(numbers))


if __name__ == "__main__":
    main()
