"""`python .ci/matrix/run.py [NAME …]`: tests in the lowest and the newest environments that pyproject.toml admits.

Each is made in build/matrix, used and removed again. The Pythons are looked for as ``python3.X`` and under pyenv.
What came of each is a line in docs/versions.json, and docs/versions.md is the table made of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from no_cuda import stand_in

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS, PAGE = ROOT / "docs" / "versions.json", ROOT / "docs" / "versions.md"
# What the others need and pip cannot know, as torch and accelerate come alone; and what runs the tests.
_BESIDE = ["filelock", "typing_extensions", "sympy", "networkx", "fsspec", "packaging", "psutil", "pyyaml"]
_TESTERS = ["pytest>=8.2", "pytest-cov>=5", "pytest-xdist>=3.6", "hypothesis>=6.100"]
SUBSET = [
    *("tests/spectrum", "tests/checkpoints", "tests/layers", "tests/golden", "tests/test_analysis.py"),
    *("tests/test_compression.py", "tests/test_saving.py", "tests/test_plan.py", "tests/test_model_folders.py"),
    *("tests/test_model_loading.py", "tests/test_evaluation.py", "tests/test_replacing.py", "tests/calibration"),
    *("tests/training", "tests/data", "tests/cli/test_analyze.py", "tests/cli/test_prune.py"),
    *("tests/cli/test_onnx.py", "tests/cli/test_evaluate.py", "tests/test_found_by_fuzzing.py"),
]
SHOWN = ("torch", "numpy", "scipy", "safetensors", "transformers", "onnx", "onnxruntime", "pydantic", "typer")


def main() -> int:
    """Try environments; exit status 1 where tests failed in one."""
    known = tomllib.loads((HERE / "environments.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; by default all")
    parser.add_argument("--keep", action="store_true", help="do not remove the environments")
    parser.add_argument("--tests", nargs="+", default=SUBSET, help="files and folders of tests")
    asked = parser.parse_args()
    failed = False
    for name in asked.names or known:
        wanted = {**known[known[name]["like"]], **known[name]} if "like" in known[name] else known[name]
        place = ROOT / "build" / "matrix" / name
        begun = time.monotonic()
        try:
            row = {"name": name, **_installed(wanted, place), **_tested(place, asked.tests)}
        except subprocess.CalledProcessError as error:
            row = {
                "name": name,
                "python": wanted["python"],
                "said": f"does not install: {_last(error)}",
                "ok": False,
            }
        finally:
            if not asked.keep:
                shutil.rmtree(place, ignore_errors=True)
        row["seconds"] = round(time.monotonic() - begun)
        print(f"{name}: {row['said']} in {row['seconds']} s", flush=True)
        failed |= not row["ok"]
        _record(row)
    return int(failed)


def _last(error: subprocess.CalledProcessError) -> str:
    lines = [line for line in (error.stderr or "").splitlines() if line.startswith("ERROR")]
    return (lines or ["no reason given"])[0][:200]


def _python(version: str) -> str:
    for place in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")):
        return str(place)
    return shutil.which(f"python{version}") or f"python{version}"


def _installed(wanted: dict[str, Any], place: Path) -> dict[str, Any]:
    """Make an environment; which versions are in it."""
    shutil.rmtree(place, ignore_errors=True)
    _run(_python(wanted["python"]), "-m", "venv", place)
    alone = [name if wanted[name] == "newest" else f"{name}=={wanted[name]}" for name in ("torch", "accelerate")]
    _pip(place, "--no-deps", *alone)
    _pip(place, *wanted["packages"], *_BESIDE, *_TESTERS)
    _pip(place, "--no-deps", "--no-build-isolation", "--editable", str(ROOT), first="setuptools>=77")
    stand_in(next(place.glob("lib/python*/site-packages/torch/lib")))
    listed = json.loads(_run(place / "bin/python", "-m", "pip", "list", "--format", "json"))
    versions = {each["name"].lower(): each["version"] for each in listed}
    return {"python": wanted["python"], "versions": {name: versions.get(name, "") for name in SHOWN}}


def _pip(place: Path, *arguments: str, first: str | None = None) -> None:
    # A machine's own settings of pip may cap what is newest.
    pip = (place / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if first is not None:
        _run(*pip, first)
    _run(*pip, *arguments)


def _run(*command: str | Path) -> str:
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def _tested(place: Path, tests: list[str]) -> dict[str, Any]:
    """Run the fast tests; how many passed and which did not."""
    command = [
        place / "bin/python",
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow and not realdata",
        "-p",
        "no:cacheprovider",
    ]
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }
    there = [test for test in tests if (ROOT / test).exists()]
    # Libraries of other versions warn of other things.
    done = subprocess.run(
        [*command, "-W", "default", *there], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    bad = sorted(line.split(" - ")[0] for line in lines if line.startswith(("FAILED", "ERROR")))
    (place.parent / f"{place.name}.txt").write_text(done.stdout + done.stderr)
    said = re.sub(r" in [\d.]+s.*", "", lines[-1]).strip("= ") if lines else "nothing was said"
    return {"said": said, "bad": bad, "ok": done.returncode == 0}


def _record(row: dict[str, Any]) -> None:
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = [each for each in rows if each["name"] != row["name"]] + [row]
    rows.sort(key=lambda each: each["name"])
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(page(rows))


def page(rows: list[dict[str, Any]]) -> str:
    """The table of what was tested."""
    lines = [
        "# Versions that were tested",
        "",
        "`python .ci/matrix/run.py` makes the lowest and the newest environments that `pyproject.toml` admits",
        "and runs fast tests of readers, spectra, layers, compression, data, calibration, training and",
        "commands in each. torch comes from the package index, where it is built for CUDA; CUDA's libraries",
        "are replaced by ones that answer with an error, so that it computes on the CPU. Everything else in",
        "this project was measured with the versions of `constraints.txt`. An environment that has no row was",
        "not tried yet.",
        "",
        f"| environment | Python | {' | '.join(SHOWN)} | tests |",
        f"|---|---|{'---|' * len(SHOWN)}---|",
    ]
    for row in rows:
        versions = row.get("versions", {})
        lines.append(
            f"| {row['name']} | {row['python']} | {' | '.join(versions.get(name, '') for name in SHOWN)} "
            f"| {row['said']} |"
        )
    for row in rows:
        if row.get("bad"):
            lines += ["", f"Failed in {row['name']}:", "", *(f"- {each}" for each in row["bad"])]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
