"""Peak memory of `analyze` and `prune` of a large sharded checkpoint, killed half-way and gone on with.

    python benchmarks/larger_than_memory.py FOLDER --output benchmarks/results/larger_than_memory.md
    python benchmarks/larger_than_memory.py FOLDER --gigabytes 2 --hidden 1024 --words 16384 --experts 0

A checkpoint of the shapes of a Llama in bfloat16 is made in FOLDER, see `make_checkpoint.py`, unless one is there.
By default it has 12 GB: layers of up to 4096 × 11264, an output head of 128,256 × 4096, stacks of sixteen experts.
`analyze --resume` is killed (SIGKILL) once half of the layers stand in the journal, and started again; so is
`prune`, which takes what `analyze` has kept, once half of the cut layers do. Peaks are resident memory of the
process, in 10⁶ bytes. With --others prune runs a second time, from the beginning and undisturbed, with other
options, and its output must be the same file. What was made is deleted in the end, unless --keep says otherwise.

Deliberately free of heavy imports: on Linux the peak of a new process starts at the size of the one that made it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MEGABYTE = 1e6
ROOM = 400.0
"""Beside three times the largest weight in float32, in 10⁶ bytes; `prune` may take 1.2 times both."""
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        what: in a few words.
        peak_megabytes: resident, at its highest.
        seconds: by the clock.
        processor_seconds: of all its threads.
        taken: layers it took from the journal.
        kept: entries in the journal when it ended.
    """

    what: str
    peak_megabytes: float
    seconds: float
    processor_seconds: float
    taken: int
    kept: int


def run(what: str, arguments: Sequence[str | Path], journal: Path, *, until: int | None = None) -> tuple[Run, str]:
    """Run the program, and kill it once `until` entries stand in the journal; its standard output too.

    Raises:
        SystemExit: it failed, or ended before it could be killed.
    """
    command = [sys.executable, "-m", "rmt_compress", *map(str, arguments)]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        while until is not None and not has_ended(process.pid):
            time.sleep(0.05)
            if entries(journal) >= until:
                process.send_signal(signal.SIGKILL)
                break
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read().decode()
        if process.returncode != (0 if until is None else -signal.SIGKILL):
            sys.exit(f"{' '.join(command)}: status {process.returncode}\n{said}")
        output.seek(0)
        printed = output.read().decode()
    taken = [line.split(": ")[-1].split()[0] for line in said.splitlines() if line.endswith("taken from it")]
    # Kilobytes on Linux, bytes on macOS.
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MEGABYTE
    processor = usage.ru_utime + usage.ru_stime
    return Run(what, peak, seconds, processor, int(taken[-1]) if taken else 0, entries(journal)), printed


