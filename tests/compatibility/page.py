"""The page of the docs, made of the outcomes."""

from tests.compatibility.outcomes import Outcome, commands_by_formats, kinds_by_formats
from tests.samples.repository import REPOSITORY

PAGE = REPOSITORY / "docs" / "compatibility.md"

INTRODUCTION = """\
# What works with what

Made by `python -m tests.compatibility`, which writes a small network into every kind of file and runs every command
on it; a test fails where this page says something else than what happens. Wherever `prune` writes a file, that file
has been run and its outputs compared with the original's: by onnxruntime, `torch.export`, `torch.jit`, or in the
network's own class.
"""


def page() -> str:
    """The page as Markdown."""
    commands = _table("format", commands_by_formats())
    layers = _table("layer", kinds_by_formats())
    return f"""{INTRODUCTION}
## Formats and commands

The network is a perceptron for scikit-learn's digits. An option behind *works* is what the command asks for before
it works; `--arch` names the network, `--trust` allows code from the file to run.

{commands}

## Layers and formats

What `prune` makes of a network of one layer. *split*: into two thin ones. *in place*: cut in its own shape, with
`--when-not-smaller truncate`. *analysed*: its spectrum is shown, it is kept as it is. *skipped*: not analysed.
A `.pt` state dict, a training checkpoint and shards hold names and tensors like a `.safetensors` file.

{layers}
"""


def _table(corner: str, rows: dict[str, dict[str, Outcome]]) -> str:
    """A table with numbered reasons below."""
    reasons: dict[str, int] = {}
    columns = list(next(iter(rows.values())))
    lines = [f"| {' | '.join([corner, *columns])} |", f"|{'---|' * (len(columns) + 1)}"]
    for name, cells in rows.items():
        texts = [_cell(cells[column], reasons) for column in columns]
        lines.append(f"| {' | '.join([name, *texts])} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*lines, "", *notes])


def _cell(outcome: Outcome, reasons: dict[str, int]) -> str:
    numbers = [reasons.setdefault(reason, len(reasons) + 1) for reason in outcome.reasons]
    return " ".join((outcome.word, *(f"({number})" for number in numbers)))
