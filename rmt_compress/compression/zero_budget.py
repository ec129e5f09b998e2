"""One share of zeros for a whole network, divided between its layers: exact to the entry.

The plan keeps one share per layer; within a layer the smallest entries go, of equal ones the first
(`layers.zeroing`). What divides them:

    uniform    every layer loses the same share
    magnitude  the smallest entries of all layers together
    edge       the same after division by the layers' spectral edge weights
    alpha      shares that rise with the exponent α of each layer's tail; see `layer_strengths` for both
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

import numpy as np

from rmt_compress.compression.layer_strengths import edge_weights, tail_shares
from rmt_compress.compression.weights import Step, match_steps
from rmt_compress.errors import PlanError
from rmt_compress.layers.splitting import Factors

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from rmt_compress.analysis.records import Analysis
    from rmt_compress.checkpoints.opening import Source
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.plan import Layout, Plan

# Of the share that the whole network keeps, a layer keeps this much at least: shares that are scaled to a network
# of one large layer would leave nothing of a small one.
_LEAST_KEPT = 0.1

SparsifyBudget = Literal["uniform", "magnitude", "edge", "alpha"]

# A float32 of 0 or more orders like its bits: the upper half first, then the lower within one upper half.
_HALF = 16
_LOWER = 2**_HALF


def divide_sparsity(
    plan: Plan,
    analysis: Analysis,
    budget: SparsifyBudget = "edge",
    *,
    source: Source | None = None,
    moments: Moments | None = None,
    layout: Layout = "factorized",
) -> Plan:
    """Divide the zeros that a plan asks of its layers otherwise between them; their number in all is exact.

    Of N entries in the layers that have a `sparsity`, in the factors where a layer is split, ⌊S·N⌋ become 0, S the
    share that these layers ask for together. Weights are read twice for ``magnitude`` and ``edge``, one at a time,
    and not at all for the others.

    Args:
        plan: of `make_plan` with a `sparsity`.
        analysis: of the same network; its edges and tails tell the strengths.
        budget: what divides them.
        source: where the weights are read; None for what was analysed.
        moments: for a plan of a calibrated basis.
        layout: in which the plan is going to be carried out.

    Returns:
        the plan with a share of its own for every layer.

    Raises:
        PlanError: no layer of the plan asks for a `sparsity`, or the plan does not suit the source.
        CheckpointError: the source cannot be read.
    """
    from rmt_compress.checkpoints.opening import open_checkpoint

    whole = source if source is not None else analysis.source
    asked = {each.tensor: each.sparsity for each in plan.layers if each.sparsity is not None}
    if not asked or whole is None:
        raise PlanError("no layer of the plan asks for zeros, or its weights are not at hand: plan with a sparsity")
    bare = plan.model_copy(
        update={"layers": tuple(each.model_copy(update={"sparsity": None}) for each in plan.layers)}
    )
    with ExitStack() as stack:
        checkpoint = open_checkpoint(whole)
        if checkpoint is not whole:
            stack.enter_context(checkpoint)
        matched = match_steps(checkpoint.layers(), bare, layout, moments)
        steps = [step for step in matched if step.layer.tensor in asked]
        sizes = [_entries(step) for step in steps]
        entries = sum(sizes)
        wanted = sum(asked[step.layer.tensor] * size for step, size in zip(steps, sizes, strict=True))
        count = int(wanted + 1e-6)
        names = [step.layer.tensor for step in steps]
        if budget in ("uniform", "alpha"):
            shares = tail_shares(analysis) if budget == "alpha" else {}
            most = 1 - _LEAST_KEPT * (1 - count / max(1, entries))
            counts = counts_by_shares(sizes, [shares.get(name, 1.0) for name in names], count, most)
        else:
            weights = edge_weights(analysis, count / max(1, entries)) if budget == "edge" else {}
            counts = _counts_by_magnitude(steps, [weights.get(name, 1.0) for name in names], count, checkpoint.read)
    found = {name: number / size for name, number, size in zip(names, counts, sizes, strict=True)}
    layers = tuple(
        each.model_copy(update={"sparsity": found[each.tensor]}) if each.tensor in found else each
        for each in plan.layers
    )
    return plan.model_copy(update={"layers": layers})


def counts_by_shares(sizes: Sequence[int], shares: Sequence[float], count: int, most: float = 1.0) -> list[int]:
    """How many zeros each layer gets: `shares` times one number, a share of it at most, `count` in all.

    Fractions go to the layers that they are largest of, of equal ones to the first.

    Args:
        sizes: entries of the layers.
        shares: above 0, in any unit.
        count: at most the sum of `sizes`.
        most: the largest share of a layer that goes, up to one entry; at least that of `count` in the sum.
    """
    room, weight = most * np.array(sizes, dtype=np.float64), np.array(sizes) * np.array(shares)
    full = np.zeros(len(sizes), dtype=bool)
    while not full.all():
        scale = (count - room[full].sum()) / weight[~full].sum()
        over = ~full & (scale * weight > room)
        if not over.any():
            break
        full |= over
    exact = np.where(full, room, 0.0 if full.all() else scale * weight)
    counts = np.floor(exact + 1e-6).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: count - int(counts.sum())]] += 1
    return [int(number) for number in counts]


def counts_by_scores(scores: Callable[[], Iterable[torch.Tensor]], count: int) -> list[int]:
    """How many of each layer's scores are among the `count` smallest of all; of equal ones the first layer's go.

    Args:
        scores: gives every layer's, 1-d float32 of 0 or more, one after the other; it is called twice.
        count: how many go.
    """
    upper = [np.bincount(_bits(each) >> _HALF, minlength=_LOWER // 2) for each in scores()]
    at = _crossing(upper, count)
    below = [int(each[:at].sum()) for each in upper]
    lower = [
        np.bincount(bits[bits >> _HALF == at] & (_LOWER - 1), minlength=_LOWER) for bits in map(_bits, scores())
    ]
    left = count - sum(below)
    at = _crossing(lower, left)
    counts = [first + int(each[:at].sum()) for first, each in zip(below, lower, strict=True)]
    left = count - sum(counts)
    for place, each in enumerate(lower):
        taken = min(left, int(each[at]))
        counts[place] += taken
        left -= taken
    return counts


def _crossing(histograms: Sequence[NDArray[np.int64]], count: int) -> int:
    """The bin in which the `count`-th smallest lies."""
    return int(np.searchsorted(np.sum(histograms, axis=0).cumsum(), count))


def _bits(scores: torch.Tensor) -> NDArray[np.int32]:
    # Adding 0 makes −0.0 a plain one.
    return np.asarray((scores + 0.0).cpu().numpy().view(np.int32))


def _entries(step: Step) -> int:
    return step.layer.factor_parameters(step.rank) if step.splits else step.layer.parameters


def _counts_by_magnitude(
    steps: Sequence[Step], weights: Sequence[float], count: int, read: Callable[[str], torch.Tensor]
) -> list[int]:
    # A decomposition costs more than the memory of its factors.
    decomposed: dict[str, torch.Tensor] = {}

    def scores() -> Iterable[torch.Tensor]:
        for step, weight in zip(steps, weights, strict=True):
            name = step.layer.tensor
            if name in decomposed:
                yield decomposed[name]
                continue
            found = magnitudes(step.apply(_piece(step, read))) / weight
            if step.changes:
                decomposed[name] = found
            yield found

    return counts_by_scores(scores, count)


def _piece(step: Step, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    whole, part = read(step.layer.stored), step.layer.part
    return whole if part is None else whole[part.start : part.stop]


def magnitudes(made: Factors | torch.Tensor) -> torch.Tensor:
    """|w| of a weight or of both of its factors, 1-d, in float32."""
    import torch

    parts: Sequence[torch.Tensor] = made if isinstance(made, Factors) else [made]
    return torch.cat([part.detach().abs().float().flatten() for part in parts])
