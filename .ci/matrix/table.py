"""`python .ci/matrix/table.py`: docs/versions.md, made of results.json."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results.json"
ENVIRONMENTS = RESULTS.with_name("environments.toml")
SHOWN = ("torch", "numpy", "scipy", "safetensors", "transformers", "onnx", "onnxruntime", "pydantic", "typer")

_INTRO = """\
# Versions that were tested

Made by `python docs/generate.py` of what `python .ci/matrix/run.py` wrote. That makes the lowest and the newest
environments that `pyproject.toml` admits and runs fast tests of readers, spectra, layers, compression, data,
calibration, training and commands in each; the newest are those of the day in the table. torch comes from the
package index, where it is built for CUDA; CUDA's libraries are replaced by ones that answer with an error, so that
it computes on the CPU. Everything else in this project was measured with the versions of `constraints.txt`.

The lower ends are where they are because lower ones fail: torch before 2.6 has a weights-only reader that a
file can make run code (CVE-2025-32434), 2.6 and 2.8 export and read other `.pt2` files than later ones and lack
types (2.7 was not tried); safetensors 0.6 refuses complex numbers (0.8 is the first with 8-bit floats of type
`fnuz`); typer 0.15 cannot print the help of any command with the click of today; onnxscript 0.2, 0.5 and 0.6
fail with the onnx-ir of today, and 0.7 wants onnx 1.17, of which 1.18 is the lowest that was tried.
threadpoolctl before 3.5 does not find the OpenBLAS of numpy 2: one test failed with 3.1 for that, and passes
with 3.5, which is the lower end now. With torch 2.15 a `.pt` file of nested tensors needs `--trust`.
"""


def page(rows: list[dict[str, Any]], environments: dict[str, Any]) -> str:
    """The table, what each environment is, and what failed."""
    header = ("environment", "Python", *SHOWN, "tests", "processor seconds", "on")
    lines = [_INTRO, f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for row in rows:
        versions = [row.get("versions", {}).get(name, "") for name in SHOWN]
        cells = (row["name"], row["python"], *versions, row["said"], str(row.get("seconds", "")), row["date"])
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- **{row['name']}**: {row['about']}" for row in rows)]
    untried = environments.keys() - {row["name"] for row in rows}
    lines += [f"- **{name}**: not tried yet" for name in sorted(untried)]
    for row in rows:
        if row.get("bad"):
            lines += ["", f"Failed in {row['name']}:", "", *(f"- `{each}`" for each in row["bad"])]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    known = tomllib.loads(ENVIRONMENTS.read_text(encoding="utf-8"))
    print(page(json.loads(RESULTS.read_text(encoding="utf-8")), known), end="")
