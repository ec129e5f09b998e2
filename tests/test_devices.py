"""Weights that are decomposed on another device than they are stored on, where it is the faster one.

`cpu:0` is a device like any other for the code that chooses the road, and there on every machine.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import rmt_compress as rmt
from rmt_compress.analysis import sent_layers
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.moved import Moved, moved
from rmt_compress.decomposition import devices
from rmt_compress.decomposition.devices import decomposing_device, sent
from rmt_compress.decomposition.kernels import TorchKernels
from rmt_compress.errors import SettingsError
from rmt_compress.spectrum import singular_values
from tests.samples.matrices import low_rank_plus_noise
from tests.samples.repository import DIGITS

OTHER = "cpu:0"
NO_CUDA = not torch.cuda.is_available()


@pytest.fixture(scope="module")
def mixed():
    """Layers of a few shapes, one and its transpose among them, a stack of experts, and what cannot be fitted."""
    return {
        **{f"block.{i}.weight": low_rank_plus_noise(80, 120, 1 + i) for i in range(2)},
        "turned.weight": low_rank_plus_noise(120, 80, 3),
        "half.weight": low_rank_plus_noise(80, 120, 2).bfloat16(),
        "double.weight": low_rank_plus_noise(80, 120, 2).double(),
        "conv.weight": low_rank_plus_noise(64, 90, 2).reshape(64, 10, 3, 3),
        "small.weight": low_rank_plus_noise(40, 50, 1),
        "experts.gate_up_proj": torch.stack([low_rank_plus_noise(72, 64, 1 + i) for i in range(3)]),
        "zero.weight": torch.zeros(80, 120),
        "broken.weight": torch.full((80, 120), torch.nan),
        "bias": torch.zeros(80),
    }


@pytest.fixture
def roads(monkeypatch):
    """The tensors that were analysed on a device, where min(rows, columns) of 60 is already worth it."""
    monkeypatch.setattr(devices, "_VALUES", 60)
    sent_there, analyze_layer = set(), sent_layers.analyze_layer

    def noted(layer, *rest):
        sent_there.add(layer.tensor)
        return analyze_layer(layer, *rest)

    monkeypatch.setattr(sent_layers, "analyze_layer", noted)
    return sent_there


def same(ours, theirs):
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert (one.tensor, one.status, one.reason) == (other.tensor, other.status, other.reason)
        if one.status == "analyzed":
            assert one.fit.spikes == other.fit.spikes
            assert one.fit.sigma2 == pytest.approx(other.fit.sigma2, rel=1e-5)
            assert one.fit.edge == pytest.approx(other.fit.edge, rel=1e-5)
            np.testing.assert_allclose(one.singular_values, other.singular_values, rtol=1e-4)


@pytest.mark.parametrize("fault", ("wrong", "drifting", "none"))
def test_wrong_eigenvalues_of_a_device_are_noticed(monkeypatch, fault):
    """Solvers there have given the diagonal for eigenvalues, lost digits, and not converged: float64 comes next."""
    right = torch.linalg.eigvalsh

    def faulty(gram, UPLO="L"):
        if gram.dtype == torch.float64:
            return right(gram, UPLO=UPLO)
        if fault == "none":
            raise torch.linalg.LinAlgError("it did not converge")
        return gram.diagonal().sort().values if fault == "wrong" else right(gram, UPLO=UPLO) * (1 + 2e-4)

    matrix = torch.randn(70, 90)
    monkeypatch.setattr(torch.linalg, "eigvalsh", faulty)
    found = singular_values(matrix, TorchKernels(doubted=True))
    np.testing.assert_allclose(found, torch.linalg.svdvals(matrix.double()), rtol=1e-7)


@pytest.mark.parametrize("shape", ((70, 90), (300, 200)))
def test_right_eigenvalues_are_not_doubted(shape):
    """Those of spikes and of noise, in float32 and float64: found once each, the same without a check."""
    for matrix in (torch.randn(shape), torch.randn(shape).double(), low_rank_plus_noise(*shape, 3)):
        for gram in (TorchKernels().gram(matrix, double=double) for double in (False, True)):
            checked = TorchKernels(doubted=True).eigenvalues(gram)
            np.testing.assert_array_equal(checked, TorchKernels().eigenvalues(gram))


@pytest.mark.parametrize("jobs", (1, 3))
def test_layers_analysed_on_a_device_are_as_on_the_cpu(mixed, roads, jobs):
    same(rmt.analyze(mixed, device=OTHER, jobs=jobs), rmt.analyze(mixed))
    assert roads == {"block.0.weight", "block.1.weight", "turned.weight", "half.weight", "double.weight"} | {
        "conv.weight",
        "zero.weight",
        "broken.weight",
        "experts.gate_up_proj",
    }


@pytest.mark.parametrize("jobs", (1, 3))
def test_several_devices_share_the_layers(mixed, roads, jobs):
    several = f"{OTHER}, cpu:1,cpu:0"
    seen = []
    same(
        rmt.analyze(mixed, device=several, jobs=jobs, progress=lambda done, count, part: seen.append(done)),
        rmt.analyze(mixed),
    )
    assert len(roads) == 9
    assert seen == list(range(1, 11))
    with moved(open_checkpoint(mixed), several) as dealt:
        load = Counter()
        for name, info in dealt.tensors.items():
            load[dealt.place(name)] += info.nbytes
    assert load.keys() == {"cpu:0", "cpu:1"}
    largest = max(info.nbytes for info in dealt.tensors.values())
    assert max(load.values()) - min(load.values()) <= largest


def test_small_layers_are_analysed_on_the_cpu_wherever_they_are(mixed, roads, monkeypatch):
    """To the last bit: a device finds other digits."""
    monkeypatch.setattr(devices, "_VALUES", 1000)
    there, here = rmt.analyze(mixed, device=OTHER), rmt.analyze(mixed)
    assert not roads
    for one, other in zip(there.analyzed, here.analyzed, strict=True):
        np.testing.assert_array_equal(one.singular_values, other.singular_values)


def test_models_of_noise_see_the_entries_of_layers_on_a_device(mixed, roads):
    layers = {name: mixed[name] for name in ("block.1.weight", "turned.weight")}
    same(rmt.analyze(layers, noise="equalized", device=OTHER), rmt.analyze(layers, noise="equalized"))
    assert roads == layers.keys()


def test_an_error_of_reading_ends_the_analysis(mixed, roads):
    class Gone(Moved):
        def read(self, name):
            raise OSError(f"{name} is gone")

    gone = Gone(open_checkpoint(mixed), torch.device(OTHER))
    with pytest.raises(OSError, match="is gone"):
        rmt.analyze(gone)
    assert not roads

    class Half(Gone):
        def read(self, name):
            return super().read(name) if self.place(name) == "cpu:1" else Moved.read(self, name)

    with pytest.raises(OSError, match="is gone"):
        rmt.analyze(Half(open_checkpoint(mixed), torch.device(OTHER), torch.device("cpu:1")))


def test_a_layer_that_is_left_to_the_cpu_makes_no_way_over_the_device(mixed):
    class Never(Moved):
        def read(self, name):
            raise AssertionError(name)

    same(rmt.analyze(Never(open_checkpoint(mixed), torch.device(OTHER))), rmt.analyze(mixed))


def test_tensors_are_moved_as_they_are_read():
    with Moved(open_checkpoint(DIGITS), torch.device("meta")) as there, open_checkpoint(DIGITS) as here:
        assert there.layers() == here.layers()
        assert there.read("fc1.weight").device.type == there.place("fc1.weight") == "meta"
        assert here.read("fc1.weight").device.type == here.place("fc1.weight") == "cpu"


def test_a_live_network_says_where_its_weights_are():
    with torch.device("meta"):
        elsewhere = torch.nn.Linear(4, 3)
    assert open_checkpoint(elsewhere).place("weight") == "meta"
    assert open_checkpoint(elsewhere.state_dict()).place("bias") == "meta"


@pytest.mark.parametrize(
    ("name", "words"),
    (
        ("toaster", "cannot decompose on device 'toaster'"),
        ("mps", "mps knows no float64"),
        pytest.param("cuda", "cannot decompose on device 'cuda'", marks=pytest.mark.skipif(not NO_CUDA, reason="")),
    ),
)
def test_a_device_that_cannot_is_named_in_one_line(name, words):
    with pytest.raises(SettingsError, match=words) as caught:
        decomposing_device(name)
    assert "\n" not in str(caught.value)


def test_a_network_is_compressed_and_planned_on_a_device(tmp_path):
    save_file({"fc.weight": low_rank_plus_noise(300, 400, 5)}, tmp_path / "a.safetensors")
    found = rmt.analyze(tmp_path / "a.safetensors")
    plan = rmt.plan_within(found, keep=0.5, device=OTHER)
    assert [each.rank for each in plan.layers] == [each.rank for each in rmt.plan_within(found, keep=0.5).layers]
    made = rmt.compress(tmp_path / "a.safetensors", plan, device=OTHER)
    whole = rmt.compress(tmp_path / "a.safetensors", plan)
    assert {tensor.device.type for tensor in made.values()} == {"cpu"}
    torch.testing.assert_close(
        made["fc.up.weight"] @ made["fc.down.weight"], whole["fc.up.weight"] @ whole["fc.down.weight"]
    )


@pytest.mark.skipif(NO_CUDA, reason="no GPU")
class TestOnTheGPU:
    """What only a GPU can show; `cpu:0` shows the rest."""

    def test_copies_are_whole(self):
        for tensor in (torch.randn(5000, 3001), torch.randn(3, 4, 5).transpose(0, 2), torch.tensor(3.0)):
            torch.testing.assert_close(sent(tensor, torch.device("cuda")).cpu(), tensor)

    def test_layers_analysed_there_are_as_here(self, mixed, roads):
        mixed = {**mixed, "large.weight": low_rank_plus_noise(800, 900, 5)}
        same(rmt.analyze(mixed, device="cuda"), rmt.analyze(mixed))
        assert roads
        there = {name: tensor.cuda() for name, tensor in mixed.items()}
        same(rmt.analyze(there), rmt.analyze(mixed))

    def test_files_pruned_there_are_as_here(self, tmp_path):
        save_file({"fc.weight": low_rank_plus_noise(600, 800, 5)}, tmp_path / "a.safetensors")
        for name, device in (("here", "cpu"), ("there", "cuda")):
            running = rmt.RunSettings(device=device)
            rmt.prune(tmp_path / "a.safetensors", tmp_path / f"{name}.pt", layout="dense", running=running)
        here, there = (rmt.load_dense(tmp_path / f"{name}.pt") for name in ("here", "there"))
        torch.testing.assert_close(there["fc.weight"], here["fc.weight"], rtol=1e-4, atol=1e-5)
