"""Peak memory of calibration block after block, of a network that has no room in --max-memory, killed and gone on.

    python benchmarks/streamed_calibration.py FOLDER --output benchmarks/results/streamed_calibration.md

A network is made in FOLDER, a Llama (see `make_checkpoint.py`) or with --family another one with random weights. It
is calibrated with random tokens as a whole, in float64 too, then with --max-memory block after block, killed
(SIGKILL) when some blocks are measured, and gone on with. Every run is a process of its own; what it holds itself
is looked at every five milliseconds, without pages of mapped files, from which the system takes memory back when it
needs it. Linux only. FOLDER/model and all else is deleted in the end.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calibration_memory import Watch

HERE = Path(__file__).resolve().parent


def calibrate(name: str, model: Path, work: Path, shape: tuple[int, int], max_memory: str) -> dict[str, Any]:
    """One calibration in this process, its moments in ``work/moments-…``; what it took.

    Args:
        name: ``whole``, ``exact`` (as a whole, in float64) or ``blocks``.
        model: the network.
        work: a folder.
        shape: how many batches of how many tokens.
        max_memory: for ``blocks``.
    """
    import torch

    import rmt_compress as rmt

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    config = json.loads((model / "config.json").read_text())
    names = ("input_ids", "decoder_input_ids") if config.get("is_encoder_decoder") else ("input_ids",)
    batches = [
        {key: torch.randint(config["vocab_size"], (1, shape[1]), generator=generator) for key in names}
        for _ in range(shape[0])
    ]
    with Watch() as watch:
        start = time.process_time()
        if name == "exact":
            moments = in_double(model, batches)
        else:
            most = max_memory if name == "blocks" else None
            moments = rmt.calibrate_stored(model, batches, max_memory=most, partial=work / f"partial-{name}")
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


def in_double(model: Path, batches: list[dict[str, Any]]) -> Any:
    """Moments of the network in float64, by the names of the file."""
    import rmt_compress as rmt
    from rmt_compress.checkpoints import open_checkpoint
    from rmt_compress.networks.file_names import file_names
    from rmt_compress.networks.loading import load_model

    with open_checkpoint(model) as checkpoint:
        network = load_model(checkpoint)
        names = file_names(network, checkpoint)
        return names.moments_in_file(rmt.calibrate(network.double(), batches), checkpoint.layers())


def difference(work: Path, first: str, second: str) -> float:
    """The largest relative difference of a matrix of moments between two ways."""
    import rmt_compress as rmt

    known, others = (rmt.load_moments(work / f"moments-{name}").layers for name in (first, second))
    return max(
        float((getattr(own, part) - getattr(others[name], part)).norm() / getattr(own, part).norm())
        for name, own in known.items()
        for part in ("inputs", "outputs")
        if getattr(own, part).shape == getattr(others[name], part).shape
    )


def main() -> None:
    """Read the command line, make the network, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the network and all else goes")
    parser.add_argument("--family", choices=("llama", *FAMILIES), default="llama")
    parser.add_argument("--gigabytes", type=float, default=0.2, help="of bfloat16; in float32 it is twice that")
    parser.add_argument("--hidden", type=int, default=1024, help="width of the network")
    parser.add_argument("--max-memory", default="600MB")
    parser.add_argument("--inputs", type=int, nargs=2, default=(4, 64), metavar=("BATCHES", "TOKENS"))
    parser.add_argument("--output", type=Path, help="where the table goes, and beside it the numbers (.json)")
    parser.add_argument("--only", choices=("whole", "exact", "blocks"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = arguments.folder / "model"
    if arguments.only is not None:
        asked = (arguments.work, arguments.inputs, arguments.max_memory)
        print(json.dumps(calibrate(arguments.only, model, *asked)))
        return
    if arguments.family == "llama":
        make(model, arguments.gigabytes, arguments.hidden)
    else:
        make_other(model, arguments.family, arguments.gigabytes, arguments.hidden)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        own = [sys.executable, __file__, arguments.folder, "--max-memory", arguments.max_memory, "--work", work]
        own += ["--inputs", *arguments.inputs, "--only"]
        whole, exact, killed = [list(map(str, [*own, name])) for name in ("whole", "exact", "blocks")]
        subprocess.run(exact, check=True, stdout=subprocess.DEVNULL)
        runs = [json.loads(subprocess.run(whole, check=True, stdout=subprocess.PIPE).stdout)]
        measured = kill_half_way(killed, Path(work) / "partial-blocks", depth(model))
        runs.append(json.loads(subprocess.run(killed, check=True, stdout=subprocess.PIPE).stdout))
        record = {
            "family": arguments.family,
            "hidden": arguments.hidden,
            "gigabytes": sum(file.stat().st_size for file in model.glob("*.safetensors")) / 1e9,
            "inputs": list(arguments.inputs),
            "max_memory": arguments.max_memory,
            "measured_when_killed": measured,
            "difference": difference(Path(work), "whole", "blocks"),
            "rounding": {name: difference(Path(work), "exact", name) for name in ("whole", "blocks")},
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


def make_other(model: Path, family: str, gigabytes: float, hidden: int) -> None:
    """A network of another family, as transformers saves it, of so many bytes or some more."""
    import torch
    import transformers

    name, settings = FAMILIES[family]
    cls: Any = getattr(transformers, name)

    def made(count: int) -> Any:
        return cls(cls.config_class(**settings(hidden, count))).to(torch.bfloat16)

    with torch.device("meta"):
        one, two = (sum(p.nbytes for p in made(count).parameters()) for count in (1, 2))
    torch.manual_seed(0)
    made(max(2, math.ceil((gigabytes * 1e9 - one) / (two - one)) + 1)).save_pretrained(model)


def mixtral(hidden: int, layers: int) -> dict[str, Any]:
    """Eight experts, two to a token."""
    own = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers, "vocab_size": 8000}
    heads = {"num_attention_heads": hidden // 32, "num_key_value_heads": hidden // 128}
    return own | heads | {"num_local_experts": 8, "num_experts_per_tok": 2}


def t5(hidden: int, layers: int) -> dict[str, Any]:
    """As many layers in the encoder as in the decoder, and a head of its own."""
    own = {"d_model": hidden, "d_kv": 32, "d_ff": 4 * hidden, "num_layers": layers, "num_heads": hidden // 32}
    return own | {"vocab_size": 8000, "tie_word_embeddings": False, "decoder_start_token_id": 0}


FAMILIES: dict[str, tuple[str, Callable[[int, int], dict[str, Any]]]] = {
    "mixtral": ("MixtralForCausalLM", mixtral),
    "t5": ("T5ForConditionalGeneration", t5),
}


def depth(model: Path) -> int:
    """Layers of the network, one behind another."""
    config = json.loads((model / "config.json").read_text())
    if "num_hidden_layers" in config:
        return int(config["num_hidden_layers"])
    return int(config["num_layers"] + config["num_decoder_layers"])


def kill_half_way(command: list[str], partial: Path, layers: int) -> int:
    """Run it, and kill it once the blocks of about half of the layers are measured; how many blocks are."""
    until = 2 + layers // 2
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
    other = record["family"] != "llama"
    option = f" --family {record['family']} --hidden {record['hidden']}" if other else ""
    limit = bytes_in(record["max_memory"], "max-memory") / 1e6
    report.say(
        f"# Calibration block after block{': ' + record['family'] if other else ''}",
        f"Written by `python benchmarks/streamed_calibration.py{option}`: a {record['family']} network of "
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
    rounding = record["rounding"]
    report.target(
        f"moments are those of the network as a whole, {record['difference']:.1e} apart at most, and as near to "
        f"those in float64: {rounding['blocks']:.1e} where as a whole they are {rounding['whole']:.1e} from them",
        rounding["blocks"] <= 2 * rounding["whole"],
    )
    return report.text


if __name__ == "__main__":
    main()
