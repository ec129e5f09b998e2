"""Code in a process where transformers is, of a version or the other, and this package is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.samples.repository import REPOSITORY

VERSIONS = ("5.", "4.46")
# What `make` installs beside the newest one.
_OLD = Path(os.environ.get("RMT_COMPRESS_OLD_TRANSFORMERS", REPOSITORY / ".venv" / "transformers-4.46"))
_BEGIN = """
import sys
sys.modules["rmt_compress"] = None  # whoever imports it gets an ImportError
import torch, transformers
transformers.logging.set_verbosity_error()
assert transformers.__version__.startswith(sys.argv[-1]), transformers.__version__
"""


def alone(code: str, *arguments: str | Path, version: str, home: Path) -> str:
    """What the code prints; it gets the arguments, and has imported torch and transformers of a version.

    Args:
        code: of Python.
        arguments: `sys.argv` behind its first.
        version: one of `VERSIONS`; the test is skipped where the old one is not installed.
        home: an empty folder, where code that is trusted is copied to.
    """
    path = ""
    if version == VERSIONS[1]:
        if not (_OLD / "transformers").is_dir():
            pytest.skip(f"transformers 4.46 is not in {_OLD}")
        path = str(_OLD)
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", _BEGIN + code, *map(str, arguments), version],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
