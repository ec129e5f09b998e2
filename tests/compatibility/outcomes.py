"""What every command makes of every format, and of every kind of layer, as it really happened."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from matplotlib.figure import Figure
from torch import nn

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.graph import GraphCheckpoint
from rmt_compress.errors import CheckpointError
from rmt_compress.networks import architectures, exporting
from rmt_compress.networks.loading import load_model
from rmt_compress.outputs import replacing
from rmt_compress.reporting import sweep_files
from tests.compatibility.command_line import Finished, invoke, invoke_as_advised, without_paths
from tests.compatibility.formats import FORMATS, GRAPHS_AND_NAMES, Format, into
from tests.compatibility.layer_kinds import KINDS, LayerKind, with_few_directions

ARCH = "mlp:64,96,64,10"
TOLERANCE = 3e-3
"""Of outputs, relative to the largest. What a cut takes away is noise of 1e-5 an entry beside weights of about
1e-2, see `layer_kinds.NOISE`; a direction too few or an exchanged factor is an error of order 1."""

DATA = ("--data", "digits")
COMMANDS = {
    "analyze": (),
    "show": (),
    "prune": (),
    "prune --layout dense": (),
    "evaluate": (*DATA, "--limit", "40"),
    "sweep": (*DATA, "--limit", "40", "--what", "share", "--rules", "ratio", "--points", "2"),
    "finetune": (*DATA, "--epochs", "3", "--samples", "600", "--learning-rate", "0.05", "--device", "cpu"),
    "export .safetensors": (),
    "export .onnx": (),
}
"""Columns of the table of formats, with the options beside input and output."""


@dataclass(frozen=True)
class Outcome:
    """One cell of a table: what happened, and why."""

    word: str
    reasons: tuple[str, ...] = ()


def commands_by_formats() -> dict[str, dict[str, Outcome]]:
    """Format -> command -> outcome, of a perceptron with two layers to cut, on scikit-learn's digits."""
    with (
        patch.object(exporting, "_trace", _traced_once(exporting._trace)),
        patch.object(sweep_files, "write_figure", _drawn_once()),
    ):
        return _commands_by_formats()


def _traced_once(trace: Callable[..., None]) -> Callable[..., None]:
    """torch traces a network of the same weights once, however many formats it comes from: it takes a second."""
    traced: dict[bytes, bytes] = {}

    def once(model: nn.Module, example: torch.Tensor, path: Path, target: Path) -> None:
        weights = (tensor.numpy().tobytes() for tensor in model.state_dict().values())
        key = b"".join((repr(model).encode(), *map(str.encode, model.state_dict()), *weights))
        if key not in traced:
            trace(model, example, path, target)
            traced[key] = path.read_bytes()
        path.write_bytes(traced[key])

    return once


def _drawn_once() -> Callable[[Figure, Path], None]:
    """Curves are drawn once: what a picture shows has nothing to do with the format."""
    drawn: list[bytes] = []

    def once(figure: Figure, target: Path) -> None:
        with replacing(target) as path:
            if not drawn:
                figure.savefig(path)
                drawn.append(path.read_bytes())
            path.write_bytes(drawn[0])

    return once


def _commands_by_formats() -> dict[str, dict[str, Outcome]]:
    rows = {}
    model, inputs = _perceptron(), torch.rand(3, 64, generator=torch.Generator().manual_seed(2))
    for kind in FORMATS:
        with _folder() as folder:
            path = kind.write(model, inputs, folder)
            rows[kind.name] = {command: _command(kind, command, path, folder) for command in COMMANDS}
    kind = FORMATS[0]
    with _folder() as folder:
        path = folder / "pruned.safetensors"
        assert invoke(folder, "prune", kind.write(model, inputs, folder), "-o", path).status == 0
        rows["what `prune` wrote"] = {command: _command(kind, command, path, folder) for command in COMMANDS}
    return rows


def kinds_by_formats() -> dict[str, dict[str, Outcome]]:
    """Layer kind -> format -> outcome of `analyze` and `prune`."""
    return {kind.name: {each.name: _layer(kind, each) for each in GRAPHS_AND_NAMES} for kind in KINDS}


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _perceptron() -> nn.Module:
    return with_few_directions(architectures.build(ARCH, seed=0))


