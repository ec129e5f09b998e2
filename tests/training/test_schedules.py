import math

import pytest

from rmt_compress.training.schedules import learning_rate, retained_share, share_left, threshold


def test_learning_rates():
    assert [learning_rate("constant", 0.1, 5)(epoch) for epoch in (1, 5)] == [0.1, 0.1]
    stepped = learning_rate("step:0.96,4", 0.02, 40)
    assert [stepped(epoch) for epoch in (1, 4, 5, 8, 9)] == pytest.approx(
        [0.02, 0.02, 0.0192, 0.0192, 0.018432], rel=1e-12
    )
    cosine = learning_rate("cosine", 1.0, 4)
    assert [cosine(epoch) for epoch in (1, 2, 3, 4)] == pytest.approx(
        [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]
    )


def test_shares_of_the_papers():
    # BSSZ24's code: 1 − epoch/200; SJK23: 0.45 at every cut.
    assert [retained_share("slope:0.005", (7, 14, 21))(epoch) for epoch in (7, 14, 21)] == pytest.approx(
        [0.965, 0.93, 0.895]
    )
    assert retained_share("slope:0.5", (1, 3))(3) == 0
    assert retained_share("0.45", (3, 6))(6) == 0.45


def test_share_falls_evenly_to_nothing_at_the_last_cut():
    share = retained_share("auto", (0, 2, 4, 6))
    assert [share(epoch) for epoch in (0, 2, 4, 6)] == [0.75, 0.5, 0.25, 0]


def test_a_list_of_shares_goes_cut_by_cut_and_its_last_one_stays():
    share = retained_share("0.6,0.3", (2, 4, 6))
    assert [share(epoch) for epoch in (2, 4, 6)] == [0.6, 0.3, 0.3]


def test_ways_to_a_budget():
    cuts = (0, 2, 4)
    for way, shares in {
        "geometric": (0.5, 0.25, 0.125),
        "linear": (1 - 0.875 / 3, 1 - 2 * 0.875 / 3, 0.125),
        "once": (0.125, 0.125, 0.125),
    }.items():
        share = share_left(way, 1.0, 0.125, cuts)
        assert [share(epoch) for epoch in cuts] == pytest.approx(shares)
        assert share(4) == 0.125
    assert share_left("geometric", 0.5, 0.125, cuts[:2])(0) == pytest.approx(0.25)
    # What is small enough already is cut no further than asked.
    assert share_left("geometric", 0.1, 0.5, cuts)(0) == 0.5
    with pytest.raises(ValueError, match="geometric, linear, once"):
        share_left("cubic", 1.0, 0.1, cuts)


def test_threshold_rises_evenly_from_first_to_last_epoch():
    rising = threshold("0.001:0.02", 20)
    assert (rising(1), rising(20)) == pytest.approx((0.001, 0.02))
    assert rising(2) - rising(1) == pytest.approx(0.001)
    assert threshold("0.01", 20)(7) == 0.01
    assert threshold("0.01:0.02", 1)(1) == 0.01


@pytest.mark.parametrize(
    ("schedule", "spec"),
    [
        *((learning_rate, spec) for spec in ("", "linear", "step:0.9", "step:0.9,0.5", "step:-1,2", "cosine:3")),
        *((retained_share, spec) for spec in ("", "1.5", "0.3,nan", "slope:0", "slope:1,2", "auto:1", "-0.1")),
        *((threshold, spec) for spec in ("", "-1", "0.1:", "a:b", "inf", "0.1:0.2:0.3", "0.1,0.2")),
    ],
)
def test_what_is_no_schedule_is_refused(schedule, spec):
    arguments = {learning_rate: (spec, 0.1, 3), retained_share: (spec, (1,)), threshold: (spec, 3)}[schedule]
    with pytest.raises(ValueError, match="must be"):
        schedule(*arguments)
