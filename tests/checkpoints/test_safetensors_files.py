import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file, save_model

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import CheckpointError
from tests.samples.contents import assert_holds

EVERY_DTYPE = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.uint16,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
]
WEIGHT = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def test_reads_what_the_library_wrote(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(state, path, metadata={"format": "pt"})
    assert_holds(path, state)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "safetensors"
        assert checkpoint.path == path
        assert checkpoint.metadata == {"format": "pt"}
        assert checkpoint.ties == {}
        assert checkpoint.notes == ()


def test_every_type_scalars_and_empty_tensors(tmp_path: Path) -> None:
    state = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in EVERY_DTYPE}
    state |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4)}
    path = tmp_path / "types.safetensors"
    save_file(state, path)
    assert_holds(path, state)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_listed_read_and_skipped(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "eight.safetensors"
    save_file({"w.weight": torch.ones(64, 64).to(dtype)}, path)
    with open_checkpoint(path) as checkpoint:
        (layer,) = checkpoint.layers()
        assert layer.dtype == str(dtype).removeprefix("torch.")
        assert layer.dtype in (layer.skip_reason() or "")
        assert torch.equal(checkpoint.read("w.weight").float(), torch.ones(64, 64))


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "float32", "X99"])
def test_an_unknown_type_is_listed_and_skipped_and_the_rest_read(
    dtype: str, write_safetensors: Callable[..., Path]
) -> None:
    odd = {"dtype": dtype, "shape": [4, 4], "data_offsets": [24, 32]}
    path = write_safetensors({"w": WEIGHT, "odd": odd}, struct.pack("<6f", *range(6)) + b"\x11" * 8)
    with open_checkpoint(path) as checkpoint:
        reasons = {layer.name: layer.skip_reason(min_size=1) for layer in checkpoint.layers()}
        assert reasons["w"] is None
        assert dtype.upper() in (reasons["odd"] or "")
        assert checkpoint.read("w").tolist() == [[0, 1, 2], [3, 4, 5]]
        with pytest.raises(CheckpointError, match=r"crafted\.safetensors: odd .* torch cannot read"):
            checkpoint.read("odd")


def test_names_that_save_model_dropped_are_ties(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(9, 4), "head": torch.nn.Linear(4, 9, bias=False)})
    model["head"].weight = model["embed"].weight
    path = tmp_path / "tied.safetensors"
    save_model(model, str(path))
    with safe_open(path, "pt") as file:
        (kept,) = file.keys()
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.ties == {kept: tuple({"embed.weight", "head.weight"} - {kept})}
        assert checkpoint.parameters == 36
        (layer,) = checkpoint.layers()
        assert layer.kind == "linear"
        assert torch.equal(checkpoint.read("head.weight"), checkpoint.read("embed.weight"))


def test_what_is_read_is_the_callers_own(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(3)}, path)
    with open_checkpoint(path) as checkpoint:
        checkpoint.read("w").zero_()
        assert checkpoint.read("w").tolist() == [1, 1, 1]


def test_a_missing_name_and_a_changed_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(3)}, path)
    checkpoint = open_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: holds no tensor 'v'"):
        checkpoint.read("v")
    save_file({"w": torch.zeros(4)}, path)
    with pytest.raises(CheckpointError, match="changed while"):
        checkpoint.read("w")
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.read("w")


