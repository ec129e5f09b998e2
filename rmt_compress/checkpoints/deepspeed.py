"""Checkpoints of DeepSpeed: which hold the weights, and what joins those that hold them in pieces."""

from __future__ import annotations

import re
from pathlib import Path

from rmt_compress.errors import CheckpointError

# ZeRO's pieces of the optimizer's state hold the weights in full precision, too, cut and flattened.
_PIECE = re.compile(r"(?:bf16_)?zero_pp_rank_\d+_mp_rank_\d+_?(?P<what>optim_states|model_states)\.pt")
_WEIGHTS = re.compile(r"mp_rank_\d+_model_states\.pt")


def check_deepspeed(path: Path) -> None:
    """Refuse a file that holds pieces of weights.

    Raises:
        CheckpointError: it does; the message names the tool that joins them.
    """
    if _PIECE.fullmatch(path.name):
        raise CheckpointError(
            f"{path}: is one of the pieces of a DeepSpeed ZeRO checkpoint; {_advice(path.parent)}"
        )


def deepspeed_weights(folder: Path, files: list[str]) -> str | None:
    """Name of the one file of a DeepSpeed checkpoint that holds all weights; None where it is no such checkpoint.

    Args:
        folder: where the files are.
        files: their names.

    Raises:
        CheckpointError: the weights are in pieces; the message names the tool that joins them.
    """
    pieces = [match["what"] for name in files if (match := _PIECE.fullmatch(name))]
    weights = [name for name in files if _WEIGHTS.fullmatch(name)]
    if not pieces and len(weights) < 2:
        return None
    if "model_states" in pieces or len(weights) != 1:
        raise CheckpointError(
            f"{folder}: is a DeepSpeed checkpoint in {len(pieces) + len(weights)} pieces; {_advice(folder)}"
        )
    return weights[0]


def _advice(folder: Path) -> str:
    return (
        f"join them where DeepSpeed is installed: python -m deepspeed.utils.zero_to_fp32 {folder.parent} joined "
        f"--tag {folder.name} (it also lies beside the checkpoint as zero_to_fp32.py)"
    )
