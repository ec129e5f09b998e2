"""An encoder, a decoder, an encoder-decoder and a ViT from `evaluate` to a folder that needs nothing of ours."""

import json

import numpy as np
import pytest

from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from tests.samples.transformers_models import built

pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

# Family -> the task that its data make.
ASKED = {"bert-classifier": "classification", "llama": "causal", "bart": "causal", "vit": "classification"}


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
    # tests/test_factorized_classes.py has the like in a process where this package is not.
    prune(folder / family, folder / f"{family}-library", plan=PlanSettings(rule="rank:6"))
    small, library = folder / f"{family}-small", folder / f"{family}-library"
    assert {path.name for path in small.iterdir()} == {path.name for path in library.iterdir()}
    for path in small.iterdir():
        if path.name != "README.md":  # says what was measured, and how it was called
            assert path.read_bytes() == (library / path.name).read_bytes(), path.name
