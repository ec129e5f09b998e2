"""What agreement on made-up inputs is said to promise of real samples."""

import json

import pytest

from rmt_compress.networks.calibration.made_up import SAMPLED_TEXT, SPIKED_NOISE
from rmt_compress.networks.tasks.agreement import COSINE, SAME_ANSWER
from rmt_compress.networks.tasks.task import Score
from rmt_compress.pruning.prediction import ACCURACY, FLOOR, TEXT, predicted
from tests.samples.repository import REPOSITORY


@pytest.mark.parametrize(("kind", "ratio"), ((SPIKED_NOISE, ACCURACY), (SAMPLED_TEXT, TEXT)))
def test_the_ratios_are_those_of_the_committed_measurements(kind, ratio, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "experiments"))
    experiment = __import__("self_calibration")
    path = REPOSITORY / "experiments" / "data" / "self_calibration.json"
    cuts = experiment.cuts_of(json.loads(path.read_text(encoding="utf-8")), kind)
    assert (ratio.low, ratio.middle, ratio.high) == pytest.approx(experiment.quantiles(cuts), abs=0.005)
    assert (ratio.cuts, ratio.networks) == (len(cuts), len({cut.network for cut in cuts}))


def test_a_prediction_is_the_ratio_times_what_changed():
    note, record = predicted(Score("agreement", SAME_ANSWER, 0.98, 0.01, 256), SPIKED_NOISE)
    assert record["likely"] == pytest.approx(ACCURACY.middle * (0.02 + FLOOR))
    assert record["low"] <= record["likely"] <= record["high"]
    assert f"accuracy falls by {100 * record['likely']:.1f} points" in note
    assert "98.0% of the answers" in note
    note, record = predicted(Score("agreement", SAME_ANSWER, 0.9, 0.05, 8), SAMPLED_TEXT)
    assert record["likely"] == pytest.approx(0.05 * TEXT.middle)
    assert "the loss rises by" in note


def test_of_embeddings_nothing_was_measured():
    assert predicted(Score("agreement", COSINE, 0.98, None, 8), SAMPLED_TEXT) is None


@pytest.mark.parametrize("kind", ("inputs fitted to the statistics of the batch norms", "random tokens"))
def test_of_networks_of_other_kinds_nothing_is_said(kind):
    assert predicted(Score("agreement", SAME_ANSWER, 0.98, 0.01, 256), kind) is None
