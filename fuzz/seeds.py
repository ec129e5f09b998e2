"""What the makers of seeds share: a network, a folder that goes away, silence."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuzz.mutating.cases import Case

Seed = tuple[Case, str]
"""Files, and which of them, or folder of them (``""``: of all), the reader is to open."""
Maker = Callable[[], Iterator[Seed]]
NUMBER = 20261127


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as name:
        yield Path(name)


def held(folder: Path) -> Case:
    """All files in a folder, as a case."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def network() -> Any:
    """The network that most files are of."""
    import torch
    from torch import nn

    torch.manual_seed(NUMBER)
    return nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 9)).eval()


def pruned(place: Path, name: str, **options: Any) -> Path:
    """The file that `prune` makes of it, beside its plan."""
    from safetensors.torch import save_file

    import rmt_compress as rmt
    from rmt_compress.planning.settings import PlanSettings

    save_file(
        {key: tensor.contiguous() for key, tensor in network().state_dict().items()}, place / "whole.safetensors"
    )
    analysis, plan = rmt.AnalysisSettings(min_size=8), PlanSettings(rule="ratio:0.3", gof=1.0, **options)
    saved = place / "plan.json"
    rmt.prune(place / "whole.safetensors", place / name, analysis=analysis, plan=plan, save_plan=saved, force=True)
    return place / name


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of libraries."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
