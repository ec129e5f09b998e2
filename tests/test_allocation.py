"""One price for the whole network, against brute force, dynamic programming and another solver."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from scipy.optimize import Bounds as Box
from scipy.optimize import LinearConstraint, milp

from rmt_compress.errors import PlanError, SettingsError
from rmt_compress.layers import Layer
from rmt_compress.planning.allocation import SCALINGS, Choices, PriceCurve, most_harmful
from rmt_compress.planning.choices import Bounds, choices
from rmt_compress.planning.costs import MultiplyAdds, Parameters, Seconds
from rmt_compress.planning.price_record import curve_of_record, curve_record
from rmt_compress.planning.times import ShapeTimes
from tests.samples.times import table_of


def linear(rows, columns, name="fc"):
    return Layer(name, f"{name}.weight", "linear", (rows, columns), "float32")


def spectrum(p, rng, decay=1.0):
    return np.sort(rng.random(p) * np.exp(-decay * np.arange(p) / p))[::-1]


def layers(rng, count=4, bounds=None):
    """Of different shapes and scales."""
    found = []
    for number in range(count):
        rows, columns = rng.integers(5, 14, 2).tolist()
        values = spectrum(min(rows, columns), rng, decay=3.0) * 10 ** rng.uniform(-1, 1)
        layer = linear(rows, columns, f"fc{number}")
        found.append(choices(layer, [values], Parameters(1.0), bounds or Bounds()))
    return found


def rough(rng, count, width):
    """Choices whose points lie on no concave curve."""
    found = []
    for number in range(count):
        costs = np.sort(rng.choice(np.arange(1, 80), width, replace=False)).astype(float)
        losses = np.sort(rng.random(width))[::-1]
        dense = float(costs[-1] + rng.integers(1, 60))
        found.append(Choices(f"l{number}", np.arange(1, width + 1), costs, losses, dense, 1.2, dense))
    return found


def gain_of(curve, allocation):
    total = 0.0
    for layer, gains in zip(curve.layers, curve.gains, strict=True):
        rank = allocation.ranks[layer.tensor]
        place = len(layer.ranks) if rank is None else layer.ranks.tolist().index(rank)
        total += float(gains[place])
    return total


def best_gain(curve, budget):
    """By looking at every network there is."""
    points = [
        list(zip(layer.points[0], gains, strict=True))
        for layer, gains in zip(curve.layers, curve.gains, strict=True)
    ]
    affordable = [each for each in product(*points) if sum(cost for cost, _ in each) <= budget * (1 + 1e-12)]
    return max(sum(gain for _, gain in each) for each in affordable)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_at_every_step_of_the_price_no_network_is_better(scaling, rng):
    curve = PriceCurve(layers(rng), scaling)
    for budget in curve.breakpoints():
        found = curve.at_cost(float(budget))
        assert found.cost == pytest.approx(budget)
        assert gain_of(curve, found) == pytest.approx(best_gain(curve, float(budget)), rel=1e-9)


@pytest.mark.parametrize("kind", (layers, rough))
def test_between_two_steps_it_is_one_step_from_the_best(kind, rng):
    given = layers(rng, 3) if kind is layers else rough(rng, 3, 9)
    curve = PriceCurve(given, "absolute")
    steps = np.diff([gain_of(curve, curve.at_cost(float(budget))) for budget in curve.breakpoints()])
    for budget in np.linspace(curve.least, curve.most, 60):
        found = curve.at_cost(float(budget))
        assert found.cost <= budget * (1 + 1e-9)
        best = best_gain(curve, float(budget))
        assert best - steps.max() - 1e-9 <= gain_of(curve, found) <= best + 1e-9


def test_another_solver_finds_no_more(rng):
    """The same choice as an integer program, for twelve layers of choices on no concave curve."""
    given = rough(rng, 12, 15)
    curve = PriceCurve(given, "absolute")
    costs, gains = (
        np.concatenate(parts) for parts in zip(*((x.points[0], x.gains("absolute")) for x in given), strict=True)
    )
    owner = np.repeat(np.arange(len(given)), [len(x.points[0]) for x in given])
    one_each = LinearConstraint((owner[None] == np.arange(len(given))[:, None]).astype(float), 1, 1)
    shortfalls = []
    for share in (0.3, 0.45, 0.6, 0.8):
        budget = curve.least + share * (curve.most - curve.least)
        within = LinearConstraint(costs[None], -np.inf, budget)
        solved = milp(-gains, constraints=[one_each, within], integrality=np.ones(len(costs)), bounds=Box(0, 1))
        found = curve.at_cost(budget)
        assert found.cost <= budget * (1 + 1e-9)
        shortfalls.append(-solved.fun - gain_of(curve, found))
    assert min(shortfalls) > -1e-6
    assert max(shortfalls) < 0.1  # of some 10; a step is worth up to 1.2
    exact = float(curve.breakpoints()[len(curve.breakpoints()) // 2])
    within = LinearConstraint(costs[None], -np.inf, exact + 1e-9)
    solved = milp(-gains, constraints=[one_each, within], integrality=np.ones(len(costs)), bounds=Box(0, 1))
    assert gain_of(curve, curve.at_cost(exact)) == pytest.approx(-solved.fun, abs=1e-6)


def test_dynamic_programming_agrees_at_the_steps(rng):
    """Whole costs, so that a table over all budgets holds every optimum."""
    given = rough(rng, 6, 10)
    curve = PriceCurve(given, "absolute")
    best = np.full(int(curve.most) + 1, -np.inf)
    best[0] = 0.0
    for layer in given:
        new = np.full(len(best), -np.inf)
        for cost, gain in zip(layer.points[0].astype(int), layer.gains("absolute"), strict=True):
            if cost < len(best):
                new[cost:] = np.maximum(new[cost:], best[: len(best) - cost] + gain)
        best = new
    best = np.maximum.accumulate(best)
    for budget in curve.breakpoints():
        assert gain_of(curve, curve.at_cost(float(budget))) == pytest.approx(best[round(budget)])


@pytest.mark.parametrize("scaling", SCALINGS)
def test_more_money_buys_no_less(scaling, rng):
    curve = PriceCurve(layers(rng, 6), scaling)
    found = [curve.at_cost(float(budget)) for budget in curve.breakpoints()]
    assert all(after.cost > before.cost for before, after in pairwise(found))
    gains = [gain_of(curve, each) for each in found]
    assert all(after > before for before, after in pairwise(gains))
    assert [each.price for each in found[1:]] == sorted((each.price for each in found[1:]), reverse=True)
    assert curve.at_cost(curve.least / 2).cost == curve.least
    assert set(curve.at_cost(10 * curve.most).ranks.values()) == {None}


def test_a_price_is_what_a_budget_comes_to(rng):
    curve = PriceCurve(layers(rng), "absolute")
    middle = curve.at_cost(float(curve.breakpoints()[7]))
    assert curve.at_price(middle.price * (1 - 1e-9)).ranks == middle.ranks
    assert curve.at_price(np.inf).cost == curve.least
    for layer in curve.layers:  # each takes its own best at this price
        worth = layer.gains("absolute") - middle.price * (1 - 1e-9) * layer.points[0]
        rank = middle.ranks[layer.tensor]
        place = len(layer.ranks) if rank is None else layer.ranks.tolist().index(rank)
        assert worth[place] == pytest.approx(worth.max())


def test_scalings_differ_as_they_are_defined(rng):
    loud, quiet = (linear(40, 40, name) for name in ("loud", "quiet"))
    values = spectrum(40, rng, 4.0)
    given = [
        choices(layer, [values * scale], Parameters(1.0), Bounds()) for layer, scale in ((loud, 10.0), (quiet, 1.0))
    ]
    ranks = {scaling: PriceCurve(given, scaling).at_cost(1600.0).ranks for scaling in SCALINGS}
    shares = {name: [each["loud.weight"] or 20, each["quiet.weight"] or 20] for name, each in ranks.items()}
    assert shares["relative"][0] == shares["relative"][1] == shares["uniform"][0] == shares["uniform"][1] == 10
    assert shares["absolute"][0] > shares["tempered"][0] > shares["relative"][0]


def test_balanced_costs_what_lies_between_relative_and_uniform(rng):
    given = [
        choices(linear(300, 200, f"fc{n}"), [spectrum(200, rng, decay)], Parameters(1.0), Bounds())
        for n, decay in enumerate((1.0, 9.0, 60.0))
    ]
    for share in (0.2, 0.5, 0.8):
        curves = [PriceCurve(given, scaling) for scaling in ("relative", "uniform", "balanced")]
        ranks = [[rank or 120 for rank in c.at_cost(share * 180_000).ranks.values()] for c in curves]
        assert ranks[2] == pytest.approx(np.mean(ranks[:2], axis=0), abs=2)
        assert max(abs(a - b) for a, b in zip(*ranks[:2], strict=True)) > 10


def test_uniform_keeps_one_share_of_every_layer(rng):
    shapes = ((300, 500), (400, 400), (900, 120))
    given = [
        choices(linear(*shape, str(n)), [spectrum(min(shape), rng)], Parameters(1.0), Bounds())
        for n, shape in enumerate(shapes)
    ]
    found = PriceCurve(given, "uniform").at_cost(0.4 * sum(rows * columns for rows, columns in shapes))
    for (rows, columns), rank in zip(shapes, found.ranks.values(), strict=True):
        assert rank * (rows + columns) / (rows * columns) == pytest.approx(0.4, abs=0.01)


def test_losses_are_the_energies_cut_off(rng):
    values = [spectrum(12, rng), spectrum(12, rng)]
    layer = Layer("e", "e", "stack", (2, 12, 30), "float32")
    found = choices(layer, values, Parameters(1.0), Bounds())
    assert found.ranks.tolist() == list(range(1, 9))  # 2·9·42 is more than 2·12·30
    expected = [0.5 * sum((each[rank:] ** 2).sum() for each in values) for rank in found.ranks]
    np.testing.assert_allclose(found.losses, expected, rtol=1e-6)
    assert found.costs.tolist() == [84 * rank for rank in found.ranks]
    assert (found.dense, found.total) == (
        720,
        pytest.approx(0.5 * sum((each**2).sum() for each in values), rel=1e-6),
    )


def test_bounds_hold(rng):
    values, layer = [spectrum(40, rng)], linear(40, 60)

    def given(**bounds):
        return choices(layer, values, Parameters(1.0), Bounds(**bounds))

    assert given(multiple=8).ranks.tolist() == [8, 16]
    assert given(least=10).ranks.tolist() == list(range(10, 24))
    assert given(least=30).ranks.tolist() == []  # no such cut is smaller
    assert given(least=30).dense == 2400
    assert given(most=5).ranks.tolist() == [1, 2, 3, 4, 5]
    assert given(most=5).dense is None
    assert given(share=0.5).ranks.tolist() == list(range(1, 13))
    assert given(share=0.5).dense is None
    assert given(most=3, multiple=8).ranks.tolist() == [8]


def test_multiply_adds_are_counted_at_every_position(rng):
    values = spectrum(20, rng)
    here, there = (linear(20, 20, name) for name in ("here", "there"))
    cost = MultiplyAdds({"here.weight": 100.0, "there.weight": 1.0}, 1.0)
    given = [choices(layer, [values], cost, Bounds()) for layer in (here, there)]
    assert given[0].costs.tolist() == [100 * 40 * rank for rank in given[0].ranks]
    found = PriceCurve(given, "absolute").at_cost(0.5 * 400 * 101)
    assert found.ranks["there.weight"] is None
    assert found.ranks["here.weight"] is not None


def test_seconds_are_interpolated_and_never_slower_than_dense(rng):
    layer = linear(64, 64)
    times = {8: 0.5, 16: 0.75, 24: 2.25, 32: 1.5}  # at 32 it has as many weights as before
    seconds = Seconds(table_of({"fc.weight": (2.0, times)}, 4.0, scale=2.0))
    found = seconds.factors(layer, np.array([4, 8, 12, 16, 22, 24, 26, 28, 32, 40]))
    np.testing.assert_allclose(found, [np.inf, 1.0, 1.25, 1.5, 3.75, np.inf, np.inf, 3.75, 3.0, np.inf])
    given = choices(layer, [spectrum(64, rng)], seconds, Bounds())
    assert (given.costs < 4.0).all()
    assert set(given.ranks.tolist()) == {*range(8, 23), *range(27, 32)}
    # A rank that is both slower and worse than another is never chosen.
    curve = PriceCurve([given], "absolute")
    assert {curve.at_cost(float(cost)).ranks["fc.weight"] for cost in np.linspace(1, 4, 50)} <= {
        None,
        *range(8, 23),
        31,
    }
    nothing = choices(linear(64, 32, "other"), [spectrum(32, rng)], seconds, Bounds())
    assert (len(nothing.ranks), nothing.dense) == (0, 0.0)
    for scaling in SCALINGS:
        assert PriceCurve([given, nothing], scaling).at_cost(4.0).ranks == {"fc.weight": None, "other.weight": None}
    with pytest.raises(SettingsError, match="is not above 0"):
        table_of({"fc.weight": (0.0, {})}, 1.0)
    with pytest.raises(SettingsError, match="2 ranks and 1 times"):
        ShapeTimes("Linear", ("fc.weight",), 1.0, (1, 2), (1.0,))


def test_the_most_harmful_layers_are_those_that_may_be_dense_again(rng):
    given = layers(rng, 5)
    found = PriceCurve(given, "absolute").at_cost(0.0)
    order = sorted(found.losses, key=found.losses.get, reverse=True)
    assert most_harmful(given, found, 2) == order[:2]
    bound = [replace(layer, dense=None) if layer.tensor == order[0] else layer for layer in given]
    assert most_harmful(bound, found, 2) == order[1:3]


@pytest.mark.parametrize("kind", ("parameters", "seconds", "multiples"))
def test_a_curve_comes_back_from_its_record_as_it_was(kind, rng):
    if kind == "parameters":
        given = layers(rng)
    elif kind == "multiples":
        given = layers(rng, bounds=Bounds(multiple=2, most=4))
    else:
        times = {rank: 1.0 + rank / 10 + (rank == 12) for rank in range(1, 30)}
        seconds = Seconds(table_of({"fc.weight": (3.0, times)}, 3.0))
        given = [choices(linear(64, 64), [spectrum(64, rng)], seconds, Bounds())]
    curve = PriceCurve(given, "tempered")
    record = curve_record(curve, unit="parameters", whole=1234.0, fixed=34.0)
    again, whole, fixed = curve_of_record(record)
    assert (whole, fixed, again.scaling) == (1234.0, 34.0, "tempered")
    for budget in np.linspace(curve.least, curve.most, 40):
        assert again.at_cost(float(budget)) == curve.at_cost(float(budget))


def test_a_damaged_record_is_one_line(rng):
    record = curve_record(PriceCurve(layers(rng), "tempered"), unit="parameters", whole=1234.0, fixed=34.0)
    first = next(iter(record["layers"]))
    wrong = (
        record | {"scaling": "odd"},
        record | {"layers": {first: record["layers"][first] | {"losses": "AAAA!"}}},
        record | {"layers": {first: record["layers"][first] | {"ranks": [1, 10**12, 1]}}},
        record | {"layers": 3},
        {},
    )
    for each in wrong:
        with pytest.raises(PlanError, match=r"^the curve in the plan is damaged \(.*\); plan the network anew$"):
            curve_of_record(each)
