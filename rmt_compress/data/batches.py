"""From what a stranger yields to a `Batch`: pairs, dicts and single inputs, of numpy or torch; cut and joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rmt_compress.data.samples import Batch, Targets
from rmt_compress.errors import DataError
from rmt_compress.wording import listed, one_line, times

if TYPE_CHECKING:
    import torch

TARGET_NAMES = ("labels", "label", "targets", "target", "y")
"""Under which of these names targets are looked for in a dict, an .npz file and a table, in this order."""
INPUT_NAMES = ("x", "inputs", "input")
"""An entry of this name that has no other input beside it is the input itself; all else is called by its name."""
IGNORED = -100
"""Stands where a place has no class (as in torch.nn.CrossEntropyLoss)."""


def is_array(value: object) -> bool:
    """Whether it is a tensor or a numpy array of one dimension at least."""
    import numpy as np
    import torch

    return isinstance(value, torch.Tensor | np.ndarray) and value.ndim > 0


def as_batch(name: str, given: object) -> Batch:
    """The batch in `given`.

    Args:
        name: what messages call the source.
        given: inputs alone, (inputs, targets), (input, input, …, targets), or a dict whose targets are called
            ``labels``, ``label``, ``targets``, ``target`` or ``y``.

    Raises:
        DataError: it is none of these, its parts differ in their number of samples, or inputs are NaN.
    """
    if isinstance(given, Batch):
        inputs, targets = given
    elif isinstance(given, Mapping):
        inputs, targets = split_names(name, given)
    elif isinstance(given, tuple | list) and given:
        *first, targets = given if len(given) > 1 else (*given, None)
        inputs = first[0] if len(first) == 1 else tuple(first)
    elif is_array(given):
        inputs, targets = given, None
    else:
        raise DataError(
            f"{name}: a batch must be inputs, a pair (inputs, targets) or a dict of arrays, not {_said(given)}"
        )
    return checked(name, Batch(_inputs(name, inputs), None if targets is None else _targets(name, targets)))


def split_names(name: str, given: Mapping[Any, Any]) -> tuple[Any, Any]:
    """Inputs and targets of a dict, by the names of its entries."""
    key = next((each for each in TARGET_NAMES if each in given), None)
    inputs = {each: value for each, value in given.items() if each != key}
    if not inputs:
        raise DataError(f"{name}: a batch holds no inputs beside its {key or 'targets'}")
    if not all(isinstance(each, str) for each in inputs):
        raise DataError(f"{name}: the keys of a batch must be names, not {listed(map(repr, inputs))}")
    if len(inputs) == 1 and next(iter(inputs)) in INPUT_NAMES:
        inputs = next(iter(inputs.values()))
    return inputs, given[key] if key else None


def leaves(inputs: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors of a batch's inputs, and what messages call each."""
    if isinstance(inputs, Mapping):
        return [(f"input {name!r}", each) for name, each in inputs.items()]
    if isinstance(inputs, tuple):
        return [(f"input {number}", each) for number, each in enumerate(inputs, 1)]
    return [("inputs", inputs)]


