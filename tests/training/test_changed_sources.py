"""A file that training begins from, and that is another one before the training has ended."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import CheckpointError
from rmt_compress.networks import architectures
from rmt_compress.training import finetune, starting
from rmt_compress.training.finetuning import Listeners
from rmt_compress.training.settings import TrainingSettings

SPEC = "mlp:64,40,10"


@pytest.fixture
def source(tmp_path):
    state = architectures.build(SPEC, seed=0).state_dict()
    save_file(state, tmp_path / "source.safetensors", {"architecture": SPEC, "note": "kept"})
    return tmp_path / "source.safetensors"


def trained(source, target, listeners=None):
    settings = TrainingSettings(epochs=1, batch_size=64, learning_rate=0.01)
    finetune(source, target, data="digits", training=settings, samples=128, cycle=None, listeners=listeners)
    return target


def test_what_is_told_of_a_source_is_of_what_was_read_though_it_is_gone_when_the_training_ends(source, tmp_path):
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    expected = trained(source, tmp_path / "first.safetensors")
    seen = []

    def remove(event):
        seen.append(event["event"])
        source.unlink(missing_ok=True)

    found = trained(source, tmp_path / "second.safetensors", Listeners(event=remove))
    assert seen
    assert not source.exists()
    assert found.read_bytes() == expected.read_bytes()
    with open_checkpoint(found) as written:
        assert written.manifest.source.sha256 == digest
        assert written.metadata["note"] == "kept"


def test_a_source_that_changes_while_it_is_read_is_refused(source, tmp_path, monkeypatch):
    load = starting.load_model

    def loaded(checkpoint, **settings):
        model = load(checkpoint, **settings)
        state = {name: torch.zeros_like(value) for name, value in load_file(source).items()}
        save_file(state, source, {"architecture": SPEC})
        return model

    monkeypatch.setattr(starting, "load_model", loaded)
    with pytest.raises(CheckpointError, match=r"source\.safetensors: changed while it was being read; start again"):
        trained(source, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
