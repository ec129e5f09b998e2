"""Training with pruning inside it: the prune/retrain cycle of SJK23 and BSSZ24 (method.md §8)."""

from rmt_compress.training.finetuning import Finetuned, finetune
from rmt_compress.training.settings import CycleSettings, TrainingSettings

__all__ = ["CycleSettings", "Finetuned", "TrainingSettings", "finetune"]
