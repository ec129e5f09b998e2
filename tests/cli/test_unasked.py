"""`prune` of a Hugging Face folder without data: the network is asked about inputs that it makes itself."""

import json

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")


def folder_of(path, directions):
    """A tiny decoder: noise, or where there are `directions` so many strong ones in little noise."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear) and directions:
                rows, columns = layer.weight.shape
                signal = torch.randn(rows, directions) @ torch.randn(directions, columns) / columns**0.5
                layer.weight.copy_(signal + 1e-3 * torch.randn(rows, columns))
    model.save_pretrained(path)
    return path


def test_no_layer_is_decomposed_once_more_to_ask_the_network(tmp_path, few_tokens, monkeypatch):
    import rmt_compress as rmt
    from rmt_compress.decomposition import svd

    ranks = []
    found = svd._decompose_wide
    monkeypatch.setattr(svd, "_decompose_wide", lambda a, rank: [ranks.append(rank), found(a, rank)][1])
    result = rmt.prune(folder_of(tmp_path / "signal", 3), tmp_path / "cut")
    assert result.verified == "synthetic"
    assert len(ranks) == sum(each.rank is not None for each in result.outcomes) > 0


@pytest.mark.slow
def test_a_wreck_is_told_without_data(run, tmp_path):
    result = run("prune", folder_of(tmp_path / "noise", 0))
    assert result.returncode == 1
    assert (tmp_path / "noise-pruned" / "config.json").exists()
    last = result.stderr.splitlines()[-1]
    assert "gives another answer in" in last
    assert "--keep 0.8" in last


@pytest.mark.slow
def test_a_cut_that_keeps_what_counts_is_none(run, tmp_path):
    result = run("prune", folder_of(tmp_path / "signal", 3), "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["verified"] == "synthetic"
    assert report["wreck"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "said"),
    (("Model", "has moved its outputs by"), ("ForMaskedLM", "gives another answer in")),
)
@pytest.mark.traced
def test_a_wrecked_encoder_is_told_by_its_embeddings_or_its_answers(run, tmp_path, head, said):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2
    )
    model = getattr(transformers, f"Bert{head}")(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                # As it is made, so little comes of its layers that none is missed.
                weight.mul_(8)
    model.save_pretrained(tmp_path / "noise")
    result = run("prune", "noise", "-o", "cut", "--rule", "rank:1")
    assert result.returncode == 1
    assert said in result.stderr.splitlines()[-1]
    assert (tmp_path / "cut" / "config.json").exists()
