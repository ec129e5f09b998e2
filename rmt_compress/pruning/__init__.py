"""The road from one checkpoint to a smaller file: analysis, plan, compression, and what it cost."""

from rmt_compress.pruning.output_names import default_output
from rmt_compress.pruning.result import PruneResult
from rmt_compress.pruning.road import prune

__all__ = ["PruneResult", "default_output", "prune"]
