from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import CheckpointError
from tests.samples.contents import assert_holds


def test_one_file_in_a_folder_is_taken(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "anything.ckpt")
    (tmp_path / "config.json").write_text("{}")
    assert_holds(tmp_path, state)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.path == tmp_path / "anything.ckpt"
        assert checkpoint.notes == ()


def test_usual_names_come_first_and_the_rest_is_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    other = {"w": torch.zeros(2)}
    save_file(state, tmp_path / "model.safetensors")
    torch.save(other, tmp_path / "pytorch_model.bin")
    torch.save(other, tmp_path / "extra.pt")
    # What a trainer leaves behind is no checkpoint of weights.
    torch.save(other, tmp_path / "optimizer.pt")
    torch.save(other, tmp_path / "rng_state_0.pth")
    assert_holds(tmp_path, state)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.notes == ("Took model.safetensors; extra.pt, pytorch_model.bin left alone.",)


def test_several_checkpoints_are_listed(tmp_path: Path, refusal: Callable[..., str]) -> None:
    for name in ("first.pt", "second.pt"):
        torch.save({"w": torch.ones(2)}, tmp_path / name)
    assert "holds 2 checkpoints (first.pt, second.pt); name the one you mean" in refusal(tmp_path)


def test_no_weights(tmp_path: Path, refusal: Callable[..., str]) -> None:
    assert "*.safetensors" in refusal(tmp_path)
    (tmp_path / "README.md").write_text("nothing here")
    (tmp_path / "subfolder.pt").mkdir()
    assert "holds no weights" in refusal(tmp_path)
    (tmp_path / "unet").mkdir()
    save_file({"w": torch.ones(2)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert "unet below it does" in refusal(tmp_path)


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    """A Hugging Face cache whose blobs were deleted."""
    (tmp_path / "model.safetensors").symlink_to("../../blobs/0123")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        open_checkpoint(tmp_path)
