"""Tokens per second: what is asked of the networks, and in which order; never how long it took."""

import pytest
import torch

from rmt_compress.errors import EvaluationError, SettingsError
from rmt_compress.networks.generation_speed import GenerationSettings, measure_generation
from tests.samples.transformers_models import built

pytest.importorskip("transformers")


def recorded(model, calls, name):
    """Every call's tokens, and how many were in its cache before."""

    def before(_, args, kwargs):
        cache = kwargs["past_key_values"]
        calls.append((name, tuple(kwargs["input_ids"].shape), 0 if cache is None else cache.get_seq_length()))

    model.register_forward_pre_hook(before, with_kwargs=True)
    return model


def test_prompts_are_read_once_and_every_token_follows_the_cache():
    calls = []
    models = [recorded(built(name), calls, name) for name in ("llama", "gpt2")]
    speeds = measure_generation(models, prompt=5, written=3, batch=2, seconds=0)
    one = [((2, 5), 0), ((2, 1), 5), ((2, 1), 6), ((2, 1), 7)]
    assert len(calls) % (2 * len(one)) == 0
    runs = [calls[start : start + len(one)] for start in range(0, len(calls), len(one))]
    assert [[call[1:] for call in run] for run in runs] == [one] * len(runs)
    # In turns, and each of the two goes first as often as second.
    order = [run[0][0] for run in runs]
    assert order == ["llama", "gpt2", "gpt2", "llama"] * (len(order) // 4)
    for speed in speeds:
        assert (speed.prompt, speed.written, speed.batch) == (5, 3, 2)
        assert min(speed.prefill, speed.decode, speed.first_token_ms) > 0
    assert speeds[0].to_json().keys() >= {"prefill", "decode", "first_token_ms"}


def test_a_prompt_is_no_longer_than_the_network_has_positions():
    (speed,) = measure_generation([built("gpt2")], prompt=1000, written=4, seconds=0)
    assert speed.prompt == 28
    with pytest.raises(SettingsError, match="more tokens than a network has positions for"):
        measure_generation([built("gpt2")], written=32)


def test_the_mode_of_the_network_is_put_back():
    model = built("gpt2").train()
    measure_generation([model], prompt=2, written=1, seconds=0)
    assert model.training


@pytest.mark.parametrize("model", (torch.nn.Linear(3, 3), "bert", "t5"))
def test_networks_that_do_not_write_are_refused(model):
    module = built(model) if isinstance(model, str) else model
    with pytest.raises(EvaluationError, match=rf"^{type(module).__name__}: cannot write text: .*…ForCausalLM"):
        measure_generation([module], prompt=2, written=1)
    with pytest.raises(EvaluationError, match=r"^net\.pt: cannot write text"):
        measure_generation([module], prompt=2, written=1, names=["net.pt"])


def test_all_wrong_counts_are_named():
    with pytest.raises(SettingsError, match=r"prompt is 0.*batch is -1.*models is 0"):
        measure_generation([], prompt=0, batch=-1)


def test_a_prompt_needs_something_to_write():
    with pytest.raises(SettingsError, match=r"prompt is what --generate N reads"):
        GenerationSettings(prompt=3)
    with pytest.raises(SettingsError, match=r"generate must be at least 1.*prompt must be at least 1"):
        GenerationSettings(generate=0, prompt=0)
    assert GenerationSettings(generate=2).prompt is None
