"""What a cut does to a network that nobody has data for: its outputs on a few inputs that it makes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.free_memory import free_memory
from rmt_compress.errors import RmtCompressError
from rmt_compress.networks.calibration.made_up import make_inputs
from rmt_compress.networks.calibration.statistics import batch_norms
from rmt_compress.networks.evaluation import move
from rmt_compress.networks.huggingface import model_folder
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.tasks.agreement import SAME_ANSWER
from rmt_compress.networks.tasks.choosing import agreement_of
from rmt_compress.pruning.calibration import in_memory
from rmt_compress.saving.reloading import load

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from rmt_compress.checkpoints.base import Checkpoint

TEXTS, TOKENS = 2, 64
"""How many texts the network makes itself where it takes tokens, and how long they are."""
_MOST = 0.5
"""A cut that changes more than this leaves a wreck: where accuracy was kept, it was a quarter of the answers, or a
third of the outputs' norm, at most."""


def changed_outputs(
    checkpoint: Checkpoint, written: Path, device: str | torch.device | None = None
) -> tuple[float, str] | None:
    """What a cut changes of the outputs of a Hugging Face folder's network, as a share and in words; None: unknown.

    Of logits it is the share of other answers, of embeddings the distance in units of their norm. The cut is read
    from what was `written` of the checkpoint, so that no layer is decomposed for it once more.

    Unknown it is of other files, whose network must be named; of networks with batch norms, whose inputs take
    minutes to make; and of those that do not run, or that hold layers otherwise than the file does. It runs on
    `device`, by default the CPU.
    """
    if model_folder(checkpoint) is None:
        return None
    try:
        model = load_model(checkpoint)
        if batch_norms(model):
            return None
        if device is not None:
            move(model, device)
        made = make_inputs(model, count=TEXTS, length=TOKENS, fit=False)
        cut = load(open_checkpoint(written, trust=checkpoint.trusted), load_model(checkpoint)).eval()
        if device is not None:
            move(cut, device)
        score = agreement_of(in_memory(made), model).score(cut)
    # A prune that is done is not undone because the network could not be asked as well.
    except RmtCompressError:
        return None
    if score.metric == SAME_ANSWER:
        return 1 - score.value, f"gives another answer in {1 - score.value:.0%} of the places"
    moved = float(score.details["relative_error"] or 0.0)
    return moved, f"has moved its outputs by {moved:.0%} of their norm"


def fits_beside_its_cut(checkpoint: Checkpoint, most: int | None) -> bool:
    """Whether a network and its cut, in float32, have room in so many bytes, by default in what is free."""
    room = free_memory() if most is None else most
    return room is None or 2 * 4 * checkpoint.parameters <= room


def wrecked(changed: tuple[float, str] | None) -> str | None:
    """Why so much change is that of a wreck, with the way out; None where it is none."""
    if changed is None or changed[0] <= _MOST:
        return None
    return (
        f"network {changed[1]} on inputs that it made itself, and no data were asked: cut less (--keep-bulk 0.5, "
        "--rule energy:0.99) or within a budget (--keep 0.8), and measure with --data"
    )
