"""``parquet:FILE`` and folders that Hugging Face `datasets` saved: columns of Arrow, a batch of rows at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rmt_compress.data.batches import IGNORED, INPUT_NAMES
from rmt_compress.data.columns import Asked, Encoder, Labels, chosen, padded
from rmt_compress.data.dataset import Split
from rmt_compress.data.image_files import read_image
from rmt_compress.data.streams import StreamTable
from rmt_compress.errors import DataError, MissingDependencyError
from rmt_compress.wording import listed, one_line

_ROWS = 256
_STATE, _DICT = "state.json", "dataset_dict.json"
_TEST_NAMES = ("test", "validation", "valid", "val", "dev")


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` of a data set, or of a dict of them, made this folder."""
    return (folder / _STATE).is_file() or (folder / _DICT).is_file()


def open_parquet(asked: Asked, **how: Any) -> StreamTable:
    """The rows of a Parquet file; see `_table` for the keywords and what is raised."""
    parquet = _pyarrow().parquet
    name = f"parquet:{asked.path}"
    if not asked.path.is_file():
        raise DataError(f"{name}: no such file")

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        with parquet.ParquetFile(asked.path) as file:
            yield from map(_whole, file.iter_batches(_ROWS, columns=list(columns)))

    with _reading(name), parquet.ParquetFile(asked.path) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
    return _table(name, asked, [_Rows(schema, count, batches)], **how)


def open_saved(asked: Asked, **how: Any) -> dict[Split, StreamTable]:
    """The splits of a saved data set, read with pyarrow alone; see `_table` for the keywords and what is raised."""
    name = f"datasets:{asked.path}"
    if not is_saved(asked.path):
        raise DataError(f"{name}: it holds no {_STATE} and no {_DICT}; save a data set with save_to_disk(FOLDER)")
    if (asked.path / _STATE).is_file():
        return {"test": _table(name, asked, [_saved_split(name, asked.path)], **how)}
    names = _json(name, asked.path / _DICT).get("splits")
    names = [each for each in names if isinstance(each, str)] if isinstance(names, list) else []
    test = next((each for each in _TEST_NAMES if each in names), None)
    found: dict[Split, str] = {}
    if test is not None:
        found["test"] = test
    if "train" in names:
        found["train" if found else "test"] = "train"
    if not found:
        raise DataError(f"{name}: its splits are {listed(names) or 'none'}; train or test is needed")
    opened = {split: _saved_split(name, asked.path / each) for split, each in found.items()}
    return {
        split: _table(name, asked, [mine, *(each for each in opened.values() if each is not mine)], **how)
        for split, mine in opened.items()
    }


class _Rows(NamedTuple):
    """The rows of a split: their schema, their number, and what begins a pass over some of their columns."""

    schema: Any
    total: int
    batches: Callable[[Sequence[str]], Iterator[Any]]


def _saved_split(name: str, folder: Path) -> _Rows:
    ipc, memory_map = _pyarrow().ipc, _pyarrow().memory_map
    state = _json(name, folder / _STATE)
    if state.get("_indices_data_files"):
        raise DataError(f"{name}: it is a selection of rows; call flatten_indices() before save_to_disk")
    named = state.get("_data_files")
    named = named if isinstance(named, list) else []
    files = [str(each.get("filename")) for each in named if isinstance(each, dict)]
    if not files or any(Path(each).name != each for each in files):
        raise DataError(f"{folder / _STATE}: it names no files of data in its folder")

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        for each in files:
            with memory_map(str(folder / each)) as mapped, ipc.open_stream(mapped) as reader:
                for batch in reader:
                    asked = _whole(batch.select(list(columns)))
                    for start in range(0, asked.num_rows, _ROWS):
                        yield asked.slice(start, _ROWS)

    count = 0
    with _reading(name):
        with memory_map(str(folder / files[0])) as mapped, ipc.open_stream(mapped) as reader:
            schema = reader.schema
        if schema.names:
            count = sum(batch.num_rows for batch in batches(schema.names[:1]))
    return _Rows(schema, count, batches)


