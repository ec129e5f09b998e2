"""What blocks return, and the gradients there, on the disk."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rmt_compress.decomposition.moments_file import read_tensors, write_tensors
from rmt_compress.errors import DataError, OutputError
from rmt_compress.networks.repair.relay import Outline, outline
from rmt_compress.settings.sizes import shown_bytes

if TYPE_CHECKING:
    import torch

_KEY = "rmt_compress_state"


class KeptGradient(NamedTuple):
    """The gradient at all tensors that a block has returned for one batch.

    Attributes:
        tensors: number of the tensor, as `tensors_in` counts -> the gradient; tensors without one are left out.
        samples: how many losses the scalar is the sum of.
        kind: what it is.
    """

    tensors: dict[int, torch.Tensor]
    samples: int
    kind: str

    def plus(self, other: KeptGradient | None) -> KeptGradient:
        """The sum of two at the same tensors."""
        if other is None:
            return self
        added = {number: tensor + other.tensors.get(number, 0) for number, tensor in self.tensors.items()}
        return KeptGradient({**other.tensors, **added}, self.samples, self.kind)


class KeptStates:
    """A folder with a file for each block and batch; one that is there is whole.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._outlines: dict[tuple[int, int], Outline] = {}

    def has(self, at: int, place: int) -> bool:
        """Whether the output of block `at` for batch `place` is there."""
        return self._path("state", at, place).exists()

    def keep(self, at: int, place: int, output: Any) -> None:
        """Write what a block has returned.

        Raises:
            DataError: it holds something else than float32, float64 or int64 tensors, numbers, tuples, lists,
                dictionaries and outputs of transformers.
            OutputError: the disk takes it not.
        """
        tensors: dict[str, torch.Tensor] = {}
        form = json.dumps(_form(output, tensors))
        write_tensors(tensors, {_KEY: form}, self._path("state", at, place))

    def output(self, at: int, place: int) -> Any:
        """What block `at` has returned for a batch; its tensors are mapped."""
        path = self._path("state", at, place)
        tensors, metadata = read_tensors(path)
        try:
            return _formed(json.loads(metadata[_KEY]), tensors)
        except (ValueError, KeyError, TypeError, ImportError) as error:
            raise DataError(f"{path}: damaged; delete the folder and begin again") from error

    def outline(self, at: int, place: int) -> Outline:
        """The outline of that."""
        if (at, place) not in self._outlines:
            self._outlines[at, place] = outline(self.output(at, place))
        return self._outlines[at, place]

    def check_room(self, blocks: int) -> None:
        """Refuse to go on where the disk has no room for what so many more blocks return, each as the first has.

        Raises:
            OutputError: naming the folder, and what it takes.
        """
        needed = blocks * sum(path.stat().st_size for path in self._folder.glob("state-0-*.safetensors"))
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise OutputError(
                f"{self._folder}: what {blocks} blocks return for all inputs takes {shown_bytes(needed)}, "
                f"{shown_bytes(free)} are free there; calibrate with fewer inputs, or on another disk"
            )

    def keep_gradient(self, at: int, place: int, gradient: KeptGradient) -> None:
        """Write the gradient at what block `at` has returned."""
        self._keep("gradient", at, place, gradient)

    def gradient(self, at: int, place: int) -> KeptGradient | None:
        """That gradient; None where none came."""
        return self._gradient("gradient", at, place)

    def keep_behind(self, at: int, place: int, gradient: KeptGradient) -> None:
        """Write the gradient at the memory of the chain that the blocks from `at` on have led to together."""
        self._keep("behind", at, place, gradient)

    def behind(self, at: int, place: int) -> KeptGradient | None:
        """That gradient; None where none came."""
        return self._gradient("behind", at, place)

    def forget(self, at: int) -> None:
        """Remove what is kept of a block's outputs, and what only this block has needed."""
        for kind, number in (("state", at), ("gradient", at), ("behind", at + 1)):
            for path in self._folder.glob(f"{kind}-{number}-*.safetensors"):
                path.unlink()

    def _keep(self, kind: str, at: int, place: int, gradient: KeptGradient) -> None:
        tensors = {str(number): tensor for number, tensor in gradient.tensors.items()}
        described = json.dumps({"samples": gradient.samples, "kind": gradient.kind})
        write_tensors(tensors, {_KEY: described}, self._path(kind, at, place))

    def _gradient(self, kind: str, at: int, place: int) -> KeptGradient | None:
        path = self._path(kind, at, place)
        if not path.exists():
            return None
        tensors, metadata = read_tensors(path)
        try:
            described = json.loads(metadata[_KEY])
            numbered = {int(number): tensor for number, tensor in tensors.items()}
            return KeptGradient(numbered, int(described["samples"]), str(described["kind"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged; delete the folder and begin again") from error

    def _path(self, kind: str, at: int, place: int) -> Path:
        return self._folder / f"{kind}-{at}-{place}.safetensors"


def _form(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    import torch

    if isinstance(value, torch.Tensor) and value.dtype in (torch.float32, torch.float64, torch.int64):
        tensors[str(len(tensors))] = value
        return {"tensor": len(tensors) - 1}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_form(part, tensors) for part in value]}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _form(part, tensors) for key, part in value.items()}}
    if (of_library := _output_class(type(value).__module__, type(value).__name__)) is not None:
        parts = {key: _form(part, tensors) for key, part in value.items()}
        return {"output": [of_library.__module__, of_library.__name__, parts]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    kind = f"a tensor of {value.dtype}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
    raise DataError(f"a block returns {kind}, which is not kept on the disk; give more memory")


def _formed(form: Any, tensors: dict[str, torch.Tensor]) -> Any:
    ((kind, held),) = form.items()
    if kind == "tensor":
        return tensors[str(held)]
    if kind == "dict":
        return {key: _formed(part, tensors) for key, part in held.items()}
    if kind == "value":
        return held
    if kind == "output":
        module, name, named = held
        cls = _output_class(module, name)
        if cls is None:
            raise ValueError(name)
        return cls(**{key: _formed(part, tensors) for key, part in named.items()})
    parts = [_formed(part, tensors) for part in held]
    return tuple(parts) if kind == "tuple" else parts


def _output_class(module: str, name: str) -> Any:
    """A class of outputs of transformers, which are dictionaries too; None of everything else."""
    if module.partition(".")[0] != "transformers":
        return None
    from transformers.utils import ModelOutput

    cls = getattr(importlib.import_module(module), name, None)
    return cls if isinstance(cls, type) and issubclass(cls, ModelOutput) else None
