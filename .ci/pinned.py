"""`python .ci/pinned.py REPORT`: what `pip install --dry-run --report` would install, with the hashes of its files.

torch differs by machine: of its release the builds named below are allowed as well, each by its own hash.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

# The build for CUDA on Linux from the package index, and the one for the CPU alone.
_ALSO: dict[str, tuple[str, ...]] = {}


def main(report: Path) -> int:
    """Print the requirements; exit status 1 where a package has no hash."""
    lines, bare = [], []
    for each in json.loads(report.read_text())["install"]:
        name = re.sub(r"[-_.]+", "-", each["metadata"]["name"]).lower()
        if name == "rmt-compress":
            continue
        version = each["metadata"]["version"].partition("+")[0]
        hashes = each["download_info"].get("archive_info", {}).get("hashes", {})
        known = sorted({*([hashes["sha256"]] if "sha256" in hashes else []), *_ALSO.get(name, ())})
        if not known:
            bare.append(name)
        lines.append(f"{name}=={version}" + "".join(f" \\\n    --hash=sha256:{value}" for value in known))
    print("# Made by `bash .ci/supply --renew` from constraints.txt, for Python 3.11 on Linux, x86-64.")
    print("\n".join(sorted(lines)))
    if bare:
        print(f"without a hash: {', '.join(bare)}", file=sys.stderr)
    return int(bool(bare))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
