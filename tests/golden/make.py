"""Small files of every schema that this version writes: `python -m tests.golden.make FOLDER`.

What lies in `tests/golden/v1` was written by the first version, and every later one has to read it: files are added
beside it when a schema changes, and none is made anew. `expected.json` says what was in them.
"""

import json
import math
import shutil
import sys
import warnings
from pathlib import Path
from unittest import mock

import torch
from onnx import helper
from safetensors.torch import save_file
from torch import nn

import rmt_compress as rmt
from rmt_compress.checkpoints.journal import Journal
from rmt_compress.decomposition.moments import LayerMoments, Moments
from rmt_compress.decomposition.moments_file import KeptInputs, save_moments
from rmt_compress.networks.calibration.interrupted import Partial
from rmt_compress.networks.calibration.sums import SecondMoment
from rmt_compress.networks.calibration.watchers import LayerSums
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.saving.folders import write_folder
from rmt_compress.spectrum import fit_bulk
from rmt_compress.training.event_log import EventLog
from rmt_compress.training.state import Snapshot, TrainingState, plain_fits
from tests.golden import outputs
from tests.golden.reading import held
from tests.samples.onnx_models import model, saved

SEED = 20261127
SETTINGS = {"analysis": rmt.AnalysisSettings(min_size=8), "plan": PlanSettings(rule="ratio:0.25", gof=1.0)}
FILES = ("factorized.safetensors", "factorized.pt", "sparse.safetensors", "pivots.safetensors", "small.onnx")
LATER = ("pattern.safetensors", "sharded")


def network():
    torch.manual_seed(SEED)
    return nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 12)).eval()


def checkpoints(folder):
    whole = folder / "whole.safetensors"
    save_file(dict(network().state_dict()), whole, {"made by": "tests/golden"})
    rmt.prune(whole, folder / "factorized.safetensors", save_plan=folder / "plan.json", **SETTINGS)
    rmt.prune(whole, folder / "factorized.pt", **SETTINGS)
    zeros = {**SETTINGS, "plan": PlanSettings(rule="ratio:0.25", gof=1.0, sparsity=0.6)}
    rmt.prune(whole, folder / "sparse.safetensors", **zeros)
    # Large enough that rows that are known beforehand pay.
    torch.manual_seed(SEED)
    save_file({"0.weight": torch.randn(64, 48)}, folder / "wide.safetensors")
    deep = {**SETTINGS, "plan": PlanSettings(rule="rank:24", gof=1.0)}
    rmt.prune(folder / "wide.safetensors", folder / "pivots.safetensors", pack="pivots", **deep)
    (folder / "wide.safetensors").unlink()
    analysis = rmt.analyze(whole, min_size=8).to_json()
    analysis["checkpoint"]["path"] = whole.name
    (folder / "analysis.json").write_text(json.dumps(analysis, indent=1) + "\n")
    state = network().state_dict()
    nodes = [
        helper.make_node("Gemm", ["x", "0.weight", "0.bias"], ["h"], name="first", transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "2.weight", "2.bias"], ["y"], name="second", transB=1),
    ]
    tensors = {name: tensor.numpy() for name, tensor in state.items()}
    saved(model(nodes, tensors, {"x": ["batch", 24]}), folder / "whole.onnx")
    rmt.prune(folder / "whole.onnx", folder / "small.onnx", **SETTINGS)
    (folder / "whole.onnx").unlink()


def moments(folder):
    inputs = torch.randn(50, 24, dtype=torch.float64)
    gradients = torch.randn(50, 32, dtype=torch.float64)
    own = LayerMoments(inputs.T @ inputs / 50, inputs.mean(0), gradients.T @ gradients / 50, 50)
    made = KeptInputs({"x": inputs[:4].float()}, {"how": "by hand"})
    save_moments(
        Moments({"0.weight": own}, {"2.weight": "left out"}, {"samples": 50}),
        folder / "moments.safetensors",
        inputs=made,
    )


def training(folder):
    state = dict(network().state_dict())
    fit = fit_bulk(torch.linalg.svdvals(state["0.weight"]).double().numpy() ** 2 / 32, 32)
    snapshot = Snapshot([("0.weight", 3)], state, score=0.9, parameters=1000)
    TrainingState(
        {"data": "digits", "seed": 0},
        4,
        snapshot,
        optimizer={"0.weight": {"momentum_buffer": state["0.weight"]}},
        masks={"2.weight": state["2.weight"] > 0},
        fits=plain_fits({"0.weight": fit}),
        events=2,
        seconds=1.5,
        best=snapshot,
        limit=0.85,
    ).save(folder / "state.pt")
    (folder / "log.jsonl").unlink(missing_ok=True)
    log = EventLog(folder / "log.jsonl", run="first")
    log.add({"event": "epoch", "epoch": 0, "test_score": 0.1, "score": {"name": "accuracy"}})
    log.add({"event": "end", "epoch": 4, "why": "all epochs are done"})


def huggingface(folder):
    import transformers

    torch.manual_seed(SEED)
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=32, vocab_size=24, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).eval().save_pretrained(folder / "whole")
    rmt.prune(folder / "whole", folder / "gpt2", **SETTINGS)
    for path in (folder / "whole").iterdir():
        path.unlink()
    (folder / "whole").rmdir()


def other_forms(folder):
    """Zeros in a pattern, and a folder whose weights are in two files."""
    import transformers

    pattern = {**SETTINGS, "plan": PlanSettings(rule="rank:24", gof=1.0, pattern="2:4")}
    rmt.prune(folder / "whole.safetensors", folder / "pattern.safetensors", **pattern)
    torch.manual_seed(SEED)
    config = transformers.GPT2Config(
        n_layer=1, n_head=1, n_embd=16, vocab_size=24, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).eval().save_pretrained(folder / "whole")
    with mock.patch.dict(write_folder.__kwdefaults__, max_shard=6000):
        rmt.prune(folder / "whole", folder / "sharded", **SETTINGS)
    # As in the other folder.
    (folder / "sharded" / "modeling_factorized.py").unlink()
    shutil.rmtree(folder / "whole")


def interrupted_work(folder):
    """What a run that was killed has left: journals of an analysis and of a cut, and half a calibration."""
    with mock.patch.object(Journal, "remove"):
        cut = folder / "cut.safetensors"
        rmt.prune(folder / "whole.safetensors", cut, resume=folder / "layers.journal", **SETTINGS)
    cut.unlink()
    shutil.rmtree(folder / "calibration", ignore_errors=True)
    partial = Partial(folder / "calibration", "digest")
    small = LayerMoments(torch.eye(3).double(), torch.arange(3.0).double(), None, 5)
    partial.finish(0, Moments({"0.weight": small}, {}, {"samples": 5}))
    sums = {"2.weight": layer_sums()}
    sums["2.weight"].inputs.add(torch.arange(12.0).reshape(3, 4))
    sums["2.weight"].outputs.add(torch.ones(3, 2))
    partial._written = -math.inf
    partial.keep(1, sums, {"batches": 3})


def layer_sums():
    return LayerSums(
        "2.weight", SecondMoment(4, None, "matrix", mean=True), SecondMoment(2, None, "matrix", mean=False)
    )


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for make in (checkpoints, moments, training, huggingface, other_forms, interrupted_work, outputs.make):
            make(folder)
    expected = {name: held(folder / name) for name in (*FILES, "gpt2", *LATER)}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
