"""Files of `torch.save` that hold a state dict: the zip layout, memory-mapped, the legacy layout, read whole."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.base import Checkpoint
from rmt_compress.checkpoints.beside import Carried, Home
from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.checkpoints.pytorch.carrying import carry
from rmt_compress.checkpoints.pytorch.own_record import read_record
from rmt_compress.checkpoints.pytorch.torch_reader import TorchReader
from rmt_compress.checkpoints.state_dicts import (
    common_prefix,
    describe,
    find_state_dict,
    find_ties,
    is_expanded,
)
from rmt_compress.errors import CheckpointError
from rmt_compress.wording import one_line, printable

if TYPE_CHECKING:
    import torch

# Pages of a mapped file stay resident once touched: after this many bytes the mapping is dropped and made
# anew.
_MAX_TOUCHED = 128 * 2**20


class TorchFile(Checkpoint):
    """One file of `torch.save`: a state dict, or a training checkpoint that holds one.

    Tensors that share storage, offset, shape and stride are tied. `metadata` holds the text entries beside
    the state dict, those of a mapping called ``metadata`` among them.

    Args:
        reader: the file.
        saved: what was saved in it.
        strip_prefixes: whether to take ``module.`` and ``_orig_mod.`` off names that all have them.
        weights: which of several sets of weights, see `find_state_dict`.

    Raises:
        CheckpointError: it holds no state dict, or one that claims more than is stored.
    """

    def __init__(
        self,
        reader: TorchReader,
        saved: Any,
        *,
        strip_prefixes: bool = True,
        weights: str | None = None,
    ) -> None:
        self._reader = reader
        self.path: Path = reader.path
        self.format = "PyTorch (zip)" if reader.mapped else "PyTorch (legacy)"
        self._lock = threading.Lock()
        self._touched = 0
        self._identity = reader.opened
        found = find_state_dict(saved, str(reader.path), weights)
        if reader.record_sizes is not None and not reader.inert:
            _check_storages(found.tensors, reader.record_sizes, reader.path)
        self._trail = found.home.trail
        self.metadata = _texts(saved) if self._trail else {}
        versions = dict(found.home.versions)
        own_record = versions.pop(MANIFEST_KEY, None)
        compressed = MANIFEST_KEY in self.metadata
        # What this package wrote has its prefixes taken off, or means them.
        self._prefix = common_prefix(list(found.tensors)) if strip_prefixes and not compressed else ""
        if own_record is not None:
            compressed = True
            texts, self._prefix = read_record(own_record, list(found.tensors), path=self.path)
            self.metadata |= texts
        self.home = Home(
            self._trail,
            self._prefix,
            {
                f"{path}."[len(self._prefix) : -1]: record
                for path, record in versions.items()
                if f"{path}.".startswith(self._prefix)
            },
            {name.removeprefix(self._prefix): entry for name, entry in found.home.extra.items()},
        )
        shown = {name.removeprefix(self._prefix): tensor for name, tensor in found.tensors.items()}
        self._tensors = {name: describe(name, tensor) for name, tensor in shown.items()}
        self._ties = find_ties(shown)
        ran = ("Its pickle was run, as the file is trusted.",) if reader.ran_code else ()
        stripped = (f"Took {self._prefix!r} off every name.",) if self._prefix else ()
        own = {"metadata", MANIFEST_KEY} if compressed else set()
        self.beside = tuple(entry for entry in found.beside if entry.name not in own)
        self.notes = tuple(map(printable, (*ran, *(() if compressed else found.notes), *stripped)))
        self._state: Mapping[str, torch.Tensor] | None = found.tensors

    def read(self, name: str) -> torch.Tensor:
        """A copy of the tensor called `name`, on the CPU; sparse and quantized ones as they are.

        Raises:
            CheckpointError: no such tensor, one without values, or the file changed since it was opened.
        """
        info = self._info(name)
        with self._lock:
            if self._reader.identity() != self._identity:
                raise CheckpointError(f"{self.path}: changed while it was being read; start again")
            if self._state is None:
                self._state = self._reload()
            tensor = self._state[self._prefix + name].detach()
            if tensor.is_meta:
                raise CheckpointError(f"{self.path}: {name} was saved without values (meta device)")
            self._check_values(name, tensor)
            # A dense copy of an expanded view could be of any size; of some types torch makes none.
            copy = tensor if is_expanded(tensor) or _is_uncopyable(tensor) else tensor.clone()
            self._touched += info.nbytes
            if (self._reader.mapped or self._reader.inert) and self._touched > _MAX_TOUCHED:
                self._drop()
        return copy

    def _check_values(self, name: str, tensor: torch.Tensor) -> None:
        """Refuse what torch's reader takes as it is and its functions do not.

        That is a sparse tensor with entries outside of it, or a quantized one with zero points or an axis that its
        type and shape do not allow.
        """
        import torch

        kind = "quantized" if tensor.is_quantized else "sparse"
        try:
            if tensor.is_quantized:
                tensor.dequantize()
            elif tensor.layout == torch.sparse_coo:
                torch.sparse_coo_tensor(tensor._indices(), tensor._values(), tensor.shape, check_invariants=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.path}: {name} is a damaged {kind} tensor ({one_line(error)[:200]}); save it again"
            ) from error

    def close(self) -> None:
        """Give back the mapping, or the memory of the legacy layout."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        self._state = None
        self._touched = 0

    def _reload(self) -> Mapping[str, torch.Tensor]:
        found = self._reader.load()
        for key in self._trail:
            found = found[key]
        state: Mapping[str, torch.Tensor] = found
        return state

    def carried(self) -> Carried:
        """What the file holds beside its weights, to be written beside smaller ones; see `carry`."""
        return carry(self._reader.load(), self._trail, check=self._reader.ran_code)


