"""What a network is calibrated with, to be looked at: images as a picture, all else as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_compress.data.text import BYTES
from rmt_compress.networks.calibration.sampled_text import vocabulary_of
from rmt_compress.networks.huggingface import model_folder, tokenizer_of
from rmt_compress.outputs import check_output, replacing
from rmt_compress.reporting.input_pictures import write_images
from rmt_compress.wording import times

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.data import Samples

OPTION = "--show-calibration"
IMAGES, TEXTS, VECTORS = 25, 32, 10
"""How many are shown."""
_NUMBERS = 8


def places(target: Path) -> tuple[Path, Path]:
    """The two files that may be written for a name: its picture, or its text."""
    stem = target.with_suffix("") if target.suffix.lower() in (".png", ".txt") else target
    return stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.txt")


def check_shown(target: Path, *, force: bool, inputs: tuple[Path, ...]) -> None:
    """Refuse a name under which something stands already; before inputs are made nobody knows which it will be.

    Raises:
        OutputError: see `check_output`.
    """
    for place in places(target):
        check_output(place, force=force, inputs=inputs)


def show(samples: Samples, said: str, target: Path, model: nn.Module, checkpoint: Checkpoint) -> Path:
    """Write the first of the samples to the file that suits them.

    Args:
        samples: what the network is calibrated with.
        said: what they are, in a few words.
        target: the name, with or without ``.png`` or ``.txt``.
        model: the network.
        checkpoint: where it comes from, with the tokenizer in its folder.

    Returns:
        the file.

    Raises:
        MissingDependencyError: a picture needs matplotlib, a tokenizer transformers.
        OutputError: the file cannot be written.
    """
    picture, text = places(target)
    name, first = _main(next(iter(samples.batches(max(IMAGES, TEXTS)))).inputs)
    count = samples.count or len(first)
    if first.is_floating_point() and first.dim() == 4:
        few = first[:IMAGES]
        write_images(few, picture, f"{said}: {len(few)} of {count:,}, {times(first.shape[1:])}", asked_by=OPTION)
        return picture
    if first.is_floating_point():
        lines = [_numbers(one) for one in first[:VECTORS]]
    else:
        lines = _texts(first[:TEXTS], model, checkpoint)
    head = f"{said}: {len(lines)} of {count:,}, {times(first.shape[1:])}{f' ({name})' if name else ''}"
    with replacing(text) as temporary:
        temporary.write_text("\n\n".join((head, *lines)) + "\n", encoding="utf-8")
    return text


def _main(inputs: Any) -> tuple[str, torch.Tensor]:
    """The first tensor of an input that may be several, and its name where it has one."""
    if isinstance(inputs, Mapping):
        name = "input_ids" if "input_ids" in inputs else next(iter(inputs))
        return str(name), inputs[name]
    return "", inputs[0] if isinstance(inputs, tuple | list) else inputs


def _numbers(one: torch.Tensor) -> str:
    flat = one.detach().double().flatten()
    few = " ".join(f"{number:.3g}" for number in flat[:_NUMBERS].tolist())
    more = " …" if len(flat) > _NUMBERS else ""
    return f"{few}{more}  (mean {flat.mean():.3g}, standard deviation {flat.std(unbiased=False):.3g})"


def _texts(ids: torch.Tensor, model: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Tokens as the text they stand for; as numbers where nothing tells it."""
    folder = model_folder(checkpoint)
    tokenizer = None if folder is None else tokenizer_of(folder, trust=checkpoint.trusted)
    rows = [row.flatten().tolist() for row in ids]
    if tokenizer is not None:
        return [str(tokenizer.decode(row)) for row in rows]
    if vocabulary_of(model) == BYTES:
        return [bytes(row).decode("utf-8", "replace") for row in rows]
    return [" ".join(map(str, row)) for row in rows]
