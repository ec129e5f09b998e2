"""The graph of a network's own forward pass, as torch.fx traces it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmt_compress.errors import RmtCompressError
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    from torch import fx, nn


def traced(
    model: nn.Module, error: type[RmtCompressError], why: str, instead: str = "", name: str | None = None
) -> fx.GraphModule:
    """A network's graph.

    Args:
        model: what is traced.
        error: what is raised where it cannot be.
        why: what the graph is needed for, behind "cannot trace it".
        instead: the way out, behind the reason.
        name: what the error calls the network; None: its class.
    """
    from torch import fx

    try:
        return fx.symbolic_trace(model)
    # Tracing runs the model's own code, which may raise anything on the symbols it is given.
    except Exception as problem:
        raise error(
            f"{name or type(model).__name__}: torch.fx cannot trace it{why} ({one_line(problem)[:200]}){instead}"
        ) from problem
