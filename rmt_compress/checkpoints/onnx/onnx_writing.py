"""Writing an ONNX model: into one file where that can hold it, with sparse tensors where they are smaller."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rmt_compress.checkpoints.graph import WrittenGraph
from rmt_compress.checkpoints.onnx.onnx_tensors import DTYPES, check_tensor, read_tensor
from rmt_compress.errors import OutputError
from rmt_compress.outputs import replacing
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    import torch
    from onnx import GraphProto, ModelProto, SparseTensorProto, TensorProto

# One protobuf message holds 2 GB; from here on tensors go into a file of their own.
_LARGEST_MESSAGE = 2**31 - 2**24
# Smaller tensors stay in the model, where shapes and scalars are looked for.
_LEAST_EXTERNAL = 1024
_ALIGNMENT = 64
_CHUNK = 2**22
_IR_OF_SPARSE_INITIALIZERS = 5


def write_model(
    model: ModelProto,
    source: Path,
    path: Path,
    *,
    target: Path,
    metadata: dict[str, str],
    may_be_sparse: Collection[str],
) -> WrittenGraph:
    """Write a model to `path`.

    Where its tensors were in files beside the original, or do not fit into one file, they go into one file beside
    `target` whose name nothing has had before, so that an older model keeps its own. Both get their names with what
    else is written in the block of `together` that is open, which puts them into one folder until then.

    Args:
        model: it is changed on the way.
        source: the original, in whose folder the tensors beside it are.
        path: a temporary file.
        target: the name it is going to get.
        metadata: all text entries.
        may_be_sparse: initializers of the main graph that may be stored sparse where that is smaller.
    """
    del model.metadata_props[:]
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    outdated = re.compile(re.escape(target.name) + r"\.[0-9a-f]{8}\.data")
    notes: list[str] = []
    sparse: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()
    if any(tensor.data_location == tensor.EXTERNAL for tensor in _tensors(model.graph)) or (
        model.ByteSize() > _LARGEST_MESSAGE
    ):
        data = target.with_name(f"{target.name}.{secrets.token_hex(4)}.data")
        with replacing(data) as temporary:
            _move_out(model, source, temporary, location=data.name)
        beside = (temporary,)
        if may_be_sparse:
            notes.append("Tensors beside the model are stored dense, zeros included.")
    elif may_be_sparse:
        sparse = _make_sparse(model, may_be_sparse, notes)
    path.write_bytes(model.SerializeToString())
    _check(path, source, target, notes)
    return WrittenGraph(sparse, beside, outdated, tuple(notes))


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every dense tensor of a graph and of those inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)


def _move_out(model: ModelProto, source: Path, data: Path, *, location: str) -> None:
    """Move every large tensor of `model` into the file `data`, which is going to be at `location`."""
    with data.open("wb") as file:
        for tensor in _tensors(model.graph):
            if tensor.data_location == tensor.EXTERNAL:
                where = check_tensor(tensor, source, tensor.name)
                assert where is not None
                offset, length = _aligned(file), where.length
                with where.file.open("rb") as origin:
                    origin.seek(where.offset)
                    _copy(origin, file, length)
            elif len(tensor.raw_data) >= _LEAST_EXTERNAL:
                offset, length = _aligned(file), len(tensor.raw_data)
                file.write(tensor.raw_data)
            else:
                continue
            tensor.ClearField("raw_data")
            del tensor.external_data[:]
            tensor.data_location = tensor.EXTERNAL
            for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
                tensor.external_data.add(key=key, value=value)


def _aligned(file: BinaryIO) -> int:
    position = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
    file.seek(position)
    return position


def _copy(origin: BinaryIO, file: BinaryIO, length: int) -> None:
    while length > 0:
        chunk = origin.read(min(length, _CHUNK))
        if not chunk:
            raise OutputError(f"{origin.name}: ended while it was being copied; start again")
        file.write(chunk)
        length -= len(chunk)


def _make_sparse(model: ModelProto, names: Collection[str], notes: list[str]) -> tuple[str, ...]:
    """Store those initializers sparse that are smaller so, if onnxruntime takes the model then: their names."""
    inputs = {entry.name for entry in model.graph.input}
    dense = [proto for proto in model.graph.initializer if proto.name in names and proto.name not in inputs]
    encoded = {proto.name: sparse for proto in dense if (sparse := _sparse(proto)) is not None}
    if not encoded:
        return ()
    if model.ir_version < _IR_OF_SPARSE_INITIALIZERS:
        notes.append(f"Zeros are stored: IR version {model.ir_version} knows no sparse tensors.")
        return ()
    attempt = type(model)()
    attempt.CopyFrom(model)
    for index in reversed(range(len(attempt.graph.initializer))):
        if attempt.graph.initializer[index].name in encoded:
            del attempt.graph.initializer[index]
    attempt.graph.sparse_initializer.extend(encoded.values())
    if (refusal := _refused_by_onnxruntime(attempt)) is not None:
        notes.append(f"Zeros are stored: {refusal}.")
        return ()
    model.CopyFrom(attempt)
    return tuple(encoded)


def _sparse(proto: TensorProto) -> SparseTensorProto | None:
    """A tensor as the values that are not zero and their places; None where that is not smaller."""
    import torch
    from onnx import SparseTensorProto

    from rmt_compress.checkpoints.onnx.onnx_tensors import tensor_proto

    values = read_tensor(proto, None, Path(), proto.name).flatten()
    # By their bits: a −0.0 is a value.
    bits: torch.dtype = {16: torch.int16, 32: torch.int32, 64: torch.int64}[DTYPES[proto.data_type][1]]
    places = values.view(bits).nonzero().flatten()
    sparse = SparseTensorProto(
        values=tensor_proto(proto.name, values[places]),
        indices=tensor_proto(f"{proto.name}.indices", places),
        dims=proto.dims,
    )
    return sparse if sparse.ByteSize() < proto.ByteSize() else None


def _refused_by_onnxruntime(model: ModelProto) -> str | None:
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed, so that sparse tensors could not be tried"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever it says; its exceptions have no common base
        return f"onnxruntime does not take them sparse ({one_line(error)[:200]})"
    return None


def _check(path: Path, source: Path, target: Path, notes: list[str]) -> None:
    """Have onnx look at the model that was written; what it does not like in the original either is but noted."""
    problem = _problem(path)
    if problem is None:
        return
    before = _problem(source)
    if before is None:
        raise OutputError(f"{target}: not kept: onnx.checker refuses it: {problem}; this is a bug, report it")
    notes.append(f"onnx.checker objects to the original already: {before}")


def _problem(path: Path) -> str | None:
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        return one_line(error)[:300]
    return None
