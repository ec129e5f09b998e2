"""When a network is a wreck."""

import math

import pytest

from rmt_compress.networks.tasks.task import ACCURACY, Metric, Score
from rmt_compress.networks.wreck import against_original, chance_margin, trained, wreck


@pytest.mark.parametrize(
    ("score", "original", "higher", "found"),
    [
        (0.54, 0.97, True, None),
        (0.5625, 1.025, True, None),  # just as near to both
        (0.534, 0.97, True, "nearer to guessing"),
        (0.02, 0.97, True, "nearer to guessing"),
        (1.0, 0.97, True, None),
        (1.5, 0.3, False, "nearer to guessing"),
        (9.0, 0.3, False, "nearer to guessing"),
        (0.86, 0.3, False, "nearer to guessing"),
        (0.84, 0.3, False, None),
        (0.05, 0.3, False, None),
        (math.nan, 0.97, True, "no number"),
        (math.inf, 0.3, False, "no number"),
    ],
)
def test_nearer_to_guessing_than_to_the_original(score, original, higher, found):
    guess = 0.1 if higher else 1.4
    words = wreck(score, guess=guess, original=original, higher_is_better=higher)
    assert (words is None) == (found is None)
    assert found is None or found in words


def test_without_an_original_only_guessing_is_a_wreck():
    assert wreck(0.11, guess=0.1) is None
    assert wreck(0.11, guess=0.1, margin=0.02) == "accuracy 11.00% is no better than guessing (10.00%)"
    assert wreck(2.31, guess=2.3, higher_is_better=False, name="loss", shown="{:.2f}".format) == (
        "loss 2.31 is no better than guessing (2.30)"
    )
    assert wreck(2.2, guess=2.3, higher_is_better=False) is None


def test_an_original_that_guesses_proves_nothing():
    assert wreck(0.0, guess=0.1, original=0.1, margin=0.03) is None
    assert against_original(answered(0.08), answered(0.12)) is None


def answered(accuracy, guess=0.1):
    return Score("classification", ACCURACY, accuracy, None, 1000, guess)


def test_scores_of_tasks():
    assert against_original(answered(0.08), answered(0.9)) == (
        "accuracy 8.00% is nearer to guessing (10.00%) than to the original (90.00%)"
    )
    nats = Metric("loss", "nats per token", higher_is_better=False)

    def read(value, guess=4.2):
        return Score("causal", nats, value, value, 1000, guess)

    assert against_original(read(1.2), read(0.9)) is None
    assert against_original(read(3.0), read(0.9)) == (
        "loss 3.0000 is nearer to guessing (4.2000) than to the original (0.9000)"
    )
    # Where nothing says what guessing gives, nothing is said.
    assert against_original(read(9.0, guess=None), read(0.9, guess=None)) is None


def test_guessing_is_to_name_the_largest_class():
    assert trained([0.9], 0.9, 1000, ACCURACY) is not None
    assert trained([0.9], 0.5, 1000, ACCURACY) is None
    assert trained([0.9], None, 1000, ACCURACY) is None


def test_what_training_ends_with():
    assert trained([0.1, 0.9, 0.95], 0.1, 1000, ACCURACY) is None
    assert trained([0.1, 0.11, 0.12], 0.1, 1000, ACCURACY) == "accuracy 12.00% is no better than guessing (10.00%)"
    nats = Metric("loss", "nats per token", higher_is_better=False)
    assert trained([4.2, 1.5, 1.0], 4.2, 100, nats) is None
    assert "than to the best on the way (1.0000)" in (trained([4.2, 1.0, 3.0], 4.2, 100, nats) or "")
    assert "than to the best on the way (95.00%)" in (trained([0.1, 0.95, 0.3], 0.1, 1000, ACCURACY) or "")


def test_the_margin_is_what_a_guess_may_reach(rng):
    # Of 20,000 networks that guess, one in a thousand passes three standard errors.
    for samples in (100, 1000):
        hits = rng.binomial(samples, 0.1, size=20_000) / samples
        assert (hits - 0.1 > chance_margin(0.1, samples)).mean() < 0.005