def has_ended(process: int) -> bool:
    """Whether a child of this process is over; it is not waited for."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def entries(journal: Path) -> int:
    """How many finished parts stand in a journal; what is binary in it holds no such text."""
    if not journal.exists():
        return 0
    return journal.read_bytes().count(b'{"tensor": ')


def largest_weight(folder: Path) -> float:
    """Bytes of the largest tensor in float32, in 10⁶."""
    largest = 0
    for shard in folder.glob("*.safetensors"):
        with shard.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        sizes = [
            end - begin
            for name, each in header.items()
            if name != "__metadata__"
            for begin, end in [each["data_offsets"]]
        ]
        largest = max(largest, *sizes)
    return 2 * largest / MEGABYTE


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def measure(folder: Path, work: Path, options: Sequence[str], others: Sequence[str] | None) -> dict[str, Any]:
    """All runs with these options, and a prune with `others`; `work` is where all goes that is written."""
    journal, output = work / "layers", work / "small.safetensors"
    factors = Path(f"{journal}.factors")
    analyze: list[str | Path] = ["analyze", folder, "--json", "--resume", journal, *options]
    prune: list[str | Path] = ["prune", folder, "-o", output, "--json", "--force", "--resume", journal, *options]
    planned = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    layers = sum(name.endswith(("proj", "proj.weight", "lm_head.weight")) for name in planned)
    runs = [run("analyze, killed", analyze, journal, until=layers // 2)[0]]
    resumed, printed = run("analyze, gone on", analyze, journal)
    found = json.loads(printed)
    runs += [resumed, run("prune, killed", prune, factors, until=layers // 2)[0]]
    half = entries(factors)
    resumed, printed = run("prune, gone on", prune, factors)
    result = json.loads(printed)
    runs.append(resumed)
    again = json.loads(run("analyze, all layers kept", analyze, journal)[1])
    bytes_out, same = output.stat().st_size, None
    if others is not None:
        first = digest(output)
        undisturbed: list[str | Path] = ["prune", folder, "-o", output, "--json", "--force", *others]
        runs.append(run("prune undisturbed, its own analysis in it", undisturbed, work / "none")[0])
        same = digest(output) == first
    return {
        "options": list(options),
        "others": None if others is None else list(others),
        "same_bytes_with_others": same,
        "gigabytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e9,
        "largest_float32_megabytes": largest_weight(folder),
        "layers": found["totals"]["layers_analyzed"],
        "runs": [asdict(each) for each in runs],
        "factors_kept_at_the_kill": half,
        "layers_in_journal": entries(journal),
        "same_analysis_again": again == found,
        "bytes_out": bytes_out,
        "layers_cut": sum(each["action"] == "factorized" for each in result["layers"]),
    }


def table(record: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    from measuring import Report, machine

    report = Report()
    bound = 3 * record["largest_float32_megabytes"] + ROOM
    runs = [Run(**each) for each in record["runs"]]
    report.say(
        f"# Larger than memory, {record['gigabytes']:.3g} GB",
        "Written by `python benchmarks/larger_than_memory.py`: a sharded bfloat16 checkpoint of "
        f"{record['gigabytes']:.3g} GB with the shapes of a Llama, {record['layers']} layers that are analysed; "
        "the largest weight takes "
        f"{record['largest_float32_megabytes']:.0f} MB in float32."
        + (f" Both commands with `{' '.join(record['options'])}`." if record["options"] else "")
        + (f" The last run with `{' '.join(record['others'])}` instead." if record["others"] else ""),
        "\n".join(f"- {line}" for line in machine()),
    )
    report.table(
        ("run", "peak (MB)", "bound (MB)", "layers taken from the journal", "seconds", "processor seconds"),
        (
            (
                each.what,
                f"{each.peak_megabytes:.0f}",
                f"{bound * (1.2 if each.what.startswith('prune') else 1):.0f}",
                str(each.taken),
                f"{each.seconds:.0f}",
                f"{each.processor_seconds:.0f}",
            )
            for each in runs
        ),
    )
    analyses = [each.peak_megabytes for each in runs if each.what.startswith("analyze")]
    prunes = [each.peak_megabytes for each in runs if each.what.startswith("prune")]
    report.target(
        f"`analyze` takes at most three times the largest weight in float32 and {ROOM:.0f} MB: "
        f"{max(analyses):.0f} of {bound:.0f} MB",
        max(analyses) <= bound,
    )
    report.target(
        f"`prune` takes at most 1.2 times that: {max(prunes):.0f} of {1.2 * bound:.0f} MB",
        max(prunes) <= 1.2 * bound,
    )
    report.target(
        f"what was finished is not done again: {runs[1].taken} of {record['layers']} layers and {runs[3].taken} of "
        f"{record['layers_cut']} cut ones were taken from the journals",
        runs[1].taken == runs[0].kept and runs[3].taken == record["factors_kept_at_the_kill"],
    )
    report.target("the analysis is the same once more, from the journal", bool(record["same_analysis_again"]))
    if record["others"] is not None:
        report.target(
            f"`prune` undisturbed with `{' '.join(record['others'])}` writes the same "
            f"{record['bytes_out'] / 1e6:.0f} MB, byte for byte",
            bool(record["same_bytes_with_others"]),
        )
    return report.text


def main() -> None:
    """Read the command line, make the checkpoint, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the checkpoint and all else goes")
    parser.add_argument("--gigabytes", type=float, default=12.0)
    parser.add_argument("--hidden", type=int, default=4096, help="width of the network")
    parser.add_argument("--words", type=int, default=128_256, help="of the vocabulary")
    parser.add_argument("--experts", type=int, default=16, help="in every fourth block")
    parser.add_argument("--max-memory", help="for both commands; by default what they take by themselves")
    parser.add_argument("--jobs", type=int, help="layers at once; by default one per core")
    parser.add_argument("--others", help="options of one more prune, whose output must be the same, in one word")
    parser.add_argument("--output", type=Path, help="where the table goes, and beside it the numbers (.json)")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoint")
    arguments = parser.parse_args()
    model = arguments.folder / "model"
    if not model.exists():
        size = ["--gigabytes", arguments.gigabytes, "--hidden", arguments.hidden, "--words", arguments.words]
        made = [sys.executable, HERE / "make_checkpoint.py", model, *size, "--experts", arguments.experts]
        subprocess.run(list(map(str, made)), check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        given = {"--max-memory": arguments.max_memory, "--jobs": arguments.jobs}
        options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        others = None if arguments.others is None else shlex.split(arguments.others)
        record = measure(model, Path(work), options, others)
    if not arguments.keep:
        shutil.rmtree(model)
    text = table(record)
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")
        arguments.output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
