"""Make a large sharded checkpoint in Hugging Face's layout, to test memory with.

    python benchmarks/make_checkpoint.py FOLDER                    # 2 GB in bfloat16
    python benchmarks/make_checkpoint.py FOLDER --dtype float32

The tensors are those of a Llama: an embedding table and an output head of 16·hidden or --words words, and as many
blocks as the size asks for; with --experts every fourth block has stacks of experts. Random weights with planted
spikes. One shard is in memory at a time.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from networks import plant_spikes
from safetensors.torch import save_file

ROWS = 16384
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def tensor_shapes(
    hidden: int, entries: int, words: int | None = None, experts: int = 0
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama of this width, with blocks until it has `entries` weights.

    With `experts` every fourth block has so many instead of one perceptron, with as many weights together.
    """
    words = words or 16 * hidden
    inner, keys = 11 * hidden // 4, max(32, hidden // 8)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, hidden)}
    attention: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, hidden),
        "post_attention_layernorm.weight": (hidden,),
    }
    perceptron: dict[str, tuple[int, ...]] = {
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    mixture: dict[str, tuple[int, ...]] = {}
    if experts:
        own = inner // experts
        mixture = {
            "mlp.experts.gate_up_proj": (experts, 2 * own, hidden),
            "mlp.experts.down_proj": (experts, hidden, own),
        }
    per_block = sum(math.prod(shape) for shape in (attention | perceptron).values())
    for number in range(max(1, math.ceil((entries - 2 * words * hidden) / per_block))):
        block = attention | (mixture if experts and number % 4 == 3 else perceptron)
        shapes.update({f"model.layers.{number}.{name}": shape for name, shape in block.items()})
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (words, hidden)}


def make(
    folder: Path,
    *,
    gigabytes: float = 2.0,
    hidden: int = 2048,
    dtype: str = "bfloat16",
    shard_gigabytes: float = 0.4,
    words: int | None = None,
    experts: int = 0,
) -> int:
    """Write the checkpoint into `folder`, which is made if need be; returns its bytes of weights."""
    size = DTYPES[dtype].itemsize
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = shard_gigabytes * 1e9
    for name, shape in tensor_shapes(hidden, int(gigabytes * 1e9 / size), words, experts).items():
        nbytes = math.prod(shape) * size
        if shards[-1] and nbytes > room:
            shards.append({})
            room = shard_gigabytes * 1e9
        shards[-1][name] = shape
        room -= nbytes
    folder.mkdir(parents=True, exist_ok=True)
    placement = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: _weight(shape, DTYPES[dtype]) for name, shape in shard.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        placement.update(dict.fromkeys(shard, file))
    total = size * sum(math.prod(shape) for shard in shards for shape in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": placement}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return total


def _weight(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)
    if len(shape) == 3:
        return torch.stack([_weight(shape[1:], dtype) for _ in range(shape[0])])
    weight = torch.empty(shape, dtype=dtype)
    # The float32 values of some rows at a time: of the whole they would take twice what the shard does.
    for rows in torch.split(weight, ROWS):
        values = torch.randn(rows.shape) / shape[1] ** 0.5
        plant_spikes(values)
        rows.copy_(values)
    return weight


def main() -> None:
    """Read the command line and make it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to; must not hold a checkpoint yet")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of all weights together")
    parser.add_argument("--hidden", type=int, default=2048, help="width of the network")
    parser.add_argument("--words", type=int, help="of the vocabulary; by default 16 times the width")
    parser.add_argument("--experts", type=int, default=0, help="in every fourth block, none by default")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    arguments = parser.parse_args()
    if any(arguments.folder.glob("*.safetensors*")):
        sys.exit(f"{arguments.folder}: holds a checkpoint already; name an empty folder")
    torch.manual_seed(0)
    total = make(
        arguments.folder,
        gigabytes=arguments.gigabytes,
        hidden=arguments.hidden,
        dtype=arguments.dtype,
        words=arguments.words,
        experts=arguments.experts,
    )
    print(f"{total / 1e9:.3g} GB of {arguments.dtype} weights in {arguments.folder}")


if __name__ == "__main__":
    main()
