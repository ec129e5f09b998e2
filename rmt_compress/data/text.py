"""``text:FILE``: a text as windows of tokens that do not overlap, in the order of the file."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rmt_compress.data.parts import ALL, Share, stretches
from rmt_compress.data.rows import RowTable
from rmt_compress.data.samples import Batch, Part, Samples
from rmt_compress.data.streams import StreamTable
from rmt_compress.errors import DataError
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Tokenizer = Callable[[str], Sequence[int]]

BYTES = 256
"""Vocabulary of a network whose tokens are the bytes of the text."""
PIECE = 4 << 20
"""Bytes that a tokenizer is given at once; longer texts are cut behind a line."""
KEPT = 32 << 20
"""Bytes of a text whose tokens are kept in memory, four bytes each; a longer one is tokenized in every pass."""
_SHARES = 8000
# The two highest bits of a byte inside a character (RFC 3629 §3).
_CONTINUES, _CONTINUATION = 0b11000000, 0b10000000


class TokenRows:
    """Windows of `length` tokens each; what is left over at the end is left out."""

    def __init__(self, tokens: npt.NDArray[np.integer], length: int) -> None:
        self._tokens, self._length = tokens, length

    def __len__(self) -> int:
        return len(self._tokens) // self._length

    def read(self, name: str, which: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:
        """See `Rows`."""
        import numpy as np
        import torch

        inside = np.arange(self._length)
        for start in range(0, len(which), size):
            places = which[start : start + size, None] * self._length + inside
            yield Batch(torch.from_numpy(self._tokens[places].astype(np.int64)), None)


@dataclass(frozen=True, eq=False)
class LongText:
    """A text that is tokenized in every pass; its parts are stretches of the file that end behind a line."""

    name: str
    path: Path
    encode: Callable[[str], npt.NDArray[np.int64]]
    length: int
    notes: tuple[str, ...] = ()
    count: None = None

    @property
    def first(self) -> Batch:
        """The first windows."""
        return self._table(0, self.path.stat().st_size).first

    def size(self, _share: Share) -> None:
        """Nobody has counted the tokens."""

    def samples(self, part: Part, share: Share, notes: tuple[str, ...] = ()) -> Samples:
        """A share of the text, as a part."""
        size = self.path.stat().st_size
        places = stretches(_SHARES, share._replace(most=None))
        begin, end = (size * int(place) // _SHARES for place in (places[0], places[-1] + 1))
        return self._table(begin, end).samples(part, ALL._replace(most=share.most), notes)

    def _table(self, begin: int, end: int) -> StreamTable:
        return StreamTable(self.name, lambda: self._windows(begin, end), seed=0)

    def _windows(self, begin: int, end: int) -> Iterator[npt.NDArray[np.int64]]:
        import numpy as np

        held = np.empty(0, np.int64)
        for ids in map(self.encode, _pieces(self.path, begin, end)):
            held = np.concatenate([held, ids])
            whole = len(held) - len(held) % self.length
            if whole:
                yield held[:whole].reshape(-1, self.length)
            held = held[whole:]


def encoder(
    name: str, tokenizer: Tokenizer | None, vocabulary: int | None, folder: Path | None
) -> Callable[[str], npt.NDArray[np.int64]]:
    """What makes ids of a text: the tokenizer, or the bytes themselves where the vocabulary is theirs.

    Raises:
        DataError: there is no tokenizer and the vocabulary is not that of bytes; later, if the tokenizer fails or
            its ids are outside the vocabulary.
    """
    import numpy as np

    if tokenizer is None:
        if vocabulary != BYTES:
            where = f"in {folder}" if folder else "beside the network"
            if vocabulary is None:
                raise DataError(
                    f"{name}: there is no tokenizer {where}, and no table of tokens in it: text is for "
                    "networks that take tokens; give the --data it was trained on, or ids: array:FILE.npy"
                )
            raise DataError(
                f"{name}: there is no tokenizer {where}, and its vocabulary is {vocabulary:,}, not the {BYTES} of "
                "bytes; put the tokenizer's files (tokenizer.json) there, or give ids: array:FILE.npy"
            )
        return lambda text: np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    def encode(text: str) -> npt.NDArray[np.int64]:
        try:
            ids = np.asarray(tokenizer(text), np.int64).reshape(-1)
        except Exception as error:  # a stranger's code can raise anything
            raise DataError(f"{name}: the tokenizer failed ({one_line(error)})") from error
        if vocabulary is not None and len(ids) and (ids.max() >= vocabulary or ids.min() < 0):
            wrong = ids.max() if ids.max() >= vocabulary else ids.min()
            raise DataError(
                f"{name}: the tokenizer gives id {wrong:,}, but the vocabulary is {vocabulary:,}: it belongs to "
                "another network"
            )
        return ids

    return encode


def open_text(
    path: Path, *, length: int, tokenizer: Tokenizer | None, vocabulary: int | None, folder: Path | None
) -> tuple[RowTable | LongText, float | None]:
    """The windows of a text, and how many bytes a token stands for (None of a long text).

    Args:
        path: UTF-8.
        length: tokens of a window.
        tokenizer: from text to ids; None for the bytes of the text, which suits a `vocabulary` of 256.
        vocabulary: of the network, as far as known.
        folder: of the network, for messages.

    Raises:
        DataError: no such file, nothing in it, no UTF-8, fewer tokens than a window, no tokenizer, or one of
            another vocabulary.
    """
    import numpy as np

    name = f"text:{path}"
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{name}: no such file can be read ({one_line(error)})") from error
    if not size:
        raise DataError(f"{name}: the file is empty")
    encode = encoder(name, tokenizer, vocabulary, folder)
    if tokenizer is None:
        for _ in _pieces(path, 0, size if size <= KEPT else PIECE, whole=size <= KEPT):
            pass
        tokens: npt.NDArray[np.integer] = np.memmap(path, np.uint8, mode="r")
    elif size > KEPT:
        return LongText(name, path, encode, length), None
    else:
        found = [ids.astype(np.int32) for ids in map(encode, _pieces(path, 0, size))]
        tokens = np.concatenate([np.empty(0, np.int32), *found])
    if len(tokens) < length:
        raise DataError(
            f"{name}: {len(tokens):,} tokens are fewer than a window of {length:,}; take a longer text or a "
            "smaller --sequence-length"
        )
    notes: tuple[str, ...] = ()
    if left := len(tokens) % length:
        notes = (
            f"The last {left:,} of {len(tokens):,} tokens do not fill a window of {length:,} and are left out.",
        )
    return RowTable(name, TokenRows(tokens, length), 0, notes=notes, in_stretches=True), size / len(tokens)


def _pieces(path: Path, begin: int, end: int, *, whole: bool = True) -> Iterator[str]:
    """The text from the line that begins at `begin` or behind it to the end of that which `end` cuts.

    Args:
        path: the file.
        begin: in bytes.
        end: in bytes.
        whole: whether the line that `end` cuts is read to its end; else a character it cuts is left out.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, place = "", begin
    try:
        with path.open("rb") as file:
            if begin:
                file.seek(begin - 1)
                place += 0 if file.read(1) == b"\n" else len(_rest_of_line(file))
                file.seek(place)
            while place < end:
                content = file.read(min(PIECE, end - place))
                if not content:
                    break
                place += len(content)
                if place >= end and whole and not content.endswith(b"\n"):
                    content += _rest_of_line(file)
                held += decoder.decode(content)
                cut = held.rfind("\n") + 1 or len(held)
                if held[:cut] and place < end:
                    yield held[:cut]
                    held = held[cut:]
            held += decoder.decode(b"", final=whole)
    except UnicodeDecodeError as error:
        raise DataError(
            f"text:{path}: it is no UTF-8 text, byte {error.object[error.start]:#04x} cannot stand where it does; "
            "convert it (iconv -t utf-8)"
        ) from error
    except OSError as error:
        raise DataError(f"text:{path}: it cannot be read ({one_line(error)})") from error
    if held:
        yield held


def _rest_of_line(file: IO[bytes]) -> bytes:
    """From here to the end of the line, or of a character where a line is longer than a piece."""
    rest = file.readline(PIECE)
    if len(rest) == PIECE and not rest.endswith(b"\n"):
        while (byte := file.read(1)) and byte[0] & _CONTINUES == _CONTINUATION:
            rest += byte
    return rest
