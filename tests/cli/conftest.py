"""Run the program as a user types it."""

import subprocess
import sys
from pathlib import Path

import pytest

from rmt_compress.cli.app import main
from tests.samples.command_line import Finished


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run `rmt-compress ARGS` in a folder of its own, inside this process (importing torch takes seconds)."""

    def _run(*args: str | Path, cwd: Path = tmp_path) -> Finished:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["rmt-compress", *map(str, args)])
            with pytest.raises(SystemExit) as stopped:
                main()
        streams = capfd.readouterr()
        return Finished(int(stopped.value.code or 0), streams.out, streams.err)

    return _run


@pytest.fixture
def run_process(python, tmp_path):
    """Run `python -m rmt_compress ARGS` as a process of its own, warnings being errors."""

    def _run(*args: str | Path) -> subprocess.CompletedProcess[str]:
        return python.run("-W", "error", "-m", "rmt_compress", *args, cwd=tmp_path)

    return _run
