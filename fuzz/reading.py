"""What is asked of each kind of file: all that a command may ask."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def checkpoint(path: Path) -> None:
    """What `show` asks of a checkpoint, and its layers."""
    import json

    from rmt_compress.checkpoints import open_checkpoint
    from rmt_compress.errors import CheckpointError
    from rmt_compress.reporting.description_table import contents
    from rmt_compress.saving.description import describe

    with open_checkpoint(path) as opened:
        for layer in opened.layers():
            layer.skip_reason(min_size=1)
        description = describe(opened)
        json.dumps(description.to_json())
        contents(description)
        with suppress(CheckpointError):
            opened.carried()


def program(path: Path) -> None:
    """A checkpoint and the network that it brings."""
    from rmt_compress.checkpoints import open_checkpoint

    checkpoint(path)
    with open_checkpoint(path) as opened:
        opened.own_network()


def graph(path: Path) -> None:
    """A checkpoint whose graph is edited: each layer is looked at as `prune` looks at it."""
    from rmt_compress.checkpoints import open_checkpoint
    from rmt_compress.checkpoints.graph import GraphCheckpoint

    checkpoint(path)
    with open_checkpoint(path) as opened:
        assert isinstance(opened, GraphCheckpoint)
        opened.editor()


def compressed(path: Path) -> None:
    """A compressed file: shown, and put back to whole weights."""
    from rmt_compress.saving.reloading import load_dense

    checkpoint(path)
    load_dense(path)


def plan(path: Path) -> None:
    """A plan, and what it says in a table."""
    from rmt_compress.plan import load_plan

    found = load_plan(path)
    _ = found.by_tensor
    found.to_json()
    found._repr_html_()


def moments(path: Path) -> None:
    """Moments, and the inputs kept with them."""
    from rmt_compress.decomposition.moments_file import load_inputs, load_moments

    load_moments(path)
    load_inputs(path)


def training(path: Path) -> None:
    """A log; a state, and the network and the optimizer that it goes on with."""
    from fuzz.seeds import network
    from rmt_compress.training.event_log import of_kind, read_lines
    from rmt_compress.training.optimizers import restore_state
    from rmt_compress.training.starting import restored
    from rmt_compress.training.state import TrainingState

    if path.suffix == ".jsonl":
        of_kind(read_lines(path), "epoch")
        return
    import torch

    state = TrainingState.load(path)
    with state.taken_up(path):
        resumed = restored(network, state.network)
        restore_state(resumed.model, torch.optim.SGD(resumed.model.parameters()), state.optimizer)
        state.bulk_fits()
        if state.best is not None:
            restored(network, state.best)


def journal(path: Path) -> None:
    """The finished layers in it, or the factors."""
    from fuzz.run_corpus import ANALYSIS, finished_factors, whole
    from rmt_compress.analysis.finished import FinishedLayers
    from rmt_compress.analysis.settings import AnalysisSettings
    from rmt_compress.checkpoints import open_checkpoint

    weights = whole(path.parent)
    if path.name == "factors":
        with finished_factors(path, weights) as (finished, steps):
            for tensor, own in steps.items():
                finished.became(tensor, own)
        return
    with open_checkpoint(weights) as opened:
        finished = FinishedLayers(path, opened, AnalysisSettings(**ANALYSIS), "cpu", lambda _: None)
        try:
            finished.known(opened.layers())
        finally:
            finished.close()


def calibration(path: Path) -> None:
    """The block that is finished, and the sums of the one that is not."""
    from fuzz.run_corpus import DIGEST, layer_sums
    from rmt_compress.networks.calibration.interrupted import Partial

    found = Partial(path, DIGEST)
    found.block(0)
    found.resume(1, layer_sums())


def evaluated(path: Path) -> None:
    """The network that a graph is: run, and its products counted, with inputs as it says it takes."""
    import torch

    from rmt_compress.checkpoints import open_checkpoint
    from rmt_compress.checkpoints.graph_network import GraphNetwork
    from rmt_compress.errors import EvaluationError
    from rmt_compress.networks.tasks.asking import asked

    def made(entry: Any) -> torch.Tensor:
        shape = [length or 2 for length in entry.shape or (2, 9)]
        # Whoever gives such inputs has the memory for them.
        return torch.ones(shape if torch.Size(shape).numel() < 1 << 16 else [2, 9]).to(entry.dtype or torch.float32)

    with open_checkpoint(path) as opened:
        network = opened.own_network()
        assert isinstance(network, GraphNetwork)
        _ = network.vocabulary
        given = {entry.name: made(entry) for entry in network.inputs}
        samples: Any = SimpleNamespace(name="what it says it takes", targets="labels")
        with suppress(EvaluationError):
            asked(network, given, samples, str(path))
            # As the commands do, of a network that has answered.
            network.multiply_adds(given)


def data(*kinds: str) -> Callable[[Path], None]:
    """Every sample that a command may ask for."""

    def read(path: Path) -> None:
        from rmt_compress.data.settings import DataSettings
        from rmt_compress.data.sources import PARTS, open_samples
        from rmt_compress.errors import RmtCompressError

        settings = DataSettings(sequence_length=8, allow_partial=True)
        refused = None
        for kind in kinds:
            try:
                source = open_samples(kind + str(path), settings, vocabulary=256)
                for part in PARTS[1:] if kind else ("test",):
                    for _ in source.part(part).batches(16):
                        pass
            except RmtCompressError as error:
                refused = error
        if refused is not None:
            raise refused

    return read
