"""Moments that do not all fit memory, moments in files, and calibrations that are interrupted."""

import json

import pytest
import torch
from torch import nn

from rmt_compress.decomposition.moments import LayerMoments, Moments
from rmt_compress.decomposition.moments_file import load_moments, read_tensors, save_moments, write_tensors
from rmt_compress.errors import DataError, OutputError
from rmt_compress.networks.calibration import interrupted
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.calibration.sums import SecondMoment

BESIDE = SecondMoment.beside(20)
"""What is needed beside the sums of the widest layer."""


def network():
    return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 3))


def data():
    return [torch.randn(9, 12, generator=torch.Generator().manual_seed(number)) for number in range(4)]


def assert_same(found, expected):
    assert list(found.layers) == list(expected.layers)
    assert found.left_out == expected.left_out
    for name, own in found.layers.items():
        other = expected.layers[name]
        assert torch.equal(own.inputs, other.inputs)
        assert torch.equal(own.mean, other.mean)
        assert own.count == other.count
        assert (own.outputs is None) == (other.outputs is None)
        assert own.outputs is None or torch.equal(own.outputs, other.outputs)


def test_layers_are_measured_in_several_passes_where_not_all_fit():
    model = network()
    at_once = calibrate(model, data())
    told = []

    few = calibrate(model, data(), memory=7000 + BESIDE, progress=lambda *event: told.append(event))

    assert at_once.record["passes"] == 1
    assert few.record["passes"] == 3
    assert told[-1][:2] == (12, 12)
    assert_same(few, at_once)


def test_what_does_not_fit_alone_is_kept_as_a_diagonal():
    model = network()
    whole = calibrate(model, data())

    small = calibrate(model, data(), memory=3000 + BESIDE)

    name = "2.weight"
    assert small.record["diagonal"] == [name]
    assert small.record["trace"] == ["0.weight"]
    torch.testing.assert_close(small.layers[name].inputs, whole.layers[name].inputs.diagonal())
    assert torch.equal(small.layers[name].outputs, whole.layers[name].outputs)
    mean_diagonal = whole.layers["0.weight"].outputs.trace() / 20
    torch.testing.assert_close(small.layers["0.weight"].outputs, mean_diagonal)


def test_an_iterator_cannot_be_gone_over_in_several_passes():
    with pytest.raises(DataError, match="iterator"):
        calibrate(network(), iter(data()), memory=7000 + BESIDE)


@pytest.mark.parametrize(
    ("memory", "after"), [(None, 1), (None, 3), (7000 + BESIDE, 1), (7000 + BESIDE, 4), (7000 + BESIDE, 6)]
)
def test_an_interrupted_calibration_goes_on_bit_for_bit(tmp_path, monkeypatch, memory, after):
    monkeypatch.setattr(interrupted, "SECONDS", 0)
    model, folder = network(), tmp_path / "partial"
    calls = 0

    def call(model, inputs):
        nonlocal calls
        calls += 1
        return model(inputs)

    def interrupt(done, total, name):
        if done == after:
            raise KeyboardInterrupt

    expected = calibrate(model, data(), memory=memory)
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, data(), memory=memory, partial=folder, progress=interrupt)
    found = calibrate(model, data(), memory=memory, partial=folder, call=call)

    assert_same(found, expected)
    # One look at the first batch, and what was left to do.
    assert calls == 1 + (4 if memory is None else 12) - after
    assert not folder.exists()


def test_partial_results_of_another_calibration_are_refused(tmp_path, monkeypatch):
    def interrupt(*event):
        raise KeyboardInterrupt

    model = network()
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, data(), partial=tmp_path / "here", progress=interrupt)
    with pytest.raises(DataError, match="another network, other inputs or settings"):
        calibrate(model, data(), partial=tmp_path / "here", seed=1)
    model[0].weight.data.add_(1)
    with pytest.raises(DataError, match="another network"):
        calibrate(model, data(), partial=tmp_path / "here")
    (tmp_path / "note.txt").touch()
    with pytest.raises(OutputError, match="holds no partial calibration"):
        calibrate(model, data(), partial=tmp_path)


