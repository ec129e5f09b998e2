"""Events of training runs as scalars for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rmt_compress.errors import MissingDependencyError
from rmt_compress.training.event_log import Event, metric_of

_SCALARS = ("test_loss", "train_loss", "parameters", "nonzeros", "learning_rate", "dead_outputs")


def tensorboard_listener(folder: Path) -> Callable[[Event], None]:
    """A function to call with every event; each run has a subfolder of its own."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError("tensorboard", "train", "--tensorboard") from error

    def listen(event: Event) -> None:
        writer = SummaryWriter(folder / event.get("run", "run").replace(" ", "-"))
        scalars = {f"test_{metric_of(event).name.replace(' ', '_')}": event["test_score"]}
        scalars |= {key: event[key] for key in _SCALARS if event.get(key) is not None}
        for key, value in scalars.items():
            writer.add_scalar(key, value, event["epoch"])
        for layer in event.get("layers", ()):
            for key in ("gof", "spikes", "rank"):
                if layer[key] is not None:
                    writer.add_scalar(f"{key}/{layer['name']}", layer[key], event["epoch"])
        writer.close()

    return listen
