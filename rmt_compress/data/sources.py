"""`open_samples`: from what the user typed after ``--data`` to its parts, disjoint and streamed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from rmt_compress.data.arrays import open_array
from rmt_compress.data.arrow_files import is_saved, open_parquet, open_saved
from rmt_compress.data.changed_inputs import with_pixels
from rmt_compress.data.columns import Encoder, parsed
from rmt_compress.data.csv_files import open_csv
from rmt_compress.data.dataset import Split
from rmt_compress.data.image_files import ImageRows, open_images
from rmt_compress.data.image_folder import labelled_images, splits_of
from rmt_compress.data.loading import KNOWN_SETS, load_data, splits_on_disk
from rmt_compress.data.parts import ALL, OF_ONLY, OF_TEST, OF_TRAIN, Share
from rmt_compress.data.rows import RowTable
from rmt_compress.data.samples import Batch, Part, Samples
from rmt_compress.data.settings import DataSettings
from rmt_compress.data.text import Tokenizer, encoder, open_text
from rmt_compress.data.user_objects import UserObject
from rmt_compress.errors import DataError
from rmt_compress.object_reference import is_reference
from rmt_compress.wording import did_you_mean, printable

_log = logging.getLogger(__name__)

ComesIn = Literal["parts", "splits", "one"]
PARTS: tuple[Part, ...] = ("train", "calibration", "selection", "test")


class Table(Protocol):
    """One split of a set, of which parts are taken."""

    @property
    def first(self) -> Batch:
        """Some of its samples."""

    @property
    def count(self) -> int | None:
        """How many samples there are, where that is known."""

    def size(self, share: Share) -> int | None:
        """Number of samples in a share, where that is known."""

    def samples(self, part: Part, share: Share, notes: tuple[str, ...] = ()) -> Samples:
        """A share of it, as a part."""


@dataclass(frozen=True, eq=False)
class Source:
    """A data set that has been found.

    Attributes:
        name: the set's name, or the file, folder or callable it comes from.
        comes_in: whether it has its own four ``parts``, or its own two ``splits``, or is ``one`` that is divided.
        settings: how it is read.
        bytes_per_token: of text, as far as known.
    """

    name: str
    comes_in: ComesIn
    settings: DataSettings
    open: Callable[[Part], Table]
    bytes_per_token: float | None = None
    _tables: dict[Part, Table] = field(default_factory=dict, repr=False)

    def part(self, part: Part) -> Samples:
        """One of its parts. ``calibration``, ``selection`` and ``test`` are disjoint.

        Raises:
            DataError: it has too few samples, or nothing of which it could be made.
            MissingDependencyError: a package is needed to read it.
        """
        if part not in PARTS:
            raise DataError(f"part {part!r} is unknown: {', '.join(PARTS)}")
        if self.comes_in == "parts":
            return self._finished(self._table(part), part, ALL)
        if self.comes_in == "splits":
            own: Part = "test" if part in OF_TEST else "train"
            table, share = self._table(own), (OF_TEST | OF_TRAIN)[part]
        else:
            table, share = self._table("test"), OF_ONLY[part]
        return self._finished(table, part, share, self._division(table, part))

    def held_out(self) -> Samples:
        """All that training does not see: the test split, or the test part of the only one."""
        return self.whole() if self.comes_in == "splits" else self.part("test")

    def whole(self) -> Samples:
        """All that may be scored where nothing calibrates or chooses: the test split, or the only one undivided."""
        return self._finished(self._table("test"), "test", ALL)

    def _table(self, own: Part) -> Table:
        if own not in self._tables:
            self._tables[own] = self.open(own)
        return self._tables[own]

    def _finished(self, table: Table, part: Part, share: Share, notes: tuple[str, ...] = ()) -> Samples:
        samples = table.samples(part, share, notes)
        _log.info("data %s: %s samples for %s", printable(self.name), samples.count or "a stream of", part)
        return with_pixels(samples, self.settings.pixels, table.first)

    def _division(self, table: Table, part: Part) -> tuple[str, ...]:
        """How the set was divided, in words."""
        if self.comes_in == "splits":
            if part == "train":
                return ()
            if part == "calibration":
                return (f"Calibration samples are taken from the train split of {self.name}.",)
            return (f"Of the test split of {self.name} one half chooses, and the other is the test part.",)
        shares: tuple[Part, ...] = ("test", "calibration", "selection")
        if table.count is None:
            said = "two of every eight samples are test, one is calibration, one selection"
        else:
            sizes = [f"{table.size(OF_ONLY[each]):,} {each}" for each in shares]
            said = f"its {table.count:,} samples are divided: {', '.join(sizes)}"
        return (f"{self.name} has no test split of its own; {said}.",)


def open_samples(
    spec: str,
    settings: DataSettings | None = None,
    *,
    folder: Path | None = None,
    tokenizer: Tokenizer | None = None,
    vocabulary: int | None = None,
) -> Source:
    """Find a data set; nothing but what tells its kind is read yet.

    Args:
        spec: what `load_data` takes, or ``text:FILE``, ``array:FILE``, or a reference to an object; docs/data.md
            lists all.
        settings: how it is read; by default as `DataSettings` are by default.
        folder: of the network, for messages.
        tokenizer: from text to ids, of the network; None for bytes.
        vocabulary: of the network, as far as known; 256 without a tokenizer means bytes.

    Raises:
        DataError: there is no such set, or it is not what its name says.
        MissingDependencyError: a package is needed to read it.
    """
    settings = settings or DataSettings()
    kind, _, rest = spec.partition(":")
    if rest and kind in _FILES and not _is_module(kind, rest):
        return _FILES[kind](spec, rest, settings, _Network(tokenizer, vocabulary, folder))
    path = _path(spec)
    if spec not in KNOWN_SETS and path.is_dir():
        return _folder(spec, path, settings, _Network(tokenizer, vocabulary, folder))
    if spec not in KNOWN_SETS and not path.exists() and is_reference(spec):
        found = UserObject(spec, seed=settings.seed)
        return Source(spec, _COMES_IN[found.divided], settings, found.table)
    if spec not in KNOWN_SETS:
        raise _unknown(spec, path)
    return Source(spec, "splits", settings, lambda own: _known(spec, _split(own), settings))


def may_hold_text(spec: str) -> bool:
    """Whether a data set may have text in it, which needs a tokenizer: tables and folders may have a column."""
    kind, _, rest = spec.partition(":")
    if rest and kind in _FILES:
        return kind in _OF_TEXT and not _is_module(kind, rest)
    return spec not in KNOWN_SETS and _path(spec).is_dir()


def _is_module(kind: str, rest: str) -> bool:
    """Whether a module of the user's is called like a kind of file, and no file is meant."""
    module = Path(f"{kind}.py").is_file() or Path(kind, "__init__.py").is_file()
    return module and is_reference(f"{kind}:{rest}") and not _path(rest).exists()