def mapped(inputs: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Inputs of the same structure with `change` done to each tensor."""
    if isinstance(inputs, Mapping):
        return {name: change(each) for name, each in inputs.items()}
    return tuple(map(change, inputs)) if isinstance(inputs, tuple) else change(inputs)


def length(batch: Batch) -> int:
    """Number of samples."""
    return len(leaves(batch.inputs)[0][1])


def picked(batch: Batch, which: Any) -> Batch:
    """Some samples of a batch: a slice, or their indices as a tensor."""
    targets = None if batch.targets is None else batch.targets[which]
    return Batch(mapped(batch.inputs, lambda each: each[which]), targets)


def checked(name: str, batch: Batch) -> Batch:
    """The batch itself.

    Raises:
        DataError: its parts differ in their number of samples; inputs or numbers to be met are NaN; a label is
            negative.
    """
    import torch

    parts = leaves(batch.inputs) + ([] if batch.targets is None else [("targets", batch.targets)])
    lengths = {called: len(each) for called, each in parts}
    if len(set(lengths.values())) > 1:
        counts = listed(f"{count:,} {called}" for called, count in lengths.items())
        raise DataError(f"{name}: a batch holds {counts}: one each per sample is needed")
    for called, each in parts:
        if each.is_floating_point() and torch.isnan(each).any():
            first = int(torch.isnan(each).reshape(len(each), -1).any(1).nonzero()[0])
            raise DataError(f"{name}: {called} hold NaN, first in sample {first} of a batch; take such samples out")
    if batch.targets is not None and not batch.targets.is_floating_point():
        wrong = (batch.targets < 0) & (batch.targets != IGNORED)
        if wrong.any():
            raise DataError(
                f"{name}: label {int(batch.targets[wrong][0])} is negative; classes count from 0, "
                "and numbers to be met must be floating-point"
            )
    return batch


def kind_of(batch: Batch) -> Targets:
    """What the targets of a batch are; tokens where there are none and the inputs are rows of whole numbers."""
    import torch

    if batch.targets is not None:
        return "numbers" if batch.targets.is_floating_point() else "classes"
    inputs = batch.inputs.get("input_ids") if isinstance(batch.inputs, Mapping) else batch.inputs
    tokens = isinstance(inputs, torch.Tensor) and inputs.dtype == torch.int64 and inputs.ndim == 2
    return "tokens" if tokens else "none"


def regrouped(name: str, batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same samples in the same order, `size` at a time.

    Sequences that differ in length are not joined: a batch is then smaller.

    Raises:
        DataError: batches differ in the shape of what is no sequence.
    """
    held: list[Batch] = []
    count = 0
    for batch in batches:
        if held and not _fit(name, held[-1], batch):
            yield _joined(held)
            held, count = [], 0
        held.append(batch)
        count += length(batch)
        if count >= size:
            whole = _joined(held)
            full = count - count % size
            for start in range(0, full, size):
                yield picked(whole, slice(start, start + size))
            count -= full
            held = [picked(whole, slice(full, None))] if count else []
    if held:
        yield _joined(held)


def _fit(name: str, first: Batch, second: Batch) -> bool:
    """Whether two batches can be joined; only sequences may differ, in their length."""
    pairs = list(zip(_parts(first), _parts(second), strict=False))
    structures = [(type(each.inputs), [called for called, _ in leaves(each.inputs)]) for each in (first, second)]
    if structures[0] != structures[1] or (first.targets is None) != (second.targets is None):
        raise DataError(f"{name}: its batches do not fit together: they differ in their parts")
    fit = True
    for one, other in pairs:
        if one.shape[1:] != other.shape[1:]:
            if one.is_floating_point() or one.ndim != 2 or other.ndim != 2:
                shapes = " and ".join(times(each.shape[1:]) for each in (one, other))
                raise DataError(f"{name}: its batches do not fit together: samples are of shapes {shapes}")
            fit = False
        if one.dtype != other.dtype:
            raise DataError(f"{name}: its batches do not fit together: they are of {one.dtype} and {other.dtype}")
    return fit


def _parts(batch: Batch) -> list[torch.Tensor]:
    return [each for _, each in leaves(batch.inputs)] + ([] if batch.targets is None else [batch.targets])


def _joined(batches: Sequence[Batch]) -> Batch:
    import torch

    if len(batches) == 1:
        return batches[0]
    first, targets = batches[0].inputs, None
    if batches[0].targets is not None:
        targets = torch.cat([each.targets for each in batches if each.targets is not None])
    columns = [torch.cat(parts) for parts in zip(*([x for _, x in leaves(b.inputs)] for b in batches), strict=True)]
    if isinstance(first, Mapping):
        return Batch(dict(zip(first, columns, strict=True)), targets)
    return Batch(tuple(columns) if isinstance(first, tuple) else columns[0], targets)


def _inputs(name: str, given: Any) -> Any:
    if isinstance(given, Mapping):
        return {key: _input(name, each) for key, each in given.items()}
    if isinstance(given, tuple | list) and given and all(map(is_array, given)):
        return tuple(_input(name, each) for each in given) if len(given) > 1 else _input(name, given[0])
    return _input(name, given)


def _input(name: str, given: object) -> torch.Tensor:
    """Floating-point numbers as float32; bytes stay, for pixels have a unit of their own; others as int64."""
    import torch

    tensor = _tensor(name, "inputs", given)
    if tensor.dtype.is_floating_point:
        return tensor.to(torch.float32)
    return tensor if tensor.dtype in (torch.bool, torch.uint8) else tensor.to(torch.int64)


def _targets(name: str, given: object) -> torch.Tensor:
    import torch

    tensor = _tensor(name, "targets", given)
    return tensor.to(torch.float32 if tensor.dtype.is_floating_point else torch.int64)


def _tensor(name: str, called: str, given: object) -> torch.Tensor:
    import numpy as np
    import torch

    try:
        if isinstance(given, np.ndarray) and not given.flags.writeable:
            given = given.copy()
        tensor = torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        if _holds_text(given):
            raise DataError(
                f"{name}: {called} are texts; turn them into ids, or give their file: text:FILE, csv:FILE, "
                "datasets:FOLDER"
            ) from error
        raise DataError(f"{name}: {called} are no numbers of one shape ({one_line(error)})") from error
    if tensor.ndim == 0:
        raise DataError(f"{name}: {called} are one number: a batch has one entry for each of its samples")
    if tensor.dtype.is_complex:
        raise DataError(f"{name}: {called} are complex; real numbers are needed")
    return tensor


def _holds_text(given: object) -> bool:
    if isinstance(given, list | tuple) and given:
        return _holds_text(given[0])
    return isinstance(given, str) or str(getattr(given, "dtype", "")).startswith("<U")


def _said(given: object) -> str:
    return (
        type(given).__name__ if given or not isinstance(given, tuple | list) else f"an empty {type(given).__name__}"
    )
