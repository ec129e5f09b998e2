"""What `evaluate` says of the two trained networks beside the repository, and what plain loops of torch say.

    python experiments/plain_loops.py             # minutes on one core
    python experiments/plain_loops.py --quick --out DIR

The language model is asked all of shared/text/test.txt, in windows as long as its context, by `rmt-compress
evaluate` and by transformers' own network window by window; the ResNet the first 2,500 test images of CIFAR-10, by
the command and by its own class. Writes experiments/data/plain_loops.json.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
IMAGES, RECORD = 2500, 3073


def said(*words: str | Path) -> dict[str, Any]:
    """The model's part of `evaluate --json`."""
    command = [sys.executable, "-m", "rmt_compress", "evaluate", *map(str, words), "--json"]
    paths = os.pathsep.join(filter(None, (str(DATA.parents[1]), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths})
    found: dict[str, Any] = json.loads(done.stdout)["model"]
    return found


def language_model(windows: int | None, folder: Path) -> dict[str, float]:
    """Nats per token by the command and by a loop, of the first windows or of all."""
    from transformers import AutoModelForCausalLM

    library: Any = AutoModelForCausalLM
    network = library.from_pretrained(SHARED / "models" / "lm").float().eval()
    length = int(network.config.max_position_embeddings)
    text = (SHARED / "text" / "test.txt").read_bytes()
    # Whole windows, as `evaluate` asks them.
    text = text[: (len(text) // length if windows is None else windows) * length]
    (folder / "text.txt").write_bytes(text)
    asked = said(
        SHARED / "models" / "lm", "--data", f"text:{folder / 'text.txt'}", "--sequence-length", str(length)
    )
    total = tokens = 0.0
    with torch.no_grad():
        for start in range(0, len(text), length):
            ids = torch.frombuffer(bytearray(text[start : start + length]), dtype=torch.uint8).long()
            logits = network(ids[None]).logits[0, :-1].double()
            total += float(functional.cross_entropy(logits, ids[1:], reduction="sum"))
            tokens += len(ids) - 1
    return {"evaluate": asked["loss"], "loop": total / tokens, "windows": asked["samples"], "tokens": tokens}


def residual_network(images: int, folder: Path) -> dict[str, float]:
    """The share of right answers by the command and by a loop."""
    home, batches = SHARED / "models" / "resnet", SHARED / "data" / "cifar10" / "cifar-10-batches-bin"
    records = (batches / "test_batch.bin").read_bytes()[: RECORD * images]
    (folder / "first").mkdir()
    (folder / "first" / "test_batch.bin").write_bytes(records)
    pixels = ("--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD)))
    asked = said(home / "resnet.pt", "--arch", f"{home / 'network.py'}:Net", "--data", folder / "first", *pixels)
    network = runpy.run_path(str(home / "network.py"))["Net"]().eval()
    network.load_state_dict(torch.load(home / "resnet.pt", weights_only=True))
    rows: Any = torch.frombuffer(bytearray(records), dtype=torch.uint8).view(images, RECORD)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    right = 0
    with torch.no_grad():
        for part in rows.split(100):
            answers = network((part[:, 1:].view(-1, 3, 32, 32).float() / 255 - mean) / std).argmax(1)
            right += int((answers == part[:, 0]).sum())
    return {"evaluate": asked["accuracy"], "loop": right / images, "images": asked["samples"]}


def main() -> None:
    """Ask both, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few windows and images")
    parser.add_argument("--out", type=Path, default=DATA)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        numbers = {
            "language model, nats per token": language_model(2 if asked.quick else None, Path(folder)),
            "resnet, accuracy": residual_network(50 if asked.quick else IMAGES, Path(folder)),
        }
    text = json.dumps(numbers, indent=2) + "\n"
    (asked.out / "plain_loops.json").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
