"""`python .ci/matrix/run.py [NAME …]`: tests in the lowest and the newest environments that pyproject.toml admits.

Each is made in build/matrix, used and removed again. The Pythons are looked for as ``python3.X`` and under pyenv.
What came of each is an entry of results.json beside this file, which `docs/generate.py` makes docs/versions.md of.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from no_cuda import stand_in
from other_blas import hand_to_mkl
from table import RESULTS, SHOWN

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# What the others need and pip cannot know, as torch and accelerate come alone; and what runs the tests.
_BESIDE = ["filelock", "typing_extensions", "sympy", "networkx", "fsspec", "packaging", "psutil", "pyyaml"]
_TESTERS = ["pytest>=8.2", "pytest-cov>=5", "pytest-xdist>=3.6", "hypothesis>=6.100"]
SUBSET = [
    *("tests/spectrum", "tests/checkpoints", "tests/layers", "tests/golden", "tests/test_analysis.py"),
    *("tests/test_compression.py", "tests/test_saving.py", "tests/test_plan.py", "tests/test_model_folders.py"),
    *("tests/test_model_loading.py", "tests/test_evaluation.py", "tests/test_replacing.py", "tests/calibration"),
    *("tests/training", "tests/data", "tests/cli/test_analyze.py", "tests/cli/test_prune.py"),
    *("tests/cli/test_onnx.py", "tests/cli/test_evaluate.py", "tests/test_found_by_fuzzing.py"),
    "tests/test_numbers_under_stress.py",
]


def main() -> int:
    """Try environments; exit status 1 where tests failed in one."""
    known = tomllib.loads((HERE / "environments.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; by default all")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "matrix", help="where environments are made")
    parser.add_argument("--keep", action="store_true", help="do not remove environments; use what is there")
    parser.add_argument("--tests", nargs="+", help="files and folders of tests; nothing is recorded then")
    asked = parser.parse_args()
    failed = False
    for name in asked.names or known:
        wanted = {**known[known[name]["like"]], **known[name]} if "like" in known[name] else known[name]
        row = {"name": name, "about": wanted["about"], "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"}
        place = asked.work / name
        try:
            row |= _installed(wanted, place, keep=asked.keep)
            row |= _tested(place, wanted, asked.tests or wanted.get("tests", SUBSET))
        except subprocess.CalledProcessError as error:
            row |= {"python": wanted["python"], "said": f"does not install: {_last(error)}", "ok": False}
        finally:
            if not asked.keep:
                shutil.rmtree(place, ignore_errors=True)
        print(f"{name}: {row['said']}", flush=True)
        failed |= not row["ok"]
        if not asked.tests:
            _record(row)
    return int(failed)


def _last(error: subprocess.CalledProcessError) -> str:
    lines = [line for line in (error.stderr or "").splitlines() if line.startswith("ERROR")]
    return (lines or ["no reason given"])[0].removeprefix("ERROR: ")[:200]


def _python(version: str) -> str:
    for place in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")):
        return str(place)
    return shutil.which(f"python{version}") or f"python{version}"


def _installed(wanted: dict[str, Any], place: Path, *, keep: bool) -> dict[str, Any]:
    """Make an environment; which versions are in it."""
    made = place / "made"
    if not (keep and made.exists()):
        shutil.rmtree(place, ignore_errors=True)
        _run(_python(wanted["python"]), "-m", "venv", place)
        both = {name: wanted[name] for name in ("torch", "accelerate")}
        alone = [name if version == "newest" else f"{name}=={version}" for name, version in both.items()]
        _pip(place, "--no-deps", *alone)
        _pip(place, *wanted["packages"], *_BESIDE, *_TESTERS)
        _pip(place, "setuptools>=77")
        _pip(place, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        library = next(place.glob("lib/python*/site-packages"))
        stand_in(library / "torch/lib")
        if wanted.get("mkl"):
            _pip(place, "mkl")
            hand_to_mkl(library)
        made.touch()
    listed = json.loads(_run(place / "bin/python", "-m", "pip", "list", "--format", "json"))
    versions = {each["name"].lower(): each["version"] for each in listed}
    python = _run(place / "bin/python", "-c", "import platform; print(platform.python_version())").strip()
    return {"python": python, "versions": {name: versions.get(name, "") for name in SHOWN}}


def _pip(place: Path, *arguments: str) -> None:
    # Wheels alone: what has none for this Python would be built from source, which tests another thing.
    _run(place / "bin/python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *arguments)


def _run(*command: str | Path) -> str:
    # A machine's own settings of pip may cap what is newest.
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def _tested(place: Path, wanted: dict[str, Any], tests: list[str]) -> dict[str, Any]:
    """Run the fast tests; how many passed and which did not."""
    # Libraries of other versions warn of other things.
    options = ["-q", "-m", "not slow and not realdata", "-p", "no:cacheprovider", "-W", "default", "--tb=short"]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **one, **wanted.get("variables", {})}
    there = [test for test in tests if (ROOT / test.partition("::")[0]).exists()]
    command = [place / "bin/python", "-m", "pytest", *options, *there]
    before = _processor_seconds()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    bad = sorted(line.split(" - ")[0] for line in lines if line.startswith(("FAILED tests", "ERROR tests")))
    (place.parent / f"{place.name}.txt").write_text(done.stdout + done.stderr)
    ended = bool(lines) and done.returncode in (0, 1)
    said = re.sub(r",? \d+ (deselected|warnings?)|[ ,]*in [\d.]+s.*", "", lines[-1]) if ended else "broken off"
    seconds = round(_processor_seconds() - before)
    return {"said": said.strip("= "), "bad": bad, "ok": done.returncode == 0, "seconds": seconds}


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _record(row: dict[str, Any]) -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    rows = [each for each in rows if each["name"] != row["name"]] + [row]
    rows.sort(key=lambda each: each["name"])
    RESULTS.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
