"""The sets known by name: where they lie on this machine, and where they are downloaded from otherwise.

Looked for under ``$RMT_COMPRESS_DATA``, then in the user's cache directory, then downloaded into that cache.
The checksums are those of the official files and belong to the download: files a user put somewhere are taken
as they are.
"""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rmt_compress.data.cifar import BATCH_STEMS, layout_suffix
from rmt_compress.data.dataset import Split
from rmt_compress.data.idx import IDX_STEMS, find_idx_file, has_idx
from rmt_compress.errors import DataError, MissingDependencyError
from rmt_compress.wording import one_line

DATA_VARIABLE = "RMT_COMPRESS_DATA"
DOWNLOAD_TIMEOUT = 60.0
"""Seconds without an answer after which a server counts as out of reach."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamedSet:
    """Where one downloadable set is found.

    Attributes:
        name: as typed on the command line.
        layout: how its files are read.
        classes: number of classes.
        folders: places below a data root, the first one that holds files of the set is taken.
        mirrors: URL prefixes, tried in this order.
        files: official file name -> SHA-256.
    """

    name: str
    layout: Literal["idx", "cifar"]
    classes: int
    folders: tuple[str, ...]
    mirrors: tuple[str, ...]
    files: dict[str, str]


def _idx_files(*checksums: str) -> dict[str, str]:
    """Training images, training labels, test images, test labels."""
    stems = (*IDX_STEMS["train"], *IDX_STEMS["test"])
    return {f"{stem}.gz": checksum for stem, checksum in zip(stems, checksums, strict=True)}


NAMED_SETS = {
    known.name: known
    for known in (
        NamedSet(
            name="mnist",
            layout="idx",
            classes=10,
            folders=("mnist", "MNIST/raw"),
            mirrors=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
            files=_idx_files(
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
        NamedSet(
            name="fashion-mnist",
            layout="idx",
            classes=10,
            folders=("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
            mirrors=(
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            ),
            files=_idx_files(
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        NamedSet(
            name="cifar10",
            layout="cifar",
            classes=10,
            folders=(
                "cifar10/cifar-10-batches-bin",
                "cifar10/cifar-10-batches-py",
                "cifar-10-batches-bin",
                "cifar-10-batches-py",
                "cifar10",
            ),
            mirrors=("https://www.cs.toronto.edu/~kriz/",),
            files={
                "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            },
        ),
    )
}


def locate(known: NamedSet, split: Split) -> Path:
    """The folder with the files of `split`, downloaded if need be."""
    root = os.environ.get(DATA_VARIABLE)
    if root:
        for folder in known.folders:
            path = Path(root) / folder
            if has_idx(path) if known.layout == "idx" else layout_suffix(path) is not None:
                return path
    cache = _cache_folder(known)
    target = cache / known.name
    if known.layout == "cifar":
        target = target / "cifar-10-batches-bin"
        needed = [f"{stem}.bin" for stem in BATCH_STEMS[split]]
        complete = all((target / file).is_file() for file in needed)
    else:
        needed = [f"{stem}.gz" for stem in IDX_STEMS[split]]
        complete = all(find_idx_file(target, stem) for stem in IDX_STEMS[split])
    if not complete:
        _download(known, needed, target, looked=f"${DATA_VARIABLE} ({root or 'not set'}) nor under {target}")
    return target


def _cache_folder(known: NamedSet) -> Path:
    try:
        import pooch
    except ImportError as error:
        raise MissingDependencyError(
            "pooch", "train", f"finding {known.name} in the cache or downloading it"
        ) from error
    return Path(pooch.os_cache("rmt-compress"))


def _download(known: NamedSet, needed: list[str], target: Path, *, looked: str) -> None:
    try:
        if known.layout == "idx":
            for file in needed:
                _fetch(known, file, target)
        else:
            (archive,) = known.files
            _unpack(_fetch(known, archive, target.parent), target)
    except (OSError, ValueError, tarfile.TarError) as error:
        raise DataError(
            f"{known.name} is not under {looked}, and downloading it failed ({one_line(error)}); "
            f"set {DATA_VARIABLE} to a folder that holds {known.folders[0]}/, or give its directory, not its name"
        ) from error


def _fetch(known: NamedSet, file: str, folder: Path) -> Path:
    """Download `file` from the first mirror that has it; pooch checks it before it takes its name."""
    import pooch

    for last, mirror in enumerate(known.mirrors, start=1 - len(known.mirrors)):
        _log.info("Downloading %s%s to %s", mirror, file, folder)
        try:
            return Path(
                pooch.retrieve(
                    mirror + file,
                    known_hash=f"sha256:{known.files[file]}",
                    fname=file,
                    path=folder,
                    downloader=pooch.HTTPDownloader(timeout=DOWNLOAD_TIMEOUT),
                )
            )
        except (OSError, ValueError):
            if last == 0:
                raise
            _log.info("%s did not serve %s, trying the next mirror", mirror, file)
    raise AssertionError("a set has at least one mirror")


def _unpack(archive: Path, target: Path) -> None:
    """Move the ``*.bin`` files of `archive` into `target`, all or none; folders inside it are ignored."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        unpacked = Path(scratch) / target.name
        unpacked.mkdir()
        with tarfile.open(archive) as tar:
            for member in tar:
                source = tar.extractfile(member) if member.isreg() and member.name.endswith(".bin") else None
                if source is not None:
                    with source, (unpacked / Path(member.name).name).open("wb") as copy:
                        shutil.copyfileobj(source, copy)
        if target.is_dir():
            shutil.rmtree(target)
        unpacked.replace(target)
    archive.unlink()
