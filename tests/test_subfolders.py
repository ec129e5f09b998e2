"""What lies in folders below a model's own and is copied with it."""

import json

import pytest
import torch
from safetensors.torch import save_file

from rmt_compress.pruning.road import prune


@pytest.fixture
def folder(tmp_path):
    """As sentence-transformers saves it, with a training run's leftovers."""
    path = tmp_path / "st"
    for name in ("1_Pooling", "2_Dense", "vocabulary", "checkpoint-5", ".git"):
        (path / name).mkdir(parents=True)
        (path / name / "config.json").write_text("{}")
    for name in ("2_Dense", "checkpoint-5"):
        save_file({"linear.weight": torch.ones(4, 4)}, path / name / "model.safetensors")
    modules = [{"path": name, "type": "…"} for name in ("", "1_Pooling", "2_Dense", "../elsewhere")]
    (path / "modules.json").write_text(json.dumps(modules))
    # Small: the network of this configuration is built, to find that it does not fit the weights.
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    (path / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 64, **sizes}))
    save_file({"a.weight": torch.randn(128, 64)}, path / "model.safetensors")
    return path


def written(folder, target):
    prune(folder, target, layout="dense")
    # The card is made anew.
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    return files - {"README.md"}


def test_subfolders_that_are_needed_are_copied(folder, tmp_path):
    assert written(folder, tmp_path / "small") == {
        *("config.json", "modules.json", "model.safetensors", "1_Pooling/config.json", "vocabulary/config.json"),
        *("2_Dense/config.json", "2_Dense/model.safetensors"),
    }


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    (folder / "notes.txt").symlink_to(secret)
    (folder / "1_Pooling" / "more.json").symlink_to(secret)
    (folder / "vocabulary" / "again.json").symlink_to("config.json")
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    result = prune(folder, tmp_path / "small", layout="dense")
    assert any("links out of the folder: 1_Pooling/more.json, notes.txt" in note for note in result.notes)
    there = {path.name for path in (tmp_path / "small").rglob("*")}
    assert "again.json" in there
    assert not there & {"notes.txt", "more.json", "up", "secret.txt"}


def test_the_links_of_a_download_cache_are(folder, tmp_path):
    blobs = tmp_path / "models--x" / "blobs"
    snapshot = tmp_path / "models--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert written(snapshot, tmp_path / "small") == {"config.json", "model.safetensors"}
