"""`rmt-compress export`: a checkpoint for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmt_compress.cli.console import next_step, print_result, progress_bar
from rmt_compress.cli.options import ARCH_FORMS, Trust, Weights, force_option, opened, optional
from rmt_compress.errors import SettingsError


def export(
    model: Annotated[Path, typer.Argument(help="A compressed file, or any other checkpoint.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="OUT", help="The file; its name ends in .safetensors, .pt or .onnx."
        ),
    ],
    arch: Annotated[
        str | None,
        optional(
            f"For .onnx: the network, {ARCH_FORMS}; by default the one the file names.",
            "SPEC",
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        optional("For .onnx: shape of one sample, such as 3,32,32, where the network does not tell it.", "SIZES"),
    ] = None,
    trust: Trust = False,
    weights: Weights = None,
    force: Annotated[bool, force_option("OUT if it exists")] = False,
) -> None:
    """Write a checkpoint under its original names and shapes, or as an ONNX graph.

    .safetensors, .pt: a plain state dict, factors multiplied, that loads without this program.

    .onnx: the network as it is in the file, for a batch of any size; run by onnxruntime and compared with torch
    before it is kept.
    """
    from rmt_compress.networks.exporting import export as run
    from rmt_compress.outputs import check_output

    check_output(output, force=force, inputs=(model,))
    shape = _sizes(input_shape) if input_shape is not None else None
    with progress_bar("Writing") as progress:
        exported = run(
            opened(model, trust=trust, weights=weights), output, arch=arch, input_shape=shape, progress=progress
        )
    line = f"{exported.path}: {exported.format}, {exported.bytes:,} bytes"
    if exported.difference is not None:
        line += f"; onnxruntime differs from torch by {exported.difference:.1e} at most"
    print_result(line, written=exported.path)
    next_step("show", exported.path)


def _sizes(text: str) -> tuple[int, ...]:
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise SettingsError([f"--input-shape must be whole numbers such as 3,32,32, got {text!r}"])
    return tuple(map(int, parts))
