"""Moments in a safetensors file: float64 tensors, and what they are in the header; inputs that were made for them.

Written tensor by tensor and read by mapping the file into memory, so that no more than one tensor has to fit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.decomposition.moments import LayerMoments, Moments
from rmt_compress.errors import DataError
from rmt_compress.outputs import replacing
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    import torch

SCHEMA = "rmt-compress/moments/1"
_KEY = "rmt_compress_moments"
_MADE = "made/"
_TYPES = {"torch.float64": "F64", "torch.float32": "F32", "torch.int64": "I64"}


@dataclass(frozen=True, eq=False)
class KeptInputs:
    """Inputs that moments were measured with.

    Attributes:
        tensors: by the names they have as inputs, float64, float32 or int64, the samples first.
        record: how they were made: plain JSON.
    """

    tensors: Mapping[str, torch.Tensor]
    record: dict[str, Any]


def save_moments(moments: Moments, path: str | PathLike[str], *, inputs: KeptInputs | None = None) -> None:
    """Write moments to a file, complete or not at all; matrices that layers share are written once.

    Args:
        moments: what is written.
        path: the file.
        inputs: what they were measured with, where that exists nowhere else; see `load_inputs`.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    shared: dict[int, str] = {}
    entries = []
    for name, own in moments.layers.items():
        leader = shared.setdefault(id(own.inputs), name)
        if leader == name:
            tensors[f"inputs/{name}"], tensors[f"mean/{name}"] = own.inputs, own.mean
        if own.outputs is not None:
            tensors[f"outputs/{name}"] = own.outputs
        entries.append({"name": name, "reads": leader, "count": own.count})
    described = {"schema": SCHEMA, "layers": entries, "left_out": moments.left_out, "record": moments.record}
    if inputs is not None:
        # The wider types first, so that every tensor stays aligned.
        for name, tensor in sorted(inputs.tensors.items(), key=lambda item: -item[1].element_size()):
            tensors[_MADE + name] = tensor
        described["made"] = inputs.record
    write_tensors(tensors, {_KEY: json.dumps(described)}, Path(path))


def load_moments(path: str | PathLike[str]) -> Moments:
    """The moments in a file, which must stay in place as long as they are used.

    Raises:
        DataError: no such file, none of moments, or damaged; one line that says what is wrong.
    """
    where = Path(path)
    tensors, metadata = read_tensors(where)
    if _KEY not in metadata:
        raise DataError(f"{where}: holds no moments; give a file that --save-moments has written")
    try:
        described = json.loads(metadata[_KEY])
        if described["schema"] != SCHEMA:
            raise DataError(
                f"{where}: moments of another version ({described['schema']!s:.60}); measure them again"
            )
        layers: dict[str, LayerMoments] = {}
        for entry in described["layers"]:
            name, reads = str(entry["name"]), str(entry["reads"])
            first = layers.get(reads)
            inputs = tensors[f"inputs/{reads}"] if first is None else first.inputs
            mean = tensors[f"mean/{reads}"] if first is None else first.mean
            layers[name] = LayerMoments(inputs, mean, tensors.get(f"outputs/{name}"), int(entry["count"]))
        left_out = {str(name): str(reason) for name, reason in described["left_out"].items()}
        record = dict(described["record"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{where}: its description of moments is damaged ({type(error).__name__}: {one_line(error)[:100]}); "
            "measure them again"
        ) from error
    for name, own in layers.items():
        if (problem := _problem(own)) is not None:
            raise DataError(f"{where}: the moments of {name} {problem}; measure them again")
    return Moments(layers, left_out, record)


def load_inputs(path: str | PathLike[str]) -> KeptInputs | None:
    """The inputs that were kept with the moments in a file; None where there are none.

    Raises:
        DataError: no such file, or damaged.
    """
    where = Path(path)
    tensors, metadata = read_tensors(where)
    found = {name.removeprefix(_MADE): own for name, own in tensors.items() if name.startswith(_MADE)}
    if not found:
        return None
    try:
        return KeptInputs(found, dict(json.loads(metadata[_KEY])["made"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{where}: its description of inputs is damaged; measure the moments again") from error


def _problem(own: LayerMoments) -> str | None:
    """What is wrong with the moments of a layer; None where nothing is."""
    import torch

    mean, inputs, outputs = own.mean, own.inputs, own.outputs
    if mean.dim() not in (1, 2) or inputs.shape not in (mean.shape, (*mean.shape, mean.shape[-1])):
        return f"do not fit each other: inputs {tuple(inputs.shape)}, mean {tuple(mean.shape)}"
    if outputs is not None and outputs.shape != mean.shape[:-1]:
        m = outputs.shape[-1] if outputs.dim() else 0
        if outputs.shape != (*mean.shape[:-1], m, m):
            return f"have a matrix of outputs of shape {tuple(outputs.shape)}"
    for tensor in (mean, inputs) if outputs is None else (mean, inputs, outputs):
        if tensor.dtype != torch.float64:
            return f"are {str(tensor.dtype).removeprefix('torch.')}, not float64"
        # A sum is finite only where all of its terms are, and needs no tensor of truth values.
        if not math.isfinite(float(tensor.sum())):
            return "are not finite"
    if own.count < 1:
        return "are the mean of nothing"
    return None


def write_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Write float64, float32 and int64 tensors on the CPU as a safetensors file, without a copy of them in memory.

    Raises:
        OutputError: the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name, tensor in tensors.items():
        stop = position + tensor.nbytes
        dtype = _TYPES[str(tensor.dtype)]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.detach().contiguous().reshape(-1).numpy().data)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file, mapped into memory, and its metadata.

    Raises:
        DataError: no such file, or not of this format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            # The file itself cannot be gone through.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: is no safetensors file that can be read: {one_line(error)[:200]}") from error
