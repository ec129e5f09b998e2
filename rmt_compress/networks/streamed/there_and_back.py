"""The way of all inputs through the blocks of a network, forward and backward, one block in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rmt_compress.decomposition.moments import LayerMoments, Moments
from rmt_compress.decomposition.moments_file import load_moments, save_moments
from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration.applied import Weights
from rmt_compress.networks.calibration.interrupted import Partial
from rmt_compress.networks.calibration.shares import Shares
from rmt_compress.networks.calibration.watchers import NotShared
from rmt_compress.networks.repair.chain import inside
from rmt_compress.networks.streamed.kept_states import KeptStates
from rmt_compress.networks.streamed.shared_reads import Reader, SharedReads
from rmt_compress.networks.streamed.stage import Stage, StagePasses, Weigher
from rmt_compress.settings.sizes import shown_bytes

if TYPE_CHECKING:
    from rmt_compress.layers.layer import Layer
    from rmt_compress.networks.calibration.repeated_batches import Batches
    from rmt_compress.networks.calibration.scalars import UserScalar
    from rmt_compress.networks.repair.relay import Relay
    from rmt_compress.networks.streamed.stored_weights import StoredWeights
    from rmt_compress.progress import Progress

_ROUNDS = 2
"""Running a block takes so many times what it holds for its way back: gradients come beside it."""


@dataclass(frozen=True)
class Asked:
    """The settings of a calibration, see `rmt_compress.calibrate`."""

    scalar: UserScalar | None
    seed: int
    positions: int | None
    weighted: bool
    progress: Progress | None


class ThereAndBack:
    """One calibration, block after block.

    Args:
        weights: of the blocks.
        wanted: the layers to measure, by their names.
        relay: the blank network, what lies between its blocks in memory, and its blocks.
        memory: number of the block that all behind it may read, see `Chain`.
        data: the inputs.
        partial: where all is kept that is finished.
        room: bytes for what is measured and for running a block.
        asked: the settings.
    """

    def __init__(
        self,
        weights: StoredWeights,
        wanted: Mapping[str, Layer],
        relay: Relay,
        memory: int | None,
        data: Batches,
        partial: Partial,
        room: int,
        asked: Asked,
    ) -> None:
        self._weights, self._wanted = weights, wanted
        self._relay, self._memory, self._data = relay, memory, data
        self._partial, self._states = partial, KeptStates(partial.folder)
        self._reads = SharedReads(partial.folder)
        self._room, self._asked = room, asked
        self._count = len(relay.blocks)

    def moments(self) -> Moments:
        """The moments of all blocks.

        ``record["otherwise"]`` names layers that are applied in another way, ``record["again"]`` those that several
        blocks feel, so that what is measured in one is not all.

        Raises:
            SettingsError: what a batch leaves in a block for its way back does not fit.
        """
        found: dict[int, Moments] = {}
        # What these have returned is forgotten.
        for at in range(self._count):
            if self._result(at).exists():
                found[at] = load_moments(self._result(at))
        measured = min(found, default=self._count)
        for at in range(measured - 1):
            self._forward(at)
            if at == 0:
                self._states.check_room(measured - 2)
        for at in reversed(range(measured)):
            found[at] = self._measure(at)
        layers: dict[str, LayerMoments] = {}
        record = _joined([found[at].record for at in range(self._count)])
        again = {*record["again"]}
        for at in range(self._count):
            again |= layers.keys() & found[at].layers.keys()
            layers |= found[at].layers
        whole = self._reads.joined({name: own for name, own in layers.items() if name not in again})
        return Moments(whole, {}, record | {"again": sorted(again)})

    def _result(self, at: int) -> Path:
        return self._partial.folder / f"measured-{at}.safetensors"

    def _forward(self, at: int) -> None:
        count = self._data.count
        noted = self._reads.has(at) or not self._behind_memory(at)
        if noted and count is not None and all(self._states.has(at, place) for place in range(count)):
            return
        with self._weights.in_memory(self._relay.blocks[at]):
            self._note_reads(at)
            stage = Stage(self._relay, at, self._memory, self._data, self._states, Weights({}, ()))
            for place in stage.forward():
                self._tell(at, place + 1, count or place + 1)

    def _behind_memory(self, at: int) -> bool:
        return self._memory is not None and at > self._memory

    def _note_reads(self, at: int) -> None:
        """What the layers of a block read in the first batch, where they may read the memory."""
        if not self._behind_memory(at) or self._reads.has(at):
            return
        path = self._relay.blocks[at]
        own = [layer for name, layer in self._wanted.items() if inside(name, path)]
        weights = Weights(self._relay.model.state_dict(keep_vars=True), own)
        stage = Stage(self._relay, at, self._memory, self._data, self._states, weights)
        reader = Reader(self._relay.model.get_submodule(path))
        with torch.no_grad(), reader.looking():
            stage.run(next(stage.once_over()), reader)
        self._reads.keep(at, reader.seen)

    def _measure(self, at: int) -> Moments:
        path = self._relay.blocks[at]
        with self._weights.in_memory(path):
            self._note_reads(at)
            state = self._relay.model.state_dict(keep_vars=True)
            own = {name: layer for name, layer in self._wanted.items() if inside(name, path)}
            beside = {
                name: layer
                for name, layer in self._wanted.items()
                if not any(inside(name, block) for block in self._relay.blocks)
            }
            stage = Stage(
                self._relay, at, self._memory, self._data, self._states, Weights(state, (own | beside).values())
            )
            scout = self._scouted(stage, state.values())
            for name, layer in own.items():
                # An expert that the first batch does not reach a later one may.
                if name not in scout.seen:
                    scout.expect(layer)
            kept = self._partial.inside(f"block-{at}")
            found = _measured(self._passes(stage, self._room_beside(stage, scout)), scout, kept)
            record = {**found.record, "otherwise": sorted(scout.otherwise), "again": sorted(stage.again)}
            save_moments(Moments(found.layers, {}, record), self._result(at))
        kept.remove()
        self._states.forget(at)
        self._tell(2 * self._count - 2 - at, 1, 1)
        return load_moments(self._result(at))

    def _scouted(self, stage: Stage, weights: Any) -> Weigher:
        """What runs in a block, on the first batch, and how much that holds."""
        scout = Weigher(weights)
        inputs = next(stage.once_over())
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(scout.hold, lambda held: held):
            stage.run(inputs, scout)
        scout.done()
        return scout

    def _room_beside(self, stage: Stage, scout: Weigher) -> int:
        room = self._room - _ROUNDS * scout.bytes
        if room <= 0:
            raise SettingsError(
                [
                    f"max-memory: running {self._relay.blocks[stage.at] or 'the network'} on one batch takes "
                    f"{shown_bytes(_ROUNDS * scout.bytes)} beside its weights, {shown_bytes(self._room)} are left; "
                    "give smaller batches, or more memory"
                ]
            )
        return room

    def _passes(self, stage: Stage, room: int) -> StagePasses:
        asked, step = self._asked, 2 * self._count - 2 - stage.at
        return StagePasses(
            data=stage,
            runner=stage,
            scalar=asked.scalar,
            seed=asked.seed,
            positions=asked.positions,
            weighted=asked.weighted,
            memory=room,
            device=torch.device("cpu"),
            shares=Shares(several=False),
            progress=lambda done, total, _: self._tell(step, done, total),
            elsewhere=self._reads.felt(stage.at) if self._behind_memory(stage.at) else None,
        )

    def _tell(self, step: int, done: int, total: int) -> None:
        """Of 2·blocks − 1 steps, all but the last block there and all of them back, each as long as another."""
        if self._asked.progress is None:
            return
        steps, parts = 2 * self._count - 1, self._data.count or 1
        back = step - self._count + 1
        at, way = (step, "forward") if back < 0 else (self._count - 1 - back, "backward")
        name = f"block {at + 1} of {self._count} {way}"
        self._asked.progress(step * parts + done * parts // total, steps * parts, name)


def _measured(passes: StagePasses, scout: Weigher, kept: Partial) -> Moments:
    alone = kept.alone
    while True:
        try:
            blocks = passes.blocks(scout.groups(alone))
            # Where nothing is measured, gradients are still wanted behind it.
            return passes.run(blocks or ([[]] if passes.stage.at else []), kept)
        except NotShared as error:
            alone = {*alone, str(error)}
            kept.begin_again(alone)


def _joined(records: list[Mapping[str, Any]]) -> dict[str, Any]:
    """What the records of several blocks say together."""
    joined: dict[str, Any] = dict(records[-1])
    for key in ("otherwise", "again", "diagonal", "trace"):
        names = [name for record in records for name in record.get(key, ())]
        if names or key in ("otherwise", "again"):
            joined[key] = names
    uses = {name: counts for record in records for name, counts in record.get("uses", {}).items()}
    if uses:
        joined["uses"] = uses
    return joined | {"passes": sum(record["passes"] for record in records)}
