"""The reproductions of published examples still run, on embedded data, and write table, picture and numbers."""

import csv
import json

import numpy as np
import pytest

import rmt_compress as rmt
from rmt_compress.spectrum.bulk import equalized_law
from tests.samples.repository import REPOSITORY

EXPERIMENTS = REPOSITORY / "experiments"
RESULTS = EXPERIMENTS / "data" / "reproduction"
# What the table of each must say: the published figure, and an arm of ours.
EXAMPLES = {
    "bssz24_mnist": ("BSSZ24, pruned | 98.5 %", "ours, no final ReLU, normal"),
    "budgeted_cycles": ("digits, edge", "digits, two-sided, geometric"),
    "cifar10_network": ("BSSZ24 4.7 | slightly below normal", "ours, fit errors up to 0.3"),
    "convolutional_networks": ("normal | pruned", "ours, digits"),
    "dead_outputs": ("classes lost", "f = 0.5, 0.3"),
    "fashion_regularization": ("pruning, L1+L2 | 90.5 %", "nothing | 71.6 %"),
    "gradient_descent": ("test loss", "gradient descent, pruned"),
    "initializations": ("begins | not cut", "sparse |"),
    "overlaps": ("short side", "40 × 40"),
    "noise_over_width": ("1/N² | 2 | 100", "‖Rν‖₂/‖Wν‖₂"),
    "noisy_regression": ("error to the target", "f falling to 0"),
    "sjk23_deep": ("SJK23 4.6, pruned | 98.6 %", "ours, pruned"),
    "sjk23_one_layer": ("SJK23 4.1 | ≈ 98 % | 92 %", "ours, seed 0"),
    "sjk23_splitting": ("SJK23 4.3, pruned | 97.5 %", "ours, recursive"),
    "sparsification": ("95% removed", "ours, low rank, during"),
    "synthetic_spikes": ("SJK23 | 0.25", "midpoint | 0.25 | 0.1"),
    "two_clusters": ("theory | 80", "of 3,000"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_quick_run_sets_ours_beside_the_published(name, python, tmp_path):
    done = python.run(EXPERIMENTS / f"{name}.py", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    for part in EXAMPLES[name]:
        assert part in text
    assert f"({name}.png)" in text
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert numbers["scale"] == "quick"


@pytest.mark.parametrize("name", [name for name in EXAMPLES if (RESULTS / f"{name}.json").exists()])
def test_committed_tables_are_those_of_the_committed_numbers(name, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    example = __import__(name).EXAMPLE
    numbers = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert numbers["scale"] in {"small", "full"}  # what fits a CPU is there at its full size
    assert (RESULTS / f"{name}.md").read_text(encoding="utf-8") == example.markdown(numbers)


@pytest.mark.slow
def test_quick_run_does_not_overwrite_the_results(python):
    done = python.run(EXPERIMENTS / "synthetic_spikes.py", "--quick")
    assert done.returncode == 2
    assert "add --out" in done.stderr


def test_the_table_of_calibrated_cuts_is_that_of_its_numbers(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    numbers = json.loads((EXPERIMENTS / "data" / "calibrated_cuts.json").read_text(encoding="utf-8"))
    table = (EXPERIMENTS / "data" / "calibrated_cuts.md").read_text(encoding="utf-8")
    assert table == __import__("calibrated_cuts").markdown(numbers)
    assert "two-sided tempered" in table


@pytest.mark.slow
@pytest.mark.parametrize("name", ("max_drop", "self_calibration"))
def test_quick_run_of_budgets(name, python, tmp_path):
    words = ("digits",) if name == "self_calibration" else ()
    done = python.run(EXPERIMENTS / f"{name}.py", *words, "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    if name == "max_drop":
        found = numbers["pairs"]["digits 1"]["0"]
        # Of 180 samples two more that are wrong are more than a point.
        assert found["drop"] < 0.02
        assert found["held"] == (found["drop"] <= 0.01)
        assert found["evaluations"] <= 20
        assert numbers["same plan"] == {"digits 1": True}
        assert f"{found['held']:d} of 1 budgets were kept" in text
    else:
        cuts = numbers["digits"]["seeds"]["0"]["cuts"]
        assert all(cut["score"] > 0.95 and cut["agreement"] < 1 for cut in cuts)
        assert "## What agreement says" in text
    done = python.run(EXPERIMENTS / f"{name}.py", *words, "--quick")
    assert done.returncode == 2
    assert "add --out" in done.stderr


@pytest.mark.slow
def test_quick_run_of_choosing_rules(python, tmp_path):
    words = (EXPERIMENTS / "choosing_rules.py", "--quick", "--seeds", "1", "--out", tmp_path)
    done = python.run(*words)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "choosing_rules.jsonl"
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(each["keep"], len(each["rules"]), len(each["left"])) for each in records] == [
        (0.5, 15, 15),
        (0.2, 15, 15),
    ]
    chosen = [each["chosen"].values() for each in records]
    assert all(0 <= place < 15 for ways in chosen for places in ways for place in places)
    # What is known is not asked again.
    assert python.run(*words).returncode == 0
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2


def test_the_table_of_choosing_rules_is_that_of_its_numbers(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    lines = (EXPERIMENTS / "data" / "choosing_rules.jsonl").read_text(encoding="utf-8").splitlines()
    table = (EXPERIMENTS / "data" / "choosing_rules.md").read_text(encoding="utf-8")
    assert table == __import__("choosing_rules").markdown([json.loads(line) for line in lines])


@pytest.mark.parametrize("name", ("fitted_noise", "graph_chain", "max_drop", "self_calibration"))
def test_the_tables_of_budgets_are_those_of_their_numbers(name, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    numbers = json.loads((EXPERIMENTS / "data" / f"{name}.json").read_text(encoding="utf-8"))
    table = (EXPERIMENTS / "data" / f"{name}.md").read_text(encoding="utf-8")
    assert table == __import__(name).markdown(numbers)


def test_the_table_of_noise_models_is_that_of_its_numbers(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    lines = (EXPERIMENTS / "data" / "noise_models.jsonl").read_text(encoding="utf-8").splitlines()
    tables = __import__("noise_models").tables([json.loads(line) for line in lines])
    assert (EXPERIMENTS / "data" / "noise_models.md").read_text(encoding="utf-8") == tables
    page = (REPOSITORY / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert all(table.strip() in page for table in tables.split("\n\n"))


@pytest.mark.slow
def test_a_quick_run_of_noise_models(python, tmp_path):
    done = python.run(EXPERIMENTS / "noise_models.py", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "noise_models.jsonl").read_text(encoding="utf-8").splitlines()]
    false = {(row["noise"], row["model"]): row["false"] for row in rows if row["row"] == "rate"}
    assert false["iid", "mp"] < 0.3 < false["scaled", "mp"]
    assert false["scaled", "signflip"] < 0.4
    exact = {(row["noise"], row["model"], row["strength"]): row["exact"] for row in rows if row["row"] == "power"}
    assert exact["gamma", "general", 0.7] < 0.5 < exact["gamma", "general", 3.0]
    assert {row["spread"] for row in rows if row["row"] == "spread"} >= {0.02, 0.5}


def test_evaluate_said_of_trained_networks_what_plain_loops_say():
    """Of all of test.txt and 2,500 images; tests/cli/test_trained_networks.py asks fewer each time."""
    numbers = json.loads((EXPERIMENTS / "data" / "plain_loops.json").read_text(encoding="utf-8"))
    for found in numbers.values():
        assert found["evaluate"] == pytest.approx(found["loop"], abs=1e-6)
    assert numbers["resnet, accuracy"]["images"] == 2500
    assert numbers["language model, nats per token"]["tokens"] > 340_000


def test_the_edge_of_equalized_noise_has_the_simulated_constants(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    lines = (EXPERIMENTS / "data" / "equalized_edge.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    shift, factor = __import__("equalized_edge").fitted(rows)
    for row in rows:
        # Three and a half standard errors of a median, and what a smooth function of the size leaves.
        p, n, allowed = row["p"], row["n"], 4.5 / np.sqrt(row["draws"]) + 0.05
        ours = equalized_law(p, n)
        assert ours == pytest.approx((row["shift"], row["factor"]), abs=allowed)
        size, c = p ** (-1 / 3), p / n
        terms = size * np.array([1, np.sqrt(c), c, size])
        assert ours == pytest.approx((terms @ shift, 1 + terms @ factor), abs=0.002)


@pytest.mark.slow
def test_a_quick_run_of_the_equalized_edge(python, tmp_path):
    done = python.run(EXPERIMENTS / "equalized_edge.py", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "equalized_edge.jsonl").read_text("utf-8").splitlines()]
    assert rows[0]["shift"] > rows[-1]["shift"] - 0.3


def test_the_table_of_many_spikes_is_that_of_its_numbers(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    with (EXPERIMENTS / "data" / "many_spikes.csv").open(encoding="utf-8") as file:
        table = __import__("many_spikes").table(list(csv.reader(file)))
    assert table in (REPOSITORY / "docs" / "statistics.md").read_text(encoding="utf-8")


def test_a_row_of_many_spikes(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    experiment = __import__("many_spikes")
    monkeypatch.setitem(experiment.DRAWS, (50, 50), 4)
    size, spikes, draws, first, *_ = cells = experiment.row(50, 50, 0.3)
    assert (size, spikes, draws, len(cells)) == ("50 × 50", "15", "4", 9)
    assert float(first.rstrip("%")) > 50 > 10 > abs(float(cells[6].rstrip("%")))


@pytest.mark.slow
def test_masks_are_measured_once_and_drawn(python, tmp_path):
    done = python.run(EXPERIMENTS / "masks.py", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "masks.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 8 + 2 + 8 + 4
    table = (tmp_path / "masks.md").read_text(encoding="utf-8")
    assert "digits, share of zeros, one epoch a tenth" in table
    assert (tmp_path / "masks.png").read_bytes().startswith(b"\x89PNG")
    # A run that was broken off measures what is missing.
    del lines[12]
    (tmp_path / "masks.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    again = python.run(EXPERIMENTS / "masks.py", "--quick", "--out", tmp_path)
    assert again.returncode == 0, again.stderr
    *kept, added = (tmp_path / "masks.jsonl").read_text(encoding="utf-8").splitlines()
    assert kept == lines
    assert json.loads(added)["what"] == "form"


def test_the_table_of_masks_is_that_of_its_numbers(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    data = EXPERIMENTS / "data"
    records = [json.loads(line) for line in (data / "masks.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (data / "masks.md").read_text(encoding="utf-8") == __import__("masks").markdown(records)


def test_the_tables_of_spectra_and_of_shrunk_cuts_are_those_of_their_numbers(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    for name in ("spectra_of_networks", "shrunk_cuts"):
        numbers = json.loads((EXPERIMENTS / "data" / f"{name}.json").read_text(encoding="utf-8"))
        assert (EXPERIMENTS / "data" / f"{name}.md").read_text(encoding="utf-8") == __import__(name).markdown(
            numbers
        )


def test_general_bema_says_what_the_program_of_its_authors_says(monkeypatch):
    """KML21's own R program, of which θ stops at 50 and which simulates what we compute."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    program = __import__("kml21_program")
    data = EXPERIMENTS / "data"
    rows = [json.loads(line) for line in (data / "kml21_program.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [(row, program.ours(row)) for row in rows]
    assert all(own["spikes"] == row["spikes"] == 3 for row, own in pairs)
    assert max(abs(own["sigma2"] / row["sigma2"] - 1) for row, own in pairs) < 0.02
    edges = sorted(abs(own["edge"] / row["edge"] - 1) for row, own in pairs)
    assert edges[len(edges) // 2] < 0.06
    assert edges[-1] < 0.13


def test_the_tables_of_certificates_and_of_random_removal_are_those_of_their_numbers(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    data = EXPERIMENTS / "data"
    lines = [json.loads(line) for line in (data / "certificates.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (data / "certificates.md").read_text(encoding="utf-8") == __import__("certificates").markdown(lines)
    found = json.loads((data / "random_removal.json").read_text(encoding="utf-8"))
    assert (data / "random_removal.md").read_text(encoding="utf-8") == __import__("random_removal").markdown(found)


def test_no_committed_certificate_is_violated_and_the_last_layer_is_within_five_points():
    """The Fashion-MNIST perceptron cut at the edge of its last cut layer, on all test samples."""
    lines = (EXPERIMENTS / "data" / "certificates.jsonl").read_text(encoding="utf-8").splitlines()
    found = {line["key"]: line for line in map(json.loads, lines)}
    certified = [line for line in found.values() if "accuracy" in line]
    assert all(line["violations"] == 0 for line in certified)
    assert all(line["accuracy"]["certified"] <= line["accuracy"]["after"] for line in certified)
    last = found["fashion alone fc3 edge"]
    assert last["samples"] == 10_000
    assert last["accuracy"]["after"] - last["accuracy"]["certified"] < 0.05
    search = found["fashion search"]
    assert search["tries"] >= 100_000
    assert search["violations"] == 0
    assert search["of_bound"] <= 1


def test_no_layer_rank_or_sample_is_beyond_its_bound(monkeypatch):
    """All of the committed samples, and the table of them."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    found = json.loads((EXPERIMENTS / "data" / "soundness.json").read_text(encoding="utf-8"))
    assert (EXPERIMENTS / "data" / "soundness.md").read_text("utf-8") == __import__("soundness").markdown(found)
    assert found["fashion"]["samples"] == 10_000
    # Where the run was broken off it says so, and goes on.
    assert all(0 < each["samples"] <= each["of"] for each in found.values())
    rows = [row for each in found.values() for row in each["rows"]]
    assert sum(row["violations"] for row in rows) == 0
    assert all(row["certified"] <= row["kept"] and row["same_certified"] <= row["same"] for row in rows)
    (last,) = (row for row in found["fashion"]["rows"] if row["layer"] == "fc3" and row["edge"])
    assert (last["kept"] - last["certified"]) / last["samples"] < 0.05


@pytest.mark.slow
def test_soundness_asks_what_certify_asks(monkeypatch):
    """Cuts by products of a layer's own output, beside plans that are made and measured."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    certificates, soundness = __import__("certificates"), __import__("soundness")
    *_, sums = soundness.ask("digits", {})
    model = certificates.network("digits")
    layers, question = certificates.cuttable(model), certificates.task("digits", model, 10**6)
    rows = [row for row in sums["rows"] if row["layer"] == "fc2" and row["edge"]]
    rows += [row for row in sums["rows"] if row["layer"] == "fc1" and row["rank"] == 58]
    assert len(rows) == 2
    for row in rows:
        found = rmt.certify(model, certificates.plan_of({row["layer"]: row["rank"]}, layers), question)
        assert found.samples == row["samples"] == sums["of"]
        assert [row[key] / row["samples"] for key in ("kept", "certified", "same", "same_certified")] == [
            *(found.accuracy_after, found.accuracy_certified, found.same_answer, found.same_answer_certified),
        ]
        assert row["lemma"] / row["samples"] == found.bounds["lemma"].accuracy
        assert row["violations"] == 0
        assert 0 < row["closest"] < 1
    # Nothing is asked twice.
    assert list(soundness.ask("digits", sums)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ("certificates", "random_removal"))
def test_a_quick_run_of_certificates(name, python, tmp_path):
    done = python.run(EXPERIMENTS / f"{name}.py", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert "| fc2 | " in text
    assert name == "random_removal" or "0 violations in 1," in text
