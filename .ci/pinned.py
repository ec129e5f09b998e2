"""`python .ci/pinned.py REPORT`: what `pip install --dry-run --report` would install, with its files' hashes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def main(report: Path) -> int:
    """Print the requirements; exit status 1 where a package has no hash."""
    lines, bare = [], []
    for each in json.loads(report.read_text())["install"]:
        name = re.sub(r"[-_.]+", "-", each["metadata"]["name"]).lower()
        if name == "rmt-compress":
            continue
        version = each["metadata"]["version"].partition("+")[0]
        hashes = each["download_info"].get("archive_info", {}).get("hashes", {})
        if "sha256" in hashes:
            lines.append(f"{name}=={version} \\\n    --hash=sha256:{hashes['sha256']}")
        else:
            bare.append(name)
    print("# Made by `bash .ci/supply --renew`, for Python 3.11 on Linux, x86-64.")
    print("\n".join(sorted(lines)))
    if bare:
        print(f"without a hash: {', '.join(bare)}", file=sys.stderr)
    return int(bool(bare))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
