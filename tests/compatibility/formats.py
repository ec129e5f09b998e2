"""Writing a network into every kind of file, and running what `prune` makes of it, each by its own library."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint
from safetensors.torch import save_file, save_model
from torch import nn

import rmt_compress as rmt
from tests.samples.exported import load as load_exported
from tests.samples.exported import quiet
from tests.samples.onnx_models import session

Run = Callable[[torch.Tensor], torch.Tensor]


def safetensors(model: nn.Module, _inputs: torch.Tensor, folder: Path) -> Path:
    path = folder / "model.safetensors"
    save_model(model, str(path))
    return path


def state_dict(model: nn.Module, _inputs: torch.Tensor, folder: Path) -> Path:
    path = folder / "model.pt"
    torch.save(model.state_dict(), path)
    return path


def training_checkpoint(model: nn.Module, _inputs: torch.Tensor, folder: Path) -> Path:
    """As Lightning writes it."""
    optimizer = torch.optim.Adam(model.parameters())
    path = folder / "model.ckpt"
    state = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], "epoch": 3}
    torch.save({**state, "global_step": 70, "pytorch-lightning_version": "2.5.0", "hyper_parameters": {}}, path)
    return path


def shards(model: nn.Module, _inputs: torch.Tensor, folder: Path) -> Path:
    """A Hugging Face folder of two shards."""
    root = folder / "model"
    root.mkdir()
    state = model.state_dict()
    names = [list(state)[::2], list(state)[1::2]]
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for file, own in zip(files, names, strict=True):
        save_file({name: state[name] for name in own}, root / file)
    weight_map = {name: file for file, own in zip(files, names, strict=True) for name in own}
    (root / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (root / "config.json").write_text('{"model_type": "mlp"}')
    return root


def distributed(model: nn.Module, _inputs: torch.Tensor, folder: Path) -> Path:
    """A folder of torch.distributed.checkpoint, by one process."""
    root = folder / "model"
    quiet(
        lambda: torch.distributed.checkpoint.save({"model": model.state_dict()}, checkpoint_id=root, no_dist=True)
    )
    return root


def whole_model(model: nn.Module, _inputs: torch.Tensor, folder: Path) -> Path:
    path = folder / "model.pt"
    torch.save(model, path)
    return path


def onnx(model: nn.Module, inputs: torch.Tensor, folder: Path) -> Path:
    """By torch's older exporter, which wrote most of the ONNX files there are."""
    path = folder / "model.onnx"
    axes = {"input": {0: "batch"}}
    options = {
        "input_names": ["input"],
        "output_names": ["output"],
        "dynamic_axes": axes,
        "dynamo": False,
        "opset_version": 17,
    }
    # Folded, the codes of a quantized weight would be floats in the file.
    options["do_constant_folding"] = all(buffer.element_size() > 1 for buffer in model.buffers())
    quiet(lambda: torch.onnx.export(model, (inputs,), str(path), **options))
    return path


def exported(model: nn.Module, inputs: torch.Tensor, folder: Path) -> Path:
    path = folder / "model.pt2"
    shapes = ({0: torch.export.Dim("batch")},)
    program = quiet(lambda: torch.export.export(model, (inputs,), dynamic_shapes=shapes))
    quiet(lambda: torch.export.save(program, path))
    return path


def torchscript(model: nn.Module, inputs: torch.Tensor, folder: Path) -> Path:
    path = folder / "model.jit.pt"
    quiet(lambda: torch.jit.save(torch.jit.trace(model, inputs, check_trace=False), path))
    return path


def into(build: Callable[[], nn.Module]) -> Callable[[Path], Run]:
    """Runs a state dict in a fresh network."""

    def load(path: Path) -> Run:
        return rmt.load(path, model=build()).eval()

    return load


def by_onnxruntime(path: Path) -> Run:
    opened = session(path)
    return lambda inputs: torch.from_numpy(opened.run(None, {"input": inputs.numpy()})[0])


def by_torch_export(path: Path) -> Run:
    return load_exported(path).module()


def by_torchscript(path: Path) -> Run:
    return quiet(lambda: torch.jit.load(path)).eval()


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: as the page has it.
        write: writes a network into a folder, and gives the path.
        runner: loads what `prune` made; None where that is a state dict for the network's own class.
        output: name of what `prune` is asked to write.
        dense: the same with ``--layout dense``, where another library runs that.
    """

    name: str
    write: Callable[[nn.Module, torch.Tensor, Path], Path]
    output: str = "small.safetensors"
    runner: Callable[[Path], Run] | None = None
    dense: Callable[[Path], Run] | None = None


SAFETENSORS = Format("`.safetensors`", safetensors)
WHOLE_MODEL = Format("whole model (`torch.save(model)`)", whole_model, "small.pt")
ONNX = Format("ONNX", onnx, "small.onnx", by_onnxruntime, by_onnxruntime)
EXPORTED = Format("torch.export (`.pt2`)", exported, "small.pt2", by_torch_export, by_torch_export)
TORCHSCRIPT = Format("TorchScript", torchscript, "small.pt", dense=by_torchscript)

FORMATS = (
    SAFETENSORS,
    Format("`.pt` state dict", state_dict, "small.pt"),
    Format("training checkpoint", training_checkpoint, "small.ckpt"),
    Format("folder of shards", shards, "small"),
    Format("folder of `torch.distributed.checkpoint`", distributed),
    WHOLE_MODEL,
    ONNX,
    EXPORTED,
    TORCHSCRIPT,
)
"""Rows of the table of commands; the last row, what `prune` itself wrote, is made of the first."""

GRAPHS_AND_NAMES = (SAFETENSORS, WHOLE_MODEL, ONNX, EXPORTED, TORCHSCRIPT)
"""Columns of the table of layers: the other formats hold a state dict and take the first column's way."""
