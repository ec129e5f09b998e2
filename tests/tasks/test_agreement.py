"""Agreement with another network, a user's own score, and which task is chosen."""

import copy

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch.nn import functional

from rmt_compress.errors import EvaluationError, SettingsError
from rmt_compress.networks.evaluation import compare, evaluate
from rmt_compress.networks.tasks.agreement import Agreement
from rmt_compress.networks.tasks.choosing import task_for
from rmt_compress.networks.tasks.settings import TaskSettings
from tests.samples.memory import Memory


def moved(model, by):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return other


def test_agreement_of_logits_by_hand(rng):
    inputs = torch.from_numpy(rng.normal(size=(70, 6))).float()
    model = nn.Linear(6, 5)
    other = moved(model, 0.2)
    score = Agreement(Memory(inputs), model).score(other, batch_size=16)
    with torch.no_grad():
        ours, theirs = other(inputs).double(), model(inputs).double()
    assert score.details["relative_error"] == pytest.approx(float((ours - theirs).norm() / theirs.norm()), rel=1e-6)
    assert (
        score.value == score.details["same_answer"] == float((ours.argmax(1) == theirs.argmax(1)).double().mean())
    )
    kl = functional.kl_div(ours.log_softmax(1), theirs.softmax(1), reduction="batchmean")
    assert score.details["kl"] == pytest.approx(float(kl), rel=1e-6)
    assert score.details["cosine"] == pytest.approx(float(functional.cosine_similarity(ours, theirs).mean()))
    same = Agreement(Memory(inputs), model).score(model)
    assert (same.value, same.details["relative_error"], same.details["kl"]) == (1.0, 0.0, 0.0)


def test_agreement_of_embeddings_knows_padding_and_neighbours(rng):
    tokens = torch.from_numpy(rng.integers(0, 20, (40, 7)))
    mask = (torch.arange(7) < torch.from_numpy(rng.integers(2, 8, (40, 1)))).long()

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(20, 8)

        def forward(self, input_ids, attention_mask):
            return {"last_hidden_state": self.table(input_ids)}

    model = Encoder().requires_grad_(False)
    other = moved(model, 0.5)
    samples = Memory({"input_ids": tokens, "attention_mask": mask})
    score = Agreement(samples, model, embeddings=True).score(other, batch_size=9)
    means = [
        (network.table(tokens) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) for network in (other, model)
    ]
    assert score.value == pytest.approx(float(functional.cosine_similarity(*means).mean()), rel=1e-5)
    found = []
    for vectors in means:
        search = NearestNeighbors(n_neighbors=2, metric="cosine").fit(vectors.detach().numpy())
        found.append(search.kneighbors(return_distance=False)[:, 0])
    assert score.details["same_neighbour"] == (found[0] == found[1]).mean()
    assert score.details["kl"] is None


def test_the_task_follows_from_data_and_network(rng):
    model = nn.Linear(3, 4)
    inputs = torch.from_numpy(rng.normal(size=(8, 3))).float()
    labels = torch.arange(8) % 4
    assert task_for(Memory(inputs, labels, "classes", 4), model).kind == "classification"
    assert task_for(Memory(inputs, torch.ones(8, 4), "numbers"), model).kind == "regression"
    assert task_for(Memory(inputs), model).kind == "agreement"
    assert task_for(Memory(labels[:, None], targets="tokens"), model).kind == "causal"
    for asked in ("causal", "masked", "regression"):
        with pytest.raises(SettingsError, match="has classes"):
            task_for(Memory(inputs, labels, "classes", 4), model, TaskSettings(task=asked))
    with pytest.raises(SettingsError, match="did you mean"):
        TaskSettings(task="regresion")
    with pytest.raises(SettingsError, match="tokenizer"):
        task_for(Memory(labels[:, None], targets="tokens"), model, TaskSettings(task="masked"))


def test_a_function_of_ones_own(tmp_path, monkeypatch, rng):
    (tmp_path / "ownscore.py").write_text(
        "def largest(model):\n    return max(float(p.detach().abs().max()) for p in model.parameters())\n"
        "def broken(model):\n    raise KeyError('x')\n"
        "def endless(model):\n    return float('inf')\n"
    )
    monkeypatch.chdir(tmp_path)
    model = nn.Linear(3, 2)
    task = task_for(None, model, TaskSettings(task="ownscore:largest", higher_is_better=False))
    result = evaluate(model, task)
    assert result.score.value == max(float(p.detach().abs().max()) for p in model.parameters())
    assert not result.score.metric.higher_is_better
    assert result.macs is None
    for name, words in (("broken", "failed"), ("endless", "finite")):
        with pytest.raises(EvaluationError, match=words):
            task_for(None, model, TaskSettings(task=f"ownscore:{name}")).score(model)
    with pytest.raises(SettingsError, match="ownscore"):
        task_for(None, model, TaskSettings(task="ownscore:missing"))


def test_two_networks_are_set_side_by_side(rng):
    inputs = torch.from_numpy(rng.normal(size=(8, 3))).float()
    model = nn.Linear(3, 4)
    other = moved(model, 0.1)
    samples = Memory(inputs, torch.arange(8) % 4, "classes", 4)
    first, second = compare(other, model, samples, latency=False)
    assert second.agreement is None
    assert first.agreement is not None
    with torch.no_grad():
        distance = float((other(inputs) - model(inputs)).norm() / model(inputs).norm())
    assert first.to_json()["agreement"]["relative_error"] == pytest.approx(distance, rel=1e-5)
    with pytest.raises(EvaluationError, match="where the original returns"):
        Agreement(samples, model).score(nn.Linear(3, 5))
