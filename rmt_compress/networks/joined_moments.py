"""Moments of weights that the library joins as it loads them, by the names of the file.

Of a product y = Wx whose W stands in the rows of a larger one, C is that of the larger one and G its part; where it
stands in some of the columns it is the other way round. Both are what is measured where W is a layer of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from rmt_compress.decomposition.moments import LayerMoments, Moments
from rmt_compress.layers.kinds import KINDS

if TYPE_CHECKING:
    import torch

    from rmt_compress.layers.layer import Layer
    from rmt_compress.saving.library_conversions import Conversions, Piece

OTHERWISE = "the network holds it otherwise than the file, joined or turned"


class Share(NamedTuple):
    """Where all of a matrix of the file lies in a layer of the network.

    Attributes:
        layer: name of the layer's tensor.
        matrix: which of a stack; None where it is none.
        rows: number of each row in the layer.
        columns: the same of columns.
    """

    layer: str
    matrix: int | None
    rows: torch.Tensor
    columns: torch.Tensor


def shares(converted: Conversions, layers: Iterable[Layer]) -> dict[str, Share]:
    """Name of a tensor in the file -> its share, of those that lie in one layer as they are.

    Args:
        converted: how the file becomes the network.
        layers: of the network.
    """
    kinds = {layer.tensor: layer.kind for layer in layers if layer.matrix is not None}
    found: dict[str, list[tuple[str, Piece]]] = {}
    for target, made in converted.made.items():
        for piece in made.pieces:
            found.setdefault(piece.name, []).append((target, piece))
    alone = {name: own[0] for name, own in found.items() if len(own) == 1}
    return {
        name: Share(target, piece.matrix if KINDS[kinds[target]].stacked else None, *_by_number(piece))
        for name, (target, piece) in alone.items()
        if target in kinds and not KINDS[kinds[target]].swaps and not piece.turned
    }


def _by_number(piece: Piece) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the rows and the columns of the file's matrix are, in their order there."""
    import torch

    placed = []
    for there, own in ((piece.rows, piece.own_rows), (piece.columns, piece.own_columns)):
        places = torch.arange(there.start, there.stop, there.step) if isinstance(there, slice) else there
        placed.append(places if isinstance(own, slice) else places[own.argsort()])
    return placed[0], placed[1]


def moments_of_shares(moments: Moments, known: Mapping[str, Share], layers: Iterable[Layer]) -> Moments:
    """Moments of those layers of the file that have a share in one of the network, and why some have none.

    Args:
        moments: by the names of the network.
        known: the shares, by the names of the file.
        layers: of the file.
    """
    inputs: dict[object, torch.Tensor] = {}
    found: dict[str, LayerMoments] = {}
    left_out: dict[str, str] = {}
    for layer in layers:
        share = known.get(layer.stored)
        whole = None if share is None else moments.layers.get(share.layer)
        if share is None or layer.matrix is None:
            continue
        if whole is None or layer.part is not None or KINDS[layer.kind].swaps or KINDS[layer.kind].stacked:
            left_out[layer.tensor] = moments.left_out.get(share.layer, OTHERWISE)
        elif (count := _count(whole, share, moments)) == 0:
            left_out[layer.tensor] = "did not run on the calibration inputs"
        else:
            found[layer.tensor] = _part(whole, share, count, inputs)
    return Moments(found, left_out)


def _count(whole: LayerMoments, share: Share, moments: Moments) -> int:
    return whole.count if share.matrix is None else int(moments.record["uses"][share.layer][share.matrix])


def _part(whole: LayerMoments, share: Share, count: int, known: dict[object, torch.Tensor]) -> LayerMoments:
    """Moments of a share; `known` has those of inputs, so that layers that read the same have one object."""
    C, mean, G = whole.inputs, whole.mean, whole.outputs
    if share.matrix is not None:
        C, mean, G = C[share.matrix], mean[share.matrix], None if G is None else G[share.matrix]
    rows, columns = share.rows, share.columns
    if G is not None and G.dim() == 2 and not _is_all(rows, len(G)):
        G = G[rows[:, None], rows]
    if not _is_all(columns, len(mean)):
        mean = mean[columns]
        C = C[columns[:, None], columns] if C.dim() == 2 else C[columns]
    C = known.setdefault((share.layer, share.matrix, tuple(columns.tolist())), C)
    return LayerMoments(C, mean, G, count)


def _is_all(places: torch.Tensor, count: int) -> bool:
    import torch

    return torch.equal(places, torch.arange(count))
