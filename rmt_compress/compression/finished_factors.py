"""The weights that a compression has changed, kept in a journal, so that an interrupted one makes none twice.

They stand beside the output and not in it: what is written is laid out in the end, packed, sparse, in shards or as
a graph, and the same file comes of it whether it was interrupted or not. What was left as it is is read again.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.checkpoints.journal import Entry, Journal, Say, identity_of
from rmt_compress.checkpoints.writers import check_room
from rmt_compress.compression.became import Became
from rmt_compress.compression.weights import LayerOutcome
from rmt_compress.layers.splitting import Factors

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.compression.weights import Step
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.plan import Layout, Plan

_ENTRIES = 4096


class FinishedFactors:
    """What has become already of the tensors of a checkpoint that is being compressed.

    Args:
        path: the journal; see `remove`.
        checkpoint: what is compressed.
        made_by: the plan, the layout, and the moments that it is carried out with.
        device: where weights are decomposed; their last digits depend on it.
        say: see `Journal`.
        room: bytes that all changed tensors take.

    Raises:
        SettingsError: the checkpoint is in no file.
        OutputError: see `Journal`; or the disk may be too small.
    """

    def __init__(
        self,
        path: Path,
        checkpoint: Checkpoint,
        made_by: tuple[Plan, Layout, Moments | None],
        device: str,
        say: Say,
        *,
        room: int,
    ) -> None:
        plan, layout, moments = made_by
        digest = hashlib.sha256(plan.to_json().encode()).hexdigest()
        asked = {"plan": [digest, layout, _digest(moments)], "device": device}
        self._journal = Journal(path, identity_of(checkpoint) | asked, say)
        try:
            with self._journal.restoring():
                self._entries = {entry.facts["tensor"]: entry for entry in self._journal.entries}
            check_room(path, room - sum(entry.length for entry in self._journal.entries))
        except BaseException:
            # Whoever makes this closes it; nobody has made it.
            self._journal.close()
            raise

    def became(self, tensor: str, steps: list[Step]) -> Became | None:
        """What became of a tensor by its steps; None where that is not known.

        Raises:
            OutputError: see `Journal.restoring`.
        """
        entry = self._entries.get(tensor)
        if entry is None:
            return None
        with self._journal.restoring():
            return self._restored(entry, steps)

    def add(self, tensor: str, became: Became) -> None:
        """Keep what became of a tensor."""
        value = became.value
        values = list(value) if isinstance(value, Factors) else [value]
        kept = [*values, *became.corrections.values()]
        facts = {
            "tensor": tensor,
            "split": isinstance(value, Factors),
            "values": [[list(part.shape), str(part.dtype).removeprefix("torch.")] for part in kept],
            "outcomes": [outcome.to_json() for outcome in became.outcomes],
            "corrections": list(became.corrections),
        }
        self._journal.add(facts, [_bytes(part) for part in kept])

    def remove(self) -> None:
        """Everything is written, and the journal of no more use."""
        self._journal.remove()

    def close(self) -> None:
        """Let others have the journal."""
        self._journal.close()

    def _restored(self, entry: Entry, steps: list[Step]) -> Became:
        import torch

        stored = memoryview(self._journal.bytes_of(entry))
        tensors = []
        for shape, kind in entry.facts["values"]:
            dtype: torch.dtype = getattr(torch, kind)
            length = torch.Size(shape).numel() * dtype.itemsize
            tensors.append(torch.frombuffer(stored[:length], dtype=dtype).reshape(shape))
            stored = stored[length:]
        split = entry.facts["split"]
        value = Factors(tensors[0], tensors[1]) if split else tensors[0]
        layer = steps[0].layer
        if layer.part is not None:
            layer = replace(layer, tensor=layer.stored, shape=tuple(tensors[0].shape), part=None)
        return Became(
            layer,
            value,
            changed=True,
            outcomes=tuple(LayerOutcome(**facts) for facts in entry.facts["outcomes"]),
            corrections=dict(zip(entry.facts["corrections"], tensors[2 if split else 1 :], strict=True)),
        )


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _digest(moments: Moments | None) -> str | None:
    """What tells the moments of one calibration from those of another: of each layer some entries."""
    if moments is None:
        return None
    digest = hashlib.sha256()
    for name, own in moments.layers.items():
        entries: list[Any] = [name, own.count]
        for values in (own.inputs, own.mean, own.outputs):
            flat = values.reshape(-1) if values is not None else None
            entries.append(None if flat is None else flat[:: max(1, len(flat) // _ENTRIES)].tolist())
        digest.update(repr(entries).encode())
    return digest.hexdigest()
