"""The seed corpus of checkpoints: small whole files of every kind that is read, made here, never kept."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from fuzz.seeds import NUMBER, Seed, folder, held, network, pruned, quiet


def _state() -> dict[str, Any]:
    import torch

    state = dict(network().state_dict())
    state["half.weight"] = torch.ones(3, 4).bfloat16()
    state["tied.weight"] = state["0.weight"]
    state["steps"] = torch.tensor(3)
    return state


def _saved(content: object, **options: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _tensors(names: tuple[str, ...] | None = None) -> bytes:
    from safetensors.torch import save

    state = {name: tensor.clone() for name, tensor in _state().items() if names is None or name in names}
    return save(state, {"format": "pt"})


def safetensors() -> Iterator[Seed]:
    """One file."""
    yield {"model.safetensors": _tensors()}, "model.safetensors"
    yield {"model.safetensors": _tensors(("0.weight", "0.bias")), "config.json": b'{"hidden_size": 9}'}, ""


def index() -> Iterator[Seed]:
    """Folders of shards, with an index and without."""
    parts = (("0.weight", "0.bias", "steps"), ("2.weight", "2.bias"))
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    shards = {name: _tensors(part) for name, part in zip(names, parts, strict=True)}
    placement = {name: file for file, part in zip(names, parts, strict=True) for name in part}
    said = json.dumps({"metadata": {"total_size": 800}, "weight_map": placement}).encode()
    yield {"model.safetensors.index.json": said, **shards}, ""
    yield {"model.safetensors.index.json": said, **shards}, "model.safetensors.index.json"
    yield shards, ""
    pickled = {
        name.replace("safetensors", "bin"): _saved({key: _state()[key] for key in part})
        for name, part in zip(names, parts, strict=True)
    }
    said = said.replace(b"safetensors", b"bin")
    yield {"pytorch_model.bin.index.json": said, **pickled}, ""


def _training() -> dict[str, Any]:
    import torch

    weights = network().state_dict()
    # What Adam's own state_dict() is, which costs a second to ask for the first time.
    moved = {
        number: {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(each), "exp_avg_sq": torch.ones_like(each)}
        for number, each in enumerate(weights.values())
    }
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "params": [*moved]}
    return {"model": weights, "optimizer": {"state": moved, "param_groups": [group]}, "epoch": 3}


def zipped() -> Iterator[Seed]:
    """What torch.save writes now."""
    yield {"model.pt": _saved(_state())}, "model.pt"
    yield {"last.ckpt": _saved(_training())}, "last.ckpt"
    import torch

    with quiet():
        packed = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)
    strange = {
        "a": torch.eye(3).to_sparse(),
        "b": torch.ones(6, 6)[::2, 1:].T,
        "c": packed,
    }
    yield {"model.pt": _saved(strange)}, "model.pt"


def legacy() -> Iterator[Seed]:
    """What torch.save wrote before 1.6."""
    yield {"model.pt": _saved(_state(), _use_new_zipfile_serialization=False)}, "model.pt"
    yield {"last.pth": _saved(_training(), _use_new_zipfile_serialization=False)}, "last.pth"


def objects() -> Iterator[Seed]:
    """Checkpoints of scripts, with objects of classes that are not there: what the placeholder unpickler reads."""
    import argparse
    import collections
    import datetime
    import functools
    import sys
    import types

    import numpy as np
    import torch

    module = types.ModuleType("canary_module")
    kind = type("Config", (dict,), {"__module__": "canary_module"})
    vars(module)["Config"] = kind
    sys.modules["canary_module"] = module
    config = kind(lr=0.1)
    config.own = config
    content = {
        "args": argparse.Namespace(lr=[0.1], seen={1, 2}),
        "config": config,
        "state_dict": collections.OrderedDict(network().state_dict()),
        "optimizer": functools.partial(torch.optim.Adam, lr=1e-3),
        "when": datetime.datetime(2024, 1, 2),
        "counts": collections.Counter("aab"),
        "best": np.float32(0.5),
        "mean": np.arange(6, dtype=np.float64).reshape(2, 3),
    }
    try:
        for protocol in (2, 4):
            for zipped in (True, False):
                options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
                yield {"last.ckpt": _saved(content, **options)}, "last.ckpt"
        yield {"model.pt": _saved(network())}, "model.pt"
        yield {"model.pt": _saved(network(), _use_new_zipfile_serialization=False)}, "model.pt"
    finally:
        del sys.modules["canary_module"]


def onnx() -> Iterator[Seed]:
    """A graph with products from both sides and a convolution, its weights in it or in a file beside it."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(NUMBER)

    def tensor(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["g"], transB=1),
        helper.make_node("Constant", [], ["m"], value=tensor("m", 7, 5)),
        helper.make_node("MatMul", ["g", "m"], ["y"]),
    ]
    weights = [tensor("k", 4, 2, 3, 3), tensor("w", 7, 64), tensor("b", 7)]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 4, 4])
    said = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])
    graph = helper.make_graph(nodes, "g", [given], [said], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    yield {"model.onnx": model.SerializeToString()}, "model.onnx"
    with folder() as place:
        path = str(place / "model.onnx")
        onnx.save(model, path, save_as_external_data=True, location="values.bin", size_threshold=0)
        yield held(place), "model.onnx"


def exported() -> Iterator[Seed]:
    """torch.export's archive."""
    import torch

    with folder() as place, quiet():
        torch.export.save(torch.export.export(network(), (torch.ones(2, 9),)), place / "model.pt2")
        yield held(place), "model.pt2"


def torchscript() -> Iterator[Seed]:
    """A scripted module."""
    import torch

    with folder() as place, quiet():
        torch.jit.save(torch.jit.script(network()), place / "model.ts")
        yield held(place), "model.ts"


def distributed() -> Iterator[Seed]:
    """A folder of torch.distributed.checkpoint."""
    from torch.distributed.checkpoint.state_dict_saver import save

    with folder() as place, quiet():
        save({"model": network().state_dict(), "epoch": 3}, checkpoint_id=place / "step", no_dist=True)
        yield held(place / "step"), ""


def manifest() -> Iterator[Seed]:
    """Files that `prune` wrote: two factors of a weight, and zeros in packed form."""
    for name, options in (("small.safetensors", {}), ("small.pt", {}), ("sparse.safetensors", {"sparsity": 0.5})):
        with folder() as place:
            path = pruned(place, name, **options)
            yield {name: path.read_bytes()}, name


def graphs() -> Iterator[Seed]:
    """Graphs that are run: those of both formats that bring one."""
    yield from onnx()
    yield from exported()
