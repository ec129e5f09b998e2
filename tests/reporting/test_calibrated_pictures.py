"""The calibrated spectrum of a layer, drawn from a plan's curve of prices."""

import numpy as np
import pytest

from rmt_compress.plan import LayerDecision, Plan
from rmt_compress.planning.allocation import Choices, PriceCurve
from rmt_compress.planning.price_record import curve_record
from rmt_compress.reporting.html.calibrated_picture import calibrated_pictures

VALUES = np.geomspace(3.0, 1e-3, 90)


def planned(ranks, *, kept=12, basis="two-sided", values=VALUES):
    """A plan of one layer with these singular values, whose curve has these ranks."""
    losses = np.array([0.5 * np.sum(values[rank:] ** 2) for rank in ranks])
    layer = Choices("w", np.array(ranks), 1.0 * np.array(ranks), losses, 200.0, 0.5 * np.sum(values**2), 200.0)
    decision = LayerDecision(
        name="w", tensor="w", kind="linear", shape=(90, 90), action="factorized" if kept else "kept", rank=kept
    )
    curve = curve_record(PriceCurve([layer], "tempered"), unit="parameters", whole=200.0, fixed=0.0)
    return Plan(layers=(decision,), basis=basis, curve=curve)


def test_directions_are_worth_half_the_squares_of_their_singular_values():
    drawn, words = calibrated_pictures(planned(range(1, 71)))["w"]
    places, worth = map(np.array, zip(*drawn["points"], strict=True))
    assert (places[0], places[-1]) == (1, 70)
    assert len(places) <= 64
    # Losses are kept in single precision, of which neighbours are subtracted.
    assert worth == pytest.approx(0.5 * VALUES[places - 1] ** 2, rel=6e-3, abs=1e-6)
    assert "4.5 for the first" in words
    assert "the first 12 are kept" in words


def test_between_ranks_further_apart_stands_their_mean():
    drawn, words = calibrated_pictures(planned([8, 16, 24], kept=None, basis="input"))["w"]
    means = [0.5 * np.mean(VALUES[end - 8 : end] ** 2) for end in (8, 16, 24)]
    assert [y for _, y in drawn["points"]] == pytest.approx(means, rel=6e-3)
    assert drawn["kept"] is None
    assert "energy of the outputs" in drawn["worth"]
    assert "all are kept" in words


@pytest.mark.parametrize("plan", (planned([1, 2], basis="plain"), planned([1]), planned([1, 2], values=0 * VALUES)))
def test_there_is_none_without_calibration_or_without_two_directions(plan):
    assert calibrated_pictures(plan) == {}
