"""Weights put into a class of transformers by the library itself, which knows by what names it has saved them.

Tensors of a published folder often have other names than in the class: the library renames, joins and splits them
when it loads. Here that is left to `from_pretrained`; factors go through it as `modeling_factorized` says.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from rmt_compress.checkpoints.views import DenseView
from rmt_compress.compression.live_modules import replace_modules
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.low_rank import module_refusal
from rmt_compress.saving.folder_code import factorized_entry
from rmt_compress.wording import listed, one_line, problems_listed, times

if TYPE_CHECKING:
    import torch

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.progress import Progress


# As `logging.CRITICAL`.
_ONLY_THE_WORST = 50


class Loaded(NamedTuple):
    """A network, and what did not fit: names that the file lacks, that the class lacks, and of other shapes."""

    model: Any
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """Why the weights are not those of the class; that it lacks some is none."""
        found = [f"the file lacks {listed(self.missing)}"] if self.missing else []
        return [*found, *self.mismatched]


def fits_by_name(checkpoint: Checkpoint, model: torch.nn.Module) -> bool:
    """Whether a network of transformers has all weights of a file, under names that the library leaves alone."""
    from rmt_compress.layers.modeling_factorized import renaming

    own = {*model.state_dict(), *(name for name, _ in model.named_buffers())}
    names = list(DenseView(checkpoint).tensors)
    return all(name in own for name in names) and not any(map(renaming(model), names))


def build_from(
    checkpoint: Checkpoint, cls: Any, config: Any, *, dtype: torch.dtype, progress: Progress | None = None
) -> Loaded:
    """A new network of a class of transformers, with the weights of a checkpoint, on the CPU.

    Args:
        checkpoint: what is loaded; factors stay two layers where the class has one to put them in.
        cls: the class; with layers in two already or not.
        config: of the network.
        dtype: the type it computes in.
        progress: called after each tensor that is read.

    Raises:
        CheckpointError: the library cannot build it, or not from these weights; in one line.
    """
    from rmt_compress.layers import modeling_factorized

    entry = factorized_entry(checkpoint.manifest)
    state = checkpoint.read_all(progress)
    options: dict[str, Any] = {
        "state_dict": state,
        "output_loading_info": True,
        "torch_dtype": dtype,
        "ignore_mismatched_sizes": True,
    }
    if entry["layers"]:
        config.factorized = entry
        if not hasattr(cls, "from_factors"):
            of_library = cls.__module__.startswith("transformers.")
            cls = getattr(modeling_factorized, cls.__name__) if of_library else modeling_factorized.factorized(cls)
    try:
        with quiet():
            model, report = cls.from_pretrained(None, config=config, **options)
    except Exception as error:  # the library raises what it likes
        why = one_line(error)[:300]
        raise CheckpointError(f"{checkpoint.path}: transformers cannot load it as {cls.__name__}: {why}") from error
    mismatched = [
        f"{name} is {times(given)} in the file, {times(wanted)} in the network"
        for name, given, wanted in sorted(report.get("mismatched_keys", ()))
    ]
    missing, unexpected = (tuple(sorted(report.get(key, ()))) for key in ("missing_keys", "unexpected_keys"))
    return Loaded(model, missing, unexpected, tuple(mismatched))


def fill(checkpoint: Checkpoint, model: Any) -> None:
    """Put the weights of a checkpoint into a network of transformers, its layers split as they are in the file.

    Raises:
        CheckpointError: it is of another network; the one given is left as it was.
    """
    from rmt_compress.layers.modeling_factorized import Factors

    loaded = build_from(checkpoint, type(model), copy.deepcopy(model.config), dtype=model.dtype)
    problems = list(loaded.problems)
    if loaded.unexpected:
        problems.append(f"the model lacks {listed(loaded.unexpected)}")
    pairs = {name: module for name, module in loaded.model.named_modules() if isinstance(module, Factors)}
    refusals = {name: module_refusal(model.get_submodule(name)) for name in pairs}
    problems += [f"{name} {refusal}" for name, refusal in refusals.items() if refusal is not None]
    if problems:
        raise CheckpointError(
            f"{checkpoint.path}: does not fit the model: {problems_listed(problems, 6)}. Give the model as it was "
            "before compression"
        )
    wholes = {model.get_submodule(name): pair for name, pair in pairs.items()}
    replace_modules(model, {whole: pair.to(whole.weight).train(whole.training) for whole, pair in wholes.items()})
    model.load_state_dict(loaded.model.state_dict())


@contextmanager
def quiet() -> Iterator[None]:
    """The library without its bars and reports, which are told in our own words; as it was afterwards."""
    from transformers.utils import logging

    bar: Any = logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(_ONLY_THE_WORST)
    bar.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            bar.enable_progress_bar()
