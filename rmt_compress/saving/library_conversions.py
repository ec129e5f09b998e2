"""Where transformers puts the tensors of a file: under other names, joined with others, or turned.

The library says in patterns and operations how it loads a file (experts of their own become one stack, q, k and v
one product). What an operation is called is not asked: each is run on tensors of the same shapes whose entries are
numbers of tensors, of rows and of columns, and where these come out tells which part of the file lies where. So a
weight can be put together tensor by tensor, and what is measured of it be told by the names of the file.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from rmt_compress.checkpoints.views import DenseView

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint

Places = slice | torch.Tensor
"""Which rows or columns: in equal steps, or by their numbers."""
_SHORT = 2**15
"""Numbers below this one are written in two bytes."""


class Piece(NamedTuple):
    """A part of a tensor of the file where it lies in one of the network; both as matrices, rows the first axis.

    Attributes:
        name: in the file.
        matrix: which one of a stack it lies in; 0 where there is one.
        rows: of that one, where it lies.
        columns: the same of columns.
        own_rows: which rows of the file's tensor these are, in this order.
        own_columns: the same of columns.
        turned: whether the file's tensor is turned first, before its rows and columns are taken.
    """

    name: str
    matrix: int
    rows: Places
    columns: Places
    own_rows: Places
    own_columns: Places
    turned: bool


@dataclass(frozen=True)
class Made:
    """A tensor of the network that is made of some of the file's.

    Attributes:
        pieces: of what.
        stacked: whether its first axis counts matrices.
    """

    pieces: tuple[Piece, ...]
    stacked: bool

    def of(self, names: Sequence[str]) -> Made:
        """The same of tensors with these names, where pieces have their numbers."""
        return Made(tuple(piece._replace(name=names[int(piece.name)]) for piece in self.pieces), self.stacked)

    def put_together(
        self, shape: Sequence[int], dtype: torch.dtype, read: Callable[[str], torch.Tensor]
    ) -> torch.Tensor:
        """The tensor; `read` hands out those of the file, one at a time."""
        whole = torch.empty(*shape, dtype=dtype)
        matrices = _matrices(whole, stacked=self.stacked)
        for name, pieces in itertools.groupby(sorted(self.pieces, key=_name), _name):
            source = read(name)
            matrix = source.reshape(len(source), -1)
            for piece in pieces:
                own = matrix.T if piece.turned else matrix
                # Of rows or columns there is all, so that no more than one of them is told by numbers.
                matrices[piece.matrix, piece.rows, piece.columns] = own[piece.own_rows][:, piece.own_columns]
        return whole


@dataclass(frozen=True)
class Conversions:
    """How a file becomes a network of transformers.

    Attributes:
        names: name in the file -> in the network, of tensors that are the same in both.
        made: name in the network -> what it is made of, where that is not one tensor as it is.
    """

    names: Mapping[str, str]
    made: Mapping[str, Made]


def conversions(checkpoint: Checkpoint, model: Any) -> Conversions | None:
    """What the library does to the tensors of a file when it loads them.

    None where it does not tell, and where a tensor is made otherwise than of rows and columns of others.

    Args:
        checkpoint: the file; no tensor of it is read.
        model: the network, with or without values.
    """
    files = DenseView(checkpoint).tensors
    own: dict[str, torch.Tensor] = model.state_dict()
    names: dict[str, str] = {}
    joined: dict[str, list[tuple[str, str]]] = {}
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, dot_natural_key, rename_source_key

        steps = get_model_conversion_mapping(model)
        converters = [step for step in steps if isinstance(step, WeightConverter)]
        renamings = [step for step in steps if not isinstance(step, WeightConverter)]
        by_pattern = {pattern: step for step in converters for pattern in step.source_patterns}
        # The library goes through them in this order, on which that of a stack depends.
        for name in sorted(files, key=dot_natural_key):
            new, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, own)
            if new not in own and name in own:
                new, pattern = name, None
            if pattern is None or new not in own:
                names[name] = new
            else:
                joined.setdefault(new, []).append((name, pattern))
        tracer = _Tracer(model, {name: info.shape for name, info in files.items()}, own)
        made: dict[str, Made] = {}
        for target, sources in joined.items():
            made |= tracer.traced(target, sources, by_pattern[sources[0][1]])
    # Inner parts of a library, which another version of it has otherwise or not at all.
    except (ImportError, AttributeError, TypeError, ValueError, KeyError, IndexError, RuntimeError):
        return None
    placed = [new for new in names.values() if new in own]
    return Conversions(names, made) if len({*placed, *made}) == len(placed) + len(made) else None


class _Tracer:
    """Runs conversions on marks; where several blocks have the same one, for the first of them.

    Args:
        model: the network.
        files: name in the file -> shape.
        own: the tensors of the network.
    """

    def __init__(self, model: Any, files: Mapping[str, tuple[int, ...]], own: Mapping[str, torch.Tensor]) -> None:
        self._model, self._files, self._own = model, files, own
        self._known: dict[object, Made] = {}

    def traced(self, target: str, sources: list[tuple[str, str]], converter: Any) -> dict[str, Made]:
        """All that is made of `sources`, (name, pattern) each; `target` is the first of it.

        Raises:
            ValueError: it is made otherwise than of rows and columns of them.
        """
        shapes = [(pattern, self._files[name]) for name, pattern in sources]
        alike = (id(converter), self._own[target].shape, *shapes)
        if alike in self._known:
            numbered = {target: self._known[alike]}
        else:
            numbered = self._traced(target, sources, converter)
        if numbered.keys() == {target}:
            self._known[alike] = numbered[target]
        return {name: made.of([source for source, _ in sources]) for name, made in numbered.items()}

    def _traced(self, target: str, sources: list[tuple[str, str]], converter: Any) -> dict[str, Made]:
        """The same, the numbers of the sources in the place of their names."""
        axes = len(self._files[sources[0][0]])
        lines: dict[str, list[_Lines]] = {}
        stacked: dict[str, bool] = {}
        for mark in (_numbers, _rows, _columns):
            # A converter uses up what it is given.
            step = copy.deepcopy(converter)
            for number, (name, pattern) in enumerate(sources):
                step.add_tensor(target, name, pattern, mark(number, self._files[name]))
            for name, value in step.convert(target, model=self._model, config=self._model.config).items():
                marked = value[0] if isinstance(value, list) else value
                if marked.shape != self._own[name].shape:
                    raise ValueError(f"{name} comes out in another shape")
                stacked[name] = marked.dim() == axes + 1
                lines.setdefault(name, []).append(_Lines.of(_matrices(marked, stacked=stacked[name])))
        shapes = [self._files[name] for name, _ in sources]
        if sum(self._own[name].numel() for name in lines) != sum(map(math.prod, shapes)):
            raise ValueError("entries are lost")
        return {name: Made(tuple(_pieces(shapes, *marked)), stacked[name]) for name, marked in lines.items()}


def _name(piece: Piece) -> str:
    return piece.name


def _matrices(tensor: torch.Tensor, *, stacked: bool) -> torch.Tensor:
    matrices, rows = tensor.shape[:2] if stacked else (1, len(tensor))
    return tensor.view(matrices, rows, -1)


def _mark(marks: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    short = max(shape[0], math.prod(shape[1:])) < _SHORT
    return marks.to(torch.int16 if short else torch.int32).expand(shape)


def _numbers(number: int, shape: tuple[int, ...]) -> torch.Tensor:
    return _mark(torch.tensor(number), shape)


def _rows(_: int, shape: tuple[int, ...]) -> torch.Tensor:
    return _mark(torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)), shape)


def _columns(_: int, shape: tuple[int, ...]) -> torch.Tensor:
    return _mark(torch.arange(math.prod(shape[1:])).view(shape[1:]), shape)


class _Lines(NamedTuple):
    """Marks that are the same all along the rows, (matrices, rows), or the columns, (matrices, columns)."""

    rows: torch.Tensor | None
    columns: torch.Tensor | None

    @classmethod
    def of(cls, marks: torch.Tensor) -> _Lines:
        """Those of (matrices, rows, columns)."""
        by_row = bool((marks == marks[:, :, :1]).all())
        by_column = bool((marks == marks[:, :1]).all())
        return cls(marks[:, :, 0].clone() if by_row else None, marks[:, 0].clone() if by_column else None)


def _pieces(shapes: Sequence[tuple[int, ...]], numbers: _Lines, rows: _Lines, columns: _Lines) -> Iterator[Piece]:
    turned = rows.rows is None or columns.columns is None
    along, across = (columns.rows, rows.columns) if turned else (rows.rows, columns.columns)
    if along is None or across is None:
        raise ValueError("rows and columns do not stay such")
    by_rows = numbers.rows is not None
    found = numbers.rows if by_rows else numbers.columns
    if found is None:
        raise ValueError("no rows or columns of one tensor alone")
    for matrix, own in enumerate(found):
        for number in own.unique().tolist():
            places = (own == number).nonzero().flatten()
            rows_ = places if by_rows else torch.arange(along.shape[1])
            columns_ = torch.arange(across.shape[1]) if by_rows else places
            own_rows, own_columns = along[matrix][rows_], across[matrix][columns_]
            size = shapes[number][0], math.prod(shapes[number][1:])
            _check(own_rows, size[turned])
            _check(own_columns, size[not turned])
            there, its_own = (_in_short(rows_), _in_short(columns_)), (_in_short(own_rows), _in_short(own_columns))
            yield Piece(str(number), matrix, *there, *its_own, turned)


def _check(places: torch.Tensor, count: int) -> None:
    if int(places.min()) < 0 or int(places.max()) >= count:
        raise ValueError("entries are changed")


def _in_short(places: torch.Tensor) -> Places:
    first, last = int(places[0]), int(places[-1])
    step = int(places[1]) - first if len(places) > 1 else 1
    in_steps = step > 0 and torch.equal(places.long(), torch.arange(first, last + 1, step))
    return slice(first, last + 1, step) if in_steps else places.long()
