"""`rmt-compress certify`: what a cut can change at most."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmt_compress.cli.console import (
    GoalNotReached,
    next_step,
    note,
    print_json,
    print_result,
    progress_bar,
    warning,
)
from rmt_compress.cli.options import (
    Arch,
    Data,
    Device,
    Limit,
    Report,
    Trust,
    Weights,
    batch_size_option,
    force_option,
    json_option,
    opened,
    optional,
    with_options,
)
from rmt_compress.cli.reports import check_report, write_report
from rmt_compress.errors import SettingsError
from rmt_compress.networks.tasks.settings import TaskSettings

if TYPE_CHECKING:
    from torch import nn

    from rmt_compress.checkpoints import Checkpoint
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.plan import Plan

SCHEMA = "rmt-compress/certificate/1"


@with_options(without=("dtype", "task", "higher_is_better"))
def certify(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="The checkpoint as it is before the cut.")],
    data: Data = None,
    *,
    plan: Annotated[Path | None, optional("The plan of the cut, as prune --save-plan writes it.", "FILE")] = None,
    moments: Annotated[
        Path | None, optional("What a plan of calibrated directions was made with (prune --save-moments).", "FILE")
    ] = None,
    cut: Annotated[
        Path | None, optional("The file that was cut, instead of a plan: any that MODEL was made into.", "FILE")
    ] = None,
    asked: TaskSettings,
    arch: Arch = None,
    plot: Annotated[
        Path | None, optional("Draw every sample's bound over its change into this PNG.", "FILE")
    ] = None,
    limit: Limit = None,
    batch_size: Annotated[int | None, batch_size_option()] = None,
    device: Device = "cpu",
    trust: Trust = False,
    weights: Weights = None,
    report: Report = None,
    force: Annotated[bool, force_option("a picture and a report that exist")] = False,
    as_json: Annotated[bool, json_option("the tables")] = False,
) -> None:
    """Say what a cut can change at most: a lower bound on the accuracy after it, beside the measured one.

    For every sample, how far its classification confidence can move is bounded by what the cut does to each layer's
    real outputs, times how much the layers behind can stretch that. Samples that are right by more than that stay
    right. All is computed in float64. The bounds are sound, and loose where many layers follow a cut.
    """
    from rmt_compress.networks.loading import load_model
    from rmt_compress.networks.pixel_statistics import unnormalized_samples
    from rmt_compress.networks.tasks.questions import open_task
    from rmt_compress.outputs import check_output, together
    from rmt_compress.pruning.certifying import certify as run
    from rmt_compress.reporting.certificate_plots import write_certificate_plot
    from rmt_compress.reporting.certificate_table import certificate_table
    from rmt_compress.reporting.html.certificate_report import certificate_page

    if (plan is None) == (cut is None):
        raise SettingsError(
            ["give the cut as --plan FILE (prune --save-plan writes one) or as --cut FILE, one of both"]
        )
    if moments is not None and plan is None:
        raise SettingsError(["--moments belong to a plan: add --plan"])
    inputs = tuple(path for path in (model, plan, moments, cut) if path is not None)
    if plot is not None:
        check_output(plot, force=force, inputs=inputs)
    check_report(report, force=force, inputs=inputs)
    change: Plan | nn.Module
    with progress_bar("Reading") as progress:
        checkpoint = opened(model, trust=trust, weights=weights)
        network = load_model(checkpoint, arch=arch, progress=progress)
        if plan is not None:
            change, measured = _planned(network, checkpoint, plan, moments)
        else:
            assert cut is not None
            smaller = opened(cut, trust=trust)
            graph = smaller.has_graph
            change, measured = load_model(smaller, arch=None if graph else arch, progress=progress), None
        task = open_task(data, network, checkpoint, asked, limit=limit)
    notes = () if task.samples is None else task.samples.notes
    for text in notes:
        note(text)
    if (words := unnormalized_samples(network, task.samples)) is not None:
        warning(f"{model}: {words}")
    with progress_bar("Certifying") as progress:
        found = run(
            *(network, change, task, measured),
            batch_size=batch_size,
            device=device,
            name=str(model),
            progress=progress,
        )
    with together():
        if plot is not None:
            write_certificate_plot(found, plot)
        write_report(report, context, lambda: certificate_page(model, found), notes)
    if as_json:
        said: dict[str, Any] = {
            "schema": SCHEMA,
            "model": str(model),
            "plan": None if plan is None else str(plan),
            "cut": None if cut is None else str(cut),
            "data": found.data,
        }
        print_json(said | found.to_json(), written=plot)
    else:
        print_result(certificate_table(found), written=plot)
    if found.violations:
        raise GoalNotReached(
            f"{model}: {found.violations} samples moved farther than their bound: this is a bug, please report it"
        )
    if found.vacuous:
        note(
            f"the bound is vacuous here: it certifies {found.accuracy_certified:.2%} where "
            f"{found.accuracy_after:.2%} was measured; it tightens with fewer layers behind a cut and higher ranks"
        )
    if not as_json:
        if plan is not None:
            known = () if moments is None else ("--moments", moments)
            next_step("prune", model, "--plan", plan, *known, because="carries the plan out")
        elif cut is not None:
            next_step("evaluate", cut, "--against", model, "--data", Path(data or "DATA"))


def _planned(
    network: nn.Module, checkpoint: Checkpoint, plan: Path, moments: Path | None
) -> tuple[Plan, Moments | None]:
    """A plan and its moments, under the names that the network has."""
    from rmt_compress.decomposition.moments_file import load_moments
    from rmt_compress.networks.file_names import file_names
    from rmt_compress.plan import load_plan

    names = file_names(network, checkpoint)
    known = None if moments is None else load_moments(moments)
    return names.plan(load_plan(plan)), names.moments_in_network(known)
