"""Peak memory of calibration block after block, of a network that has no room in --max-memory, killed and gone on.

    python benchmarks/streamed_calibration.py FOLDER --output benchmarks/results/streamed_calibration.md

A Llama is made in FOLDER, see `make_checkpoint.py`, and calibrated with random tokens: as a whole, then with
--max-memory block after block, killed (SIGKILL) when some blocks are measured, and gone on with. Every run is a
process of its own; what it holds itself is looked at every five milliseconds, without pages of mapped files, from
which the system takes memory back when it needs it. Linux only. FOLDER/model and all else is deleted in the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from calibration_memory import Watch

HERE = Path(__file__).resolve().parent


def calibrate(model: Path, work: Path, shape: tuple[int, int], max_memory: str | None) -> dict[str, Any]:
    """One calibration in this process, its moments in ``work/moments-…``; what it took."""
    import torch

    import rmt_compress as rmt

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    words = json.loads((model / "config.json").read_text())["vocab_size"]
    batches = [torch.randint(words, (1, shape[1]), generator=generator) for _ in range(shape[0])]
    name = "whole" if max_memory is None else "blocks"
    with Watch() as watch:
        start = time.process_time()
        moments = rmt.calibrate_stored(
            model, [{"input_ids": ids} for ids in batches], max_memory=max_memory, partial=work / f"partial-{name}"
        )
        rmt.save_moments(moments, work / f"moments-{name}")
    return {
        "run": name,
        "own_megabytes": watch.anonymous * 1.048576,
        "processor_seconds": time.process_time() - start,
        "layers": len(moments.layers),
        "passes": moments.record["passes"],
        "blocks": len(moments.record.get("blocks", [])),
        "in_part": {key: len(moments.record.get(key, ())) for key in ("diagonal", "trace")},
    }


def difference(work: Path) -> float:
    """The largest relative difference of a matrix of moments between both ways."""
    import rmt_compress as rmt

    whole, blocks = (rmt.load_moments(work / f"moments-{name}").layers for name in ("whole", "blocks"))
    return max(
        float((getattr(own, part) - getattr(blocks[name], part)).norm() / getattr(own, part).norm())
        for name, own in whole.items()
        for part in ("inputs", "outputs")
        if getattr(own, part).shape == getattr(blocks[name], part).shape
    )


def main() -> None:
    """Read the command line, make the network, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the network and all else goes")
    parser.add_argument("--gigabytes", type=float, default=0.2, help="of bfloat16; in float32 it is twice that")
    parser.add_argument("--hidden", type=int, default=1024, help="width of the network")
    parser.add_argument("--max-memory", default="600MB")
    parser.add_argument("--inputs", type=int, nargs=2, default=(4, 64), metavar=("BATCHES", "TOKENS"))
    parser.add_argument("--output", type=Path, help="where the table goes, and beside it the numbers (.json)")
    parser.add_argument("--only", choices=("whole", "blocks"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = arguments.folder / "model"
    if arguments.only is not None:
        most = arguments.max_memory if arguments.only == "blocks" else None
        print(json.dumps(calibrate(model, arguments.work, arguments.inputs, most)))
        return
    make(model, arguments.gigabytes, arguments.hidden)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        own = [sys.executable, __file__, arguments.folder, "--max-memory", arguments.max_memory, "--work", work]
        own += ["--inputs", *arguments.inputs, "--only"]
        whole, killed = [list(map(str, [*own, name])) for name in ("whole", "blocks")]
        runs = [json.loads(subprocess.run(whole, check=True, stdout=subprocess.PIPE).stdout)]
        measured = kill_half_way(killed, Path(work) / "partial-blocks", runs[0]["layers"])
        runs.append(json.loads(subprocess.run(killed, check=True, stdout=subprocess.PIPE).stdout))
        record = {
            "gigabytes": sum(file.stat().st_size for file in model.glob("*.safetensors")) / 1e9,
            "inputs": list(arguments.inputs),
            "max_memory": arguments.max_memory,
            "measured_when_killed": measured,
            "difference": difference(Path(work)),
            "runs": runs,
        }
    shutil.rmtree(model)
    text = table(record)
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")
        arguments.output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def make(model: Path, gigabytes: float, hidden: int) -> None:
    """The weights and their ``config.json``."""
    from make_checkpoint import make as make_weights
    from make_checkpoint import tensor_shapes

    shapes = tensor_shapes(hidden, int(gigabytes * 1e9 / 2))
    make_weights(model, gigabytes=gigabytes, hidden=hidden)
    keys, heads = shapes["model.layers.0.self_attn.k_proj.weight"][0], hidden // 32
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shapes["lm_head.weight"][0],
        "hidden_size": hidden,
        "intermediate_size": shapes["model.layers.0.mlp.up_proj.weight"][0],
        "num_hidden_layers": sum(name.endswith("up_proj.weight") for name in shapes),
        "num_attention_heads": heads,
        "num_key_value_heads": keys // 32,
    }
    (model / "config.json").write_text(json.dumps(config))


def kill_half_way(command: list[str], partial: Path, layers: int) -> int:
    """Run it, and kill it once the blocks of about half of the layers are measured; how many blocks are."""
    until = 2 + layers // 14
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.05)
        if len(list(partial.glob("measured-*.safetensors"))) >= until:
            process.send_signal(signal.SIGKILL)
            process.wait()
            break
    else:
        sys.exit("it ended before it could be killed")
    return len(list(partial.glob("measured-*.safetensors")))


def table(record: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    from measuring import Report, machine

    from rmt_compress.settings.sizes import bytes_in

    report = Report()
    whole, blocks = record["runs"]
    batches, tokens = record["inputs"]
    limit = bytes_in(record["max_memory"], "max-memory") / 1e6
    report.say(
        "# Calibration block after block",
        "Written by `python benchmarks/streamed_calibration.py`: a Llama of "
        f"{record['gigabytes']:.3g} GB in bfloat16, {2 * record['gigabytes']:.3g} GB as it runs, "
        f"{blocks['blocks']} blocks; {batches} batches of {tokens} tokens, one thread.",
        "\n".join(f"- {line}" for line in machine()),
    )
    report.table(
        ("run", "own memory (MB)", "limit (MB)", "passes", "processor seconds"),
        (
            (
                "as a whole",
                f"{whole['own_megabytes']:.0f}",
                "",
                str(whole["passes"]),
                f"{whole['processor_seconds']:.0f}",
            ),
            (
                f"block after block, gone on behind {record['measured_when_killed']} measured blocks",
                f"{blocks['own_megabytes']:.0f}",
                f"{limit:.0f}",
                str(blocks["passes"]),
                f"{blocks['processor_seconds']:.0f}",
            ),
        ),
    )
    report.target(
        f"its own memory stays within --max-memory: {blocks['own_megabytes']:.0f} of {limit:.0f} MB",
        blocks["own_megabytes"] <= limit,
    )
    report.target(
        f"moments are those of the network as a whole: {record['difference']:.1e} apart at most",
        record["difference"] < 1e-5,
    )
    return report.text


if __name__ == "__main__":
    main()
