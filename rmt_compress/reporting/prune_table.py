"""What `prune` did, as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.reporting.blanks import blank_table
from rmt_compress.wording import listed, printable, times

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from rmt_compress.pruning.result import PruneResult

_ACTION_STYLES = {"factorized": "green", "truncated": "yellow", "kept": "", "skipped": "dim"}


def prune_table(result: PruneResult) -> Group:
    """The layers with what was done to each and why, then sizes and, with data, accuracies."""
    from rich.console import Group

    return Group(_layers(result), _totals(result))


def _layers(result: PruneResult) -> Table:
    from rich.text import Text

    nothing = "nothing written (--dry-run)" if result.dry_run else "nothing written"
    table = blank_table(f"{result.source} → {result.output or nothing}")
    table.add_column("layer", overflow="ellipsis", no_wrap=True, max_width=28)
    table.add_column("shape", no_wrap=True)
    table.add_column("action", no_wrap=True)
    table.add_column("weights left", justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    outcomes = {outcome.tensor: outcome for outcome in result.outcomes}
    for decision in result.plan.layers:
        if decision.kind == "vector":
            continue
        outcome = outcomes.get(decision.tensor)
        left = "" if outcome is None else f"{outcome.nonzeros / max(1, outcome.parameters):.1%}"
        table.add_row(
            Text(printable(decision.name)),
            times(decision.shape, scalar=""),
            Text(decision.action, style=_ACTION_STYLES[decision.action]),
            left,
            Text(printable(decision.reason), style="dim" if decision.action == "skipped" else ""),
        )
    return table


def _totals(result: PruneResult) -> RenderableType:
    from rich.text import Text

    lines = []
    totals = result.totals
    if result.outcomes:
        lines.append(
            f" {totals['nonzeros']:,} of {totals['parameters']:,} weights are left "
            f"({totals['nonzeros'] / max(1, totals['parameters']):.1%})"
        )
    if result.sizes is not None:
        before, after = result.sizes
        ratio = before / max(1, after)
        what = "bytes of weights" if result.left_out else "bytes"
        lines.append(
            f" {before:,} → {after:,} {what}: " + (f"{ratio:.1f} times smaller" if ratio >= 1.05 else "not smaller")
        )
    if result.left_out and result.bytes_out is not None:
        named = listed((printable(f"{entry.name} ({entry.kind})") for entry in result.left_out), 6)
        lines.append(f" {result.bytes_in:,} → {result.bytes_out:,} bytes on the disk, with {named} left out")
    if result.before is not None and result.after is not None:
        old, new = result.before.score, result.after.score
        lines.append(
            f" accuracy {old.accuracy:.2%} → {new.accuracy:.2%} on {new.samples:,} test samples"
            f" ({100 * (new.accuracy - old.accuracy):+.2f} points)"
        )
    lines.extend(f" {what}: {', '.join(paths)}" for what, paths in result.written)
    return Text("\n".join(lines))
