"""`prune --show-calibration` and what is kept of it: pictures, text, numbers."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rmt_compress.data.in_memory import InMemory
from rmt_compress.decomposition.moments import Moments
from rmt_compress.decomposition.moments_file import KeptInputs, load_inputs, load_moments, save_moments
from rmt_compress.errors import DataError
from rmt_compress.networks.calibration.kept_inputs import kept_inputs, made_from
from rmt_compress.networks.calibration.made_up import MadeUp, make_inputs
from rmt_compress.pruning import shown_inputs
from rmt_compress.pruning.shown_inputs import places, show
from tests.samples.command_line import one_error_line
from tests.samples.repository import DIGITS


@pytest.mark.slow
@pytest.mark.traced
def test_inputs_are_kept_with_the_moments_and_serve_again(run, tmp_path):
    words = ("prune", DIGITS, "--keep", "0.2", "--search", "one", "--calibration-samples", "64", "-o")
    first = run(*words, "a.safetensors", "--save-moments", "m", "--show-calibration", "seen.txt")
    assert first.returncode == 0, first.stderr
    assert "note: what it was calibrated with is shown in seen.txt" in first.stderr
    text = (tmp_path / "seen.txt").read_text()
    assert text.startswith("noise along the spikes of the first layer: 10 of 64, 64\n")
    kept = load_inputs(tmp_path / "m")
    assert kept is not None
    assert kept.tensors["inputs"].shape == (64, 64)
    # Others of the same shape in their place: they are what is shown, and what candidates are asked.
    others = KeptInputs({"inputs": kept.tensors["inputs"] * 0 + 2}, kept.record)
    save_moments(load_moments(tmp_path / "m"), tmp_path / "n", inputs=others)
    again = run(*words, "b.safetensors", "--moments", "n", "--show-calibration", "again")
    assert "noise along the spikes of the first layer, kept with the moments" in again.stderr
    assert (tmp_path / "again.txt").read_text().count("(mean 2, standard deviation 0)") == 10
    same = run(*words, "c.safetensors", "--moments", "m")
    assert same.returncode == 0, same.stderr
    assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


@pytest.mark.slow
def test_an_interrupted_calibration_goes_on(run, tmp_path, monkeypatch):
    from rmt_compress.networks.calibration.interrupted import Partial

    words = ("prune", DIGITS, "--keep", "0.2", "--search", "one", "--calibration-samples", "64")
    whole = run(*words, "-o", "a.safetensors", "--save-moments", "m")
    assert whole.returncode == 0, whole.stderr
    keep = Partial.keep

    def interrupted(self, *state):
        self._written = -1e9
        keep(self, *state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Partial, "keep", interrupted)
        stopped = run(*words, "-o", "b.safetensors", "--save-moments", "n")
    assert stopped.returncode != 0
    assert "Traceback" not in stopped.stderr
    assert (tmp_path / "n.partial" / "sums.safetensors").is_file()
    again = run(*words, "-o", "b.safetensors", "--save-moments", "n")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "n").read_bytes() == (tmp_path / "m").read_bytes()
    assert not (tmp_path / "n.partial").exists()


def test_refused_before_anything_is_made(run, tmp_path):
    words = ("prune", DIGITS, "-o", "s.safetensors", "--show-calibration", "seen")
    assert "--show-calibration needs a budget" in one_error_line(run(*words))
    (tmp_path / "seen.png").touch()
    line = one_error_line(run(*words, "--keep", "0.2"))
    assert line == "error: seen.png: exists already; choose another name or add --force"
    save_file(load_file(DIGITS), tmp_path / "bare.safetensors")
    line = one_error_line(run("prune", "bare.safetensors", "--keep", "0.2", "--show-calibration", "other"))
    assert "calibrating needs a network that runs: add --arch" in line


def test_names():
    for name in ("seen", "seen.png", "seen.txt"):
        assert [place.name for place in places(shown_inputs.Path(name))] == ["seen.png", "seen.txt"]
    assert [place.name for place in places(shown_inputs.Path("v1.5"))] == ["v1.5.png", "v1.5.txt"]


def shown(samples, target, model, source=DIGITS):
    from rmt_compress.checkpoints import open_checkpoint

    with open_checkpoint(source) as checkpoint:
        return show(samples, samples.name, target, model, checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.traced
def test_images_are_one_picture(tmp_path, channels):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    # The left half of every image is dark.
    pixels = torch.zeros(7, channels, 8, 8)
    pixels[..., 4:] = 5
    path = shown(InMemory(pixels, name="noise"), tmp_path / "seen", nn.Conv2d(channels, 2, 3))
    assert path == tmp_path / "seen.png"
    with image.open(path) as picture:
        grey = torch.from_numpy(np.asarray(picture.convert("L")).copy())
    # 7 images in 3 columns: white paper, and black for half of each image.
    assert 0.15 < (grey < 30).float().mean() < 0.4


def test_bytes_are_text_and_other_tokens_numbers(tmp_path):
    written = torch.tensor([list("Es gibt Bäume".encode())])
    for size, expected in ((256, "Es gibt Bäume"), (300, "69 115 32")):
        model = nn.Sequential(nn.Embedding(size, 4), nn.Linear(4, size))
        inputs = InMemory({"input_ids": written}, targets="tokens", name="text sampled from the network")
        path = shown(inputs, tmp_path / f"{size}.png", model)
        assert path == tmp_path / f"{size}.txt"
        text = path.read_text(encoding="utf-8")
        assert text.startswith("text sampled from the network: 1 of 1, 14 (input_ids)\n\n" + expected)


def test_a_tokenizer_says_what_tokens_stand_for(tmp_path, monkeypatch):
    class Words:
        def decode(self, row):
            return " ".join(f"word{number}" for number in row)

    monkeypatch.setattr(shown_inputs, "model_folder", lambda checkpoint: tmp_path)
    monkeypatch.setattr(shown_inputs, "tokenizer_of", lambda folder, trust: Words())
    path = shown(InMemory((torch.tensor([[3, 1]]),), targets="tokens"), tmp_path / "t", nn.Embedding(256, 4))
    assert path.read_text().endswith("word3 word1\n")


@pytest.mark.parametrize(
    "batches",
    [
        (torch.randn(3, 5), torch.randn(2, 5)),
        (torch.randn(3, 5).half(), torch.randn(2, 5).half()),
        ({"input_ids": torch.randint(9, (3, 7))}, {"input_ids": torch.randint(9, (2, 7))}),
    ],
)
def test_inputs_come_back_from_a_file(tmp_path, batches):
    made = MadeUp(batches, "noise", {"kind": "noise", "count": 5})
    save_moments(Moments({}), tmp_path / "m", inputs=kept_inputs(made))
    assert load_moments(tmp_path / "m").layers == {}
    kept = load_inputs(tmp_path / "m")
    assert kept is not None
    back = made_from(kept)
    assert (back.kind, back.record) == (made.kind, made.record)
    (joined,) = back.batches
    for whole, parts in zip(_tensors(joined), zip(*map(_tensors, batches), strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts).to(whole.dtype))


def _tensors(batch):
    return list(batch.values()) if isinstance(batch, dict) else [batch]


def test_a_file_without_inputs_has_none_and_damage_is_one_line(tmp_path):
    save_moments(Moments({}), tmp_path / "m")
    assert load_inputs(tmp_path / "m") is None
    for tensors, record in (
        ({"inputs": torch.zeros(2, 3), "mask": torch.zeros(4, 3)}, {"kind": "noise"}),
        ({"inputs": torch.zeros(())}, {"kind": "noise"}),
        ({"inputs": torch.zeros(2, 3)}, {}),
    ):
        save_moments(Moments({}), tmp_path / "n", inputs=KeptInputs(tensors, record))
        kept = load_inputs(tmp_path / "n")
        assert kept is not None
        with pytest.raises(DataError, match="kept with the moments are damaged"):
            made_from(kept)
    state = load_file(tmp_path / "n")
    save_file(state, tmp_path / "o", {"rmt_compress_moments": "{}"})
    with pytest.raises(DataError, match="its description of inputs is damaged"):
        load_inputs(tmp_path / "o")


def test_what_a_network_makes_is_what_is_shown(tmp_path):
    model = nn.Sequential(nn.Linear(5, 3))
    made = make_inputs(model, count=4)
    path = shown(InMemory(torch.cat(made.batches), name=made.kind), tmp_path / "v", model)
    first = re.findall(r"-?\d+\.?\d*(?:e-\d+)?", path.read_text().splitlines()[2])
    assert [float(number) for number in first[:5]] == pytest.approx(made.batches[0][0].tolist(), rel=0.01)
