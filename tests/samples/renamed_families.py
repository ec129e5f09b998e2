"""Small networks of the families that transformers saves under other names than its classes have.

Which these are is asked of the library. A configuration is its default one with small sizes; where the class takes
none such, with its own number of layers, and at last as it is.
"""

import importlib
from collections.abc import Iterator
from typing import Any

import torch

LARGEST = 30_000_000
"""Parameters of a network that is built here."""

_WIDTHS = ("hidden_size", "d_model", "n_embd", "embed_dim", "dim", "encoder_hidden_size", "decoder_hidden_size")
_DEPTHS = (
    *("num_hidden_layers", "num_layers", "n_layer", "depth", "encoder_layers", "decoder_layers"),
    "decoder_num_hidden_layers",
)
_HEADS = (
    *("num_attention_heads", "num_heads", "n_head", "encoder_attention_heads", "decoder_attention_heads"),
    "decoder_num_attention_heads",
)
_INNER = ("intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "mlp_dim", "decoder_intermediate_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_TOKENS = ("pad", "bos", "eos", "image", "video", "audio", "decoder_start")
SMALL: dict[str, int] = {
    **dict.fromkeys(_WIDTHS, 32),
    **dict.fromkeys(_DEPTHS, 2),
    **dict.fromkeys(_HEADS, 2),
    **dict.fromkeys(_INNER, 48),
    **dict.fromkeys(_EXPERTS, 4),
    **dict.fromkeys([f"{token}_token_id" for token in _TOKENS], 1),
    **{"num_key_value_heads": 2, "head_dim": 16, "d_kv": 16, "v_head_dim": 16, "moe_intermediate_size": 24},
    **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "kv_lora_rank": 8, "q_lora_rank": 8, "num_experts_per_tok": 2},
    **{"n_group": 1, "topk_group": 1, "vocab_size": 64, "max_position_embeddings": 64, "image_size": 32},
    **{"patch_size": 8, "projection_dim": 32, "out_hidden_size": 32, "shared_expert_intermediate_size": 24},
    "output_quantile_len": 32,
}


def _shrunk(values: dict[str, Any], *, layers: bool) -> dict[str, Any]:
    result = {}
    for key, value in values.items():
        if isinstance(value, dict) and ("model_type" in value or key.endswith("config")):
            result[key] = _shrunk(value, layers=layers)
        elif key in SMALL and isinstance(value, int) and value > 0 and (layers or key not in _DEPTHS):
            result[key] = min(value, SMALL[key])
        elif key == "image_size" and isinstance(value, list):
            result[key] = [min(side, SMALL[key]) for side in value]
        elif key.endswith("layer_types") and isinstance(value, list) and layers:
            result[key] = value[:2]
        else:
            result[key] = value
    return result


def renamed_names() -> list[str]:
    """The model types and classes that the library has other names for, as it lists them."""
    mapping = importlib.import_module("transformers.conversion_mapping")
    return sorted(mapping._build_checkpoint_conversion_mapping())


def classes_of(name: str) -> list[Any]:
    """The class of a name in that list, or the bare one and one with a head of a model type."""
    transformers = importlib.import_module("transformers")
    found = getattr(transformers, name, None)
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return [found]
    automatic = importlib.import_module("transformers.models.auto.modeling_auto")
    named = []
    for auto, each in vars(automatic).items():
        if auto.startswith("AutoModel") and hasattr(each, "_model_mapping"):
            names = each._model_mapping._model_mapping.get(name) or ()
            named += [names] if isinstance(names, str) else list(names)
    classes = [cls for cls in (getattr(transformers, each, None) for each in named) if isinstance(cls, type)]
    heads = [cls for cls in classes if not cls.__name__.endswith("Model")]
    return list(dict.fromkeys([*classes[:1], *heads[:1]]))


def _configurations(cls: Any) -> Iterator[Any]:
    default = cls.config_class
    yield lambda: default.from_dict(_shrunk(default().to_dict(), layers=True))
    yield lambda: default.from_dict(_shrunk(default().to_dict(), layers=False))
    yield default


def small_network(cls: Any) -> tuple[Any, Any]:
    """Configuration and network of a class; ValueError with the reasons where no configuration tried suits it."""
    problems = []
    for make in _configurations(cls):
        try:
            config = make()
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in cls(config).parameters())
            if size <= LARGEST:
                return config, cls(config).eval()
            problems.append(f"{size:,} parameters")
        except Exception as error:  # a configuration that does not suit fails in any way
            problems.append(f"{type(error).__name__}: {' '.join(str(error).split())[:100]}")
    raise ValueError("; ".join(problems))
