"""Hugging Face folders: trained where they lie, written as folders that the library loads by itself."""

import json

import pytest
import torch
from safetensors.torch import load_file

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.data import DataSettings
from rmt_compress.networks.loading import load_model
from rmt_compress.networks.tasks.questions import Question
from rmt_compress.networks.tasks.settings import TaskSettings
from rmt_compress.training import CycleSettings, TrainingSettings, finetune
from rmt_compress.training.finetuning import Listeners, default_output

WINDOWS = TaskSettings(data=DataSettings(sequence_length=16))
QUICK = TrainingSettings(epochs=2, optimizer="adamw", learning_rate=3e-3)
CUTS = CycleSettings(every=1, analysis=AnalysisSettings(gof=0.5))
transformers = pytest.importorskip("transformers")


def _decoder(**more):
    config = transformers.LlamaConfig(
        vocab_size=256,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
        **more,
    )
    return transformers.LlamaForCausalLM(config)


def _of_two_halves():
    config = transformers.T5Config(
        vocab_size=256, d_model=48, d_kv=24, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes((b"the cat sat on the mat; the hat sat on the cat. " * 17)[:800])
    return f"text:{path}"


@pytest.mark.slow
@pytest.mark.parametrize("make", [_decoder, _of_two_halves])
@pytest.mark.traced
def test_a_folder_becomes_a_smaller_folder_that_the_library_loads(tmp_path, text, make):
    source = tmp_path / "lm"
    make().save_pretrained(source)
    result = finetune(source, data=text, asked=WINDOWS, training=QUICK, cycle=CUTS)
    (run,) = result.runs
    assert result.output == default_output(source, text) == tmp_path / "lm-tuned"
    assert result.log == tmp_path / "lm-tuned.log.jsonl"
    assert run.last["parameters"] < 0.9 * run.first["parameters"]
    ours = load_model(result.output)
    auto = transformers.AutoModelForCausalLM if make is _decoder else transformers.AutoModelForSeq2SeqLM
    theirs = auto.from_pretrained(result.output, trust_remote_code=True).eval()
    tokens = torch.arange(20)[None]
    given = {"input_ids": tokens} if make is _decoder else {"input_ids": tokens, "decoder_input_ids": tokens}
    with torch.no_grad():
        assert torch.allclose(ours(**given).logits, theirs(**given).logits, atol=1e-5)
    # The score that the log ends with is the network's that was written.
    test = Question(text, ours, None, WINDOWS).part("test")
    assert test.score(ours).value == pytest.approx(run.last["test_score"], rel=1e-6)

    again = finetune(result.output, data=text, asked=WINDOWS, training=QUICK, cycle=None)
    assert again.runs[0].first["test_score"] == pytest.approx(run.last["test_score"], rel=1e-6)
    assert again.runs[0].first["parameters"] == run.last["parameters"]
    reloaded = auto.from_pretrained(again.output, trust_remote_code=True)
    assert sum(each.numel() for each in reloaded.parameters()) == run.last["parameters"]


@pytest.mark.slow
@pytest.mark.traced
def test_a_folder_stays_in_the_type_it_is_stored_in(tmp_path, text):
    source, out = tmp_path / "lm", tmp_path / "out"
    _decoder().to(torch.bfloat16).save_pretrained(source)
    finetune(source, out, data=text, asked=WINDOWS, training=QUICK, cycle=None)
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert "auto_map" not in json.loads((out / "config.json").read_text())
    assert transformers.AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16


@pytest.mark.slow
def test_a_file_comes_out_where_one_is_asked_for(tmp_path, text):
    source, out = tmp_path / "lm", tmp_path / "small.safetensors"
    _decoder().save_pretrained(source)
    finetune(source, out, data=text, asked=WINDOWS, training=QUICK, cycle=CUTS)
    assert any("down" in name for name in load_file(out))
    assert not (tmp_path / "lm-tuned").exists()


@pytest.mark.slow
def test_a_run_from_a_folder_goes_on_to_the_same_weights(tmp_path, text):
    source = tmp_path / "lm"
    _decoder().save_pretrained(source)
    settings = {"data": text, "asked": WINDOWS, "training": QUICK, "cycle": CUTS}

    def stop(event):
        if event["epoch"] == 2:
            raise KeyboardInterrupt

    finetune(source, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        finetune(source, tmp_path / "broken", listeners=Listeners(event=stop), **settings)
    finetune(source, tmp_path / "broken", resume=True, **settings)
    one, other = (load_file(tmp_path / name / "factorized.safetensors") for name in ("whole", "broken"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
