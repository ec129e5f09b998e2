"""Seeds of data sets: small whole files of every kind."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
from collections.abc import Iterator
from typing import Any

from fuzz.seeds import NUMBER, Seed


def _pictures() -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(NUMBER)
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

    pixels = np.random.default_rng(NUMBER).integers(0, 256, (3, 3072), dtype=np.uint8)
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


def parquet() -> Iterator[Seed]:
    """Columns of numbers; of pictures, text and tokens, each with labels."""
    for name, columns in _columns().items():
        yield {f"{name}.parquet": _parquet(columns, "snappy")}, f"{name}.parquet"
    yield {"plain.parquet": _parquet(_columns()["numbers"], "none")}, "plain.parquet"


def saved() -> Iterator[Seed]:
    """Folders that Hugging Face `datasets` saved: one data set, and one of two splits."""
    import pyarrow as pa

    for number, columns in enumerate(_columns().values()):
        table = pa.table(columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=20)
        state = {"_data_files": [{"filename": "data.arrow"}], "_fingerprint": "0", "_split": None}
        case = {"data.arrow": sink.getvalue().to_pybytes(), "state.json": json.dumps(state).encode()}
        if number:
            yield case, ""
        else:
            splits = {f"{split}/{name}": content for split in ("train", "test") for name, content in case.items()}
            yield {**splits, "dataset_dict.json": b'{"splits": ["train", "test"]}'}, ""


def _columns() -> dict[str, dict[str, Any]]:
    rng = np_rng()
    pixels, labels = _pictures()
    images = [{"bytes": _image(each, "PNG"), "path": None} for each in pixels[:24]]
    return {
        "numbers": {"height": rng.standard_normal(24), "width": rng.integers(0, 9, 24), "label": labels[:24]},
        "images": {"image": images, "label": labels[:24]},
        "text": {"text": [f"said {number} times" for number in range(24)], "label": labels[:24]},
        "tokens": {"input_ids": [[1, 2, number] for number in range(24)], "label": labels[:24]},
        "lists": {"x": [[0.5, number] for number in range(24)], "label": labels[:24]},
    }


def _parquet(columns: dict[str, Any], compression: str) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression=compression, row_group_size=20)
    return bytes(sink.getvalue().to_pybytes())


def np_rng() -> Any:
    """Numpy's random numbers, the same ones each time."""
    import numpy as np

    return np.random.default_rng(NUMBER)


def _image(pixels: Any, kind: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def images() -> Iterator[Seed]:
    """Folders of pictures by class, grey and in colours, each of another format."""
    colours = np_rng().integers(0, 256, (4, 6, 6, 3), dtype="uint8")
    grey, _ = _pictures()
    for ending, kind in (
        *(("png", "PNG"), ("jpg", "JPEG"), ("bmp", "BMP"), ("gif", "GIF"), ("ppm", "PPM")),
        *(("tiff", "TIFF"), ("webp", "WEBP")),
    ):
        pixels = grey[:4] if ending in ("png", "gif") else colours
        own = {f"{'ab'[n % 2]}/{n}.{ending}": _image(each, kind) for n, each in enumerate(pixels)}
        yield own, ""
