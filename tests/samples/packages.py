"""Checkpoints that are shipped inside Python packages: fetched once, kept in a cache, one member at a time."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest


def cache_folder() -> Path:
    """``$RMT_COMPRESS_PACKAGES``, else a folder in the user's cache."""
    named = os.environ.get("RMT_COMPRESS_PACKAGES")
    return Path(named) if named else Path.home() / ".cache" / "rmt-compress" / "packages"


def member(package: str, version: str, path: str) -> Path:
    """One file of a wheel, by its path inside; the test is skipped, loudly, where the wheel cannot be had."""
    folder = cache_folder() / f"{package}-{version}"
    target = folder / Path(path).name
    if target.exists():
        return target
    wheel = _wheel(package, version)
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(path)
    # Several test runs may share the cache.
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(data)
    Path(file.name).replace(target)
    return target


def _wheel(package: str, version: str) -> Path:
    folder = cache_folder()
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if found := sorted(folder.glob(pattern)):
        return found[0]
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{package}=={version}"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        reason = (error.stderr or str(error)) if isinstance(error, subprocess.CalledProcessError) else str(error)
        lines = [line for line in reason.splitlines() if line.strip()] or ["no reason given"]
        pytest.skip(f"REAL FILE MISSING: {package}=={version} cannot be downloaded: {lines[-1][:200]}")
    return sorted(folder.glob(pattern))[0]
