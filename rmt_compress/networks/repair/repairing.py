"""Block-wise repair: from an original and its compressed copy to the values that the copy should have."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rmt_compress.errors import CompressionError, SettingsError
from rmt_compress.networks.repair.report import BlockRepair, RepairReport
from rmt_compress.progress import Progress, counter

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.networks.calibration.repeated_batches import Call
    from rmt_compress.networks.repair.relay import Relay

PASSES = 5
"""How often a block is trained on all calibration inputs."""
RATE = 5e-4
"""The highest learning rate of Adam."""


def repair_blocks(
    small: nn.Module,
    original: nn.Module,
    batches: Iterable[Any],
    *,
    call: Call | None = None,
    passes: int = PASSES,
    rate: float = RATE,
    seed: int = 0,
    memory: int | None = None,
    progress: Progress | None = None,
) -> RepairReport:
    """Train a compressed network, in place, until its blocks return what those of the original do.

    Block after block, from the input that the compressed and repaired blocks before deliver, towards the output of
    the original's block on the original's input (method.md §13 c, §14). Trained are the factors of the split layers
    and the biases and norms beside them; everything else stays bit for bit, as do modes, gradients, hooks and
    torch's random numbers. A block that is not better on inputs held out stays as it came, and so does the network.
    Batch norms keep their statistics while they are trained; `renew_statistics` belongs before.

    Args:
        small: what `rmt.compress` has made of `original`; both on one device. Half precision is trained in float32.
        original: the network before.
        batches: inputs as both are called with them, see `calibrate`; two samples or more. No labels are needed.
        call: see `calibrate`.
        passes: how often each block is trained on all inputs.
        rate: the highest learning rate of Adam's cycle.
        seed: of the order of the inputs, and of which are held out.
        memory: bytes for hidden states, which are kept at one place of both networks; where they do not fit, the
            inputs beyond are left out. None for half of what is free.
        progress: told of every block.

    Raises:
        CompressionError: `small` only runs a graph, and has no parameters to train.
        DataError: no inputs, too few of them, or not such as the networks take.
        SettingsError: `passes` or `rate` are out of range.
    """
    import torch

    from rmt_compress.networks.calibration.calibrating import undisturbed
    from rmt_compress.networks.calibration.repeated_batches import Batches
    from rmt_compress.networks.calling import without_cache
    from rmt_compress.networks.repair.chain import find_chain, split_layers
    from rmt_compress.networks.repair.pieces import fitting, in_pieces, one_sample
    from rmt_compress.networks.repair.relay import Relay
    from rmt_compress.networks.repair.single_precision import in_single_precision
    from rmt_compress.networks.repair.trainable import trainable

    begun = time.perf_counter()
    _check(small, original, passes, rate)
    layers = split_layers(small, original)
    if not layers:
        return RepairReport((), {}, 0.0, 0.0, 0, 0, time.perf_counter() - begun)
    came = {name: parameter.detach().clone() for name, parameter in small.named_parameters(remove_duplicate=False)}
    with ExitStack() as stack:
        stack.enter_context(in_single_precision(small, original))
        for model in (small, original):
            stack.enter_context(undisturbed(model, seed))
            stack.enter_context(without_cache(model))
        own, its = (Batches(batches, model, call).ask for model in (small, original))
        given = in_pieces(Batches(batches, small, call).once_over())
        sample = one_sample(given[0])
        chain = find_chain(original, layers, its, sample)
        parameters = trainable(small, chain, layers, own, sample)
        pieces = fitting(given, sample, Relay(original, chain, its), memory)
        both = _Both(Relay(small, chain, own), Relay(original, chain, its), pieces, seed)
        before = both.error()
        advance = counter(len(chain), progress)
        blocks = []
        for at, block in enumerate(chain):
            blocks.append(both.repair(at, layers, parameters[at], passes=passes, rate=rate))
            advance(block or type(small).__name__)
        after = both.error()
        if not after < before:
            after = before
            with torch.no_grad():
                for name, parameter in small.named_parameters():
                    parameter.copy_(came[name])
    state = small.named_parameters(remove_duplicate=False)
    changed = {name: tensor.detach().clone() for name, tensor in state if not torch.equal(tensor, came[name])}
    seconds = time.perf_counter() - begun
    return RepairReport(tuple(blocks), changed, before, after, len(pieces), len(given) - len(pieces), seconds)


def _check(small: nn.Module, original: nn.Module, passes: int, rate: float) -> None:
    from rmt_compress.checkpoints.graph_network import GraphNetwork

    problems = [] if passes >= 1 else [f"passes must be 1 or more, not {passes}"]
    problems += [] if rate > 0 else [f"rate must be above 0, not {rate:g}"]
    if problems:
        raise SettingsError(problems)
    for model in (small, original):
        if isinstance(model, GraphNetwork):
            raise CompressionError(
                f"{model.checkpoint.path}: runs as a graph, whose weights cannot be trained; repair the network "
                "that it was exported from"
            )


class _Both:
    """The compressed network and the original, on their way through the same blocks."""

    def __init__(self, small: Relay, original: Relay, pieces: Sequence[Any], seed: int) -> None:
        from rmt_compress.networks.calibration.repeated_batches import Padding
        from rmt_compress.networks.repair.course import Course
        from rmt_compress.networks.repair.pieces import parted

        self._seed = seed
        self._small, self._pieces = small, pieces
        self._courses = Course(small, pieces), Course(original, pieces)
        self._paddings = [Padding(piece) for piece in pieces]
        self._training, self._held = parted(len(pieces), seed)
        # What the last block of the original returns.
        self._goals = {index: original.straight(pieces[index]) for index in self._held}

    def error(self) -> float:
        """Relative error of what the last block of the compressed network returns, on the held-out pieces."""
        from rmt_compress.networks.repair.block_training import relative_error

        return relative_error(
            lambda index: self._compared(index, self._small.straight(self._pieces[index]), self._goals[index]),
            self._held,
        )

    def repair(
        self, at: int, layers: Sequence[str], parameters: list[nn.Parameter], *, passes: int, rate: float
    ) -> BlockRepair:
        """Train a block, and take both networks through it."""
        from rmt_compress.networks.repair.block_training import train_block
        from rmt_compress.networks.repair.chain import inside

        begun = time.perf_counter()
        own, its = self._courses
        goals = its.advance()
        trained = train_block(
            parameters,
            lambda index: self._compared(index, own.reach(index), goals[index]),
            self._training,
            self._held,
            passes=passes,
            rate=rate,
            seed=self._seed + at,
        )
        own.advance()
        block = self._small.blocks[at]
        return BlockRepair(
            block,
            tuple(path for path in layers if inside(path, block)),
            sum(parameter.numel() for parameter in parameters),
            trained.before,
            trained.after,
            trained.kept,
            time.perf_counter() - begun,
        )

    def _compared(self, index: int, found: torch.Tensor, goal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error and squared size over what is no padding."""
        kept = self._paddings[index].kept
        wanted = kept(goal)
        return (kept(found) - wanted).square().sum(), wanted.square().sum()
