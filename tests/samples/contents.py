"""What a checkpoint holds, compared tensor by tensor."""

from collections.abc import Mapping
from typing import Any

import torch

from rmt_compress.checkpoints import open_checkpoint


def assert_holds(source: Any, expected: Mapping[str, torch.Tensor]) -> None:
    """The checkpoint lists and reads exactly the tensors of `expected`, in any order."""
    with open_checkpoint(source) as checkpoint:
        assert set(checkpoint.tensors) == set(expected)
        for name, tensor in expected.items():
            info = checkpoint.tensors[name]
            assert (info.name, info.shape) == (name, tuple(tensor.shape))
            assert f"torch.{info.dtype}" == str(tensor.dtype)
            assert info.nbytes == tensor.numel() * tensor.element_size()
            values = checkpoint.read(name)
            assert type(values) is torch.Tensor
            assert not values.requires_grad
            assert values.dtype == tensor.dtype
            assert torch.equal(values, tensor.detach())
