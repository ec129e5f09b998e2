"""What a manifest says of where a file came from and of what was done to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_compress.checkpoints.keys import ARCHITECTURE_KEY, MANIFEST_KEY
from rmt_compress.checkpoints.manifest import FactorizedLayer, Manifest, SourceRecord
from rmt_compress.checkpoints.recognition import unreadable
from rmt_compress.errors import PlanError
from rmt_compress.layers.layer import TensorInfo
from rmt_compress.layers.splitting import beside, factor_names, module_path
from rmt_compress.plan import Layout, Plan

if TYPE_CHECKING:
    from rmt_compress.checkpoints.base import Checkpoint


def make_manifest(
    source: Checkpoint | SourceRecord | None,
    plan: Plan | None,
    tensors: Mapping[str, TensorInfo],
    *,
    layout: Layout = "factorized",
    ties: Mapping[str, tuple[str, ...]] | None = None,
    metadata: Mapping[str, str] | None = None,
    architecture: str | None = None,
    factorized: tuple[FactorizedLayer, ...] | None = None,
) -> Manifest:
    """The manifest of a file that is about to be written.

    Args:
        source: what was compressed, whose file is read once more for its SHA-256, or what is known of it.
        plan: what was done to it.
        tensors: what will be in the file, before sparse encoding.
        layout: see `Manifest`.
        ties: first name of a shared tensor -> its other names.
        metadata: text entries to carry; None for those of a checkpoint.
        architecture: None for the one in the metadata, where there is one.
        factorized: the weights that are stored as two; None for those of the plan, under the names they have in a
            state dict.
    """
    known = source if source is None or isinstance(source, SourceRecord) else source_record(source)
    own = {} if source is None or isinstance(source, SourceRecord) else source.metadata
    texts = dict(metadata if metadata is not None else own)
    texts.pop(MANIFEST_KEY, None)
    other_names = {other: first for first, others in (ties or {}).items() for other in others}
    if factorized is None:
        factorized = ()
        if plan is not None and layout == "factorized":
            factorized = tuple(_factorized(plan, tensors, ties or {}))
    return Manifest(
        tool_version=tool_version(),
        source=known,
        # What other budgets would have given is no part of what was done.
        plan=None if plan is None else plan.model_copy(update={"curve": None, "times": None}),
        layout=layout,
        factorized=factorized,
        ties=other_names,
        architecture=architecture or texts.get(ARCHITECTURE_KEY),
        metadata=texts,
    )


def source_record(checkpoint: Checkpoint) -> SourceRecord:
    """What is remembered of a checkpoint, its files read through once."""
    files = checkpoint.files
    ties = {other for others in checkpoint.ties.values() for other in others}
    in_memory = sum(info.nbytes for name, info in checkpoint.tensors.items() if name not in ties)
    try:
        sizes = [path.stat().st_size for path in files]
    except OSError as error:
        raise unreadable(checkpoint.path or files[0], error) from error
    return SourceRecord(
        name=checkpoint.path.name or str(checkpoint.path) if checkpoint.path is not None else checkpoint.format,
        format=checkpoint.format,
        sha256=file_digest(files) if files else None,
        bytes=sum(sizes) if files else in_memory,
        parameters=checkpoint.parameters,
    )


def file_digest(files: Iterable[Path]) -> str:
    """SHA-256 of a file; of several, of what ``sha256sum FILE…`` prints for them in this order."""
    digests = []
    for path in files:
        try:
            with path.open("rb") as file:
                digests.append((hashlib.file_digest(file, "sha256").hexdigest(), path.name))
        except OSError as error:
            raise unreadable(path, error) from error
    if len(digests) == 1:
        return digests[0][0]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in digests).encode()).hexdigest()


def tool_version() -> str:
    """Version of this package; ``unknown`` where it runs without being installed."""
    try:
        return version("rmt-compress")
    except PackageNotFoundError:
        return "unknown"


def _factorized(
    plan: Plan, tensors: Mapping[str, TensorInfo], ties: Mapping[str, tuple[str, ...]]
) -> Iterable[FactorizedLayer]:
    """A record for every factorized layer, and for every other name of a module that stands in several places."""
    for decision in plan.layers:
        if decision.action != "factorized" or decision.rank is None:
            continue
        names = factor_names(decision.tensor, decision.kind)
        if names.down not in tensors or names.up not in tensors:
            raise PlanError(
                f"the plan factorizes {decision.tensor}, but there is no {names.down} and {names.up}; compress "
                "the model by this plan first"
            )
        ends = [name for name in ties.get(names.down, ()) if f".{name}".endswith(".down.weight")]
        for weight in (decision.tensor, *(beside(module_path(name), "weight") for name in ends)):
            names = factor_names(weight, decision.kind)
            yield FactorizedLayer(
                name=module_path(weight) or decision.name,
                weight=weight,
                kind=decision.kind,
                shape=decision.shape,
                bias=beside(weight, "bias") if names.bias in tensors else None,
                down=names.down,
                up=names.up,
                rank=decision.rank,
            )
