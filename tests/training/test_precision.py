"""`--mixed-precision`: what is computed in half precision while training, and what is not."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rmt_compress.errors import SettingsError
from rmt_compress.training import TrainingSettings, finetune

SEEN = []
TYPES = {"no": torch.float32, "bf16": torch.bfloat16}


class Net(nn.Module):
    """Two layers that keep what type the first one answers in."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 12), nn.Linear(12, 10)

    def forward(self, x):
        hidden = self.first(x.flatten(1))
        SEEN.append((self.training, hidden.dtype))
        return {"logits": self.last(hidden.relu())}


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "dtype"), tuple(TYPES.items()))
@pytest.mark.traced
def test_steps_are_computed_in_the_precision_asked_for_and_scores_in_single(tmp_path, precision, dtype):
    SEEN.clear()
    training = TrainingSettings(epochs=2, precision=precision, device="cpu")
    out = tmp_path / "x.safetensors"
    result = finetune(None, out, data="digits", arch=f"{__name__}:Net", training=training, cycle=None)
    assert {kind for trains, kind in SEEN if trains} == {dtype}
    assert {kind for trains, kind in SEEN if not trains} == {torch.float32}
    assert {tensor.dtype for tensor in load_file(out).values()} == {torch.float32}
    assert result.runs[0].last["test_accuracy"] > 0.3


def test_a_precision_that_the_device_does_not_know_is_refused_and_nothing_written(tmp_path):
    training = TrainingSettings(epochs=1, precision="fp16", device="cpu")
    with pytest.raises(SettingsError, match="mixed-precision fp16 does nothing on cpu: take bf16"):
        finetune(None, tmp_path / "x.pt", data="digits", arch="mlp:64,10", training=training, cycle=None)
    assert not list(tmp_path.iterdir())
