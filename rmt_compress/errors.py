"""Every error this package raises on purpose, rooted at :class:`RmtCompressError`.

The command line turns each of them into one line and exit status 2; a message therefore names the file, the
tensor and the way out by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from rmt_compress.wording import printable


class RmtCompressError(Exception):
    """Root of all errors that are the input's or the user's doing, not a bug; one printable line each."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class CheckpointError(RmtCompressError):
    """A checkpoint cannot be found, read or trusted."""


class UntrustedError(CheckpointError):
    """A checkpoint holds code, and the user has not said that it may be run."""


class DataError(RmtCompressError):
    """A data set cannot be found, fetched, read or trusted."""


class PlanError(RmtCompressError):
    """A plan is malformed, or does not suit the checkpoint it is applied to."""


class CompressionError(RmtCompressError):
    """A plan cannot be carried out on this model."""


class EvaluationError(RmtCompressError):
    """A model cannot be run on a data set, or does not answer as a classifier of its classes."""


class CertificateError(RmtCompressError):
    """No bound can be given for a network: its graph is not known, or what stands in it."""


class TrainingError(RmtCompressError):
    """Training cannot go on, or cannot be taken up again."""


class ClusterError(RmtCompressError):
    """A cluster cannot be reached, or its workers cannot do what was asked."""


class OutputError(RmtCompressError):
    """An output file cannot or must not be written."""


class SettingsError(RmtCompressError):
    """One or more settings are out of range; all problems are named at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class MissingDependencyError(RmtCompressError):
    """An optional package is needed for what was asked."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'rmt-compress[{extra}]'")