def test_a_run_killed_while_it_makes_or_removes_the_folder_does_not_stop_the_next_one(tmp_path, monkeypatch):
    left = tmp_path / ".calibration.json.0123abc_.json"
    left.touch()
    model, inputs = network(), data()
    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", lambda *_, **__: None)
        found = calibrate(model, inputs, partial=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]
    assert_same(calibrate(model, inputs, partial=tmp_path), found)
    assert not tmp_path.exists()


def sample():
    C = torch.eye(3, dtype=torch.float64)
    mean = torch.ones(3, dtype=torch.float64)
    trace = torch.tensor(2.0, dtype=torch.float64)
    stack = LayerMoments(C.expand(2, 3, 3) + 0, mean.expand(2, 3) + 0, C.expand(2, 3, 3) * 2, 4)
    layers = {
        "a.weight": LayerMoments(C, mean, C * 3, 5),
        "b.weight": LayerMoments(C, mean, None, 5),
        "c.weight": LayerMoments(C.diagonal().clone(), mean, trace, 6),
        "experts": stack,
    }
    return Moments(layers, {"e.weight": "an embedding"}, {"seed": 3, "uses": {"experts": [3, 5]}})


def test_moments_come_back_from_a_file(tmp_path):
    moments = sample()
    save_moments(moments, tmp_path / "m.safetensors")

    found = load_moments(tmp_path / "m.safetensors")

    assert_same(found, moments)
    assert found.record == moments.record
    assert found.layers["a.weight"].inputs is found.layers["b.weight"].inputs
    assert found.layers["a.weight"].inputs is not found.layers["c.weight"].inputs


def test_other_libraries_read_the_file(tmp_path):
    from safetensors.torch import load_file

    save_moments(sample(), tmp_path / "m.safetensors")
    tensors = load_file(tmp_path / "m.safetensors")
    assert torch.equal(tensors["outputs/a.weight"], torch.eye(3, dtype=torch.float64) * 3)
    assert sum(name.startswith("inputs/") for name in tensors) == 3


def edited(change):
    tensors = {
        f"{side}/a": getattr(sample().layers["a.weight"], side).clone() for side in ("inputs", "mean", "outputs")
    }
    described = {
        "schema": "rmt-compress/moments/1",
        "layers": [{"name": "a", "reads": "a", "count": 3}],
        "left_out": {},
        "record": {},
    }
    change(tensors, described)
    return tensors, described


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, _: tensors["inputs/a"].fill_(float("nan")), "moments of a are not finite"),
        (lambda tensors, _: tensors.update({"inputs/a": torch.ones(2, 3).double()}), "do not fit each other"),
        (lambda tensors, _: tensors.update({"outputs/a": torch.ones(2, 3).double()}), r"outputs of shape \(2, 3\)"),
        (lambda tensors, _: tensors.pop("mean/a"), "description of moments is damaged"),
        (lambda _, described: described.pop("layers"), "description of moments is damaged"),
        (lambda _, described: described["layers"][0].update(count=0), "mean of nothing"),
        (lambda _, described: described.update(schema="rmt-compress/moments/9"), "another version"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, change, message):
    tensors, described = edited(change)
    write_tensors(tensors, {"rmt_compress_moments": json.dumps(described)}, tmp_path / "m.safetensors")
    with pytest.raises(DataError, match=message):
        load_moments(tmp_path / "m.safetensors")


def test_a_file_of_something_else_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match=r"gone\.safetensors: is no safetensors file"):
        load_moments(tmp_path / "gone.safetensors")
    (tmp_path / "text").write_text("nothing of the kind")
    with pytest.raises(DataError, match="is no safetensors file that can be read"):
        load_moments(tmp_path / "text")
    write_tensors({"w": torch.ones(3).double()}, {}, tmp_path / "weights.safetensors")
    assert read_tensors(tmp_path / "weights.safetensors")[1] == {}
    with pytest.raises(DataError, match="holds no moments"):
        load_moments(tmp_path / "weights.safetensors")
