"""Small layers are analysed with numpy alone: what that says beside torch, and that torch is not loaded for it."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import rmt_compress as rmt
from rmt_compress.analysis import threads
from rmt_compress.layers.layer import FactorPair, Layer
from tests.samples.matrices import low_rank_plus_noise
from tests.samples.repository import MODELS
from tests.samples.seeds import repeatable

HEAVY = (
    *("torch", "scipy", "onnx", "onnxruntime", "transformers", "safetensors", "accelerate", "matplotlib", "pandas"),
    *("jinja2", "sklearn", "PIL", "pyarrow"),
)
RUN = """
import contextlib, io, json, sys
from rmt_compress.cli.app import main
HEAVY, COMMANDS = json.loads(sys.argv[1])
for words in COMMANDS:
    sys.argv = ["rmt-compress", *words]
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        main()
    assert printed.getvalue(), words
    print(words[0], set(HEAVY) & sys.modules.keys())
"""


@repeatable
def weights():
    """Layers of every type and of most shapes, sound and damaged, all of them small."""
    spiked = low_rank_plus_noise(100, 80, 5)
    damaged, mask = torch.randn(40, 50), torch.zeros(40, 40)
    damaged[3, 4], damaged[5, 6] = math.nan, math.inf
    mask[0, 1:] = -math.inf
    return {
        "single.weight": spiked,
        "half.weight": spiked.half(),
        "brain.weight": spiked.bfloat16(),
        "double.weight": spiked.double(),
        "tiny.weight": torch.randn(32, 33),
        "rank.weight": torch.randn(64, 3) @ torch.randn(3, 70),
        "zero.weight": torch.zeros(40, 50),
        "damaged.weight": damaged,
        "mask.weight": mask,
        "conv.weight": torch.randn(48, 8, 3, 3),
        "attention.in_proj_weight": torch.randn(120, 40, dtype=torch.bfloat16),
        "lstm.weight_ih_l0": torch.randn(160, 50),
        "lstm.weight_hh_l0": torch.randn(160, 40),
        "experts.w1": torch.randn(3, 40, 50, dtype=torch.float16),
        "normed.weight_v": torch.randn(40, 50),
        "normed.weight_g": torch.rand(40, 1),
    }


@pytest.fixture
def file(tmp_path):
    save_file(weights(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def with_torch(monkeypatch):
    """Analyse with torch what numpy would do."""

    def analyze(source, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(threads, "suits_numpy", lambda _layer: False)
            return rmt.analyze(source, **settings)

    return analyze


def nearly(found):
    """The same words and whole numbers, and numbers that agree to the digits that a spectrum has."""
    if isinstance(found, dict):
        return {key: nearly(value) for key, value in found.items()}
    if isinstance(found, list):
        return [nearly(value) for value in found]
    return pytest.approx(found, rel=2e-4, abs=1e-5) if isinstance(found, float) else found


def test_numpy_and_torch_say_the_same(file, with_torch):
    settings = {"treat_as": ["stack:experts*"], "gof": 0.2}
    found, expected = rmt.analyze(file, **settings), with_torch(file, **settings)
    assert [layer.name for layer in found.damaged] == ["damaged"]
    names = {"brain", "conv", "attention.in_proj_weight[q]", "lstm.weight_ih_l0[i]", "experts.w1", "normed"}
    assert {layer.name for layer in found.analyzed} >= names
    for layer, other in zip(found.layers, expected.layers, strict=True):
        assert other.to_json() == nearly(layer.to_json())
        if layer.fit is not None:
            upper = slice(0, math.ceil(0.75 * len(layer.singular_values)))
            np.testing.assert_allclose(layer.singular_values[upper], other.singular_values[upper], rtol=5e-5)


def test_to_the_last_bit_the_same_for_every_source_and_number_of_jobs(file, tmp_path):
    first, second = tmp_path / "shards", weights()
    first.mkdir()
    names = sorted(second)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, held in parts.items():
        save_file({name: second[name] for name in held}, first / shard)
    index = {"weight_map": {name: shard for shard, held in parts.items() for name in held}}
    (first / "model.safetensors.index.json").write_text(json.dumps(index))
    expected = {layer.name: layer.to_json() for layer in rmt.analyze(file, jobs=1).layers}
    for source, jobs in ((first, 1), (weights(), 2), (file, 5)):
        assert {layer.name: layer.to_json() for layer in rmt.analyze(source, jobs=jobs).layers} == expected


def test_which_layers_numpy_takes():
    def suits(*shape, **more):
        return threads.suits_numpy(Layer("fc", "fc.weight", "linear", shape, "float32", **more))

    assert suits(1024, 4096)
    assert suits(4096, 64)
    assert not suits(1025, 1025)
    assert not suits(32000, 1024)
    assert not suits(8, 64, pair=FactorPair("fc", "fc.up.weight", 64, 64))


def test_a_small_file_is_analysed_and_shown_without_torch_and_scipy(file):
    commands = (
        ["analyze", str(MODELS / "digits_mlp.safetensors")],
        ["analyze", str(file), "--json", "--exclude", "normed*", "--treat-as", "stack:experts*"],
        ["show", str(file)],
    )
    arguments = json.dumps([HEAVY, commands])
    done = subprocess.run([sys.executable, "-c", RUN, arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{command} set()" for command, *_ in commands]
