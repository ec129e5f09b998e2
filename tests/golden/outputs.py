"""What commands print about golden files, each with a schema of its own, and what in it differs from run to run."""

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load_file, save_file

DATA = ("--arch", "net.py:network", "--data", "array:samples.npz")
CUT = ("--rule", "ratio:0.25", "--gof", "1", "--min-size", "8")
OUTPUTS = {
    "certificate": ("certify", "whole.safetensors", "--plan", "plan.json", *DATA),
    "evaluation": ("evaluate", "factorized.safetensors", "--against", "whole.safetensors", *DATA),
    "finetune": (
        "finetune",
        "whole.safetensors",
        "-o",
        "trained.safetensors",
        *DATA,
        "--epochs",
        "1",
        "--lr",
        "1e-4",
    ),
    "prune": ("prune", "whole.safetensors", "-o", "cut.safetensors", *CUT),
    "show": ("show", "factorized.safetensors"),
    "sweeps": (
        *("sweep", "wide.safetensors", "-o", "curves", "--what", "sparsity", "--points", "2"),
        *("--arch", "net.py:wide", "--data", "array:samples.npz"),
    ),
    "trend": ("analyze", "whole.safetensors", "later.safetensors", "--min-size", "8"),
}
"""Command line by the name of the file that holds what it prints with ``--json``."""

# Times, sizes of files that name the version in them, and names of files that are written.
_CHANGING = frozenset(("seconds", "latency_ms", "bytes", "peak_memory", "tool_version", "output", "written"))
_NETWORKS = """\
from torch import nn


def network():
    return nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 12))


def wide():
    return nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 12))
"""


def lasting(said):
    """What every later version says too: without what changes from run to run."""
    if isinstance(said, dict):
        return {key: lasting(value) for key, value in said.items() if key not in _CHANGING}
    return [lasting(each) for each in said] if isinstance(said, list) else said


def printed(folder, name):
    """What the command prints, run in this process in `folder`."""
    from rmt_compress.cli.app import main

    arguments = ["rmt-compress", *OUTPUTS[name], "--json", "--quiet"]
    here = Path.cwd()
    os.chdir(folder)
    try:
        with (
            mock.patch.object(sys, "argv", arguments),
            contextlib.redirect_stdout(io.StringIO()) as said,
            contextlib.suppress(SystemExit),
        ):
            main()
    finally:
        os.chdir(here)
    return json.loads(said.getvalue())


def make(folder):
    """Write what these commands need beside the other files, and what they print."""
    (folder / "net.py").write_text(_NETWORKS)
    code = {}
    exec(_NETWORKS, code)
    whole, state = code["network"](), load_file(folder / "whole.safetensors")
    whole.load_state_dict(state)
    x = torch.randn(400, 24).half().float()
    with torch.no_grad():
        scores = whole(x)
    first, second = scores.topk(2).values.T
    # Answers that no other library's last digits change.
    sure = first - second > 0.02
    np.savez_compressed(folder / "samples.npz", x=x[sure][:64].numpy(), y=scores[sure][:64].argmax(1).numpy())
    state["0.weight"] += 0.05 * torch.outer(torch.randn(32), torch.randn(24))
    save_file(state, folder / "later.safetensors")
    save_file(
        {name: tensor.half() for name, tensor in code["wide"]().state_dict().items()}, folder / "wide.safetensors"
    )
    kept = set(folder.iterdir())
    said = {name: printed(folder, name) for name in OUTPUTS}
    for path in set(folder.iterdir()) - kept:
        if path.is_dir():
            for inner in path.iterdir():
                inner.unlink()
            path.rmdir()
        else:
            path.unlink()
    (folder / "said").mkdir(exist_ok=True)
    for name, content in said.items():
        (folder / "said" / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
