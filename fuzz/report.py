"""The campaign table: figures of recorded runs in `results.json`, and the page made of them, `results.md`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fuzz.readers import READERS
from fuzz.trial import Campaign

_HERE = Path(__file__).resolve().parent
RESULTS, PAGE, MENDED = _HERE / "results.json", _HERE / "results.md", _HERE / "mended.json"
GUIDED = _HERE / "guided.json"


def record(campaign: Campaign) -> None:
    """Add a run to the results, in the place of an earlier one of the same reader and seed, and write the page."""
    runs = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    runs = [run for run in runs if (run["reader"], run["seed"]) != (campaign.reader, campaign.seed)]
    reached, lines = campaign.lines
    runs.append(
        {
            "reader": campaign.reader,
            "seed": campaign.seed,
            "executions": campaign.executions,
            "accepted": campaign.accepted,
            "failed": campaign.failed,
            "reached": reached,
            "lines": lines,
            "seconds": round(campaign.seconds),
            "longest": round(campaign.longest, 2),
            "megabytes": campaign.most_memory >> 20,
        }
    )
    runs.sort(key=lambda run: (list(READERS).index(run["reader"]), run["seed"]))
    RESULTS.write_text(json.dumps(runs, indent=1) + "\n")
    PAGE.write_text(page(runs, json.loads(MENDED.read_text()) if MENDED.exists() else []))


def recorded(reader: str, seed: int, executions: int) -> bool:
    """Whether there is a run of this reader with this seed and as many inputs."""
    runs = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return any((run["reader"], run["seed"]) == (reader, seed) and run["executions"] >= executions for run in runs)


def page(runs: list[dict[str, Any]], mended: list[dict[str, Any]]) -> str:
    """The table, from recorded runs and the list of what was found and mended."""
    rows = []
    for name in READERS:
        own = [run for run in runs if run["reader"] == name]
        if not own:
            continue
        left = {kind for run in own for kind in run["failed"]} - _mended(mended, name)
        repaired = [entry for entry in mended if entry["reader"] == name]
        best = max(own, key=lambda run: run["reached"] / run["lines"])
        timed = [run for run in own if "longest" in run]
        rows.append(
            f"| {name} | {sum(run['executions'] for run in own):,} | {sum(run['accepted'] for run in own):,} "
            f"| {len(repaired) + len(left)} | {len(repaired)} | {len(left)} "
            f"| {best['reached']} of {best['lines']} ({best['reached'] / best['lines']:.0%}) "
            f"| {_most(timed, 'longest')} s | {_most(timed, 'megabytes')} MB |"
        )
    said = [
        "# Fuzzing: what was tried and what came of it",
        "",
        "Made by `python -m fuzz READER --seconds N --seed S --record` from `results.json` and",
        "`mended.json`. An input fails where the reader does anything but read it or refuse it in one line:",
        "another exception, more than 10 s of processor time, more than 400 MB resident beside twice the",
        "input's size, a process that dies, or anything that the canary hears (an import, a process, a",
        "socket, code, a file written elsewhere). Lines are those inside of functions of the reader's own",
        "files, reached in the run that reached most. Kinds of failures are counted, not inputs. Libraries",
        "below (torch, safetensors, onnx, numpy, onnxruntime, Arrow, Pillow) are not measured. The slowest input",
        "(processor time) and the one that took most memory, beside what was there, are those of runs since",
        "these are noted.",
        "",
        "| reader | inputs tried | read as whole | failures found | mended | left | lines reached | slowest "
        "| most memory |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"In all {sum(run['executions'] for run in runs):,} inputs in "
        f"{sum(run['seconds'] for run in runs) / 3600:.1f} hours by the clock, one process at a time,",
        "on a machine that did other work beside it.",
        "",
    ]
    if mended:
        said += ["## Mended", "", *(f"- **{entry['reader']}**: {entry['failure']}" for entry in mended), ""]
    if unmended := [
        (run["reader"], kind)
        for run in runs
        for kind in run["failed"]
        if kind not in _mended(mended, run["reader"])
    ]:
        said += ["## Left", "", *(f"- **{reader}**: {kind}" for reader, kind in sorted(set(unmended))), ""]
    if GUIDED.exists():
        said += ["## Under atheris", "", *_guided(json.loads(GUIDED.read_text()))]
    return "\n".join(said)


def _mended(mended: list[dict[str, Any]], reader: str) -> set[str]:
    """The kinds of failures of a reader that are mended."""
    return {
        entry["kind"] for entry in mended if "kind" in entry and reader in (entry["reader"], *entry.get("also", ()))
    }


def _guided(runs: dict[str, dict[str, int]]) -> list[str]:
    """What libFuzzer made of the readers that are Python throughout."""
    rows = [
        f"| {name} | {run['executions']:,} | {run['accepted']:,} | {run['failed']} |" for name, run in runs.items()
    ]
    return [
        "Readers that are Python throughout, once more by `python -m fuzz.guided READER`: libFuzzer keeps the",
        "inputs that reach new branches, and the same changes are made to them. Without limits of memory.",
        "",
        "| reader | inputs tried | read as whole | failures |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _most(runs: list[dict[str, Any]], what: str) -> Any:
    return max((run[what] for run in runs), default="–")
