"""The seed corpus: small whole files of every kind that is read, made here, never kept.

Each maker gives cases, and which file or folder of each the reader is to open (``""`` for the folder of all).
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import pickle
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuzz.mutating.cases import Case

Seed = tuple[Case, str]
_SEED = 20261127


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as name:
        yield Path(name)


def held(folder: Path) -> Case:
    """All files in a folder, as a case."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _network() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(_SEED)
    return nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 9)).eval()


def _state() -> dict[str, Any]:
    import torch

    state = dict(_network().state_dict())
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

    model = _network()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 9)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}


def zipped() -> Iterator[Seed]:
    """What torch.save writes now."""
    yield {"model.pt": _saved(_state())}, "model.pt"
    yield {"last.ckpt": _saved(_training())}, "last.ckpt"
    import torch

    with _quiet():
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
    module.Config = kind  # type: ignore[attr-defined]
    sys.modules["canary_module"] = module
    config = kind(lr=0.1)
    config.own = config
    content = {
        "args": argparse.Namespace(lr=[0.1], seen={1, 2}),
        "config": config,
        "state_dict": collections.OrderedDict(_network().state_dict()),
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
        yield {"model.pt": _saved(_network())}, "model.pt"
        yield {"model.pt": _saved(_network(), _use_new_zipfile_serialization=False)}, "model.pt"
    finally:
        del sys.modules["canary_module"]


def onnx() -> Iterator[Seed]:
    """A graph with products from both sides and a convolution, its weights in it or in a file beside it."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(_SEED)

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
    with _folder() as folder:
        path = str(folder / "model.onnx")
        onnx.save(model, path, save_as_external_data=True, location="values.bin", size_threshold=0)
        yield held(folder), "model.onnx"


def exported() -> Iterator[Seed]:
    """torch.export's archive."""
    import torch

    with _folder() as folder, _quiet():
        torch.export.save(torch.export.export(_network(), (torch.ones(2, 9),)), folder / "model.pt2")
        yield held(folder), "model.pt2"


def torchscript() -> Iterator[Seed]:
    """A scripted module."""
    import torch

    with _folder() as folder, _quiet():
        torch.jit.save(torch.jit.script(_network()), folder / "model.ts")
        yield held(folder), "model.ts"


def distributed() -> Iterator[Seed]:
    """A folder of torch.distributed.checkpoint."""
    from torch.distributed.checkpoint.state_dict_saver import save

    with _folder() as folder, _quiet():
        save({"model": _network().state_dict(), "epoch": 3}, checkpoint_id=folder / "step", no_dist=True)
        yield held(folder / "step"), ""


def _pruned(folder: Path, name: str, **options: Any) -> Path:
    from safetensors.torch import save_file

    import rmt_compress as rmt
    from rmt_compress.planning.settings import PlanSettings

    save_file(
        {key: tensor.contiguous() for key, tensor in _network().state_dict().items()}, folder / "whole.safetensors"
    )
    analysis, plan = rmt.AnalysisSettings(min_size=8), PlanSettings(rule="ratio:0.3", gof=1.0, **options)
    saved = folder / "plan.json"
    rmt.prune(
        folder / "whole.safetensors", folder / name, analysis=analysis, plan=plan, save_plan=saved, force=True
    )
    return folder / name


def manifest() -> Iterator[Seed]:
    """Files that `prune` wrote: two factors of a weight, and zeros in packed form."""
    for name, options in (("small.safetensors", {}), ("small.pt", {}), ("sparse.safetensors", {"sparsity": 0.5})):
        with _folder() as folder:
            path = _pruned(folder, name, **options)
            yield {name: path.read_bytes()}, name


def plan() -> Iterator[Seed]:
    """A plan as `prune --save-plan` writes it."""
    with _folder() as folder:
        _pruned(folder, "small.safetensors")
        yield {"plan.json": (folder / "plan.json").read_bytes()}, "plan.json"


def moments() -> Iterator[Seed]:
    """Moments of two layers, one of which reads what the other reads, and inputs kept with them."""
    import torch

    from rmt_compress.decomposition.moments import LayerMoments, Moments
    from rmt_compress.decomposition.moments_file import KeptInputs, save_moments

    eye, zero = torch.eye(9).double(), torch.zeros(9).double()
    first = LayerMoments(eye, zero, torch.eye(16).double(), 100)
    own = {"0.weight": first, "1.weight": LayerMoments(eye, zero, None, 100)}
    made = KeptInputs({"x": torch.ones(4, 9)}, {"how": "ones"})
    with _folder() as folder:
        save_moments(
            Moments(own, {"2.weight": "never reached"}, {"samples": 100}), folder / "m.safetensors", inputs=made
        )
        yield held(folder), "m.safetensors"


def training() -> Iterator[Seed]:
    """The state of a run and its log."""
    from rmt_compress.training.event_log import EventLog
    from rmt_compress.training.state import Snapshot, TrainingState

    weights = dict(_network().state_dict())
    with _folder() as folder:
        state = TrainingState(
            {"seed": 0},
            2,
            Snapshot([("0.weight", 3)], weights),
            masks={"2.weight": weights["2.weight"] > 0},
            best=Snapshot([], weights),
        )
        state.save(folder / "state.pt")
        log = EventLog(folder / "log.jsonl")
        for epoch in range(3):
            log.add({"event": "epoch", "epoch": epoch, "train_loss": 0.5, "score": {"name": "accuracy"}})
        yield {"state.pt": (folder / "state.pt").read_bytes()}, "state.pt"
        yield {"log.jsonl": (folder / "log.jsonl").read_bytes()}, "log.jsonl"


def _pictures() -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(_SEED)
    return rng.integers(0, 256, (40, 4, 4), dtype=np.uint8), rng.integers(0, 10, 40, dtype=np.uint8)


def idx() -> Iterator[Seed]:
    """The layout of MNIST, packed and not."""
    pixels, labels = _pictures()

    def file(array: Any) -> bytes:
        return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + bytes(array.tobytes())

    plain = {
        f"{split}-{what}-idx{array.ndim}-ubyte": file(array)
        for split in ("train", "t10k")
        for what, array in (("images", pixels), ("labels", labels))
    }
    yield plain, ""
    yield {f"{name}.gz": gzip.compress(content, 1, mtime=0) for name, content in plain.items()}, ""


def cifar() -> Iterator[Seed]:
    """CIFAR-10's batches, in both layouts."""
    import numpy as np

    pixels = np.random.default_rng(_SEED).integers(0, 256, (3, 3072), dtype=np.uint8)
    yield {"test_batch.bin": b"".join(b"\3" + row.tobytes() for row in pixels)}, ""
    batch = {b"data": pixels, b"labels": [1, 2, 3], b"batch_label": b"testing batch 1 of 1"}
    yield {"test_batch": pickle.dumps(batch, protocol=2)}, ""


def arrays() -> Iterator[Seed]:
    """Numpy's files."""
    import numpy as np

    pixels, labels = _pictures()
    numbers = pixels.reshape(40, 16).astype(np.float32)
    for save, given in (
        (np.savez, {"x": numbers, "y": labels}),
        (np.savez_compressed, {"x_train": numbers, "y_train": labels, "x_test": numbers, "y_test": labels}),
    ):
        buffer = io.BytesIO()
        save(buffer, **given)
        yield {"data.npz": buffer.getvalue()}, "data.npz"
    buffer = io.BytesIO()
    np.save(buffer, numbers)
    yield {"data.npy": buffer.getvalue()}, "data.npy"


def text() -> Iterator[Seed]:
    """Text of several alphabets."""
    yield {"data.txt": ("One line.\nДруга́я строка\n第三行 😀\n" * 20).encode()}, "data.txt"


def table() -> Iterator[Seed]:
    """Comma-separated values: numbers, and text with labels."""
    rows = "".join(f"{n / 7:.3f},{n},{'ab'[n % 2]}\n" for n in range(64))
    yield {"data.csv": f"height,width,label\n{rows}".encode()}, "data.csv"
    rows = "".join(f'"said, {n} times",{n % 3}\n' for n in range(64))
    yield {"data.csv": f"text,label\n{rows}".encode()}, "data.csv"


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


Maker = Callable[[], Iterator[Seed]]
