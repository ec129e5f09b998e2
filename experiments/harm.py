"""What cutting one layer alone costs, and whether the weights alone foretell it.

    python experiments/harm.py                       # some 15 minutes of one core; goes on where it was broken off
    python experiments/harm.py --quick --out .       # seconds, on the embedded digits: does it run at all?
    python experiments/harm.py --draw                # table and picture again from the numbers

Every Linear and Conv weight of the networks of harm_networks.py with at least 32 rows and columns is cut by
itself, plain, the rest as it was: at its edge (BEMA's spikes, whatever the fit error) and to half of its rank. The
*harm* is the rise of the loss on samples that were not trained on, as a share of what the network has learned: the
loss of the best constant answer less the loss uncut. Whether a feature of the weight foretells it is judged by
leaving one network out, see harm_rules.py.

Networks, texts and images lie under ../shared (``--shared``). Networks that are trained here are kept in build/harm
(``--networks``). Writes a line to harm.jsonl in experiments/data after every cut, and harm.md and harm.png.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from harm_networks import Subject, subjects
from harm_tables import draw, markdown

from rmt_compress.analysis import AnalyzedLayer, analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.decomposition.bases import Directions
from rmt_compress.decomposition.cuts import Cuts
from rmt_compress.layers.layer import as_matrix
from rmt_compress.networks.replacing import replaced
from rmt_compress.spectrum import equalize, fit_bulk, fit_heavy_tail

DATA = Path(__file__).parent / "data"
REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"
Row = dict[str, Any]


def features(analysis: AnalyzedLayer, matrix: np.ndarray[Any, Any]) -> Row:
    """What can be known of a layer without inputs."""
    fit, values = analysis.fit, analysis.singular_values
    tail = fit_heavy_tail(values**2)
    scaled = equalize(matrix).matrix
    n = max(scaled.shape)
    equalized = fit_bulk(np.linalg.svd(scaled, compute_uv=False) ** 2 / n, n)
    stable = float((values**2).sum() / values[0] ** 2)
    return {
        "p": fit.p,
        "n": fit.n,
        "kind": analysis.kind,
        "gof": fit.gof,
        "gof_null": analysis.gof_null,
        "equalized_gof": equalized.gof,
        "equalized_spikes": equalized.spikes,
        "alpha": tail.alpha,
        "alpha_distance": tail.distance,
        "stable_rank": stable,
        "bulk_energy": analysis.bulk_energy,
        "spikes": fit.spikes,
        "norm_over_edge": float(values[0] / fit.edge),
    }


def measure(name: str, subject: Subject, known: list[Row], file: Path) -> None:
    """Both cuts of every layer that is not in `known` yet; each goes to the file."""
    done = {(row["layer"], row["cut"]) for row in known if row["network"] == name}

    def write(row: Row) -> None:
        known.append(row)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"network": name, **row}) + "\n")

    if ("", "none") not in done:
        loss, score = subject.answers()
        samples = subject.asked[1].numel() if not subject.asked[1].is_floating_point() else len(subject.asked[1])
        write(
            {
                **{"network": name, "layer": "", "cut": "none", "about": subject.about, "samples": samples},
                **{"loss": loss, "score": score, "guess": subject.guess()},
            }
        )
    analysis = analyze(subject.model, jobs=1)
    with open_checkpoint(subject.model) as checkpoint:
        for place, layer in enumerate(analysis.analyzed):
            # A share of the bulk that is kept, as in `--keep-bulk`, has no meaning of its own here.
            ranks = {"edge": max(1, layer.fit.spikes), "half": layer.fit.p // 2}
            if all((layer.name, cut) in done for cut in ranks):
                continue
            cuts = Cuts({layer.tensor: Directions(layer.layer)}, checkpoint.read)
            about = features(layer, as_matrix(layer.layer, cuts.weight(layer.tensor)).double().numpy())
            about["place"] = place / max(1, len(analysis.analyzed) - 1)
            about["layers"] = len(analysis.analyzed)
            energies = layer.singular_values**2
            for cut, rank in ranks.items():
                if (layer.name, cut) in done:
                    continue
                tensors = cuts.tensors({layer.tensor: rank})
                with replaced(subject.model, tensors):
                    loss, score = subject.answers()
                removed = float(energies[rank:].sum() / energies.sum())
                write(
                    {
                        **{"network": name, "layer": layer.name, "cut": cut, "rank": rank, "loss": loss},
                        **{"score": score, "removed": removed, **about},
                    }
                )
                print(name, layer.name, cut, rank, f"{loss:.4f}", score, flush=True)


def read(file: Path) -> list[Row]:
    """The lines of an earlier run; none where there was none."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def main() -> None:
    """Measure what is missing, then write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="only these networks")
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--networks", type=Path, help="where those trained here are kept; default build/harm")
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--quick", action="store_true", help="small networks on digits; needs --out")
    parser.add_argument("--draw", action="store_true", help="only table and picture")
    asked = parser.parse_args()
    if asked.quick and asked.out == DATA:
        parser.error("--quick would write over the results; add --out")
    os.environ.setdefault("RMT_COMPRESS_DATA", str(asked.shared / "data"))
    file = asked.out / "harm.jsonl"
    rows = read(file)
    if not asked.draw:
        folder = asked.networks or (asked.out if asked.quick else REPOSITORY / "build" / "harm")
        for name, make in subjects(folder, asked.shared, quick=asked.quick).items():
            if not asked.only or name in asked.only:
                measure(name, make(), rows, file)
    (asked.out / "harm.md").write_text(markdown(rows), encoding="utf-8")
    draw(rows).savefig(asked.out / "harm.png", dpi=110)


if __name__ == "__main__":
    main()