def open_torch_file(
    path: Path, *, strip_prefixes: bool = True, trust: bool = False, weights: str | None = None
) -> Checkpoint:
    """The state dict or, where the pickle had to be run and held one, the whole model in a file of `torch.save`.

    Args:
        path: the file.
        strip_prefixes: see `TorchFile`.
        trust: see `open_checkpoint`.
        weights: see `open_checkpoint`.

    Raises:
        CheckpointError: see `TorchReader` and `TorchFile`.
    """
    reader = TorchReader(path, trust=trust)
    saved = reader.load(weights)
    if reader.ran_code:
        from rmt_compress.checkpoints.pytorch.pickled_modules import PickledModuleFile, find_module

        if (found := find_module(saved, weights)) is not None:
            return PickledModuleFile(reader, *found)
    return TorchFile(reader, saved, strip_prefixes=strip_prefixes, weights=weights)


def _is_uncopyable(tensor: torch.Tensor) -> bool:
    import torch

    if tensor.dtype == getattr(torch, "float4_e2m1fn_x2", None):  # torch 2.9 copies none of these
        return True
    return tensor.is_quantized and tensor.qscheme() == torch.per_channel_affine_float_qparams


def _check_storages(tensors: Mapping[str, torch.Tensor], record_sizes: Counter[int], path: Path) -> None:
    """Every storage must be as large as a record of the archive: no pickle may claim more than is stored."""
    import torch

    storages = {}
    for name, tensor in tensors.items():
        if tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_nested or tensor.is_quantized):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = (storage.nbytes(), name)
    left = Counter(record_sizes)
    for nbytes, name in storages.values():
        if left[nbytes] == 0 and nbytes > 0:
            raise CheckpointError(
                f"{path}: {name} claims {nbytes} bytes, but the archive has no such record; save it again"
            )
        left[nbytes] -= 1


def _texts(saved: Mapping[Any, Any]) -> dict[str, str]:
    """Text entries of `saved` and of the mapping ``metadata`` in it; those of `saved` itself win."""
    nested = saved.get("metadata")
    entries = [*(nested.items() if isinstance(nested, Mapping) else ()), *saved.items()]
    return {key: text for key, text in entries if isinstance(key, str) and isinstance(text, str)}
