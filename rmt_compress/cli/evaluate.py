"""`rmt-compress evaluate`: what a network costs and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmt_compress.cli.console import next_step, note, print_json, print_result, progress_bar
from rmt_compress.cli.options import (
    Arch,
    Data,
    Device,
    Limit,
    Trust,
    Weights,
    batch_size_option,
    json_option,
    opened,
    optional,
)
from rmt_compress.errors import SettingsError

SCHEMA = "rmt-compress/evaluation/1"


def evaluate(
    model: Annotated[Path, typer.Argument(help="A checkpoint, compressed or not.")],
    data: Data,
    arch: Arch = None,
    against: Annotated[Path | None, optional("A second checkpoint to set beside it.", "ORIGINAL")] = None,
    against_arch: Annotated[
        str | None,
        optional(
            "The network of ORIGINAL; by default that of --arch, where the file has no graph of its own.", "SPEC"
        ),
    ] = None,
    limit: Limit = None,
    batch_size: Annotated[int, batch_size_option(" while scoring")] = 64,
    device: Device = "cpu",
    trust: Trust = False,
    weights: Weights = None,
    as_json: Annotated[bool, json_option()] = False,
) -> None:
    """Measure accuracy, size on disk, multiply-adds and milliseconds, side by side with the original.

    The test split is asked. Milliseconds are medians of one forward pass of 1 and of 128 samples; with --against
    the runs of the two networks alternate.
    """
    from rmt_compress.data import load_data
    from rmt_compress.networks.evaluation import compare
    from rmt_compress.networks.evaluation import evaluate as run
    from rmt_compress.networks.loading import load_model
    from rmt_compress.reporting.evaluation_table import evaluation_table

    checkpoint = opened(model, trust=trust, weights=weights)
    original_checkpoint = None if against is None else opened(against, trust=trust)
    if original_checkpoint is None:
        if against_arch is not None:
            raise SettingsError(["--against-arch is the network of --against ORIGINAL: give that too"])
        first, second = load_model(checkpoint, arch=arch), None
    else:
        # One --arch is for the side that needs it: a graph brings its own network, and takes none.
        both_graphs = checkpoint.has_graph and original_checkpoint.has_graph
        first = load_model(checkpoint, arch=None if checkpoint.has_graph and not both_graphs else arch)
        theirs = against_arch or (None if original_checkpoint.has_graph else arch)
        second = load_model(original_checkpoint, arch=theirs)
    dataset = load_data(data, split="test", allow_partial=True)
    for text in dataset.notes:
        note(text)
    if limit is not None:
        dataset = dataset.thinned(limit)
    with progress_bar("Evaluating") as progress:
        if second is None:
            result = run(first, dataset, path=checkpoint, batch_size=batch_size, device=device, progress=progress)
            original = None
        else:
            result, original = compare(
                first,
                second,
                dataset,
                paths=(checkpoint, original_checkpoint),
                batch_size=batch_size,
                device=device,
                progress=progress,
            )
    if not as_json:
        print_result(evaluation_table(dataset, result, original))
        if checkpoint.manifest is None and original is None:
            next_step("prune", model)
        else:
            next_step("finetune", model, "--data", Path(data), because="wins accuracy back")
        return
    report = {
        "schema": SCHEMA,
        "data": {"name": dataset.name, "split": dataset.split, "samples": len(dataset)},
        "model": result.to_json(),
    }
    if original is not None:
        report["against"] = original.to_json()
    print_json(report)
