import pytest

from rmt_compress.errors import SettingsError
from rmt_compress.networks.calibration_settings import CalibrationSettings
from rmt_compress.networks.tasks.drops import allowed_drop
from rmt_compress.networks.tasks.task import ACCURACY, Metric
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.pruning.budgeted import Request

LOSS = Metric("loss", "nats per token", higher_is_better=False)


@pytest.mark.parametrize(
    ("text", "metric", "drop"),
    [("0.5", ACCURACY, 0.005), ("0.5%", ACCURACY, 0.005), ("0.5", LOSS, 0.5), ("2%", LOSS, 0.04), ("0", LOSS, 0)],
)
def test_points_of_a_share_and_numbers_or_percentages_of_all_else(text, metric, drop):
    assert allowed_drop(text, metric, -2.0 if metric is LOSS else 0.9) == pytest.approx(drop)


@pytest.mark.parametrize("text", ["-1", "much", "inf", "nan", "%"])
def test_what_is_no_drop_is_refused(text):
    with pytest.raises(SettingsError, match="max-drop is a number of points"):
        allowed_drop(text, LOSS, 2.0)


def test_a_budget_of_no_number_is_refused_before_anything_is_measured():
    with pytest.raises(SettingsError, match="got 'x'"):
        Request(BudgetSettings(), CalibrationSettings(), max_drop="x")