def _unknown(spec: str, path: Path) -> DataError:
    """The error where nothing is called so."""
    if path.is_file():
        kind = next((each for each, ends in _ENDINGS.items() if path.suffix.lower() in ends), None)
        way = f"write {kind}:{spec}" if kind else "write what it holds before its name, one of " + _kinds()
        return DataError(f"{spec} is a file: {way}")
    kind = spec.partition(":")[0]
    return DataError(
        f"no data set and no folder is called {spec!r}{did_you_mean(kind, (*KNOWN_SETS, *_FILES))}; known sets are "
        f"{', '.join(KNOWN_SETS)}; otherwise a folder with IDX files, CIFAR-10 batches or images by class, one of "
        f"{_kinds()}, or package.module:name"
    )


def _kinds() -> str:
    return ", ".join(f"{each}:{'FOLDER' if each in _FOLDERS else 'FILE'}" for each in _FILES)


_FOLDERS = ("images", "datasets")
_OF_TEXT = ("text", "csv", "parquet", "datasets")
_ENDINGS = {
    "text": (".txt", ".md"),
    "array": (".npy", ".npz"),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet", ".pq"),
}


class _Network(NamedTuple):
    """What of the network matters for reading text."""

    tokenizer: Tokenizer | None
    vocabulary: int | None
    folder: Path | None

    def encoder(self, name: str) -> Callable[[], Encoder]:
        return lambda: encoder(name, self.tokenizer, self.vocabulary, self.folder)


