"""What every checkpoint is: named tensors, read one at a time, and the layers they form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from rmt_compress.checkpoints.beside import Beside, Home
from rmt_compress.errors import CheckpointError
from rmt_compress.layers.counting import is_buffer
from rmt_compress.layers.inference import infer_layers
from rmt_compress.layers.layer import Layer, TensorInfo
from rmt_compress.layers.parametrized import compose
from rmt_compress.layers.roles import NO_CONFIG, Config
from rmt_compress.layers.splitting import beside
from rmt_compress.progress import counter

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from rmt_compress.checkpoints.beside import Carried
    from rmt_compress.checkpoints.manifest import Manifest
    from rmt_compress.layers.kinds import WeightT
    from rmt_compress.plan import Layout
    from rmt_compress.progress import Progress


_OWN_STATE = "its module keeps state of its own (_extra_state), which two stock layers have no place for"


def _own_rows(layer: Layer, stored: WeightT) -> WeightT:
    return stored if layer.part is None else stored[layer.part.start : layer.part.stop]


def _as_array(tensor: torch.Tensor) -> NDArray[Any]:
    from rmt_compress.decomposition.kernels import TorchKernels

    return TorchKernels().entries(tensor)


class Checkpoint(ABC):
    """Named tensors plus the layers they form; a file, a directory, a state dict or a live module.

    Opening reads names, shapes and types only. `read` brings one tensor into memory and leaves none behind,
    so a checkpoint larger than memory can be walked through. `read` may be called from several threads.

    Attributes:
        path: the file or directory, None for what already lives in memory.
        format: a short name for people (``safetensors``, ``PyTorch (zip)`` …).
        notes: what was chosen or left out on opening, one sentence each, to be shown to the user.
        metadata: text entries the file carries beside its tensors.
        manifest: what a file compressed by this package says of itself; None for every other checkpoint.
        config: what the ``config.json`` beside the file says of the shapes in it.
        beside: what else a training checkpoint holds; it is neither analysed nor compressed.
        home: where in a file the tensors stood, and what belongs to them without being a tensor.
        has_graph: whether the file says how its tensors are used, so that it runs without model code.
        suffixes: the file names under which such a graph is written; none where there is none.
        trusted: whether code that belongs to the file may be run, see `open_checkpoint`.
        why_no_onnx: why the network in it cannot become an ONNX graph, where that is known.
        opened_as: path, `trust` and `weights` of the `open_checkpoint` that gives the same again; None for what
            has no file, and for what shows the tensors of another one otherwise.
    """

    path: Path | None
    format: str
    notes: tuple[str, ...]
    metadata: Mapping[str, str]
    manifest: Manifest | None = None
    config: Config = NO_CONFIG
    beside: tuple[Beside, ...] = ()
    home: Home = Home()
    has_graph: bool = False
    suffixes: tuple[str, ...] = ()
    trusted: bool = False
    why_no_onnx: str | None = None
    opened_as: tuple[Path, bool, str | None] | None = None

    # Set on opening.
    _tensors: Mapping[str, TensorInfo]
    _ties: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Names, shapes and types in the checkpoint's own order, every name of a tied tensor included."""
        return self._tensors

    @property
    def ties(self) -> Mapping[str, tuple[str, ...]]:
        """First name of a tensor that has several -> its other names."""
        return self._ties

    @property
    def files(self) -> tuple[Path, ...]:
        """The files the tensors are in, in order; none for what lives in memory."""
        return () if self.path is None else (self.path,)

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """The tensor called `name`, detached, on the device it lives on (files: the CPU).

        What comes from a file is the caller's own copy. What already lives in memory is handed out as it is.

        Raises:
            CheckpointError: no such tensor, one without values, or the file no longer holds what it promised.
        """

    def reads_blocks(self, name: str) -> bool:
        """Whether `read_block` takes no more memory than what it gives."""
        del name
        return False

    def read_block(self, name: str, rows: slice, columns: slice = slice(None)) -> torch.Tensor:
        """Some entries of a tensor of one axis at least, seen as a matrix: its first axis, all others.

        Args:
            name: of the tensor.
            rows: start and stop, both given.
            columns: the same; all of them by default.

        Raises:
            CheckpointError: see `read`.
        """
        tensor = self.read(name)
        return tensor.reshape(len(tensor), -1)[rows, columns]

    def expect(self, name: str) -> None:
        """Let the system read ahead what is going to be read soon, where it can; nothing is held by this."""
        del name

    def read_all(self, progress: Progress | None = None) -> dict[str, torch.Tensor]:
        """Every tensor by its name, see `read`; `progress` is called after each."""
        advance, found = counter(len(self.tensors), progress), {}
        for name in self.tensors:
            found[name] = self.read(name)
            advance(name)
        return found

    def place(self, name: str) -> str:
        """The device that `read` gives the tensor called `name` on, by its name; known without reading."""
        del name
        return "cpu"

    def weight(self, layer: Layer) -> torch.Tensor:
        """The weight of a layer, of its shape: a tensor, some rows of one, or what several are computed into.

        Raises:
            CheckpointError: see `read`.
        """
        whole = layer.composition
        if layer.part is not None and whole is None and self.reads_blocks(layer.stored):
            rows = self.read_block(layer.stored, slice(layer.part.start, layer.part.stop))
            return rows.reshape(layer.shape)
        weight = self.read(layer.stored) if whole is None else compose(whole, self.read)
        return _own_rows(layer, weight)

    def read_array(self, name: str) -> NDArray[Any]:
        """The tensor called `name`, of floating-point numbers, as numpy's array; without torch where that can be.

        bfloat16, which numpy does not have, comes as float32, which holds the same values.

        Raises:
            CheckpointError: see `read`.
        """
        return _as_array(self.read(name))

    def weight_array(self, layer: Layer) -> NDArray[Any]:
        """The weight of a layer as numpy's array, see `read_array` and `weight`."""
        if layer.composition is not None:
            return _as_array(self.weight(layer))
        return _own_rows(layer, self.read_array(layer.stored))

    def nonzeros(self, name: str) -> int:
        """How many entries of the tensor called `name` are not 0; without torch where that can be.

        Raises:
            CheckpointError: see `read`.
        """
        from rmt_compress.layers.zeroing import count_nonzero

        return count_nonzero(self.read(name))

    def layers(self) -> tuple[Layer, ...]:
        """The layers formed by the tensors: one per weight, tied weights once."""
        stored = self.manifest.pairs if self.manifest else {}
        layers = infer_layers(self.tensors, self.ties, stored=stored, config=self.config)
        own_state = self.home.extra.keys() | self.tensors.keys()
        return tuple(
            replace(layer, why_whole=_OWN_STATE)
            if layer.why_whole is None and beside(layer.stored, "_extra_state") in own_state
            else layer
            for layer in layers
        )

    @property
    def parameters(self) -> int:
        """Number of entries of all tensors but buffers, tied ones counted once; see `is_buffer`."""
        return sum(layer.parameters for layer in self.layers() if not is_buffer(layer.stored, layer.dtype))

    def own_network(self) -> torch.nn.Module | None:
        """The network that the file brings itself, in evaluation mode on the CPU; None where it holds tensors only.

        Raises:
            CheckpointError: it is not to be run here.
            MissingDependencyError: what runs it is not installed.
        """
        return None

    def holds(self, layout: Layout) -> bool:
        """Whether the format can hold what a layout makes of the weights."""
        del layout
        return True

    def carried(self) -> Carried:
        """What the file holds beside its weights and could be written beside smaller ones; see `carry`.

        Raises:
            CheckpointError: the file cannot be read again.
        """
        from rmt_compress.checkpoints.beside import Carried

        return Carried({}, ())

    def close(self) -> None:
        """Give back memory and open files; a second call does nothing, a later `read` opens them again."""
        return

    def _info(self, name: str) -> TensorInfo:
        """What is known of the tensor called `name`, or the error that there is none."""
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.path or f'this {self.format}'}: holds no tensor {name!r}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class View(Checkpoint):
    """A checkpoint that shows another one's tensors; what is not shown otherwise is as in that one."""

    def __init__(self, inner: Checkpoint) -> None:
        self.inner = inner
        self.path: Path | None = inner.path
        self.format = inner.format
        self.notes = inner.notes
        self.beside = inner.beside
        self.home = inner.home
        self.metadata = inner.metadata
        self.config = inner.config
        self.trusted = inner.trusted

    @property
    def files(self) -> tuple[Path, ...]:
        """The files the tensors are in."""
        return self.inner.files

    def close(self) -> None:
        """Give back what the inner checkpoint keeps open."""
        self.inner.close()
