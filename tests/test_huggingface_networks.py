"""Hugging Face folders as networks that run: class, type, tokenizer, and what is said where they do not."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import CheckpointError, MissingDependencyError, SettingsError, UntrustedError
from rmt_compress.networks.huggingface import tokenizer_of
from rmt_compress.networks.loading import load_model
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from tests.samples.repository import REPOSITORY
from tests.samples.transformers_models import built, logits

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("few_tokens")
LM = REPOSITORY.parent / "shared" / "models" / "lm"


@pytest.fixture
def folder(tmp_path):
    built("llama").save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def edited(folder, **entries):
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({key: entry for key, entry in config.items() if entry is not None}))


@pytest.mark.realdata
def test_a_trained_language_model_answers_as_transformers_has_it():
    if not LM.is_dir():
        pytest.skip(f"REAL DATA MISSING: {LM} is no folder")
    model = load_model(LM)
    ids = torch.randint(0, 256, (2, 40))
    wanted = transformers.AutoModelForCausalLM.from_pretrained(LM).float().eval()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, wanted(ids).logits)


def test_the_class_is_that_of_the_config_and_half_precision_is_computed_in_single(folder):
    model = built("llama")
    model.load_state_dict({name: tensor.half().float() for name, tensor in model.state_dict().items()})
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load_model(folder)
    assert type(loaded) is transformers.LlamaForCausalLM
    assert not loaded.training
    assert loaded.dtype == torch.float32
    assert torch.equal(logits(loaded, "llama"), logits(model, "llama"))
    assert load_model(folder, dtype="stored").dtype == torch.float16
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(folder, dtype=torch.float64).dtype == torch.float64
    with pytest.raises(SettingsError, match=r"dtype is float32.*did you mean bfloat16"):
        load_model(folder, dtype="bfloat61")


def test_without_architectures_it_is_the_bare_network(tmp_path):
    bert = transformers.BertModel(
        transformers.BertConfig(num_hidden_layers=1, hidden_size=32, num_attention_heads=2)
    )
    bert.save_pretrained(tmp_path / "bert")
    edited(tmp_path / "bert", architectures=None)
    assert type(load_model(tmp_path / "bert")) is transformers.BertModel


@pytest.mark.parametrize("family", ("bert", "gpt2"))
def test_a_published_folder_with_position_ids(tmp_path, family):
    """As transformers before 4.31 saved what the class computes for itself, and a head that nobody asks for."""
    folder = tmp_path / family
    built(family).save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    if family == "bert":
        state["bert.embeddings.position_ids"] = torch.arange(32)[None]
        state["cls.seq_relationship.weight"] = torch.ones(2, 32)
    else:
        for layer in range(2):
            state[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.uint8)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(logits(load_model(folder), family), logits(built(family), family))
    answers = []
    for layout in ("factorized", "dense"):
        prune(folder, tmp_path / layout, plan=PlanSettings(rule="rank:6"), layout=layout)
        answers.append(logits(load_model(tmp_path / layout), family))
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-5)


def test_both_recipes_leave_out_what_the_class_computes_for_itself(tmp_path, monkeypatch):
    folder = tmp_path / "bert"
    built("bert").save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    state["bert.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    prune(folder, tmp_path / "small", plan=PlanSettings(rule="rank:6"))
    loaded = rmt.load(tmp_path / "small", model=built("bert"))
    wanted = logits(load_model(tmp_path / "small"), "bert")
    assert torch.equal(logits(loaded, "bert"), wanted)
    text = (REPOSITORY / "docs" / "huggingface.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# With neither.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(code.replace("ForCausalLM", "ForMaskedLM"), namespace)
    assert torch.equal(logits(namespace["model"], "bert"), wanted)


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    (
        (
            {"model_type": "of_tomorrow", "architectures": ["TomorrowForCausalLM"]},
            CheckpointError,
            r"model_type 'of_tomorrow', which transformers [\d.]+ does not know; update transformers",
        ),
        ({"model_type": None, "architectures": ["Tomorrow"]}, CheckpointError, "no model_type, but Tomorrow"),
        (
            {
                "model_type": "own",
                "architectures": ["Own"],
                "auto_map": {"AutoConfig": "c.C", "AutoModel": "modeling_own.Own"},
            },
            UntrustedError,
            r"its network is code in the folder \(c\.py, modeling_own\.py\).*--trust",
        ),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            CheckpointError,
            "quantized, which is not run here; name the checkpoint",
        ),
        (
            {"hidden_size": 64},
            CheckpointError,
            r"not those of LlamaForCausalLM.*embed_tokens\.weight is \d+×32 in the file, \d+×64 in the network",
        ),
        ({"num_hidden_layers": 3}, CheckpointError, r"the file lacks model\.layers\.2\.input_layernorm\.weight"),
        ({"hidden_size": 10**9, "head_dim": 2}, CheckpointError, "the network LlamaForCausalLM"),
        ({"num_attention_heads": "many"}, CheckpointError, r"config\.json"),
    ),
)
def test_what_does_not_run_is_told_in_one_line(folder, entries, error, message):
    edited(folder, **entries)
    with pytest.raises(error, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_transformers_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setattr("rmt_compress.networks.huggingface.find_spec", lambda _: None)
    with pytest.raises(
        MissingDependencyError, match=r"llama.* needs transformers: pip install 'rmt-compress\[hf\]'"
    ):
        load_model(folder)


def test_code_in_a_folder_runs_only_where_it_is_trusted(folder, tmp_path):
    canary = tmp_path / "ran"
    (folder / "modeling_own.py").write_text(
        f"import pathlib\nfrom transformers import LlamaForCausalLM\npathlib.Path({str(canary)!r}).touch()\n"
        "class Own(LlamaForCausalLM):\n    pass\n"
    )
    edited(folder, architectures=["Own"], auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    with pytest.raises(UntrustedError):
        load_model(folder)
    assert not canary.exists()
    model = load_model(open_checkpoint(folder, trust=True))
    assert canary.exists()
    assert type(model).__name__ == "Own"


def test_the_tokenizer_of_a_folder(folder):
    tokenizers = pytest.importorskip("tokenizers")
    assert tokenizer_of(folder) is None
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
    assert tokenizer_of(folder)("b a c")["input_ids"] == [1, 0, 2]
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"llama: its tokenizer cannot be read"):
        tokenizer_of(folder)
