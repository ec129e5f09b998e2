"""Language modelling against transformers' own losses and a plain loop."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from rmt_compress.data.samples import Batch
from rmt_compress.errors import EvaluationError
from rmt_compress.networks.tasks.language import CausalLanguage, MaskedLanguage
from tests.samples.memory import Memory


class Bigrams(nn.Module):
    """Logits of the next token that depend on the last one alone."""

    def __init__(self, vocabulary):
        super().__init__()
        self.table = nn.Embedding(vocabulary, vocabulary)

    def forward(self, tokens):
        return self.table(tokens)


def text(tokens):
    return Memory(tokens, targets="tokens")


def test_causal_loss_by_a_plain_loop(rng):
    tokens = torch.from_numpy(rng.integers(0, 17, (11, 9)))
    model = Bigrams(17).requires_grad_(False)
    score = CausalLanguage(text(tokens)).score(model, batch_size=4)
    total = right = 0.0
    for row in tokens:
        for before, after in itertools.pairwise(row):
            logits = model.table.weight[before].double()
            total -= float(logits.log_softmax(0)[after])
            right += float(logits.argmax() == after)
    assert score.details["tokens"] == 88
    assert score.value == score.loss == pytest.approx(total / 88, rel=1e-9)
    assert score.details["token_accuracy"] == pytest.approx(right / 88)
    assert score.details["perplexity"] == pytest.approx(math.exp(total / 88))
    counts = torch.bincount(tokens[:, 1:].flatten()).double() / 88
    assert score.guess == pytest.approx(float(-(counts * counts.log()).nansum()))


def test_padding_and_unasked_places_do_not_count(rng):
    tokens = torch.from_numpy(rng.integers(0, 17, (5, 9)))
    mask = torch.ones_like(tokens)
    mask[1:, 6:] = 0
    padded = torch.where(mask == 1, tokens, 3)
    labels = padded.clone()
    labels[0, :4] = -100

    class Masked(Bigrams):
        def forward(self, input_ids, attention_mask):
            assert attention_mask.shape == input_ids.shape
            return {"logits": self.table(input_ids)}

    model = Masked(17).requires_grad_(False)
    given = {"input_ids": padded, "attention_mask": mask}
    score = CausalLanguage(Memory(given, labels, "tokens")).score(model, batch_size=2)
    logits = model.table(padded)[:, :-1].flatten(0, 1).double()
    wanted = labels.masked_fill(mask == 0, -100)[:, 1:].flatten()
    assert score.loss == pytest.approx(float(functional.cross_entropy(logits, wanted)), rel=1e-9)
    assert score.details["tokens"] == int((wanted >= 0).sum())


def test_loss_of_a_transformers_model_is_its_own(rng):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config).eval()
    tokens = torch.from_numpy(rng.integers(0, 31, (6, 12)))
    score = CausalLanguage(text(tokens)).score(model)
    with torch.no_grad():
        outputs = model(tokens, labels=tokens)
    assert score.loss == pytest.approx(float(outputs.loss), rel=1e-5)
    assert model.config.use_cache
    task = CausalLanguage(text(tokens))
    assert float(task.loss(outputs, Batch(tokens, None))) == pytest.approx(float(outputs.loss), rel=1e-5)


def test_encoder_and_decoder_read_one_half_and_are_asked_the_other(rng):
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=31, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    tokens = torch.from_numpy(rng.integers(1, 31, (6, 12)))
    score = CausalLanguage(text(tokens), halves=True).score(model)
    with torch.no_grad():
        logits = model(input_ids=tokens[:, :6], decoder_input_ids=tokens[:, 6:]).logits
    expected = functional.cross_entropy(logits[:, :-1].flatten(0, 1).double(), tokens[:, 7:].flatten())
    assert score.loss == pytest.approx(float(expected), rel=1e-6)


def test_what_the_data_name_for_the_decoder_is_what_it_gets(rng):
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=31, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    first, second = (torch.from_numpy(rng.integers(1, 31, (6, length))) for length in (9, 5))
    mask = torch.arange(5) < torch.tensor([5, 5, 3, 5, 2, 5])[:, None]
    named = {"input_ids": first, "decoder_input_ids": second, "decoder_attention_mask": mask.long()}
    with torch.no_grad():
        logits = model(**named).logits
    asked = second[:, 1:].masked_fill(~mask[:, 1:], -100)
    expected = functional.cross_entropy(logits[:, :-1].flatten(0, 1).double(), asked.flatten())
    score = CausalLanguage(Memory(named, targets="tokens"), halves=True).score(model)
    assert score.loss == pytest.approx(float(expected), rel=1e-6)


def test_masked_tokens_are_the_same_whatever_the_batches(rng):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    model = transformers.BertForMaskedLM(config).eval()
    tokens = torch.from_numpy(rng.integers(1, 30, (40, 25)))
    task = MaskedLanguage(text(tokens), mask=30)
    one, many = task.score(model, batch_size=40), task.score(model, batch_size=3)
    assert one.loss == pytest.approx(many.loss, rel=1e-6)
    assert one.details["tokens"] == many.details["tokens"]
    assert 0.11 < one.details["tokens"] / tokens.numel() < 0.19
    batch = Batch(tokens, None)
    masked = task.inputs(batch) == 30
    with torch.no_grad():
        logits = model(tokens.masked_fill(masked, 30)).logits.double()
    assert one.loss == pytest.approx(float(functional.cross_entropy(logits[masked], tokens[masked])), rel=1e-6)
    # Another seed masks others, and every window has one.
    other = MaskedLanguage(text(tokens), mask=30, seed=1).inputs(batch) == 30
    assert (other != masked).any()
    assert masked.any(1).all()


def test_what_is_no_language_model_is_one_line(rng):
    tokens = torch.from_numpy(rng.integers(0, 17, (3, 5)))
    with pytest.raises(EvaluationError, match="no language model"):
        CausalLanguage(text(tokens)).score(
            nn.Embedding(17, 4).requires_grad_(False) and nn.Sequential(nn.Embedding(17, 4), nn.Flatten())
        )
    with pytest.raises(EvaluationError, match="vocabulary of 8"):
        CausalLanguage(text(tokens % 8 + 8)).score(nn.Embedding(17, 8))
    with pytest.raises(EvaluationError, match="no token of it can be asked"):
        CausalLanguage(text(tokens[:, :1])).score(Bigrams(17))
