"""What is said of a setting on its line: range, choices, words of the messages."""

from dataclasses import dataclass
from typing import Literal, get_args

import pytest

from rmt_compress import plan
from rmt_compress.analysis.noise_models import ALL, NOISE_MODELS
from rmt_compress.analysis.settings import LEAST_FLIPPED_BETA, Flips, Noise, Quantiles
from rmt_compress.cli import prune, sweep
from rmt_compress.errors import SettingsError
from rmt_compress.settings.declaring import setting
from rmt_compress.settings.validation import problems_of, refuse
from rmt_compress.spectrum import QUANTILE_RULES
from rmt_compress.spectrum.sign_flips import FLIP_RULES, flips_for
from rmt_compress.sweep import SWEEP_KINDS
from rmt_compress.training import reallocation
from rmt_compress.training import settings as training_settings


@pytest.mark.parametrize(
    ("within", "inside", "outside", "words"),
    (
        ("(0, 0.5)", (0.1, 0.4999), (0, 0.5, -1), "must lie between 0 and 0.5"),
        ("[0.000001, 1]", (1e-6, 1), (0, 1.1), "must lie between 0.000001 and 1"),
        ("[0, 1)", (0, 0.9), (1, -0.1), "must lie in [0, 1)"),
        ("[0, inf)", (0, 1e300), (-1, float("inf")), "must be 0 or more"),
        ("[1, inf)", (1, 10**30), (0,), "must be at least 1"),
        ("(0, inf]", (0.1, float("inf")), (0, -1), "must be above 0"),
    ),
)
def test_a_number_lies_in_its_interval_or_is_told_where(within, inside, outside, words):
    @dataclass
    class Toy:
        big_share: float | None = setting(None, within=within)

    assert not any(problems_of(Toy(value)) for value in (*inside, None))
    assert all(problems_of(Toy(value)) == [f"big-share {words}, got {value:g}"] for value in outside)
    assert problems_of(Toy(float("nan"))) == [f"big-share {words}, got nan"]


def test_names_words_and_choices_may_be_given():
    @dataclass
    class Toy:
        seed: int = setting(0, within="[0, inf)", called="the seed", said="is a whole number from 0")
        mode: Literal["slow", "fast"] = setting("slow")

    assert problems_of(Toy()) == []
    assert problems_of(Toy(-1000000, "lazy")) == [
        "the seed is a whole number from 0, got -1000000",
        "mode must be slow or fast, got 'lazy'",
    ]


def test_problems_are_raised_together_and_each_once():
    refuse([])
    with pytest.raises(SettingsError) as raised:
        refuse(["one", "two", "one"])
    assert raised.value.problems == ("one", "two")


def test_the_choices_that_are_written_down_twice_are_the_same():
    """Where importing the first would keep `--help` waiting."""
    assert get_args(Quantiles) == QUANTILE_RULES
    assert get_args(Flips) == FLIP_RULES
    assert get_args(Noise) == (*NOISE_MODELS, ALL)
    assert get_args(training_settings.MaskBudget) == get_args(reallocation.MaskBudget)
    flips_for(LEAST_FLIPPED_BETA)
    with pytest.raises(ValueError, match="sign flips resolve"):
        flips_for(LEAST_FLIPPED_BETA * 0.99)
    assert get_args(prune.Layout) == get_args(plan.Layout)
    assert get_args(sweep.What) == (*SWEEP_KINDS, "all")
