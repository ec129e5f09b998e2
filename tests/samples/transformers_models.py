"""Small networks of transformers, built from configurations, and the inputs that they take."""

import importlib
from typing import Any

import torch

from tests.samples.seeds import repeatable

IDS = torch.arange(3, 15).view(2, 6)
BOTH = {"input_ids": IDS, "decoder_input_ids": IDS}
PIXELS = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)}

_ENCODER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
_NO_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# Family -> class, settings, inputs, the Auto class it is asked for by.
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, torch.Tensor], str]] = {
    "llama": (
        "LlamaForCausalLM",
        _ENCODER | _NO_TOKENS | {"vocab_size": 64, "max_position_embeddings": 64},
        {"input_ids": IDS},
        "AutoModelForCausalLM",
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        _NO_TOKENS | {"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 64, "n_positions": 32},
        {"input_ids": IDS},
        "AutoModelForCausalLM",
    ),
    "bert": (
        "BertForMaskedLM",
        _ENCODER | {"vocab_size": 64, "max_position_embeddings": 32},
        {"input_ids": IDS},
        "AutoModelForMaskedLM",
    ),
    "bert-classifier": (
        "BertForSequenceClassification",
        _ENCODER | {"vocab_size": 64, "max_position_embeddings": 32, "num_labels": 3},
        {"input_ids": IDS},
        "AutoModelForSequenceClassification",
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_ff": 48, "d_kv": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 64}
        | {"decoder_start_token_id": 0},
        BOTH,
        "AutoModelForSeq2SeqLM",
    ),
    "bart": (
        "BartForConditionalGeneration",
        {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_layers": 2, "decoder_layers": 2}
        | {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 64}
        | {"max_position_embeddings": 64},
        BOTH,
        "AutoModelForSeq2SeqLM",
    ),
    # Saved under other names than the class has.
    "vit": (
        "ViTForImageClassification",
        _ENCODER | {"image_size": 16, "patch_size": 4, "num_labels": 3},
        PIXELS,
        "AutoModelForImageClassification",
    ),
    # Saved expert by expert, which the class has in one tensor.
    "mixtral": (
        "MixtralForCausalLM",
        _ENCODER | _NO_TOKENS | {"vocab_size": 64, "num_local_experts": 3, "num_key_value_heads": 2},
        {"input_ids": IDS},
        "AutoModelForCausalLM",
    ),
}


@repeatable
def built(family: str, **changes: Any) -> Any:
    """A network of a family, in evaluation mode, the same every time; of other settings where some are given."""
    transformers = importlib.import_module("transformers")
    name, settings, _, _ = FAMILIES[family]
    cls = getattr(transformers, name)
    return cls(cls.config_class(**settings | changes)).eval()


def logits(model: Any, family: str) -> torch.Tensor:
    """What a network of a family answers to its inputs."""
    with torch.no_grad():
        answer: torch.Tensor = model(**FAMILIES[family][2]).logits
    return answer
