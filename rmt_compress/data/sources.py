"""`open_samples`: from what the user typed after ``--data`` to its parts, disjoint and streamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from rmt_compress.data.arrays import open_array
from rmt_compress.data.loading import load_data
from rmt_compress.data.named_sets import NAMED_SETS
from rmt_compress.data.parts import ALL, OF_ONLY, OF_TRAIN, Share
from rmt_compress.data.rows import RowTable
from rmt_compress.data.samples import Batch, Part, Samples
from rmt_compress.data.settings import DataSettings
from rmt_compress.data.text import Tokenizer, open_text
from rmt_compress.data.user_objects import UserObject
from rmt_compress.data.views import with_pixels
from rmt_compress.errors import DataError
from rmt_compress.object_reference import is_reference

PARTS: tuple[Part, ...] = ("train", "calibration", "selection", "test")


class Table(Protocol):
    """One split of a set, of which parts are taken."""

    @property
    def first(self) -> Batch:
        """Some of its samples."""

    @property
    def count(self) -> int | None:
        """How many samples there are, where that is known."""

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
    comes_in: Literal["parts", "splits", "one"]
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
            own: Part = "test" if part == "test" else "train"
            table, share = self._table(own), ALL if part == "test" else OF_TRAIN[part]
        else:
            table, share = self._table("test"), OF_ONLY[part]
        return self._finished(table, part, share, self._division(table, part))

    def whole(self) -> Samples:
        """All that may be scored where nothing calibrates or chooses: the test split, or the only one undivided."""
        return self._finished(self._table("test"), "test", ALL)

    def _table(self, own: Part) -> Table:
        if own not in self._tables:
            self._tables[own] = self.open(own)
        return self._tables[own]

    def _finished(self, table: Table, part: Part, share: Share, notes: tuple[str, ...] = ()) -> Samples:
        samples = table.samples(part, share, notes)
        return with_pixels(samples, self.settings.pixels, table.first)

    def _division(self, table: Table, part: Part) -> tuple[str, ...]:
        """How the set was divided, in words."""
        if self.comes_in == "splits":
            if part in ("train", "test"):
                return ()
            return (f"{part.capitalize()} samples are taken from the train split of {self.name}.",)
        shares: list[Part] = ["test", "calibration", "selection"]
        if isinstance(table, RowTable):
            sizes = [f"{len(table.share(OF_ONLY[each])):,} {each}" for each in shares]
            said = f"its {table.count:,} samples are divided: {', '.join(sizes)}"
        else:
            said = "two of every eight samples are test, one is calibration, one selection"
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
    if kind == "text" and rest:
        text, bytes_per_token = open_text(
            _path(rest), length=settings.sequence_length, tokenizer=tokenizer, vocabulary=vocabulary, folder=folder
        )
        return Source(spec, "one", settings, lambda _: text, bytes_per_token)
    if kind == "array" and rest:
        tables = open_array(_path(rest), seed=settings.seed)
        return Source(
            spec,
            "splits" if "train" in tables else "one",
            settings,
            lambda own: tables["test" if own == "test" else "train"],
        )
    if spec not in NAMED_SETS and not _path(spec).exists() and is_reference(spec):
        found = UserObject(spec, seed=settings.seed)
        comes_in: dict[str, Literal["parts", "splits", "one"]] = {"part": "parts", "split": "splits", "": "one"}
        return Source(spec, comes_in[found.divided], settings, found.table)
    return Source(spec, "splits", settings, lambda own: _split(spec, own, settings))


def _split(spec: str, own: Part, settings: DataSettings) -> Table:
    dataset = load_data(spec, split="test" if own == "test" else "train", allow_partial=settings.allow_partial)
    return RowTable(spec, dataset, settings.seed, dataset.classes, dataset.notes)


def _path(text: str) -> Path:
    return Path(text).expanduser()
