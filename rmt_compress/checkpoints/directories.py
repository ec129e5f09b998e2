"""Directories: which checkpoint in it is meant, and how to open it."""

from __future__ import annotations

import re
from pathlib import Path

from rmt_compress.checkpoints.base import Checkpoint
from rmt_compress.checkpoints.deepspeed import deepspeed_weights
from rmt_compress.checkpoints.formats import open_file, weight_suffixes
from rmt_compress.checkpoints.recognition import DISTRIBUTED, unreadable
from rmt_compress.checkpoints.sharded import ShardedCheckpoint, open_index
from rmt_compress.errors import CheckpointError
from rmt_compress.wording import listed, printable

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")

# Hugging Face's names, best first; the later ones hold the same weights in an older format.
_USUAL = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
)

# What a trainer leaves beside the weights.
_NO_WEIGHTS = re.compile(r"(?:training_args|optimizer|scheduler|scaler|rng_state\w*)\.(?:bin|pt|pth)")


def open_directory(path: Path, *, trust: bool = False, weights: str | None = None) -> Checkpoint:
    """The one checkpoint in the directory at `path`.

    What `torch.distributed.checkpoint` wrote is one, whatever lies beside it. Else an index or a file under one of
    Hugging Face's usual names is taken first; else the one index, set of numbered shards or weight file there is.
    Of several without a usual name none is taken: the error names them.
    """
    try:
        # Hidden files are what a killed run has left behind.
        files = sorted(
            entry.name
            for entry in path.iterdir()
            if not entry.name.startswith(".") and (entry.is_file() or entry.is_symlink())
        )
    except OSError as error:
        raise unreadable(path, error) from error
    if any(name.endswith(DISTRIBUTED) for name in files):
        from rmt_compress.checkpoints.distributed.distributed_file import DistributedCheckpoint

        return DistributedCheckpoint(path, weights)
    if (ours := deepspeed_weights(path, files)) is not None:
        files = [ours]
    found = _checkpoints(files)
    usual = [name for name in _USUAL if name in found]
    if not found:
        raise CheckpointError(f"{path}: {_nothing_found(path)}")
    if len(found) > 1 and not usual:
        names = listed(found)
        raise CheckpointError(f"{path}: holds {len(found)} checkpoints ({names}); name the one you mean")
    name = usual[0] if usual else found[0]
    others = [other for other in found if other != name]
    notes = (printable(f"Took {name}; {', '.join(others)} left alone."),) if others else ()
    if name.endswith(".index.json"):
        return open_index(path / name, notes)
    shard = _SHARD.fullmatch(name)
    if shard:
        return _open_numbered(path, shard, files, notes)
    checkpoint = open_file(path / name, trust=trust, weights=weights)
    checkpoint.notes = (*notes, *checkpoint.notes)
    return checkpoint


def states_in(path: Path) -> list[Path]:
    """The checkpoints in a directory that holds states of one network, in the order of the numbers in their names.

    These are the weight files of a directory that has none under a usual name, or the directories below it that
    hold weights where it holds none itself, as trainers make them (``checkpoint-500``). Empty where the directory
    is one checkpoint, or none, or cannot be read, of which opening it says why.
    """
    try:
        files = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_file())
    except OSError:
        return []
    if any(name.endswith(DISTRIBUTED) for name in files) or deepspeed_weights(path, files) is not None:
        return []
    found = _checkpoints(files)
    if not found:
        found = _below(path)
    if len(found) < 2 or any(name in found for name in _USUAL):
        return []
    return [path / name for name in sorted(found, key=_by_number)]


def _by_number(name: str) -> list[tuple[int, str]]:
    """``epoch2`` before ``epoch10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def is_shard(name: str) -> bool:
    """Whether the file `name` is by its number one of several shards."""
    shard = _SHARD.fullmatch(name)
    return shard is not None and int(shard["count"]) > 1


def _checkpoints(files: list[str]) -> list[str]:
    """Names in `files` that stand for a checkpoint: indexes, first shards of sets without one, others."""
    indexes = [name for name in files if name.endswith(".index.json")]
    indexed = {name.removesuffix(".index.json") for name in indexes}
    sets: dict[tuple[str, ...], str] = {}
    single = []
    for name in files:
        if Path(name).suffix not in weight_suffixes() or _NO_WEIGHTS.fullmatch(name):
            continue
        shard = _SHARD.fullmatch(name)
        if shard is None:
            single.append(name)
        elif shard["stem"] + shard["suffix"] not in indexed:
            sets.setdefault((shard["stem"], shard["count"], shard["suffix"]), name)
    return [*indexes, *sets.values(), *single]


def _open_numbered(path: Path, shard: re.Match[str], files: list[str], notes: tuple[str, ...]) -> Checkpoint:
    """A set of numbered shards without an index."""
    count = int(shard["count"])
    present = [
        name
        for name in files
        if (other := _SHARD.fullmatch(name))
        and (other["stem"], other["count"], other["suffix"]) == (shard["stem"], shard["count"], shard["suffix"])
    ]
    if len(present) != count:
        have = {int(name[len(shard["stem"]) + 1 :][:5]) for name in present}
        missing = next((number for number in range(1, count + 1) if number not in have), 0)
        raise CheckpointError(
            f"{path}: {len(present)} of {count} shards of {shard['stem']} are there, number {missing} is "
            "missing; complete the folder"
        )
    return ShardedCheckpoint(path, path, present, notes=notes)


def _holds_weights(files: list[str]) -> bool:
    return bool(_checkpoints(files)) or any(name.endswith(DISTRIBUTED) for name in files)


def _nothing_found(path: Path) -> str:
    """Why there is no checkpoint in `path`: what was looked for, and where weights lie below it."""
    looked = f"looked for *{', *'.join(sorted(weight_suffixes()))} and *.index.json"
    if below := _below(path):
        return f"holds no weights itself, but {', '.join(below[:8])} below it does; name that folder"
    return f"holds no weights ({looked}); name the file or its folder"


def _below(path: Path) -> list[str]:
    """Names of the directories in `path` that hold weights."""
    try:
        return sorted(
            folder.name
            for folder in path.iterdir()
            if folder.is_dir() and _holds_weights([entry.name for entry in folder.iterdir()])
        )
    except OSError:
        return []
