"""The ONNX files inside basic-pitch and silero-vad, the whole road: analyse, split, prune, run by onnxruntime."""

import numpy as np
import onnx
import pytest

from rmt_compress.analysis import analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from tests.samples.onnx_models import run, session, split_all
from tests.samples.packages import member

BASIC_PITCH = ("basic-pitch", "0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx")
SILERO = [
    ("silero-vad", "6.2.3", f"silero_vad/data/silero_vad{variant}.onnx")
    for variant in ("", "_16k_op15", "_16k_sequence", "_half", "_op18_ifless", "_openvino_16k")
]


@pytest.fixture(scope="module", params=[BASIC_PITCH, *SILERO], ids=lambda shipped: shipped[2].rsplit("/", 1)[1])
def shipped(request):
    return member(*request.param)


def feeds(path, rng):
    """Inputs of the shapes and types the model asks for, lengths it leaves open as its authors use them."""
    known = {"sequence": 576, "sequence_length": 4, "batch": 1}
    given = {}
    for entry in session(path).get_inputs():
        shape = [known.get(length, 1) if not isinstance(length, int) else length for length in entry.shape]
        if entry.name == "input" and len(shape) == 2 and shape[1] == 1:
            shape[1] = 576
        given[entry.name] = np.array(16000) if entry.name == "sr" else rng.normal(size=shape).astype("f") / 10
    return given


def test_full_rank_changes_no_output(shipped, tmp_path, rng):
    target = tmp_path / "split.onnx"
    assert len(split_all(shipped, target)) >= 5
    onnx.checker.check_model(str(target), full_check=True)
    given = feeds(shipped, rng)
    for before, after in zip(run(shipped, given), run(target, given), strict=True):
        np.testing.assert_allclose(after, before, atol=2e-4)
    original, split = onnx.load(shipped), onnx.load(target)
    assert (split.ir_version, list(split.opset_import)) == (original.ir_version, list(original.opset_import))


def test_pruned_it_runs_and_is_smaller(shipped, tmp_path, rng):
    target = tmp_path / "small.onnx"
    result = prune(shipped, target, plan=PlanSettings(gof=1.0, keep_bulk=0.1, sparsify=1e-4))
    assert result.analysis is not None
    assert len(result.analysis.analyzed) >= 4
    assert result.totals["layers_factorized"] >= 4
    assert target.stat().st_size == result.bytes_out < 0.9 * shipped.stat().st_size
    onnx.checker.check_model(str(target))
    given = feeds(shipped, rng)
    for before, after in zip(run(shipped, given), run(target, given), strict=True):
        assert before.shape == after.shape
        assert np.isfinite(after).all()
    with open_checkpoint(target) as again:
        assert again.manifest is not None
        assert again.manifest.source.sha256


def test_every_layer_is_analysed_or_has_its_reason(shipped):
    analysis = analyze(shipped)
    for layer in analysis.layers:
        assert (layer.fit is None) == (layer.reason is not None)
    # The Fourier transform these networks begin with is a convolution too, and no noise.
    fixed = [layer for layer in analysis.analyzed if "basis" in layer.layer.name or "conv1d" in layer.layer.name]
    assert fixed
    assert all(layer.verdict == "structured" for layer in fixed)
