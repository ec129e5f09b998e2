"""Seeds of what runs write for themselves and read again: plans, moments, states, journals."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.seeds import Seed, folder, held, network, pruned


def plan() -> Iterator[Seed]:
    """A plan as `prune --save-plan` writes it."""
    with folder() as place:
        pruned(place, "small.safetensors")
        yield {"plan.json": (place / "plan.json").read_bytes()}, "plan.json"


def moments() -> Iterator[Seed]:
    """Moments of two layers, one of which reads what the other reads, and inputs kept with them."""
    import torch

    from rmt_compress.decomposition.moments import LayerMoments, Moments
    from rmt_compress.decomposition.moments_file import KeptInputs, save_moments

    eye, zero = torch.eye(9).double(), torch.zeros(9).double()
    first = LayerMoments(eye, zero, torch.eye(16).double(), 100)
    own = {"0.weight": first, "1.weight": LayerMoments(eye, zero, None, 100)}
    made = KeptInputs({"x": torch.ones(4, 9)}, {"how": "ones"})
    with folder() as place:
        save_moments(
            Moments(own, {"2.weight": "never reached"}, {"samples": 100}), place / "m.safetensors", inputs=made
        )
        yield held(place), "m.safetensors"


def training() -> Iterator[Seed]:
    """The state of a run, one layer split, and its log."""
    import torch

    from rmt_compress.spectrum import fit_bulk
    from rmt_compress.training.event_log import EventLog
    from rmt_compress.training.split_network import Network
    from rmt_compress.training.state import Snapshot, TrainingState, plain_fits

    split = Network(network())
    split.split_empty("0.weight", 3)
    weights = {name: torch.ones_like(each) for name, each in split.model.state_dict().items()}
    moved = {key: torch.ones(9, 16) for key in ("exp_avg", "exp_avg_sq")}
    with folder() as place:
        state = TrainingState(
            {"seed": 0},
            2,
            Snapshot([("0.weight", 3)], weights, 0.5, 400),
            optimizer={"2.weight": {"step": torch.tensor(3.0), **moved}},
            masks={"2.weight": weights["2.weight"] > 0},
            fits=plain_fits({"2.weight": fit_bulk(torch.linspace(0.5, 2, 9).double().numpy(), 16)}),
            events=3,
            best=Snapshot([], dict(network().state_dict())),
        )
        state.save(place / "state.pt")
        log = EventLog(place / "log.jsonl")
        for epoch in range(3):
            log.add({"event": "epoch", "epoch": epoch, "train_loss": 0.5, "score": {"name": "accuracy"}})
        yield {"state.pt": (place / "state.pt").read_bytes()}, "state.pt"
        yield {"log.jsonl": (place / "log.jsonl").read_bytes()}, "log.jsonl"


def calibration() -> Iterator[Seed]:
    """What an interrupted calibration leaves: one block finished, another begun."""
    import torch

    from rmt_compress.decomposition.moments import LayerMoments, Moments
    from rmt_compress.networks.calibration.interrupted import Partial

    eye, zero = torch.eye(9).double(), torch.zeros(9).double()
    with folder() as place:
        kept = Partial(place / "own", DIGEST)
        kept.begin_again({"0.weight"})
        kept.finish(0, Moments({"0.weight": LayerMoments(eye, zero, torch.eye(16).double(), 100)}))
        kept._written = float("-inf")
        kept.keep(1, layer_sums(), {"samples": 3})
        yield held(place / "own"), ""


def layer_sums() -> dict[str, Any]:
    """The sums that a calibration has begun."""
    from rmt_compress.networks.calibration.sums import SecondMoment
    from rmt_compress.networks.calibration.watchers import LayerSums

    inputs, outputs = SecondMoment(16, None, "matrix", mean=True), SecondMoment(9, None, "trace", mean=False)
    return {"2.weight": LayerSums("2.weight", inputs, outputs)}


def journal() -> Iterator[Seed]:
    """What `prune --resume` keeps: layers that are analysed, and factors."""
    import torch

    import rmt_compress as rmt
    from rmt_compress.compression.became import Became
    from rmt_compress.compression.weights import LayerOutcome
    from rmt_compress.layers.splitting import Factors

    with folder() as place:
        weights = whole(place)
        rmt.analyze(weights, **ANALYSIS, resume=place / "layers", jobs=1)
        yield {"layers": (place / "layers").read_bytes()}, "layers"
        with finished_factors(place / "factors", weights) as (finished, steps):
            for tensor, (step,) in steps.items():
                layer = step.layer
                if len(layer.shape) < 2:
                    continue
                outcome = LayerOutcome(layer.name, tensor, layer.kind, "factorized", 3, "asked", 144, 75, 75)
                parts = Factors(torch.ones(3, layer.shape[1]), torch.ones(layer.shape[0], 3))
                finished.add(tensor, Became(layer, parts, True, (outcome,), {"0.bias": torch.ones(16).double()}))
        yield {"factors": (place / "factors").read_bytes()}, "factors"


ANALYSIS: dict[str, Any] = {"min_size": 8}
DIGEST = "0" * 64


def whole(place: Path) -> Path:
    """The file that journals are of, as old as it always is."""
    path = place / "whole.safetensors"
    path.write_bytes(_whole())
    os.utime(path, ns=(1, 1))
    return path


@cache
def _whole() -> bytes:
    from safetensors.torch import save

    return save({name: each.contiguous() for name, each in network().state_dict().items()})


@cache
def _plan() -> Any:
    from rmt_compress.plan import load_plan

    with folder() as place:
        pruned(place, "small.safetensors")
        return load_plan(place / "plan.json")


@contextmanager
def finished_factors(journal: Path, weights: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The factors that a journal has, and the steps by tensor of the compression that they are of."""
    from rmt_compress.checkpoints import open_checkpoint
    from rmt_compress.compression.compressed import Compressed
    from rmt_compress.compression.finished_factors import FinishedFactors

    with open_checkpoint(weights) as checkpoint:
        view = Compressed(checkpoint, _plan(), layout="factorized")
        finished = FinishedFactors(
            journal, checkpoint, (_plan(), "factorized", None), "cpu", lambda _: None, room=0
        )
        try:
            yield finished, view.groups
        finally:
            finished.close()