def _command(kind: Format, command: str, path: Path, folder: Path) -> Outcome:
    name, *options = command.split()
    output = {
        "prune": folder / (f"dense{path.suffix}" if options else kind.output),
        "sweep": folder / "sweep",
        "finetune": folder / "tuned.safetensors",
        "export": folder / f"exported{options[0] if options else ''}",
    }.get(name)
    options = [*(options if name == "prune" else []), *COMMANDS[command]]
    to = [] if output is None else ["-o", output]
    finished = invoke_as_advised(folder, ARCH, "64", name, path, *options, *to)
    if finished.status:
        return _not_done(finished)
    if output is not None and name in ("prune", "finetune", "export"):
        assert output.exists()
    if name == "prune":
        _assert_same(load(output), _perceptron(), torch.rand(5, 64), f"{kind.name}, {command}")
    return Outcome(", ".join(("works", *(f"`{option}`" for option in finished.options))))


def load(path: Path) -> nn.Module:
    """What `prune` wrote of the perceptron, as a network."""
    with open_checkpoint(path, trust=True) as checkpoint:
        return load_model(checkpoint, arch=None if isinstance(checkpoint, GraphCheckpoint) else ARCH)


def _layer(kind: LayerKind, each: Format) -> Outcome:
    network, inputs = kind.network(), kind.inputs()
    with _folder() as folder:
        try:
            path = each.write(network, inputs, folder)
        except RuntimeError:
            return Outcome("—", ("torch does not write it",))
        arguments = ("prune", path, "-o", folder / each.output, "--json", "--trust")
        finished = invoke(folder, *arguments)
        if finished.status == 2:
            return _not_done(finished)
        outcome = _of_layers(finished)
        if finished.status == 1 and outcome.word == "analysed":
            in_place = invoke(folder, *arguments, "--when-not-smaller", "truncate")
            if in_place.status == 0:
                outcome, finished = Outcome("in place", outcome.reasons), in_place
        if finished.status == 0:
            run = each.runner or into(kind.network)
            try:
                small = run(folder / each.output)
            except CheckpointError as error:
                return Outcome(f"{outcome.word}, not loaded", (without_paths(str(error), folder),))
            _assert_same(small, network, inputs, f"{kind.name}, {each.name}")
            if each.dense is not None:
                dense = folder / f"dense{path.suffix}"
                truncate = ("--when-not-smaller", "truncate", "--layout", "dense")
                assert invoke(folder, "prune", path, "-o", dense, *truncate).status == 0
                _assert_same(each.dense(dense), network, inputs, f"{kind.name}, {each.name}, dense")
        return outcome


def _of_layers(finished: Finished) -> Outcome:
    """What became of the one layer there is, be it several matrices."""
    words = {"factorized": "split", "truncated": "in place", "kept": "analysed", "skipped": "skipped"}
    layers = json.loads(finished.stdout)["layers"]
    matrices = [layer for layer in layers if sum(size > 1 for size in layer["shape"]) > 1] or layers
    pair = [layer for layer in matrices if layer["reason"].startswith("already factorized")]
    found: dict[str, list[str]] = {}
    for layer in pair or matrices:
        word = "analysed" if pair else words[layer["action"]]
        found.setdefault(word, []).append("" if word == "split" else layer["reason"])
    reasons = [reason for each in found.values() for reason in dict.fromkeys(each) if reason]
    return Outcome(", ".join(found), tuple(reasons))


def _not_done(finished: Finished) -> Outcome:
    return Outcome({1: "nothing to do", 2: "refused"}[finished.status], (finished.line,))


def _assert_same(model: object, original: nn.Module, inputs: torch.Tensor, what: str) -> None:
    with torch.no_grad():
        found, expected = model(inputs), original(inputs)
    difference = float((found - expected).abs().max() / expected.abs().max())
    assert difference < TOLERANCE, f"{what}: outputs differ by {difference:.1e} of the largest"
