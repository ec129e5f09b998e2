"""Calibration of a network that does not fit in memory: one block of its weights at a time.

Forward, block after block, all inputs go through it, and what it returns for them is kept on the disk. Backward,
from the last block to the first, each is run once more on what the one before has returned, with gradients: its
moments are added up as `rmt_compress.networks.calibration` does, and the gradients that come out at its begin are
kept for the block before. So every weight is read twice, and the moments are those of the network as a whole, to
the rounding of its own float arithmetic.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.analysis.memory_budget import PROGRAM
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.free_memory import free_memory, give_back_at_once
from rmt_compress.checkpoints.journal import identity_of
from rmt_compress.decomposition.moments import Moments
from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration.calibrating import (
    POSITIONS,
    calibrate,
    chosen_layers,
    experts_one_by_one,
    undisturbed,
    why_not_seen,
)
from rmt_compress.networks.calling import without_cache
from rmt_compress.progress import Progress, phase
from rmt_compress.settings.sizes import bytes_in, shown_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.networks.calibration.repeated_batches import Call
    from rmt_compress.networks.calibration.scalars import UserScalar
    from rmt_compress.networks.streamed.choosing_blocks import Blocks
    from rmt_compress.networks.streamed.there_and_back import Asked


def fits_whole(checkpoint: Checkpoint, max_memory: int | str | None) -> bool:
    """Whether a network has room in `max_memory` twice, as float32; None for what is free.

    Half is for its weights, the other half for what is measured.
    """
    room = free_memory() if max_memory is None else bytes_in(max_memory, "max-memory") - PROGRAM
    return room is None or 2 * 4 * checkpoint.parameters <= room


@phase("calibrating")
def calibrate_stored(
    source: str | PathLike[str] | Checkpoint,
    batches: Iterable[Any],
    *,
    arch: str | None = None,
    max_memory: int | str | None = None,
    call: Call | None = None,
    scalar: UserScalar | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    positions: int | None = POSITIONS,
    weighted: bool = True,
    layers: Iterable[str] | None = None,
    partial: str | PathLike[str] | None = None,
) -> Moments:
    """`rmt_compress.calibrate` of a network that lies in a file, block after block where it does not fit in memory.

    Args:
        source: a Hugging Face folder, or the weights of `arch`.
        batches: as in `calibrate`; gone over once for every block and way, so that an iterator is put in a list.
        arch: the architecture, see `rmt_compress.networks.load_model`.
        max_memory: bytes the whole program may take, or a size such as ``"4GB"``. A network that has no room in it
            twice, as float32, goes block after block: then it is the largest block, what lies between blocks, what
            one batch leaves in a block for its way back, and moments; where not all of a block fit, it is gone
            through several times. None for what is free.
        call: see `calibrate`, as for the other asked.
        scalar: of the outputs, what the gradient is taken of.
        progress: told of every batch.
        seed: of what is drawn.
        positions: at how many places of a sample a convolution is looked at.
        weighted: whether vectors count as much as the loss feels errors there.
        layers: names of the tensors to measure; None for all.
        partial: a folder that finished parts are kept in, new or of an interrupted run, which then goes on behind
            them; removed in the end. Where it goes block after block, it also takes what the blocks return for all
            inputs, in float32. Without it a folder among the system's temporary files does.

    Returns:
        Moments by the names of the file; ``record["blocks"]`` are the paths of the blocks, where it went so.

    Raises:
        CheckpointError: the file is no network that can be run, or none that can be run so.
        DataError: no inputs, or not such as the network takes.
        SettingsError: the largest block does not fit.
        OutputError: the folder cannot be written.
    """
    from rmt_compress.networks.file_names import file_names
    from rmt_compress.networks.loading import load_model
    from rmt_compress.networks.streamed.there_and_back import Asked

    given = batches if not hasattr(batches, "__next__") else list(batches)
    asked_for = None if layers is None else list(layers)
    asked = Asked(scalar, seed, positions, weighted, progress)
    with open_checkpoint(source) as checkpoint:
        most = _most(max_memory)
        if not fits_whole(checkpoint, max_memory):
            if max_memory is not None:
                give_back_at_once()
            return _block_by_block(checkpoint, arch, given, call, asked_for, partial, most, asked)
        model = load_model(checkpoint, arch=arch)
        memory = None if max_memory is None else (most - PROGRAM) // 2
        names = file_names(model, checkpoint)
        found = calibrate(
            model,
            given,
            call=call,
            scalar=scalar,
            progress=progress,
            memory=memory,
            seed=seed,
            positions=positions,
            weighted=weighted,
            layers=names.measured(asked_for),
            partial=partial,
        )
        return names.moments_in_file(found, checkpoint.layers(), asked_for)


def _most(max_memory: int | str | None) -> int:
    if max_memory is not None:
        return bytes_in(max_memory, "max-memory")
    return free_memory() or 2**62


def _block_by_block(
    checkpoint: Checkpoint,
    arch: str | None,
    batches: Iterable[Any],
    call: Call | None,
    layers: list[str] | None,
    partial: str | PathLike[str] | None,
    most: int,
    asked: Asked,
) -> Moments:
    from rmt_compress.networks.calibration.interrupted import Partial, digest_of
    from rmt_compress.networks.calibration.repeated_batches import Batches
    from rmt_compress.networks.repair.relay import Relay
    from rmt_compress.networks.streamed.blank_network import blank_network
    from rmt_compress.networks.streamed.choosing_blocks import choose_blocks
    from rmt_compress.networks.streamed.stored_weights import StoredWeights
    from rmt_compress.networks.streamed.there_and_back import ThereAndBack

    model, its_layers = blank_network(checkpoint, arch)
    weights = StoredWeights(model, checkpoint, its_layers)
    wanted, left_out = chosen_layers(its_layers, weights.names.measured(layers))
    data = Batches(batches, model, call)
    with undisturbed(model, asked.seed), without_cache(model), experts_one_by_one(model):
        blocks = choose_blocks(model, weights, data.ask, data.first)
        room = most - PROGRAM - blocks.bytes
        if room <= 0:
            raise SettingsError([_too_large(checkpoint, model, blocks, most)])
        weights.read(weights.beside(blocks.paths))
        digest = digest_of(
            {},
            data.first,
            (identity_of(checkpoint), asked.seed, asked.positions, asked.weighted, blocks.paths, *wanted),
        )
        with _folder(partial) as folder:
            top = Partial(folder, digest)
            relay = Relay(model, blocks.paths, data.ask)
            found = ThereAndBack(weights, wanted, relay, blocks.memory, data, top, room, asked).moments()
            top.remove()
    reasons = dict.fromkeys(found.record.pop("otherwise"), "applied in another way than its layer is read")
    reasons |= dict.fromkeys(
        found.record.pop("again"), "several blocks feel it, of which one is in memory at a time"
    )
    for name, layer in wanted.items():
        if name not in found.layers:
            left_out[name] = reasons.get(name) or why_not_seen(layer)
    ordered = {name: found.layers[name] for name in wanted if name in found.layers}
    moments = Moments(ordered, left_out, {**found.record, "blocks": list(blocks.paths)})
    return weights.names.moments_in_file(moments, checkpoint.layers(), layers)


@contextmanager
def _folder(given: str | PathLike[str] | None) -> Iterator[Path]:
    """The folder, or one for the time being, which goes whatever happens."""
    if given is not None:
        yield Path(given)
        return
    folder = Path(tempfile.mkdtemp(prefix="rmt-compress-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _too_large(checkpoint: Checkpoint, model: nn.Module, blocks: Blocks, most: int) -> str:
    need = shown_bytes(PROGRAM + blocks.bytes)
    if len(blocks.paths) == 1:
        return (
            f"max-memory {shown_bytes(most)}: {checkpoint.path}: {type(model).__name__} is no chain of blocks that "
            f"could be run one at a time; the program and all of it take {need}"
        )
    return (
        f"max-memory {shown_bytes(most)}: {checkpoint.path}: the program, the largest of {len(blocks.paths)} "
        f"blocks ({shown_bytes(blocks.largest)} in float32) and what lies between them take {need}; give more"
    )
