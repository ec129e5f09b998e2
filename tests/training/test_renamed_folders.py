"""Vision Transformers, saved by transformers 5 under other names than their class has: trained and cut."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.errors import SettingsError
from rmt_compress.networks.loading import load_model
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.training import CycleSettings, TrainingSettings, finetune
from tests.samples.library_alone import VERSIONS, alone
from tests.samples.transformers_models import built, logits

pytest.importorskip("transformers", minversion="5")

FIRST = "vit.encoder.layer.0"
QUICK = TrainingSettings(epochs=2, optimizer="adamw", learning_rate=1e-3)
ALONE = """
model = transformers.AutoModelForImageClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
pixels = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
print(model(pixel_values=pixels).logits.tolist())
"""


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """The folder, and data that it is trained on."""
    root = tmp_path_factory.mktemp("vit")
    built("vit").save_pretrained(root / "vit")
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(96, 3, 16, 16)).astype("f"), rng.integers(0, 3, 96)
    np.savez(root / "images.npz", x=images + 0.5 * labels[:, None, None, None].astype("f"), y=labels)
    return root / "vit", f"array:{root / 'images.npz'}"


def names_in(folder):
    (file,) = folder.glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        return set(opened.keys())


def cycle(**analysis):
    within = {"budget": BudgetSettings(keep=0.6)}
    return CycleSettings(every=1, analysis=AnalysisSettings(**analysis), **within)


@pytest.fixture(scope="module")
def tuned(vit, tmp_path_factory):
    """Within a budget, and the first block left out by the names that the file has."""
    target = tmp_path_factory.mktemp("tuned") / "small"
    finetune(vit[0], target, data=vit[1], training=QUICK, cycle=cycle(exclude=(f"{FIRST}.*",)))
    return target


@pytest.mark.slow
def test_a_budget_cuts_and_writes_by_the_names_of_the_file(vit, tuned):
    parts = (".down.weight", ".up.weight")
    names = names_in(tuned)
    whole = {name for name in names if not name.endswith(parts)}
    split = {name.removesuffix(parts[0]) + ".weight" for name in names if name.endswith(parts[0])}
    biases = {name.removesuffix(".up.bias") + ".bias" for name in whole if name.endswith(".up.bias")}
    assert {name for name in whole if not name.endswith(".up.bias")} | split | biases == names_in(vit[0])
    assert split
    assert not any(name.startswith(FIRST) for name in split)
    events = [json.loads(line) for line in tuned.with_name("small.log.jsonl").read_text().splitlines()]
    cut = next(event for event in events if event["event"] == "cycle")
    assert "vit.encoder.layer.1" in json.dumps(cut)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_it_loads_without_this_package(tuned, tmp_path, version):
    answer = torch.tensor(json.loads(alone(ALONE, tuned, version=version, home=tmp_path)))
    torch.testing.assert_close(answer, logits(load_model(tuned), "vit"), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_training_alone_and_a_second_budget_keep_the_names(vit, tuned, tmp_path):
    finetune(vit[0], tmp_path / "whole", data=vit[1], training=QUICK)
    assert names_in(tmp_path / "whole") == names_in(vit[0])
    again = CycleSettings(every=1, budget=BudgetSettings(keep=0.4))
    finetune(tuned, tmp_path / "again", data=vit[1], training=QUICK, cycle=again)
    assert any(name.startswith(f"{FIRST}.attention") and "down" in name for name in names_in(tmp_path / "again"))
    assert not any(name.startswith("vit.layers") for name in names_in(tmp_path / "again"))
    assert logits(load_model(tmp_path / "again"), "vit").isfinite().all()


@pytest.mark.slow
def test_a_glob_of_nothing_names_the_layers_of_the_file(vit, tmp_path):
    said = r"'vit\.block\*' matches no layer; the layers are .*vit\.encoder\.layer\.0"
    with pytest.raises(SettingsError, match=said):
        finetune(vit[0], tmp_path / "x", data=vit[1], training=QUICK, cycle=cycle(exclude=("vit.block*",)))
    assert not list(tmp_path.iterdir())
