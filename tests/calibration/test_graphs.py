"""Moments of networks that are graphs in files, against the same network as a module."""

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn
from torch.nn import functional

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import DataError
from rmt_compress.networks.calibration.calibrating import calibrate
from tests.samples import exported
from tests.samples.onnx_models import model, saved


class Net(nn.Module):
    """A strided convolution with uneven padding, a transposed one, and two products, one from the left."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 4, 2)
        self.up = nn.ConvTranspose2d(4, 3, 2, 2)
        self.left = nn.Parameter(torch.randn(5, 3) / 2)
        self.fc = nn.Linear(5 * 36, 6)

    def forward(self, x):
        x = self.conv(functional.pad(x, (1, 1, 1, 1))).relu()
        x = self.up(x).relu().flatten(2)
        return self.fc(torch.matmul(self.left, x).flatten(1))


def onnx_file(net, path, *, batch="n", automatic=True, forward_only=False):
    """The network as ONNX; its padding is the one that SAME_UPPER makes up, and asinh and sinh come to nothing."""
    values = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    padding = {"auto_pad": "SAME_UPPER"} if automatic else {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["a"], strides=[2, 2], **padding),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ConvTranspose", ["b", "up.weight", "up.bias"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Reshape", ["d", "columns"], ["e"]),
        helper.make_node("MatMul", ["left", "e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    if forward_only:
        there_and_back = [helper.make_node("Asinh", ["b"], ["h"]), helper.make_node("Sinh", ["h"], ["i"])]
        nodes[2].input[0] = "i"
        nodes[2:2] = there_and_back
    values["columns"] = np.array([0, 3, 36], np.int64)
    return saved(model(nodes, values, {"x": [batch, 2, 6, 6]}), path)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "automatic"), [("n", True), (3, False)])
@pytest.mark.traced
def test_an_onnx_model_has_the_moments_of_the_module(tmp_path, batch, automatic):
    net = Net().eval()
    batches = [torch.randn(12, 2, 6, 6), torch.randn(6, 2, 6, 6)]

    with open_checkpoint(onnx_file(net, tmp_path / "net.onnx", batch=batch, automatic=automatic)) as checkpoint:
        found = calibrate(checkpoint.own_network(), batches, positions=None, weighted=False)

    assert found.layers.keys() == {"conv.weight", "up.weight", "left", "fc.weight"}
    assert not found.left_out
    assert found.record["gradient"] == "a class drawn from the network's softmax"
    expected = calibrate(net, batches, positions=None, weighted=False)
    for name in ("conv.weight", "up.weight", "fc.weight"):
        own = expected.layers[name]
        torch.testing.assert_close(found.layers[name].inputs, own.inputs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.layers[name].mean, own.mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.layers[name].outputs, own.outputs, rtol=1e-4, atol=1e-5)
        assert found.layers[name].count == own.count
    with torch.no_grad():
        x = torch.cat([net.up(net.conv(functional.pad(b, (1,) * 4)).relu()).relu().flatten(2) for b in batches])
    x = x.transpose(1, 2).flatten(0, 1).double()
    torch.testing.assert_close(found.layers["left"].inputs, x.T @ x / len(x), rtol=1e-5, atol=1e-5)


def test_what_torch_cannot_follow_later_is_one_line(tmp_path):
    """An interpolation upwards is known, downwards it is not: which of them it is the inputs say."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Resize", ["a", "", "", "sizes"], ["y"], mode="linear"),
    ]
    values = {"w": np.ones((4, 2, 1, 1), np.float32), "sizes": np.array([3, 4, 8, 8], np.int64)}
    path = saved(model(nodes, values, {"x": [3, 2, "height", "width"]}), tmp_path / "net.onnx")
    with open_checkpoint(path) as checkpoint:
        network = checkpoint.own_network()
        assert (
            calibrate(network, [torch.randn(3, 2, 8, 8)]).record["gradient"] == "a random direction of the output"
        )
        with pytest.raises(
            DataError, match=r"net\.onnx: torch cannot follow it on 3×2×16×16 float32: Resize: linear"
        ):
            calibrate(network, [torch.randn(3, 2, 8, 8), torch.randn(3, 2, 16, 16)])


def noise_is_as_gradients(found, expected):
    for name, own in expected.items():
        number = found[name].outputs
        assert number.shape == ()
        diagonal = float(own.outputs.diagonal().mean())
        assert float(number) == pytest.approx(diagonal, rel=0.25)


def test_noise_at_the_outputs_tells_the_trace_that_gradients_tell(tmp_path):
    net = Net().eval()
    batches = [torch.randn(300, 2, 6, 6)]
    expected = calibrate(net, batches * 4, weighted=False).layers
    with open_checkpoint(onnx_file(net, tmp_path / "net.onnx", forward_only=True)) as checkpoint:
        network = checkpoint.own_network()
        moments = calibrate(network, batches)
        again = calibrate(network, batches)

    why = "its operator Sinh is run forward only"
    assert moments.record["gradient"] == f"one number per layer, by noise at its outputs: {why}"
    noise_is_as_gradients(moments.layers, {name: own for name, own in expected.items() if name != "left"})
    for name, own in moments.layers.items():
        assert torch.equal(own.outputs, again.layers[name].outputs)


@pytest.mark.slow
@pytest.mark.traced
def test_a_torchscript_program_has_the_moments_of_the_module(tmp_path):
    net = Net().eval()
    batches = [torch.randn(300, 2, 6, 6)]
    path = tmp_path / "net.pt"
    exported.quiet(lambda: torch.jit.trace(net, batches[0]).save(path))

    with open_checkpoint(path, trust=True) as checkpoint:
        found = calibrate(checkpoint.own_network(), batches, positions=None).layers

    expected = calibrate(net, batches * 4, positions=None, weighted=False).layers
    for name in ("conv.weight", "up.weight", "fc.weight"):
        torch.testing.assert_close(found[name].inputs, expected[name].inputs, rtol=1e-5, atol=1e-5)
    noise_is_as_gradients(found, {name: expected[name] for name in ("conv.weight", "up.weight", "fc.weight")})


@pytest.mark.slow
@pytest.mark.traced
def test_an_exported_program_runs_as_a_module_with_gradients(tmp_path):
    net = Net().eval()
    batch = torch.randn(9, 2, 6, 6)
    program = exported.quiet(lambda: torch.export.export(net, (batch,)))
    exported.quiet(lambda: torch.export.save(program, tmp_path / "net.pt2"))

    with open_checkpoint(tmp_path / "net.pt2") as checkpoint:
        found = calibrate(checkpoint.own_network(), [batch]).layers

    expected = calibrate(net, [batch]).layers
    for name in ("conv.weight", "up.weight", "fc.weight"):
        own = expected[name]
        torch.testing.assert_close(found[name].inputs, own.inputs)
        torch.testing.assert_close(found[name].outputs, own.outputs)
