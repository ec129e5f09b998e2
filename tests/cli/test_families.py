"""An encoder, a decoder, an encoder-decoder and a ViT from `evaluate` to a process without us."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.samples.transformers_models import FAMILIES, built

pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

# Family -> the task that its data make.
ASKED = {"bert-classifier": "classification", "llama": "causal", "bart": "causal", "vit": "classification"}

ALONE = """
import sys
sys.modules["rmt_compress"] = None  # whoever imports it gets an ImportError
import torch, transformers
transformers.logging.set_verbosity_error()
for family, (auto, inputs) in torch.load("asked.pt").items():
    model = getattr(transformers, auto).from_pretrained(f"{family}-small", trust_remote_code=True).eval()
    with torch.no_grad():
        torch.save(model(**inputs).logits, f"{family}.answer")
"""


def data_for(family, folder):
    """48 samples: tokens, with classes or alone, or images with classes."""
    rng = np.random.default_rng(0)
    classes = {"y": rng.integers(0, 3, 48)} if ASKED[family] == "classification" else {}
    inputs = {"x": rng.random((48, 3, 16, 16), np.float32)} if family == "vit" else {}
    ids = rng.integers(3, 64, (48, 12))
    if family == "bert-classifier":
        # By name, with the mask that it takes: of every other row the end is padding.
        mask = np.ones_like(ids)
        mask[::2, 8:] = 0
        inputs, classes = {"input_ids": ids, "attention_mask": mask}, {"labels": classes["y"]}
    np.savez(folder / f"{family}.npz", **(inputs or {"x": ids}), **classes)
    return f"array:{family}.npz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    for family in ASKED:
        built(family).save_pretrained(root / family)
    return root


@pytest.mark.parametrize("family", ASKED)
def test_asked_swept_and_pruned(run, folder, family):
    data = ("--data", data_for(family, folder))

    def report(*words, status=(0,)):
        done = run(*words, *data, "--json", cwd=folder)
        assert done.returncode in status, done.stderr
        return json.loads(done.stdout)

    alone = report("evaluate", family)["model"]
    assert alone["task"] == ASKED[family]
    assert alone["macs"] > 0
    same = report("evaluate", family, "--against", family, "--task", "agreement")["model"]
    assert same["same_answer"] == 1
    assert same["relative_error"] == 0
    curves = report("sweep", family, "--what", "share", "--points", "2")["sweeps"][0]["curves"]
    name = "accuracy" if ASKED[family] == "classification" else "score"
    points = [point for curve in curves for point in curve["points"]]
    assert len(points) >= 2
    assert all(np.isfinite(point[name]) for point in points)
    # Networks that were never trained guess, before and after.
    pruned = report("prune", family, "-o", f"{family}-small", "--rule", "rank:6", status=(0, 1))
    assert pruned["verified"] == "measured"
    small = report("evaluate", f"{family}-small", "--against", family, status=(0, 1))
    assert small["model"]["parameters"] < small["against"]["parameters"] == alone["parameters"]
    assert small["model"]["agreement"]["relative_error"] > 0.01


def test_a_clean_process_loads_what_was_pruned_and_answers_the_same(run, folder, tmp_path):
    from rmt_compress.networks.loading import load_model

    torch.save({family: (FAMILIES[family][3], FAMILIES[family][2]) for family in ASKED}, folder / "asked.pt")
    for family in ASKED:
        words = ("prune", family, "-o", f"{family}-small", "--rule", "rank:6", "--force")
        assert run(*words, cwd=folder).returncode in (0, 1)
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    environment.pop("HF_MODULES_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for family in ASKED:
        with torch.no_grad():
            wanted = load_model(folder / f"{family}-small")(**FAMILIES[family][2]).logits
        answer = torch.load(folder / f"{family}.answer")
        torch.testing.assert_close(answer, wanted, atol=1e-5, rtol=1e-5)
