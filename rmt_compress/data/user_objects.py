"""``package.module:name`` as data: whatever a stranger's code returns, from a pair of arrays to an endless stream.

What is taken, and how each is gone through, is written for users in docs/data.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any

from rmt_compress.data.batches import is_array, split_names
from rmt_compress.data.rows import ArrayRows, DatasetRows, RowTable
from rmt_compress.data.samples import Part
from rmt_compress.data.streams import StreamTable
from rmt_compress.errors import DataError
from rmt_compress.object_reference import load_object
from rmt_compress.wording import one_line

TAKEN = (
    "a DataLoader, a torch Dataset, arrays or tensors, a dict of them, an iterable of batches, or a function that "
    "returns one of these"
)


class UserObject:
    """What a reference names.

    Args:
        reference: as typed.
        seed: of the shuffle.

    Raises:
        DataError: it leads nowhere, or to nothing that data can be.
    """

    def __init__(self, reference: str, *, seed: int) -> None:
        self.name, self._seed = reference, seed
        try:
            self._found = load_object(reference)
        except ImportError as error:
            raise DataError(f"data {reference}: {error}") from error
        self._maker = callable(self._found) and (inspect.isclass(self._found) or not _is_data(self._found))
        self._asked = _parameters(self._found) if self._maker else frozenset()

    @property
    def divided(self) -> str:
        """How the callable is asked: ``part`` for one of four, ``split`` for one of two, empty for all there is."""
        return "part" if "part" in self._asked else "split" if {"split", "train"} & self._asked else ""

    def table(self, part: Part) -> RowTable | StreamTable:
        """The samples of a part or split, or all there are where the object does not divide them."""
        name = f"data {self.name}"
        if not self._maker:
            if isinstance(self._found, Iterator):
                raise DataError(
                    f"{name}: it is {_named(self._found)}, which can be gone through only once; name the function "
                    "that makes it"
                )
            return _table(name, self._found, None, self._classes(self._found), self._seed)
        found = self._call(part)
        again = (lambda: self._again(part, found)) if isinstance(found, Iterator) else None
        return _table(name, found, again, self._classes(found), self._seed)

    def _call(self, part: Part) -> Any:
        asked: dict[str, Any] = {
            "part": part,
            "split": "test" if part == "test" else "train",
            "train": part != "test",
        }
        if "part" in self._asked:
            asked.pop("split"), asked.pop("train")
        try:
            return self._found(**{key: value for key, value in asked.items() if key in self._asked})
        except DataError:
            raise
        except Exception as error:  # a stranger's code can raise anything
            raise DataError(f"data {self.name}: calling it failed ({one_line(error)})") from error

    def _again(self, part: Part, first: object) -> Iterator[Any]:
        found = self._call(part)
        if found is first or not isinstance(found, Iterator):
            raise DataError(
                f"data {self.name}: it returns the same {type(first).__name__} each time, which can be gone "
                "through only once; make a new one in every call"
            )
        return found

    def _classes(self, found: object) -> int | None:
        """The number of classes, where the object, what it returns or the data set of a loader says it."""
        for each in (self._found, getattr(self._found, "func", None), found, getattr(found, "dataset", None)):
            said = None if each is None or isinstance(each, Mapping) else getattr(each, "classes", None)
            if isinstance(said, Sized) and not isinstance(said, str):
                said = len(said)
            if isinstance(said, int) and said > 0:
                return said
        return None


def _table(
    name: str, found: Any, again: Callable[[], Iterator[Any]] | None, classes: int | None, seed: int
) -> RowTable | StreamTable:
    from torch.utils.data import DataLoader, Dataset, IterableDataset

    if again is not None:
        return StreamTable(name, again, seed, classes)
    if isinstance(found, DataLoader):
        if isinstance(found.dataset, IterableDataset) or (found.batch_size is None and found.batch_sampler is None):
            return StreamTable(name, lambda: iter(found), seed, classes)
        return RowTable(name, _loader_rows(found), seed, classes, _order_note(found))
    if isinstance(found, IterableDataset):
        return StreamTable(name, lambda: iter(DataLoader(found, batch_size=_COLLATED)), seed, classes)
    if is_array(found):
        return RowTable(name, ArrayRows(name, found), seed)
    if isinstance(found, Mapping) and found and all(map(is_array, found.values())):
        rows = ArrayRows(name, *split_names(name, found))
        return RowTable(name, rows, seed, classes or rows.classes)
    if isinstance(found, tuple) and len(found) > 1 and all(map(is_array, found)):
        inputs = found[0] if len(found) == 2 else found[:-1]
        rows = ArrayRows(name, inputs, found[-1])
        return RowTable(name, rows, seed, classes or rows.classes)
    is_set = isinstance(found, Dataset) or not isinstance(found, list | tuple | str | bytes | Mapping)
    if is_set and isinstance(found, Sized) and hasattr(found, "__getitem__"):
        if not len(found):
            raise DataError(f"{name}: its data set is empty")
        return RowTable(name, DatasetRows(found), seed, classes)
    if isinstance(found, Iterable) and not isinstance(found, str | bytes | Mapping):
        return StreamTable(name, lambda: iter(found), seed, classes)
    raise DataError(f"{name}: it is {_named(found)}; data are {TAKEN}")


_COLLATED = 64
_DRAWS = 4  # per sample, of a sampler that may never end


def _loader_rows(loader: Any) -> DatasetRows:
    """The samples that a loader draws, each once and in the order of its data set.

    What it shuffles would come in another order in every pass, and parts would overlap.
    """
    import numpy as np

    most = _DRAWS * len(loader.dataset)
    loading = {"collate_fn": loader.collate_fn, "num_workers": loader.num_workers}
    if loader.worker_init_fn is not None:
        loading["worker_init_fn"] = loader.worker_init_fn
    if loader.batch_size is None:
        drawn = list(islice((number for numbers in loader.batch_sampler for number in numbers), most))
    else:
        drawn = list(islice(loader.sampler, most))
    which = np.unique(np.asarray(drawn, np.int64))
    return DatasetRows(loader.dataset, which, **loading)


def _order_note(loader: Any) -> tuple[str, ...]:
    from torch.utils.data import SequentialSampler

    if isinstance(loader.sampler, SequentialSampler):
        return ()
    return ("The loader's samples are taken once each, in the order of its data set, not in the loader's.",)


def _is_data(found: object) -> bool:
    from torch.utils.data import DataLoader, Dataset

    return isinstance(found, DataLoader | Dataset) or is_array(found)


def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    """Which of the parameters that say what is wanted a function has; any keyword means ``split``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return frozenset()
    named = {each.name for each in parameters if each.kind is not each.VAR_POSITIONAL}
    known = named & {"part", "split", "train"}
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters)
    return frozenset(known or ({"split"} if anything else ()))


def _named(found: object) -> str:
    if found is None:
        return "nothing (None)"
    kind = type(found).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
