"""Calibrating a network that does not fit in memory, which nobody can ask anything then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration_settings import SELF
from rmt_compress.networks.huggingface import model_folder
from rmt_compress.networks.streamed.block_by_block import calibrate_stored, fits_whole
from rmt_compress.networks.tasks.choosing import agreement_of
from rmt_compress.networks.tasks.questions import source_for
from rmt_compress.pruning.calibration import Inputs, said
from rmt_compress.settings.sizes import bytes_in, shown_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from rmt_compress.checkpoints.base import Checkpoint
    from rmt_compress.decomposition.moments import Moments
    from rmt_compress.networks.calibration_settings import CalibrationSettings
    from rmt_compress.progress import Progress

_SAMPLES, _WINDOWS = 512, 64
"""How many are seen where nobody says; what a network costs is not known before it has run."""


@dataclass(frozen=True)
class TooLarge:
    """A network that has no room in memory.

    Attributes:
        arch: its architecture; None where the checkpoint says it.
        max_memory: what it has no room in.
    """

    arch: str | None
    max_memory: int | str

    def refuse(self, *, asked: bool, folded: bool) -> None:
        """Refuse what needs all of the network.

        Raises:
            SettingsError: it is to be asked about data, or to have its batch norms folded.
        """
        for option, given in (("data", asked), ("fold-batchnorm", folded)):
            if given:
                raise SettingsError([f"{option}: {self.why}; give more memory, or --calibrate in its place"])

    @property
    def why(self) -> str:
        """That it is so, in words."""
        return f"the network has no room twice in max-memory {shown_bytes(bytes_in(self.max_memory, 'max-memory'))}"

    def moments(
        self, checkpoint: Checkpoint, settings: CalibrationSettings, partial: Path | None, progress: Progress | None
    ) -> tuple[Moments, str]:
        """Its moments, block after block, and what they were measured with, in a sentence.

        Raises:
            SettingsError: no inputs are named, or the largest block has no room either.
            DataError: there are none, or the network does not take them.
            CheckpointError: it is a network that cannot be run so.
        """
        from rmt_compress.networks.streamed.blank_network import blank_network

        if settings.calibrate in (None, SELF):
            raise SettingsError(
                [f"calibrate: {self.why}, and makes no inputs then: name some, as --calibrate text:FILE"]
            )
        model, _ = blank_network(checkpoint, self.arch)
        source, _ = source_for(settings.calibrate, model, checkpoint, settings.data)
        samples = source.part("train") if source.comes_in == "splits" else source.whole()
        usual = _WINDOWS if samples.targets == "tokens" else _SAMPLES
        samples = samples.thinned(settings.calibration_samples or usual)
        moments = calibrate_stored(
            checkpoint,
            Inputs(agreement_of(samples, model)),
            arch=self.arch,
            max_memory=self.max_memory,
            seed=settings.seed,
            partial=partial,
            progress=progress,
        )
        return moments, f"calibrated block after block with {said(samples)}, since {self.why}"


def too_large(checkpoint: Checkpoint, arch: str | None, max_memory: int | str | None) -> TooLarge | None:
    """That a file holds a network without room in `max_memory`; None where it has, or where there is none."""
    if max_memory is None or checkpoint.has_graph:
        return None
    if arch is None and model_folder(checkpoint) is None and "architecture" not in checkpoint.metadata:
        return None
    return None if fits_whole(checkpoint, max_memory) else TooLarge(arch, max_memory)
