"""Make a large sharded checkpoint in Hugging Face's layout, to test memory with.

    python benchmarks/make_checkpoint.py FOLDER                    # 2 GB in bfloat16
    python benchmarks/make_checkpoint.py FOLDER --dtype float32

The tensors are those of a small Llama: an embedding table and an output head of 16·hidden or --words words, and as
many blocks as the size asks for; random weights with planted spikes. One shard is in memory at a time.
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

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def tensor_shapes(hidden: int, entries: int, words: int | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama of this width, with blocks until it has `entries` weights."""
    words = words or 16 * hidden
    inner, keys = 11 * hidden // 4, max(32, hidden // 8)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, hidden)}
    block: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    per_block = sum(math.prod(shape) for shape in block.values())
    for number in range(max(1, math.ceil((entries - 2 * words * hidden) / per_block))):
        shapes.update({f"model.layers.{number}.{name}.weight": shape for name, shape in block.items()})
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (words, hidden)}


def make(
    folder: Path,
    *,
    gigabytes: float = 2.0,
    hidden: int = 2048,
    dtype: str = "bfloat16",
    shard_gigabytes: float = 0.4,
    words: int | None = None,
) -> int:
    """Write the checkpoint into `folder`, which is made if need be; returns its bytes of weights."""
    size = DTYPES[dtype].itemsize
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = shard_gigabytes * 1e9
    for name, shape in tensor_shapes(hidden, int(gigabytes * 1e9 / size), words).items():
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
    weight: torch.Tensor = torch.randn(shape) / shape[1] ** 0.5
    plant_spikes(weight)
    return weight.to(dtype)


def main() -> None:
    """Read the command line and make it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to; must not hold a checkpoint yet")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of all weights together")
    parser.add_argument("--hidden", type=int, default=2048, help="width of the network")
    parser.add_argument("--words", type=int, help="of the vocabulary; by default 16 times the width")
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
    )
    print(f"{total / 1e9:.3g} GB of {arguments.dtype} weights in {arguments.folder}")


if __name__ == "__main__":
    main()
