"""What layers of several blocks read: the memory of a chain, as a decoder's blocks read what the encoder returns.

All of them have one C, whose vectors count as much as the layers together feel errors there (see `Adder`). So which
these are is noted before the first is measured, by what they are applied to; the squares of their gradients are
added up from the last block on; and C is that of the block that is measured last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.decomposition.moments_file import read_tensors, write_tensors
from rmt_compress.errors import DataError
from rmt_compress.networks.calling import tensors_in
from rmt_compress.outputs import replacing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.decomposition.moments import LayerMoments
    from rmt_compress.networks.calibration.applied import Use


class Reader:
    """Notes which weights of a block are applied to what the block is given, as it is: other blocks may be too.

    Args:
        block: the block.

    Attributes:
        seen: name of the layer -> digests of the tensors, in their order; not of stacks, whose experts each read
            something else.
    """

    def __init__(self, block: nn.Module) -> None:
        self.seen: dict[str, list[str]] = {}
        self._block = block
        self._given: list[torch.Tensor] = []

    @contextmanager
    def looking(self) -> Iterator[None]:
        """While it is entered, what the block is given is known."""
        handle = self._block.register_forward_pre_hook(
            lambda _, *given: self._given.extend(tensors_in(given)), with_kwargs=True
        )
        try:
            yield
        finally:
            handle.remove()

    def applied(self, use: Use, output: torch.Tensor) -> torch.Tensor:
        """Note the tensor."""
        if use.layer.kind != "stack" and any(use.tensor is tensor for tensor in self._given):
            values = use.tensor.detach().float().cpu().contiguous().numpy().tobytes()
            told = f"{tuple(use.tensor.shape)} {use.geometry} {use.columns} {hashlib.blake2b(values).hexdigest()}"
            self.seen.setdefault(use.layer.tensor, []).append(told)
        return output

    def used_otherwise(self, name: str) -> None:
        """Is noted where layers are measured."""


class SharedReads:
    """Which layers of several blocks read the same, and how much they feel errors there; kept in a folder.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, at: int) -> bool:
        """Whether it is known what the layers of block `at` read."""
        return self._path(at).exists()

    def keep(self, at: int, seen: Mapping[str, list[str]]) -> None:
        """Write what they read."""
        digests = {
            name: hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest() for name, told in seen.items()
        }
        with replacing(self._path(at)) as temporary:
            temporary.write_text(json.dumps(digests), encoding="utf-8")

    def same(self) -> dict[str, dict[str, int]]:
        """What several blocks read -> the layers that do, and the block of each, the first block first.

        Raises:
            DataError: a file is damaged.
        """
        found: dict[str, dict[str, int]] = {}
        for path in sorted(self._folder.glob("reads-*.json"), key=_number):
            try:
                known = dict(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise DataError(f"{path}: damaged; delete the folder and begin again") from error
            for name, digest in known.items():
                found.setdefault(str(digest), {})[name] = _number(path)
        return {digest: layers for digest, layers in found.items() if len({*layers.values()}) > 1}

    def felt(self, at: int) -> FeltTogether:
        """What adds up the squares of gradients in block `at`."""
        return FeltTogether(self._folder, at, self.same())

    def joined(self, layers: Mapping[str, LayerMoments]) -> dict[str, LayerMoments]:
        """The moments, with one C for all that read the same: that of the first of them."""
        found = dict(layers)
        for names in map(list, self.same().values()):
            there = [name for name in names if name in found]
            for name in there[1:]:
                first = found[there[0]]
                found[name] = replace(found[name], inputs=first.inputs, mean=first.mean)
        return found

    def _path(self, at: int) -> Path:
        return self._folder / f"reads-{at}.json"


class FeltTogether:
    """Adds up how much layers of several blocks feel errors in what they read; see `Adder`.

    Args:
        folder: where sums are kept.
        at: the block that is measured; those behind it have been.
        same: see `SharedReads.same`.
    """

    def __init__(self, folder: Path, at: int, same: Mapping[str, Mapping[str, int]]) -> None:
        self._folder, self._at = folder, at
        self._digests = {name: digest for digest, layers in same.items() for name in layers}
        self._behind = {
            digest: min((block for block in layers.values() if block > at), default=None)
            for digest, layers in same.items()
        }

    def __call__(self, name: str, batch: int, use: int, felt: torch.Tensor | None) -> torch.Tensor | None:
        """`felt` in this block and those behind it, at one use of what the layer `name` reads."""
        digest = self._digests.get(name)
        if digest is None:
            return felt
        behind = self._behind[digest]
        path = None if behind is None else self._path(digest, behind, batch, use)
        if path is not None and path.exists():
            before = read_tensors(path)[0]["felt"]
            felt = before if felt is None else felt + before.to(felt.device)
        if felt is not None:
            write_tensors({"felt": felt.cpu()}, {}, self._path(digest, self._at, batch, use))
        return felt

    def _path(self, digest: str, at: int, batch: int, use: int) -> Path:
        return self._folder / f"felt-{digest}-{at}-{batch}-{use}.safetensors"


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