def test_every_truncation_is_refused(
    state: dict[str, torch.Tensor], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    whole = save(state)
    path = tmp_path / "cut.safetensors"
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        assert f"{size} bytes" in refusal(path)


def test_trailing_bytes_are_refused(write_safetensors: Callable[..., Path], refusal: Callable[..., str]) -> None:
    assert "25 bytes" not in refusal(write_safetensors({"w": WEIGHT}, bytes(25)))


@pytest.mark.parametrize("length", [10**6, 2**39, 2**63, 2**64 - 1])
def test_a_header_larger_than_the_file_allocates_nothing(
    length: int, write_safetensors: Callable[..., Path], refusal: Callable[..., str]
) -> None:
    path = write_safetensors({"w": WEIGHT}, bytes(24), length=length)
    tracemalloc.start()
    try:
        message = refusal(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f"{path.stat().st_size} bytes, its header alone promises {8 + length}" in message
    assert peak < 2**20


def test_a_header_beyond_the_formats_limit_is_not_read(tmp_path: Path, refusal: Callable[..., str]) -> None:
    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 150_000_000) + b"{")
        file.truncate(200_000_000)
    tracemalloc.start()
    try:
        assert "150000000" in refusal(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_huge_declared_sizes_allocate_nothing(
    write_safetensors: Callable[..., Path], refusal: Callable[..., str]
) -> None:
    huge = {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}
    tracemalloc.start()
    try:
        message = refusal(write_safetensors({"w": huge}, bytes(24)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "truncated" in message
    assert peak < 2**20


BAD_HEADERS: dict[str, bytes] = {
    "not JSON": b'{"w": {"dtype": "F32" "shape"',
    "no object": b'["w"]',
    "not UTF-8": b'{"\xff\xfe": {}}',
    "half a surrogate pair": b'{"\\ud800": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}',
    "same name twice": b'{"w": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]},'
    b' "w": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}',
    "same field twice": b'{"w": {"dtype": "F32", "dtype": "I32", "shape": [6], "data_offsets": [0, 24]}}',
    "NaN": b'{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 24]}}',
    "nested deep": b'{"w": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "very long number": b'{"w": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 24]}}',
}
BAD_ENTRIES: dict[str, object] = {
    "no fields": {},
    "a list": [],
    "number as type": {"dtype": 3, "shape": [6], "data_offsets": [0, 24]},
    "negative length": {"dtype": "F32", "shape": [-6], "data_offsets": [0, 24]},
    "fraction": {"dtype": "F32", "shape": [6.0], "data_offsets": [0, 24]},
    "truth value": {"dtype": "F32", "shape": [True, 6], "data_offsets": [0, 24]},
    "shape too large": {"dtype": "F32", "shape": [7], "data_offsets": [0, 24]},
    "shape too small": {"dtype": "F32", "shape": [5], "data_offsets": [0, 24]},
    "overflowing shape": {"dtype": "F32", "shape": [2**62, 2**62, 6], "data_offsets": [0, 24]},
    "overflowing empty shape": {"dtype": "F32", "shape": [2**62, 2**62, 0], "data_offsets": [0, 0]},
    "a thousand axes": {"dtype": "F32", "shape": [1] * 1000 + [6], "data_offsets": [0, 24]},
    "offsets backwards": {"dtype": "F32", "shape": [6], "data_offsets": [24, 0]},
    "negative offset": {"dtype": "F32", "shape": [6], "data_offsets": [-24, 0]},
    "offset beyond the file": {"dtype": "F32", "shape": [6], "data_offsets": [24, 48]},
    "three offsets": {"dtype": "F32", "shape": [6], "data_offsets": [0, 12, 24]},
}


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_bad_headers_are_refused(
    header: bytes, write_safetensors: Callable[..., Path], refusal: Callable[..., str]
) -> None:
    assert "safetensors" in refusal(write_safetensors(header, bytes(24)))


@pytest.mark.parametrize("entry", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_bad_entries_are_refused_by_name(
    entry: object, write_safetensors: Callable[..., Path], refusal: Callable[..., str]
) -> None:
    assert "tensor.x" in refusal(write_safetensors({"tensor.x": entry}, bytes(24)))


def test_overlaps_gaps_and_odd_metadata_are_refused(
    write_safetensors: Callable[..., Path], refusal: Callable[..., str]
) -> None:
    second = {"dtype": "U8", "shape": [4], "data_offsets": [20, 24]}
    assert "overlaps" in refusal(write_safetensors({"w": WEIGHT, "v": second}, bytes(24)))
    second["data_offsets"] = [26, 30]
    assert "gap" in refusal(write_safetensors({"w": WEIGHT, "v": second}, bytes(30)))
    for metadata in ({"a": 1}, ["a"], None, 0):
        assert "__metadata__" in refusal(write_safetensors({"w": WEIGHT, "__metadata__": metadata}, bytes(24)))


def test_no_tensors_is_an_error(write_safetensors: Callable[..., Path], refusal: Callable[..., str]) -> None:
    assert "no tensors" in refusal(write_safetensors({}))


def test_control_characters_in_names_do_not_reach_the_terminal(
    write_safetensors: Callable[..., Path], refusal: Callable[..., str]
) -> None:
    assert "\\x1b[31m\\nred" in refusal(write_safetensors({"\x1b[31m\nred": {}}, bytes(24)))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_refused_or_read_as_the_library_reads_them(data: st.DataObject, tmp_path: Path) -> None:
    """Whatever byte of the header is changed: no other exception, and never more lenient than the library."""
    whole = bytearray(save({"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.arange(5)}))
    end = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(whole)
    try:
        with safe_open(path, "pt") as file:
            expected = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        expected = None
        reason = str(error)
    try:
        with open_checkpoint(path) as checkpoint:
            ours = {name: checkpoint.tensors[name] for name in checkpoint.tensors}
            read = {name: checkpoint.read(name) for name, info in ours.items() if info.dtype.islower()}
    except CheckpointError:
        return
    if expected is None:
        # The one leniency: element types the library does not know.
        assert any(not info.dtype.islower() for info in ours.values()), reason
        return
    assert set(read) >= set(expected)
    for name, tensor in expected.items():
        assert torch.equal(read[name].nan_to_num(), tensor.nan_to_num())


def test_the_header_is_the_format_of_the_specification(write_safetensors: Callable[..., Path]) -> None:
    """Written by hand from the description of the format, with the header padded by spaces."""
    header = json.dumps({"w": WEIGHT}).encode() + b"   "
    with open_checkpoint(write_safetensors(header, struct.pack("<6f", 1, 2, 3, 4, 5, 6))) as checkpoint:
        assert checkpoint.read("w").tolist() == [[1, 2, 3], [4, 5, 6]]
