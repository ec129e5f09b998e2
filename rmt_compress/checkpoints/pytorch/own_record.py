"""The manifest inside a state dict that any `load_state_dict` takes as it is.

torch notes the versions of a state dict's modules in its attribute ``_metadata``, a mapping by module path, which
`torch.save` keeps and the weights-only reader gives back. Under a path that no module has, there is room for more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmt_compress.checkpoints.keys import MANIFEST_KEY
from rmt_compress.errors import CheckpointError


def write_record(manifest: str, texts: Mapping[str, str], prefix: str) -> dict[str, str]:
    """What stands under `MANIFEST_KEY`: the manifest, the file's text entries, and the prefix of every name."""
    return {"manifest": manifest, "metadata": json.dumps(dict(texts)), "prefix": prefix}


def read_record(record: Mapping[str, Any], names: Sequence[str], *, path: Path) -> tuple[dict[str, str], str]:
    """The text entries, the manifest among them, and the prefix; none where another program has taken it off.

    Args:
        record: what `write_record` made.
        names: of the tensors in the file.
        path: the file, for messages.

    Raises:
        CheckpointError: it made something else.
    """
    manifest, prefix = record.get("manifest"), record.get("prefix")
    try:
        texts = json.loads(str(record.get("metadata")))
    except (ValueError, RecursionError):
        texts = None
    if (
        not isinstance(manifest, str)
        or not isinstance(prefix, str)
        or not isinstance(texts, dict)
        or not all(isinstance(text, str) for text in texts.values())
    ):
        raise CheckpointError(f"{path}: what rmt-compress noted in it is damaged; compress the source again")
    still_there = all(name.startswith(prefix) and name != prefix for name in names)
    return {**texts, MANIFEST_KEY: manifest}, prefix if still_there else ""
