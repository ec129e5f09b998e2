"""Fixtures every test may use."""

import gc
import importlib
import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.samples.fork_server import ForkServer
from tests.samples.repository import REPOSITORY, modules

if TYPE_CHECKING:
    import numpy as np

# What tests write lies in memory where the machine has enough of it: to write and remove a hundred thousand files
# takes a third of the time of those that read damaged ones. TMPDIR, where it is set, is believed.
_MEMORY, _ROOM = Path("/dev/shm"), 10 * 2**30
if "TMPDIR" not in os.environ and _MEMORY.is_dir():
    system = os.statvfs(_MEMORY)
    if system.f_bavail * system.f_frsize > _ROOM and os.access(_MEMORY, os.W_OK):
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None  # what was found before is asked again

# transformers copies code from folders into one place by the folder's name, where tests that run side by side, each
# with a folder of the same name, would take away each other's. It looks here when it is imported.
_MODULES = tempfile.TemporaryDirectory(prefix="transformers-modules-")
os.environ["HF_MODULES_CACHE"] = _MODULES.name


class Kept:
    """What imports make, half a million objects that stay to the end, kept out of every search for garbage.

    accelerate searches before each cut of a training, which would take half a second and more of its two.
    """

    def __init__(self) -> None:
        self._modules = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self, session: pytest.Session) -> Generator[None, object, object]:
        """While tests are collected, everything that is made stays, and nothing is traced.

        Coverage would follow pytest as it rewrites five thousand assertions; all modules whose lines it counts are
        imported before.
        """
        coverage = getattr(session.config.pluginmanager.getplugin("_cov"), "cov_controller", None)
        if coverage is not None:
            for name in modules():
                importlib.import_module(name)
            coverage.pause()
        gc.disable()
        try:
            return (yield)
        finally:
            gc.enable()
            self.pytest_runtest_logfinish()
            if coverage is not None:
                coverage.resume()

    def pytest_runtest_logfinish(self) -> None:
        """After each test that has imported something."""
        if len(sys.modules) != self._modules:
            self._modules = len(sys.modules)
            gc.collect()
            gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Before any test runs, what all of them gain by.

    The process that hands tests out to others needs none of it, and they wait until it has begun.
    """
    if config.getoption("numprocesses", None):
        return
    import hypothesis

    from tests.samples.once import commands_once, operators_once, packages_once

    config.pluginmanager.register(Kept())
    # No test may fail because the machine is busy.
    patience = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=patience)
    hypothesis.settings.load_profile("patient")
    commands_once()
    operators_once()
    packages_once()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: run side by side, the last ones should be short. Few of these are traced."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    files = {item.path for item in slow}
    items.sort(key=lambda item: item.path not in files)
    for item in slow:
        if not item.get_closest_marker("traced"):
            item.add_marker("no_cover")


@pytest.fixture
def rng() -> "np.random.Generator":
    """A random generator with a fixed seed, the same in every test."""
    import numpy as np

    from tests.samples.seeds import SEED

    return np.random.default_rng(SEED)


@pytest.fixture(autouse=True)
def _torch_begins_the_same() -> None:
    """torch's own generator in one state, whichever tests went before in this process.

    `torch.manual_seed` would also write down, three times, who called it, for devices that are not here.
    """
    import torch

    from tests.samples.seeds import SEED

    torch.default_generator.manual_seed(SEED)


@pytest.fixture(autouse=True)
def _times_of_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency and speed by a single run: enough to have one, and tests judge none."""
    from rmt_compress.networks import generation_speed, latency, layer_times
    from rmt_compress.pruning import sweeping
    from tests.samples.once import ONE_RUN

    monkeypatch.setattr(generation_speed, "GENERATION_SECONDS", 0.0)
    monkeypatch.setattr(layer_times, "_SPENT", 0.0)
    monkeypatch.setattr(sweeping, "_SPENT", 0.0)
    for name, value in ONE_RUN.items():
        monkeypatch.setattr(latency, name, value)


@pytest.fixture
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a folder is asked of its own accord when it is pruned, in texts of four tokens instead of 64."""
    from rmt_compress.pruning import unasked

    monkeypatch.setattr(unasked, "TOKENS", 4)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real data sets: $RMT_COMPRESS_DATA, else ../shared/data beside the repository."""
    named = os.environ.get("RMT_COMPRESS_DATA")
    root = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"REAL DATA MISSING: {root} is no folder; set RMT_COMPRESS_DATA to where mnist/ and others lie")
    return root


@pytest.fixture
def real_data(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`data_root`, set as $RMT_COMPRESS_DATA for the code under test."""
    monkeypatch.setenv("RMT_COMPRESS_DATA", str(data_root))
    return data_root


@pytest.fixture(scope="session")
def exported_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits sample as an ONNX file, by torch's exporter, not to be changed."""
    from rmt_compress.networks.exporting import export
    from tests.samples.repository import DIGITS

    path = tmp_path_factory.mktemp("exported") / "digits.onnx"
    export(DIGITS, path)
    return path


@pytest.fixture(scope="session")
def python(testrun_uid: str) -> Iterator[ForkServer]:
    """`python ARGUMENTS` in processes that need not import torch first, see `ForkServer`."""
    server = ForkServer(shared=Path(tempfile.gettempdir(), f"forks-{testrun_uid}"))
    yield server
    server.close()
