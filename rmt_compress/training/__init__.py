"""Training with pruning inside it: the prune/retrain cycle of SJK23 and BSSZ24 (method.md §8)."""

from typing import TYPE_CHECKING

from rmt_compress.training.settings import CycleSettings, TrainingSettings

if TYPE_CHECKING:
    from rmt_compress.training.finetuned import Finetuned
    from rmt_compress.training.finetuning import finetune

__all__ = ["CycleSettings", "Finetuned", "TrainingSettings", "finetune"]


def __getattr__(name: str) -> object:
    # On first use: the command line needs the settings, and must not wait for what trains.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rmt_compress.training import finetuning

    return getattr(finetuning, name)
