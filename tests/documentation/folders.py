"""The folders that the sessions of the pages are typed in."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from onnx import TensorProto, helper, numpy_helper, save_model
from safetensors.numpy import load_file

from tests.samples.repository import DIGITS, MODELS, REPOSITORY


def prepared(page: str, folder: Path) -> Path:
    """What lies about where a page is read: the sample models, and what the page says that one has."""
    (folder / "sample_models").symlink_to(MODELS)
    for name, make in FILES.get(page, {}).items():
        make(folder / name)
    return folder


def scope_of(page: str) -> dict[str, Any]:
    """The names that the Python of a page takes for granted."""
    if page not in NETWORK_AT_HAND:
        return {}
    import rmt_compress as rmt
    from rmt_compress.data import open_samples
    from rmt_compress.networks.loading import load_model

    model, digits = load_model(DIGITS), open_samples("digits")
    batches = [torch.as_tensor(inputs) for inputs, _ in digits.part("calibration").batches(60)]
    analysis = rmt.analyze(model)
    moments = rmt.calibrate(model, batches)
    plan = rmt.make_plan(analysis)
    return {
        "rmt": rmt,
        "model": model,
        "batches": batches,
        "analysis": analysis,
        "moments": moments,
        "plan": plan,
        "task": open_samples("digits").part("test"),
    }


def _moments(path: Path) -> None:
    scope = scope_of("repair.md")
    scope["rmt"].save_moments(scope["moments"], path)


def _language_model(path: Path) -> None:
    """The folder that docs/language-models.md makes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    tokens = {"vocab_size": 256, "n_positions": 32, "bos_token_id": 0, "eos_token_id": 0}
    GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=4, **tokens)).save_pretrained(path)


def _book(path: Path) -> None:
    path.write_text((REPOSITORY / "LICENSE").read_text(encoding="utf-8"), encoding="utf-8")


def _digits(path: Path) -> None:
    shutil.copy(DIGITS, path)


def _digits_graph(path: Path) -> None:
    """The sample network as an exporter writes it: Gemm and Relu, any number of samples."""
    tensors = load_file(DIGITS)
    nodes, read = [], "x"
    for layer in ("fc1", "fc2", "fc3"):
        made = "y" if layer == "fc3" else f"{layer}.out"
        nodes.append(helper.make_node("Gemm", [read, f"{layer}.weight", f"{layer}.bias"], [made], layer, transB=1))
        if layer != "fc3":
            read = f"{layer}.relu"
            nodes.append(helper.make_node("Relu", [made], [read]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 64), ("y", 10))
    ]
    held = [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()]
    graph = helper.make_graph(nodes, "digits", ends[:1], ends[1:], held)
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


FILES: dict[str, dict[str, Callable[[Path], None]]] = {
    "five-tasks.md": {"lm": _language_model, "model.onnx": _digits_graph},
    "huggingface.md": {"gpt2": _language_model},
    "language-models.md": {"book.txt": _book},
    "onnx.md": {"model.onnx": _digits_graph},
    "sparse-masks.md": {"model.safetensors": _digits, "moments.safetensors": _moments},
}

NETWORK_AT_HAND = ("certificates.md", "python.md", "repair.md", "sparse-masks.md")
