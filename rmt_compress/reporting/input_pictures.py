"""A sheet of images, as a network is given them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.reporting.blanks import blank_figure, said_in_figure, write_figure

if TYPE_CHECKING:
    import torch


def write_images(images: torch.Tensor, target: Path, caption: str, *, asked_by: str) -> None:
    """Write images (N, channels, height, width) as one PNG file, each stretched to its own range of values.

    Three channels are taken for colours, of any other number the mean is shown.

    Args:
        images: as the network is given them, in whatever scale that is.
        target: the file.
        caption: what they are, for the title.
        asked_by: the option of the user, for the error where matplotlib is missing.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    figure = blank_figure(1.3 * columns + 0.4, 1.3 * rows + 0.8, asked_by)
    places = figure.subplots(rows, columns, squeeze=False).flat
    for axes in places:
        axes.set_axis_off()
    for axes, image in zip(figure.axes, images.detach().float(), strict=False):
        shown = image if len(image) == 3 else image.mean(0, keepdim=True)
        low, high = shown.min(), shown.max()
        shown = (shown - low) / (high - low).clamp(min=1e-12)
        # A network's channels come first, matplotlib's last.
        pixels = shown.permute(1, 2, 0).numpy() if len(shown) == 3 else shown[0].numpy()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    figure.suptitle(said_in_figure(caption, 12 * columns + 12), fontsize=8)
    write_figure(figure, target)