def _text(spec: str, rest: str, settings: DataSettings, network: _Network) -> Source:
    table, bytes_per_token = open_text(_path(rest), length=settings.sequence_length, **network._asdict())
    return Source(spec, "one", settings, lambda _: table, bytes_per_token)


def _array(spec: str, rest: str, settings: DataSettings, _network: _Network) -> Source:
    return _of_tables(spec, settings, open_array(_path(rest), seed=settings.seed))


def _images(spec: str, rest: str, settings: DataSettings, _network: _Network) -> Source:
    return _of_tables(spec, settings, {"test": open_images(_path(rest), size=settings.size, seed=settings.seed)})


def _csv(spec: str, rest: str, settings: DataSettings, network: _Network) -> Source:
    length, seed = settings.sequence_length, settings.seed
    return _of_tables(
        spec, settings, {"test": open_csv(parsed(rest), length=length, encoder=network.encoder(spec), seed=seed)}
    )


def _parquet(spec: str, rest: str, settings: DataSettings, network: _Network) -> Source:
    return _of_tables(spec, settings, {"test": open_parquet(parsed(rest), **_how(spec, settings, network))})


def _saved(spec: str, rest: str, settings: DataSettings, network: _Network) -> Source:
    return _of_tables(spec, settings, open_saved(parsed(rest), **_how(spec, settings, network)))


def _how(spec: str, settings: DataSettings, network: _Network) -> dict[str, Any]:
    return {
        "length": settings.sequence_length,
        "size": settings.size,
        "encoder": network.encoder(spec),
        "seed": settings.seed,
    }


_FILES: dict[str, Callable[[str, str, DataSettings, _Network], Source]] = {
    "text": _text,
    "array": _array,
    "images": _images,
    "csv": _csv,
    "parquet": _parquet,
    "datasets": _saved,
}
FILE_KINDS = tuple(_FILES)
"""What may stand before the colon of a file or folder."""
_COMES_IN: dict[str, ComesIn] = {"part": "parts", "split": "splits", "": "one"}


def _of_tables(spec: str, settings: DataSettings, tables: Mapping[Split, Table]) -> Source:
    return Source(spec, "splits" if "train" in tables else "one", settings, lambda own: tables[_split(own)])


def _folder(spec: str, path: Path, settings: DataSettings, network: _Network) -> Source:
    """A folder in one of the layouts; where it has one split alone, that is divided."""
    if is_saved(path):
        return _saved(spec, spec, settings, network)
    open_split = _known
    splits = splits_on_disk(path)
    if not splits and (splits := splits_of(path)):
        open_split = _labelled
    if len(splits) == 1:
        return Source(spec, "one", settings, lambda _: open_split(spec, splits[0], settings))
    return Source(spec, "splits", settings, lambda own: open_split(spec, _split(own), settings))


def _known(spec: str, split: Split, settings: DataSettings) -> Table:
    dataset = load_data(spec, split=split, allow_partial=settings.allow_partial)
    return RowTable(spec, dataset, settings.seed, dataset.classes, dataset.notes)


def _labelled(spec: str, split: Split, settings: DataSettings) -> Table:
    images = labelled_images(_path(spec), split)
    rows = ImageRows(images.paths, images.labels, settings.size)
    return RowTable(spec, rows, settings.seed, len(images.classes))


def _split(own: Part) -> Split:
    return "test" if own == "test" else "train"


def _path(text: str) -> Path:
    return Path(text).expanduser()
