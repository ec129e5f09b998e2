"""Runs within a budget: what they leave, what they say, and what they refuse."""

import json
import math

import pytest

import rmt_compress as rmt
from rmt_compress.analysis import AnalysisSettings
from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration.statistics import renew_statistics
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.reporting.training_table import event_line
from rmt_compress.training import CycleSettings, TrainingSettings, finetune
from rmt_compress.training.event_log import of_kind, read_lines
from tests.samples.repository import DIGITS

QUICK = TrainingSettings(epochs=3, batch_size=64, learning_rate=0.01)
CONVOLUTIONAL = "cnn:1x8x8/16,p,40/64,10"


def within(keep=0.1, **more):
    return CycleSettings(every=2, budget=BudgetSettings(keep=keep), **more)


@pytest.mark.slow
@pytest.mark.traced
def test_the_last_cut_meets_the_budget_and_the_log_says_how(tmp_path):
    out = tmp_path / "small.safetensors"
    result = finetune(DIGITS, out, data="digits", training=QUICK, cycle=within())
    (run,) = result.runs
    assert run.last["parameters"] <= 0.1 * run.first["parameters"]
    assert not result.goal_missed
    assert run.last["test_accuracy"] > 0.9
    assert (
        sum(math.prod(info.shape) for info in rmt.open_checkpoint(out).tensors.values()) == run.last["parameters"]
    )
    first, last = of_kind(read_lines(result.log), "cycle")
    assert first["budget"] == {"keep": pytest.approx(0.1**0.5)}
    assert last["budget"] == run.last["budget"] == {"keep": 0.1}
    assert last["left"]["keep"] == pytest.approx(run.last["parameters"] / run.first["parameters"])
    assert last["rule"] == "two-sided tempered"
    assert "keep 0.1, ranks fc1" in event_line(last)
    report = result.to_json()["runs"][0]
    assert report["left"]["keep"] <= report["budget"]["keep"]
    assert json.loads(rmt.open_checkpoint(out).metadata["finetuned"])["cycle"]["keep"] == 0.1


@pytest.mark.slow
def test_a_network_that_comes_in_factors_goes_on_from_its_size(tmp_path):
    half, less = tmp_path / "half.safetensors", tmp_path / "less.safetensors"
    finetune(DIGITS, half, data="digits", training=QUICK, cycle=within(0.3))
    result = finetune(half, less, data="digits", training=QUICK, cycle=within(0.075))
    cuts = of_kind(result.runs[0].events, "cycle")
    start = result.runs[0].first["parameters"] / 301_066
    assert cuts[0]["budget"]["keep"] == pytest.approx((start * 0.075) ** 0.5)
    assert cuts[1]["left"]["keep"] <= 0.075
    with pytest.raises(SettingsError, match=r"nothing is to be cut: the network that comes is at keep 0\.0"):
        finetune(less, tmp_path / "x.safetensors", data="digits", training=QUICK, cycle=within(0.3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budget", "repair", "renewals"),
    [(0.3, None, 1), (0.3, "none", 0), (None, None, 0), (None, "statistics", 1)],
)
@pytest.mark.traced
def test_statistics_of_batch_norms_are_renewed_on_the_last_steps(tmp_path, monkeypatch, budget, repair, renewals):
    seen = []

    def renewed(model, batches):
        seen.append([len(batch) for batch in batches])
        return renew_statistics(model, batches)

    monkeypatch.setattr("rmt_compress.training.run.renew_statistics", renewed)
    cycle = CycleSettings(
        every=2,
        budget=BudgetSettings(keep=budget),
        analysis=AnalysisSettings(gof=1.0),
        calibration=CalibrationSettings(repair=repair, calibration_samples=200 if renewals else None),
    )
    out = tmp_path / "x.safetensors"
    finetune(None, out, data="digits", arch=CONVOLUTIONAL, training=QUICK, cycle=cycle)
    # 1,437 samples in steps of 64: the last step has 29, and three more make up 200.
    assert seen == [[64, 64, 64, 29]] * renewals


@pytest.mark.slow
@pytest.mark.traced
def test_a_drop_too_large_stops_the_cuts_and_misses_the_budget(tmp_path):
    training = TrainingSettings(epochs=3, learning_rate=1e-6, max_drop="0.2")
    result = finetune(DIGITS, tmp_path / "x.safetensors", data="digits", training=training, cycle=within(0.03))
    (run,) = result.runs
    assert run.last["limit"] == pytest.approx(run.first["test_accuracy"] - 0.002)
    assert "accuracy asked for" in result.goal_missed or "not 0.03: " in result.goal_missed
    assert run.last["left"]["keep"] > 0.03


@pytest.mark.slow
@pytest.mark.traced
def test_once_the_budget_is_met_no_other_cut_comes(tmp_path):
    training = TrainingSettings(epochs=3, learning_rate=0.01)
    cycle = CycleSettings(every=1, budget=BudgetSettings(keep=0.2, metric="plain"), way="once")
    result = finetune(DIGITS, tmp_path / "x.safetensors", data="digits", training=training, cycle=cycle)
    (cut,) = of_kind(result.runs[0].events, "cycle")
    assert cut["epoch"] == 0
    assert cut["rule"] == "plain absolute"


def test_what_goes_with_no_budget_is_refused_before_anything_is_read(tmp_path):
    out = tmp_path / "x.safetensors"
    with pytest.raises(SettingsError, match="max-drop is from the score of a checkpoint"):
        finetune(None, out, data="digits", training=TrainingSettings(max_drop="1"), cycle=within())
    with pytest.raises(SettingsError, match="max-drop is a number of points"):
        TrainingSettings(max_drop="much")
    with pytest.raises(SettingsError, match="min-accuracy and max-drop are two words for one limit"):
        TrainingSettings(max_drop="1", min_accuracy=0.9)
    with pytest.raises(SettingsError, match="min-accuracy and worst-score and max-drop are three words"):
        TrainingSettings(max_drop="1", min_accuracy=0.9, worst_score=1)
    assert not list(tmp_path.iterdir())


def test_training_settings_are_kept_as_before_where_no_drop_is_asked():
    assert "max_drop" not in TrainingSettings().plain()
    assert TrainingSettings(max_drop="2%").plain()["max_drop"] == "2%"
