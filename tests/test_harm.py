"""What the harm of a cut can be told from: the run on embedded data, its table, and how rules are judged."""

import json

import numpy as np
import pytest

from tests.samples.repository import REPOSITORY

EXPERIMENTS = REPOSITORY / "experiments"
DATA = EXPERIMENTS / "data"


@pytest.fixture
def rules(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return __import__("harm_rules")


def cuts(rng, rules, tells):
    """Lines of 8 networks of 10 cuts; half of them cost 5 %, and `tells` gives their removed energy."""
    lines = []
    for number in range(8):
        lines.append({"network": f"net{number}", "cut": "none", "loss": 1.0, "guess": 3.0})
        for layer in range(10):
            harmful = layer % 2
            about = dict.fromkeys(
                ("gof", "gof_null", "equalized_gof", "alpha", "stable_rank", "p", "n", "bulk_energy"), 1.0
            )
            about |= {"norm_over_edge": 1.0, "kind": "linear", "place": 0.5, "layers": 10}
            about |= {"removed": tells(harmful, rng), "loss": 1.0 + 0.1 * harmful}
            lines.append({"network": f"net{number}", "cut": "edge", **about})
    return rules.Table.of(lines, ("edge",))


def error(rules, table, rule):
    everywhere = np.ones(table.harm.size, dtype=bool)
    return rules.balanced_error(table, rules.left_out(table, rule, 0.01), 0.01, everywhere)


def test_harm_is_the_share_of_what_was_learned(rules):
    assert rules.harm_of({"loss": 1.5}, {"loss": 1.0, "guess": 3.0}) == pytest.approx(0.25)


@pytest.mark.parametrize("sign", (1, -1))
def test_a_feature_that_tells_makes_no_error(rng, rules, sign):
    table = cuts(rng, rules, lambda harmful, rng: 0.5 + sign * (0.3 * harmful - 0.15) + 0.05 * rng.random())
    assert error(rules, table, "removed energy") == 0
    assert error(rules, table, "removed energy & fit error") == 0
    assert rules.chosen_rule(table, 0.01, np.ones(80, dtype=bool)) == "removed energy"
    said, chosen = rules.nested(table, 0.01)
    assert set(chosen) == {"removed energy"}
    assert (said == (table.harm >= 0.01)).all()


def test_a_feature_of_chance_is_no_better_than_a_coin(rng, rules):
    table = cuts(rng, rules, lambda _, rng: rng.random())
    said = rules.left_out(table, "removed energy", 0.01)
    low, high = rules.spread(table, said, 0.01)
    assert low < error(rules, table, "removed energy") < high
    assert high > 0.5
    # A constant calls all of them the same.
    assert error(rules, table, "fit error") == pytest.approx(0.5)


def test_what_is_left_out_does_not_decide(rng, rules):
    """A network in which the feature tells the opposite is told wrong, and changes none of the others' rules."""
    table = cuts(rng, rules, lambda harmful, rng: 0.2 + 0.6 * harmful + 0.01 * rng.random())
    mine = table.networks == "net3"
    logs = table.logs["removed energy"]
    logs[mine] = np.where(table.harm[mine] > 0.01, np.log(0.1), np.log(0.9))
    said = rules.left_out(table, "removed energy", 0.01)
    assert (said[mine] != (table.harm[mine] >= 0.01)).all()
    assert error(rules, table, "removed energy") == pytest.approx(1 / 8)


def test_logistic_regression_agrees_with_scikit_learn(rng, rules):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x = rng.standard_normal((200, 2))
    harmful = x @ [2.0, -1.0] + rng.standard_normal(200) > 0.3
    weights = rng.random(200)
    found = rules.logistic(x, harmful, weights)
    # scikit-learn's penalty is ½‖w‖²/C, without the constant.
    other = linear_model.LogisticRegression(C=1 / 0.01, tol=1e-10).fit(x, harmful, weights)
    np.testing.assert_allclose(found, [*other.coef_[0], other.intercept_[0]], rtol=1e-4)


@pytest.mark.slow
def test_quick_run_measures_goes_on_and_draws(python, tmp_path):
    done = python.run(EXPERIMENTS / "harm.py", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "harm.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["network"] for row in rows if row["cut"] == "none"] == ["barely", "decayed", "images"]
    cut = [row for row in rows if row["cut"] == "edge" and row["network"] == "images"]
    assert {row["layer"] for row in cut} > {"blocks.0.attention.query", "blocks.0.down"}
    assert all(0 < row["removed"] < 1 for row in cut)
    assert "| *chosen* |" in (tmp_path / "harm.md").read_text(encoding="utf-8")
    assert (tmp_path / "harm.png").read_bytes().startswith(b"\x89PNG")
    # What a run that was broken off had not measured yet is measured the same, from the networks it kept.
    (tmp_path / "harm.jsonl").write_text("\n".join(lines[:-3]) + "\n", encoding="utf-8")
    assert python.run(EXPERIMENTS / "harm.py", "--quick", "--out", tmp_path).returncode == 0
    again = (tmp_path / "harm.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in again] == [
        {**row, "loss": pytest.approx(row["loss"], rel=1e-5)} for row in rows
    ]


@pytest.mark.slow
def test_quick_run_does_not_overwrite_the_results(python):
    done = python.run(EXPERIMENTS / "harm.py", "--quick")
    assert done.returncode == 2
    assert "add --out" in done.stderr


@pytest.mark.slow
def test_the_committed_table_is_that_of_the_committed_numbers(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    rows = __import__("harm").read(DATA / "harm.jsonl")
    assert len({row["network"] for row in rows}) >= 8
    assert (DATA / "harm.md").read_text(encoding="utf-8") == __import__("harm_tables").markdown(rows)
