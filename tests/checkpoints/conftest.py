"""Checkpoints in every layout, written by torch and safetensors themselves or byte by byte."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import CheckpointError


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """A small state dict: a Linear, a convolution and a counter."""
    return {
        "fc.weight": torch.randn(8, 5),
        "fc.bias": torch.randn(8),
        "conv.weight": torch.randn(4, 3, 2, 2).to(torch.bfloat16),
        "steps": torch.tensor(11),
    }


@pytest.fixture
def refusal() -> Callable[[Any], str]:
    """Opens a source that must be refused, and gives the one line that says why, free of control characters."""

    def refuse(source: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(source)
        message = str(caught.value)
        assert message.isprintable()
        if isinstance(source, Path):
            assert str(source) in message
            # The folder is called after the test: no word in it is to count as the message's.
            message = message.replace(str(source.parent), "")
        return message

    return refuse


@pytest.fixture
def write_safetensors(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file from a header (a mapping, or its bytes), values and, if wished, another header length."""

    def write(
        header: Mapping[str, object] | bytes,
        values: bytes = b"",
        *,
        length: int | None = None,
        name: str = "crafted.safetensors",
    ) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / name
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + values)
        return path

    return write
