"""What speaks for the role of a tensor of which only names and shapes are known.

A rank alone says nothing: (64, 48, 32) may be a convolution, 64 experts, or an nn.Bilinear; (96, 64) a product, a
norm over two axes, or a table of positions. So each role needs evidence; where there is none the tensor is kept:

    norm           a bias of the weight's own shape; two axes or more under a norm's name
    table          positions by their name; an embedding by its name, by as many rows as ``config.json`` gives the
                   vocabulary, or by far more rows than any width there is, with nothing that takes so many inputs
    stack          a bias (experts, …) beside it; a name of experts; a router with one output per expert; the number
                   of experts in ``config.json``; other stacks of as many matrices in the same module
    convolution    a name of convolutions; a kernel that is plausible, with one bias or norm entry per output or as
                   many inputs as another layer has outputs. Of four axes and more: the name ``weight``
    product        two axes, and none of the above

A plain Linear without a bias has nothing but its two axes and its name: it is what remains, since a rule that asked
more of it would make most networks useless. Output layers without a bias look like embedding tables but for their
names; where the names say neither, the tensor is taken for a table, which is kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from rmt_compress.layers.splitting import beside, is_weight, module_path

if TYPE_CHECKING:
    from rmt_compress.layers.layer import TensorInfo

# A hostile file may have names of megabytes, over which a search would take for ever: their end is enough.
_LONGEST = 256

_EMBEDDING = re.compile(
    r"(?:^|[._])(?:embed\w*|\w+_embeddings?|emb|wte|wpe|tok_emb|shared|relative_attention_bias)\.weight$",
    re.I,
)
_POSITIONS = re.compile(
    r"(?:^|[._])(?:pos(?:ition(?:al|s)?)?_?(?:emb(?:ed(?:ding)?s?)?|enc(?:oding)?s?|bias)|rel_pos)"
    r"(?:_table|_[a-z]{1,2})?(?:\.weight)?$",
    re.I,
)
_NORM = re.compile(r"(?:^|[._])(?:ln|norm|layer_?norm|rms_?norm|group_?norm)(?:_?\d+|_[qkvc])?\.weight$", re.I)
# Names of products, output layers among them.
_PRODUCT = re.compile(
    r"(?:^|[._])(?:\w*head\w*|\w*out\w*|logits|\w*decoder|score|cls|classifier|generator|fc\d*|lin(?:ear)?\d*|dense\d*|"
    r"proj\w*)\.weight$",
    re.I,
)
# Of experts that are modules, counted by their names, each has weights of its own.
_EXPERTS = re.compile(r"(?:^|[._])(?:experts?|moe)[._](?!(?:.*\.)?\d+\.)", re.I)
_ROUTER = re.compile(r"(?:^|[._])(?:gate|router|w?gating|wg)\.(?:\w+\.)?weight$", re.I)
_CONVOLUTION = re.compile(r"(?:^|\.)\w*conv\w*(?:\.\d+)*\.weight$", re.I)
_A_BIAS = re.compile(r"(?:^|[._])bias$")
_BILINEAR = re.compile(r"bilinear", re.I)

# Kernels of one axis: up to the first in any layer, up to the second where nothing else has this width.
_SMALL_KERNEL, _LARGEST_KERNEL = 7, 31
# An embedding by its shape alone has so many rows, and so many times more than any width.
_TABLE_ROWS, _TABLE_RATIO = 4096, 8

KEPT_STACK = (
    "nothing says whether it is a convolution, a stack of matrices or something else; say so with "
    "--treat-as conv1d:NAME or stack:NAME"
)
KEPT = "nothing says what layer it is of; say so with --treat-as KIND:NAME"
_TABLE = "a table of positions, no product"
_NORM_REASON = "the scale of a norm over several axes, no product"


@dataclass(frozen=True)
class Config:
    """What the ``config.json`` beside a Hugging Face folder's weights says of shapes.

    Attributes:
        vocabularies: numbers of rows of embedding tables.
        experts: numbers of experts of a mixture.
    """

    vocabularies: frozenset[int] = frozenset()
    experts: frozenset[int] = frozenset()


NO_CONFIG = Config()


class Evidence:
    """What all tensors of a checkpoint say of the role of one of them.

    Args:
        tensors: what the checkpoint holds, by name.
        config: what stands beside them.
    """

    def __init__(self, tensors: Mapping[str, TensorInfo], config: Config = NO_CONFIG) -> None:
        self._tensors, self._config = tensors, config

    def why_no_layer(self, info: TensorInfo) -> str | None:
        """Why a tensor of two axes or more is the weight of no product and no convolution."""
        name = info.name[-_LONGEST:]
        if _A_BIAS.search(name):
            return "a bias, no product"
        bias = self._bias(info)
        if bias is not None and bias.shape == info.shape:
            return _NORM_REASON
        if _NORM.search(name) and (bias is None or len(bias.shape) != 1):
            return _NORM_REASON
        if _POSITIONS.search(name) and (len(info.shape) != 2 or not is_weight(name)):
            return _TABLE
        return None

    def is_embedding(self, info: TensorInfo, aliases: tuple[str, ...]) -> bool:
        """Whether a tensor of two axes is a table of which rows are looked up.

        A table tied to an output head is a Linear as well, and its matrix acts as one.
        """
        names = [name[-_LONGEST:] for name in (info.name, *aliases)]
        if all(_EMBEDDING.search(name) or (_POSITIONS.search(name) and is_weight(name)) for name in names):
            return True
        if aliases or not is_weight(info.name) or _PRODUCT.search(names[0]) or self._bias(info) is not None:
            return False
        rows, columns = info.shape
        if rows in self._config.vocabularies:
            return True
        if rows < _TABLE_ROWS or rows < _TABLE_RATIO * columns:
            return False
        own, sizes = Counter(info.shape), self._sizes
        widest = next((size for size in self._widest if sizes[size] > own[size]), rows)
        return sizes[columns] > own[columns] and _TABLE_RATIO * widest <= rows

    def is_stack(self, info: TensorInfo) -> bool:
        """Whether a tensor of three axes is a stack of matrices, one per expert."""
        count, name = info.shape[0], info.name[-_LONGEST:]
        if count < 2 or _CONVOLUTION.search(name) or _BILINEAR.search(name):
            return False
        bias = self._bias(info)
        if bias is not None:
            return len(bias.shape) == 2 and bias.shape[0] == count and bias.shape[1] in info.shape[1:]
        if _EXPERTS.search(name) or count in self._config.experts:
            return True
        around = tuple(f"{path}." for path in (self._parent(info), module_path(self._parent(info))) if path)
        if any(count in self._routers.get(path, ()) for path in around):
            return True
        parent = self._parent(info)
        return any(self._thick[parent, count, width] > 1 for width in _thick_widths(info))

    def is_convolution(self, info: TensorInfo, *, transposed: bool) -> bool:
        """Whether a weight of three axes or more, which is no stack, is that of a convolution."""
        name = info.name[-_LONGEST:]
        if not is_weight(name) or _BILINEAR.search(name):
            return False
        if len(info.shape) > 3 or _CONVOLUTION.search(name):
            return True
        outputs, inputs, kernel = (info.shape[axis] for axis in ((1, 0, 2) if transposed else (0, 1, 2)))
        # The second inputs of an nn.Bilinear are as many as its first, or as another layer's outputs.
        a_width = kernel == inputs or self._gives(name, kernel)
        if kernel > _LARGEST_KERNEL or (kernel > _SMALL_KERNEL and a_width):
            return False
        bias = self._bias(info)
        if bias is not None:
            return bias.shape == (outputs,)
        return self._gives(name, inputs) or self._has_norm(info, outputs)

    def _bias(self, info: TensorInfo) -> TensorInfo | None:
        name = beside(info.name, "bias") if is_weight(info.name) else f"{info.name}_bias"
        return self._tensors.get(name)

    def _parent(self, info: TensorInfo) -> str:
        """The module around the layer, or around the parameter where that is not called ``weight``."""
        path = module_path(info.name)
        return module_path(path) if is_weight(info.name) else path

    def _gives(self, name: str, width: int) -> bool:
        """Whether another layer has so many outputs."""
        names = self._widths.get(width, set())
        return bool(names) and names != {name}

    @cached_property
    def _widest(self) -> list[int]:
        """The three largest of them, two of which a tensor may have itself."""
        return sorted(self._sizes, reverse=True)[:3]

    @cached_property
    def _sizes(self) -> Counter[int]:
        """Outputs and inputs of all weights -> how often there are so many."""
        return Counter(size for info in self._tensors.values() if len(info.shape) > 1 for size in info.shape[:2])

    def _has_norm(self, info: TensorInfo, outputs: int) -> bool:
        """Whether the next module, or another in the module around, is a norm with one entry per output."""
        return outputs in self._norms.get(self._parent(info), ()) or self._following.get(info.name) == (outputs,)

    @cached_property
    def _widths(self) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for name, info in self._tensors.items():
            if len(info.shape) > 1 and is_weight(name):
                found.setdefault(info.shape[0], set()).add(name[-_LONGEST:])
        return found

    @cached_property
    def _norms(self) -> dict[str, set[int]]:
        """Module -> the lengths of the weights of one axis in its own submodules: those of norms."""
        found: dict[str, set[int]] = {}
        for name, info in self._tensors.items():
            if len(info.shape) == 1 and is_weight(name):
                found.setdefault(self._parent(info), set()).add(info.shape[0])
        return found

    @cached_property
    def _following(self) -> dict[str, tuple[int, ...]]:
        names = list(self._tensors)
        return {name: self._tensors[after].shape for name, after in pairwise(names) if is_weight(after)}

    @cached_property
    def _routers(self) -> dict[str, set[int]]:
        """Every module around a router, with a dot -> the lengths of the axes of the routers in it."""
        found: dict[str, set[int]] = {}
        for name, info in self._tensors.items():
            if len(info.shape) == 2 and _ROUTER.search(name[-_LONGEST:]):
                for path in _above(name):
                    found.setdefault(path, set()).update(info.shape)
        return found

    @cached_property
    def _thick(self) -> Counter[tuple[str, int, int]]:
        """Module, length of the first axis and of another -> how many tensors of three axes are of these."""
        return Counter(
            (self._parent(info), info.shape[0], width)
            for info in self._tensors.values()
            for width in _thick_widths(info)
        )


def _thick_widths(info: TensorInfo) -> set[int]:
    """The last two axes of a tensor of three, where neither is that of a kernel."""
    return set(info.shape[1:]) if len(info.shape) == 3 and min(info.shape[1:]) > _LARGEST_KERNEL else set()


def _above(name: str) -> Iterator[str]:
    """The two or three modules around a router's weight, each with a dot at its end."""
    path = module_path(name)
    for _ in range(2):
        path = module_path(path)
        if path:
            yield f"{path}."
