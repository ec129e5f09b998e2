"""Names and types as bitsandbytes, GPTQ, AWQ, compressed-tensors and DeepSeek's fp8 files have them."""

import pytest
import torch

from rmt_compress import analyze

BIG = (64, 64)
FLOATS = torch.ones(BIG)
STATES = {
    "bitsandbytes, 8 bits": {"fc.weight": torch.ones(BIG, dtype=torch.int8), "fc.SCB": FLOATS},
    "bitsandbytes, 4 bits": {
        "fc.weight": torch.ones(2048, 1, dtype=torch.uint8),
        "fc.weight.absmax": FLOATS,
        "fc.weight.quant_map": torch.ones(16),
        "fc.weight.quant_state.bitsandbytes__nf4": torch.ones(96, dtype=torch.uint8),
    },
    "GPTQ": {
        "fc.qweight": torch.ones(BIG, dtype=torch.int32),
        "fc.qzeros": torch.ones(BIG, dtype=torch.int32),
        "fc.scales": FLOATS.half(),
        "fc.g_idx": torch.ones(64, dtype=torch.int32),
    },
    "int8 and a scale": {"fc.weight": torch.ones(BIG, dtype=torch.int8), "fc.weight_scale": FLOATS},
    "fp8": {"fc.weight": torch.ones(BIG).to(torch.float8_e4m3fn), "fc.weight_scale_inv": FLOATS},
    "compressed-tensors, 4 bits": {
        "fc.weight_packed": torch.ones(BIG, dtype=torch.int32),
        "fc.weight_scale": FLOATS.bfloat16(),
        "fc.weight_shape": torch.tensor([64, 64]),
    },
    "MXFP4": {
        "fc.weight_blocks": torch.ones(64, 2, 16, 16, dtype=torch.uint8),
        "fc.weight_scales": torch.ones(64, 64, dtype=torch.uint8),
    },
}


@pytest.mark.parametrize("name", STATES)
def test_nothing_of_a_quantized_weight_is_analysed(name):
    analysis = analyze(STATES[name])
    assert not analysis.analyzed
    reasons = [layer.reason for layer in analysis.skipped if layer.layer.kind != "vector"]
    assert reasons
    assert all("quantized" in reason or "stored as" in reason for reason in reasons)


def test_a_scale_beside_an_ordinary_weight_is_an_ordinary_tensor():
    analysis = analyze({"fc.weight": torch.randn(64, 64), "fc.weight_scale": torch.randn(64, 64)})
    assert len(analysis.analyzed) == 2
