"""One process or several, on whatever device: the few things training asks of accelerate."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rmt_compress.errors import MissingDependencyError, SettingsError
from rmt_compress.wording import one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rmt_compress.training.settings import TrainingSettings

T = TypeVar("T")


class Workers:
    """The processes that train together; each takes its share of every batch.

    Attributes:
        count: how many there are.
        rank: which of them this is; 0 is the one that decides, evaluates and writes.
        device: where this one trains.

    Raises:
        MissingDependencyError: accelerate is not installed.
        SettingsError: no such device, or it cannot do the precision asked for.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise MissingDependencyError("accelerate", "train", "training") from error
        import torch

        # Before there is a process group: it binds the one there is, as a default of its functions, for ever, and
        # DistributedDataParallel imports it. A gloo thread that outlives the interpreter aborts the process.
        import torch.distributed.nn.functional

        try:
            device = None if settings.device is None else torch.device(settings.device)
            if device is not None:
                torch.empty(1, device=device)
            self._accelerator = Accelerator(
                mixed_precision=settings.precision,
                cpu=device is not None and device.type == "cpu",
                device_placement=device is None,
            )
        except (RuntimeError, ValueError, AssertionError) as error:
            raise SettingsError([f"cannot train there: {one_line(error)}"]) from error
        self.device: torch.device = self._accelerator.device if device is None else device
        self.count: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index
        self._prepared = False
        if settings.precision != "no" and not self._accelerator.native_amp:
            self.close()
            raise SettingsError(
                [f"mixed-precision {settings.precision} does nothing on {self.device.type}: take bf16, or a GPU"]
            )

    @property
    def leads(self) -> bool:
        """Whether this process decides, evaluates and writes."""
        return self.rank == 0

    def share(self, indices: torch.Tensor) -> torch.Tensor:
        """This process's part of a batch, one after the other in turn."""
        return indices[self.rank :: self.count]

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The model and optimizer to train with; to be asked again after every change of the model."""
        if self._prepared:  # a search for garbage takes a third of a second
            self._accelerator.free_memory()
        self._prepared = True
        model.to(self.device)
        prepared = self._accelerator.prepare(model, optimizer)
        return prepared[0], prepared[1]

    def plain(self, model: nn.Module) -> nn.Module:
        """The model without what `prepare` put around it."""
        plain: nn.Module = self._accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        return plain

    def computed(self, forward: Callable[[], T]) -> T:
        """What a forward pass returns, computed in the precision asked for and given in float32 where that is half.

        What `prepare` puts around the model for that is taken away by `plain`, since both have one module.
        """
        if self._accelerator.mixed_precision == "no":
            return forward()
        from accelerate.utils.operations import convert_to_fp32

        with self._accelerator.autocast():
            outputs = forward()
        converted: T = convert_to_fp32(outputs)
        return converted

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of `loss`, averaged over the processes."""
        self._accelerator.backward(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the factor out of the gradients that keeps those of float16 from vanishing."""
        self._accelerator.unscale_gradients(optimizer)

    def total(self, value: torch.Tensor) -> float:
        """The sum of a number over all processes."""
        return float(self._accelerator.reduce(value, reduction="sum"))

    def from_leader(self, compute: Callable[[], T]) -> T:
        """What the leading process computes, handed to all; an error of its there is raised everywhere."""
        if self.count == 1:
            return compute()
        from accelerate.utils import broadcast_object_list

        parcel: list[tuple[Any, Exception | None]] = [(None, None)]
        if self.leads:
            try:
                parcel = [(compute(), None)]
            except Exception as error:
                # Whatever it is, the others must not wait for ever.
                parcel = [(None, error)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            broadcast_object_list(parcel)
        result: T
        result, problem = parcel[0]
        if problem is not None:
            raise problem
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Part from the other processes, and leave nothing behind that would bind a later run to these settings."""
        from accelerate.state import AcceleratorState

        if self.count > 1:
            self._accelerator.free_memory()
        self._accelerator.end_training()
        AcceleratorState._reset_state(reset_partial_state=True)