def _whole(batch: Any) -> Any:
    """A batch of rows whose offsets and lengths lie within its buffers; Arrow itself reads wherever they point."""
    batch.validate(full=True)
    return batch


def _table(
    name: str,
    asked: Asked,
    splits: Sequence[_Rows],
    *,
    length: int,
    size: int | None,
    encoder: Callable[[], Encoder],
    seed: int,
) -> StreamTable:
    """A table of Arrow columns as a stream.

    Args:
        name: what messages call it.
        asked: the columns.
        splits: the rows of this split, and of the others, which have a say in what the labels mean.
        length: tokens of a text at most; what is longer is cut.
        size: images are brought to it; None for images as they are.
        encoder: gives what makes ids of a text; asked for where there is one.
        seed: of the parts.

    Raises:
        DataError: no rows, columns that are not there or of a type that is no input, an empty cell.
    """
    schema, count, batches = splits[0]
    if not count:
        raise DataError(f"{name}: no rows in it")
    columns = chosen(name, asked, schema.names)
    with _reading(name):
        types = {each: schema.field(each).type for each in columns.inputs}
        kinds = {each: _kind(kind) for each, kind in types.items()}
        readers = {each: _reader(name, each, kind, length, size, encoder) for each, kind in types.items()}
    scalars = [each for each, kind in kinds.items() if kind == "number"]
    if scalars and len(scalars) < len(kinds):
        other = next(each for each in kinds if each not in scalars)
        raise DataError(
            f"{name}: {scalars[0]!r} holds numbers and {other!r} does not; name the columns that are inputs: "
            f"{asked.path}:{columns.label or ''}:{other}"
        )
    label = columns.label
    targets_of, classes = (None, None) if label is None else _labels(name, label, splits)

    def start() -> Iterator[Any]:
        import numpy as np

        with _reading(name):
            for batch in batches(columns.names):
                cells = {each: batch.column(batch.schema.get_field_index(each)) for each in columns.names}
                targets = None if targets_of is None or label is None else targets_of(cells[label].to_pylist())
                read = {each: readers[each](cells[each]) for each in columns.inputs}
                if scalars:
                    yield np.stack([read[each] for each in scalars], 1), targets
                    continue
                inputs: dict[str, Any] = {}
                for each, value in read.items():
                    inputs |= value if isinstance(value, dict) else {each: value}
                if len(inputs) == 1 and next(iter(inputs)) in (*INPUT_NAMES, *_IMAGE_NAMES):
                    yield next(iter(inputs.values())), targets
                else:
                    yield {**inputs, **({} if targets is None else {"labels": targets})}

    notes = columns.notes
    if "text" in kinds.values():
        if len(kinds) > 1:
            text = next(each for each, kind in kinds.items() if kind == "text")
            raise DataError(
                f"{name}: column {text!r} holds text; text is asked alone: name its column, "
                f"{asked.path}:{columns.label or ''}:{text}"
            )
        notes = (*notes, f"Texts of more than {length:,} tokens are cut.")
    return StreamTable(name, start, seed, classes, notes, count)


def _labels(name: str, column: str, splits: Sequence[_Rows]) -> tuple[Callable[[Sequence[Any]], Any], int | None]:
    """What makes targets of the cells of a column, and the number of classes, where that is known."""
    import numpy as np

    with _reading(name):
        kind = _kind(splits[0].schema.field(column).type)
    if kind == "ids":

        def places(cells: Sequence[Any]) -> Any:
            """Classes of places, as long as the longest, with what is ignored behind the shorter ones."""
            found = padded([np.asarray(cell, np.int64) for cell in cells])
            return np.where(found["attention_mask"] == 1, found["input_ids"], IGNORED)

        return places, None
    labels = Labels(name, column)
    with _reading(name):
        for _, _, batches in splits:
            for batch in batches([column]):
                labels.see(batch.column(0).to_pylist())
    named = _named_classes(splits[0].schema, column)
    return labels.array, labels.classes if named is None or labels.classes is None else max(named, labels.classes)


