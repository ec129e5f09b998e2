"""Weights that are decomposed on another device than they are stored on, together where their shapes are one.

`cpu:0` is a device like any other for the code that chooses the road, and there on every machine.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import rmt_compress as rmt
from rmt_compress.analysis import AnalysisSettings
from rmt_compress.analysis.equal_shapes import analyze_together
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.moved import Moved
from rmt_compress.decomposition.devices import decomposing_device, sent
from rmt_compress.decomposition.stacked_values import stacked_singular_values
from rmt_compress.errors import SettingsError
from rmt_compress.spectrum import NonFiniteError
from tests.samples.matrices import low_rank_plus_noise
from tests.samples.repository import DIGITS

OTHER = "cpu:0"
NO_CUDA = not torch.cuda.is_available()


@pytest.fixture(scope="module")
def mixed():
    """Layers of a few shapes, one and its transpose among them, a stack of experts, and what cannot be fitted."""
    return {
        **{f"block.{i}.weight": low_rank_plus_noise(80, 120, 1 + i) for i in range(5)},
        "turned.weight": low_rank_plus_noise(120, 80, 3),
        "half.weight": low_rank_plus_noise(80, 120, 2).bfloat16(),
        "double.weight": low_rank_plus_noise(80, 120, 2).double(),
        "conv.weight": low_rank_plus_noise(64, 90, 2).reshape(64, 10, 3, 3),
        "small.weight": low_rank_plus_noise(40, 50, 1),
        "experts.gate_up_proj": torch.stack([low_rank_plus_noise(48, 64, 1 + i) for i in range(3)]),
        "zero.weight": torch.zeros(80, 120),
        "broken.weight": torch.full((80, 120), torch.nan),
        "bias": torch.zeros(80),
    }


def same(ours, theirs):
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert (one.tensor, one.status, one.reason) == (other.tensor, other.status, other.reason)
        if one.status == "analyzed":
            assert one.fit.spikes == other.fit.spikes
            assert one.fit.sigma2 == pytest.approx(other.fit.sigma2, rel=1e-5)
            assert one.fit.edge == pytest.approx(other.fit.edge, rel=1e-5)
            np.testing.assert_allclose(one.singular_values, other.singular_values, rtol=1e-4)


@pytest.mark.parametrize(
    ("shape", "kind", "scale"),
    (
        ((40, 60), torch.float32, 1.0),
        ((120, 80), torch.float32, 1.0),
        ((80, 80), torch.bfloat16, 1.0),
        ((80, 120), torch.float64, 1.0),
        ((80, 120), torch.float32, 1e-30),
        ((80, 120), torch.float64, 1e160),
    ),
)
def test_values_of_a_stack_are_those_of_each_matrix(shape, kind, scale):
    """The routes differ from matrix to matrix: float32, float64 for a large spike, a direct SVD for a low rank."""
    matrices = [torch.randn(shape, dtype=torch.float64) for _ in range(4)]
    matrices[1] += 3e3 * torch.ones(shape)
    matrices[2] = torch.outer(matrices[2][:, 0], matrices[2][0])
    matrices = [(scale * matrix).to(kind) for matrix in matrices]
    for matrix, found in zip(matrices, stacked_singular_values(matrices), strict=True):
        exact = np.linalg.svd(matrix.double().numpy() / scale, compute_uv=False)
        used = exact > 1e-9 * exact[0]
        used[3 * len(exact) // 4 :] = False
        np.testing.assert_allclose(found.find(alpha=0.25)[used] / scale, exact[used], rtol=1e-4)


def test_one_broken_matrix_does_not_spoil_the_others():
    good, bad = torch.randn(70, 90), torch.full((70, 90), torch.inf)
    first, second = stacked_singular_values([bad, good])
    np.testing.assert_allclose(second.find(alpha=0.25)[0], float(torch.linalg.matrix_norm(good, 2)), rtol=1e-5)
    with pytest.raises(NonFiniteError):
        first.find(alpha=0.25)


@pytest.mark.parametrize("fault", ("wrong", "none"))
def test_wrong_values_of_a_stack_are_noticed_and_found_one_by_one(monkeypatch, fault):
    """Solvers for stacks have given the diagonal for eigenvalues, and none at all where one did not converge."""
    right = torch.linalg.eigvalsh

    def faulty(grams, UPLO="L"):
        if grams.dim() < 3:
            return right(grams, UPLO=UPLO)
        if fault == "none":
            raise torch.linalg.LinAlgError("one of them did not converge")
        return grams.diagonal(dim1=1, dim2=2).sort(1).values

    matrices = [torch.randn(70, 90) for _ in range(3)]
    monkeypatch.setattr(torch.linalg, "eigvalsh", faulty)
    for matrix, found in zip(matrices, stacked_singular_values(matrices), strict=True):
        np.testing.assert_allclose(found.find(alpha=0.25)[:50], torch.linalg.svdvals(matrix)[:50], rtol=1e-4)


@pytest.mark.parametrize("jobs", (1, 3))
def test_layers_analysed_together_are_as_by_themselves(mixed, jobs):
    same(rmt.analyze(mixed, device=OTHER, jobs=jobs), rmt.analyze(mixed))


def test_no_result_depends_on_how_many_there_is_room_for(mixed):
    checkpoint, settings = open_checkpoint(mixed), AnalysisSettings()
    work = [found.layer for found in rmt.analyze(mixed).analyzed]
    all_at_once, one_by_one = (
        dict(analyze_together(work, checkpoint, settings, 2, entries=entries)) for entries in (2**24, 1)
    )
    assert {layer.tensor for layer in all_at_once} == {layer.tensor for layer in work}
    for layer, found in all_at_once.items():
        np.testing.assert_allclose(found.singular_values, one_by_one[layer].singular_values, rtol=1e-4)


def test_models_of_noise_see_the_entries_of_layers_that_are_analysed_together(mixed):
    layers = {name: mixed[name] for name in ("block.1.weight", "turned.weight")}
    same(rmt.analyze(layers, noise="equalized", device=OTHER), rmt.analyze(layers, noise="equalized"))


def test_an_error_of_reading_ends_the_analysis(mixed):
    class Gone(Moved):
        def read(self, name):
            raise OSError(f"{name} is gone")

    gone = Gone(open_checkpoint(mixed), torch.device(OTHER))
    with pytest.raises(OSError, match="is gone"):
        rmt.analyze(gone)


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

    def test_layers_analysed_there_are_as_here(self, mixed):
        same(rmt.analyze(mixed, device="cuda"), rmt.analyze(mixed))
        there = {name: tensor.cuda() for name, tensor in mixed.items()}
        same(rmt.analyze(there), rmt.analyze(mixed))

    def test_files_pruned_there_are_as_here(self, tmp_path):
        save_file({"fc.weight": low_rank_plus_noise(600, 800, 5)}, tmp_path / "a.safetensors")
        for name, device in (("here", "cpu"), ("there", "cuda")):
            rmt.prune(tmp_path / "a.safetensors", tmp_path / f"{name}.pt", layout="dense", device=device)
        here, there = (rmt.load_dense(tmp_path / f"{name}.pt") for name in ("here", "there"))
        torch.testing.assert_close(there["fc.weight"], here["fc.weight"], rtol=1e-4, atol=1e-5)