def _named_classes(schema: Any, column: str) -> int | None:
    """How many classes `datasets` has names for."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])
        return len(stored["info"]["features"][column]["names"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


_IMAGE_NAMES = ("image", "img", "images", "picture")


def _kind(kind: Any) -> str:
    """Of an Arrow type: number, text, image, ids, numbers (a list), or empty."""
    types = _pyarrow().types
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "number"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "image"
    if types.is_struct(kind) and "bytes" in [kind.field(place).name for place in range(kind.num_fields)]:
        return "image"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        whole = types.is_integer(kind.value_type) and not types.is_uint8(kind.value_type)
        return "ids" if whole else "numbers"
    return ""


def _reader(
    name: str, column: str, kind: Any, length: int, size: int | None, encoder: Callable[[], Encoder]
) -> Callable[[Any], Any]:
    """From the cells of a column in a batch of rows to an array, or to several by name."""
    import numpy as np

    said = f"{name}: column {column!r}"
    innermost = kind
    while hasattr(innermost, "value_type"):
        innermost = innermost.value_type
    holds_bytes = innermost is not kind and _pyarrow().types.is_uint8(innermost)

    def full(cells: Any) -> list[Any]:
        if cells.null_count:
            raise DataError(f"{said} has an empty cell; take such rows out, or name other columns")
        values: list[Any] = cells.to_pylist()
        return values

    def ids(cells: Any) -> Any:
        rows = [np.asarray(row, np.int64) for row in full(cells)]
        if column == "input_ids" or len({len(row) for row in rows}) > 1:
            found = padded(rows)
            return found if column == "input_ids" else found["input_ids"]
        return np.stack(rows)

    def image(cells: Any) -> Any:
        contents = [each["bytes"] if isinstance(each, dict) else each for each in full(cells)]
        if any(each is None for each in contents):
            raise DataError(f"{said} holds paths, not images; save the data set with its images embedded")
        arrays = [read_image(each, said, size) for each in contents]
        shapes = {each.shape[1:] for each in arrays}
        if len(shapes) > 1:
            raise DataError(f"{said} holds images of several sizes; give --size")
        channels = max(each.shape[0] for each in arrays)
        pixels = np.stack([np.broadcast_to(each, (channels, *each.shape[1:])) for each in arrays])
        return pixels.astype(np.float32) / np.float32(255)

    def numbers(cells: Any) -> Any:
        try:
            return np.asarray(full(cells), np.uint8 if holds_bytes else np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"{said} holds lists that are no numbers of one shape ({one_line(error)})") from error

    match _kind(kind):
        case "number" | "numbers":
            return numbers
        case "text":
            encode = encoder()
            return lambda cells: padded([encode(each) for each in full(cells)], length)
        case "image":
            return image
        case "ids":
            return ids
    raise DataError(
        f"{said} is of type {kind}, which can be no input; name the columns that are: FILE:LABEL:COLUMN,COLUMN"
    )


def _json(name: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{name}: {path} cannot be read ({one_line(error)})") from error
    if not isinstance(found, dict):
        raise DataError(f"{name}: {path} is no JSON object")
    return found


def _pyarrow() -> Any:
    """Pyarrow with the modules that are needed here."""
    try:
        import pyarrow as found
        import pyarrow.ipc
        import pyarrow.parquet
        import pyarrow.types
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "data", "reading Parquet files and saved data sets") from error
    return found


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """What goes wrong with a file inside is a `DataError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, _pyarrow().ArrowException) as error:
        raise DataError(f"{name}: it cannot be read ({one_line(error)})") from error
