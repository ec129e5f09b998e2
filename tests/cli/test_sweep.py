"""`rmt-compress sweep` as a user types it."""

import csv
import json
import shutil

import numpy as np
import pytest
from safetensors.torch import save_file

from rmt_compress.networks.architectures import build
from tests.samples.command_line import one_error_line
from tests.samples.pages import Page
from tests.samples.repository import DIGITS

KINDS = ("rank", "share", "sparsity")


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copy(DIGITS, tmp_path / "digits.safetensors")


@pytest.mark.slow
@pytest.mark.traced
def test_everything_with_the_defaults(run, checkpoint, tmp_path):
    result = run("sweep", "--data", "digits", "--points", "2", "--limit", "50", "--report", "r.html")
    assert result.returncode == 0, result.stderr
    assert "taking digits.safetensors" in result.stderr
    assert "rank.png, share.png, sparsity.png" in result.stderr
    assert all(len(line) <= 100 for line in result.stdout.splitlines())
    for words in (
        "Singular values of one layer",
        "fc1",
        "by rank rule",
        "bema",
        "gd14",
        "low rank, then magnitude",
    ):
        assert words in result.stdout
    folder = tmp_path / "digits.sweep"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{kind}.{suffix}" for kind in KINDS for suffix in ("csv", "json", "png")
    )
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert "Within 0.5 points, the smallest network that was tried keeps" in page.text
    for kind, chart in zip(KINDS, page.data["charts"], strict=True):
        assert (folder / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
        report = json.loads((folder / f"{kind}.json").read_text())
        assert report["kind"] == kind
        assert report["samples"] == 50
        with (folder / f"{kind}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert rows[0]["curve"] == "original"
        assert float(rows[0]["accuracy"]) == pytest.approx(report["accuracy"])
        points = [point for curve in report["curves"] for point in curve["points"]]
        assert [p["accuracy"] for p in points] == [p[1] for each in chart["series"] for p in each["points"]]
        predicted = [curve["predicted"]["accuracy"] for curve in report["curves"] if curve["predicted"]]
        assert [point[1] for point in chart["chosen"]] == predicted
        assert len(rows) == 1 + len(points)
        assert [float(row["accuracy"]) for row in rows[1:]] == pytest.approx([p["accuracy"] for p in points])
    again = run("sweep", checkpoint, "--data", "digits")
    assert "rank.csv: exists already" in one_error_line(again)
    forced = run(
        "sweep", checkpoint, "--data", "digits", "--points", "2", "--limit", "20", "--what", "share", "--force"
    )
    assert forced.returncode == 0, forced.stderr


def test_one_layer_as_json(run, checkpoint, tmp_path):
    arguments = ["--what", "rank", "--layer", "fc2", "--points", "2", "--limit", "30", "-o", "out", "--json"]
    result = run("sweep", checkpoint, "--data", "digits", *arguments)
    assert result.returncode == 0, result.stderr
    (sweep,) = json.loads(result.stdout)["sweeps"]
    (curve,) = sweep["curves"]
    assert curve["name"] == "fc2"
    assert curve["points"][0]["amount"] == 1
    assert curve["predicted"] in curve["points"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["rank.csv", "rank.json", "rank.png"]


def test_bad_input_is_one_line(run, checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    save_file(build("mlp:64,10").state_dict(), tmp_path / "tiny.safetensors")
    cases = [
        (["--layer", "fc9"], "no layer is called 'fc9'"),
        (["--rules", "bema,best"], "'best' is none of"),
        (["-o", "file"], "file: "),
        (["-o", "no/where"], "does not exist"),
        (["--arch", "mlp:64,10"], "fc1.weight is 512×64, not 10×64"),
        (["--gof", "7"], "gof must lie between 0 and 1"),
    ]
    for arguments, words in cases:
        what = "share" if "--rules" in arguments else "rank"
        result = run("sweep", checkpoint, "--data", "digits", "--limit", "10", "--what", what, *arguments)
        assert words in one_error_line(result), words
    assert not (tmp_path / "digits.sweep").exists()
    assert run("sweep", checkpoint).returncode == 2
    nothing = run("sweep", "tiny.safetensors", "--data", "digits", "--arch", "mlp:64,10")
    assert "none of its layers can be cut" in one_error_line(nothing, status=1)


@pytest.mark.slow
@pytest.mark.traced
def test_shrunk_cuts(run, checkpoint, tmp_path):
    result = run(
        "sweep", checkpoint, "--data", "digits", "--what", "share", "--points", "2", "--shrink", "frobenius"
    )
    assert result.returncode == 0, result.stderr
    assert "what is kept shrunk (frobenius)" in result.stdout
    report = json.loads((tmp_path / "digits.sweep" / "share.json").read_text())
    assert report["shrink"] == "frobenius"
    pruned = run("prune", checkpoint, "--shrink", "frobenius", "-o", "s.safetensors")
    assert pruned.returncode == 0, pruned.stderr
    evaluated = run("evaluate", "s.safetensors", "--data", "digits", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert report["curves"][0]["predicted"]["accuracy"] == pytest.approx(
        json.loads(evaluated.stdout)["model"]["accuracy"]
    )


def test_budgets_take_no_shrinking(run, checkpoint):
    result = run("sweep", checkpoint, "--data", "digits", "--what", "budget", "--shrink", "nuclear")
    assert "--shrink cannot be combined with budgets" in one_error_line(result)


def test_budgets_by_metric(run, checkpoint, tmp_path):
    words = ("sweep", checkpoint, "--data", "digits", "--what", "budget", "--points", "2", "--limit", "60")
    result = run(*words, "--calibration-samples", "40", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    (sweep,) = report["sweeps"]
    assert (sweep["kind"], sweep["samples"], sweep["parameters"]) == ("budget", 60, 301_066)
    curves = {(curve["name"], curve["measure"]): curve for curve in sweep["curves"]}
    assert {name for name, _ in curves} == {"plain", "input", "two-sided", "edge"}
    assert {measure for _, measure in curves} == {"keep", "macs", "latency"}
    assert all(len(curve["points"]) == (1 if name == "edge" else 2) for (name, _), curve in curves.items())
    assert "40 samples of digits (calibration)" in result.stderr
    assert "each network was asked 60 samples of the test part" in result.stderr
    assert sorted(path.name for path in (tmp_path / "digits.sweep").iterdir()) == [
        "budget.csv",
        "budget.json",
        "budget.png",
    ]
    # Without moments of its own it reads those of a plan, whose inputs the network makes itself.
    plan = ("prune", checkpoint, "--keep", "0.3", "--search", "one", "--save-moments", "m", "--dry-run")
    assert run(*plan).returncode == 0
    again = run(*words, "--force", "--moments", "m", "--calibrate", "self")
    assert again.returncode == 0, again.stderr
    for words in ("All layers, within budgets", "two-sided, multiply-adds", "edge, time", "at once"):
        assert words in again.stdout


def test_calibration_belongs_to_the_budget_sweep(run, checkpoint):
    given = ("sweep", checkpoint, "--data", "digits", "--calibrate", "self", "--moments", "m")
    assert "--calibrate, --moments needs the budget sweep: add --what budget" in one_error_line(run(*given))


@pytest.mark.slow
@pytest.mark.traced
def test_statistics_are_renewed_where_that_is_asked(run, tmp_path):
    model = build("cnn:1x8x8/40,48,p/64,10", seed=1)
    metadata = {"architecture": "cnn:1x8x8/40,48,p/64,10"}
    save_file(dict(model.state_dict()), tmp_path / "cnn.safetensors", metadata=metadata)
    asks = ("sweep", "cnn.safetensors", "--data", "digits", "--what", "share", "--rules", "ratio", "--points", "2")
    for folder, more in (("left", ()), ("renewed", ("--repair", "statistics", "--calibration-samples", "60"))):
        result = run(*asks, *more, "-o", folder)
        assert result.returncode == 0, result.stderr
    left, renewed = (json.loads((tmp_path / name / "share.json").read_text()) for name in ("left", "renewed"))
    assert left["accuracy"] == renewed["accuracy"]
    points = [[point["accuracy"] for point in each["curves"][0]["points"]] for each in (left, renewed)]
    assert points[0] != points[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--repair", "blocks"), "repair blocks takes minutes for one network"),
        (("--calibration-samples", "9"), "add --repair statistics"),
    ],
)
def test_what_a_sweep_cannot_repair_is_refused(run, checkpoint, options, words):
    assert words in one_error_line(run("sweep", checkpoint, "--data", "digits", *options))


@pytest.mark.slow
def test_layers_of_a_class_with_other_names_are_called_as_in_the_file(run, tmp_path):
    """A Vision Transformer in transformers 5."""
    pytest.importorskip("transformers", minversion="5")
    from tests.samples.transformers_models import built

    built("vit").save_pretrained(tmp_path / "vit")
    images = np.random.default_rng(0).normal(size=(16, 3, 16, 16)).astype("f")
    np.savez(tmp_path / "images.npz", x=images, y=np.arange(16) % 3)
    query = "vit.encoder.layer.1.attention.attention.query"
    sweep = ("sweep", "vit", "--data", "array:images.npz", "--points", "2", "--json", "--force")
    result = run(*sweep, "--what", "rank", "--layer", query)
    assert result.returncode == 0, result.stderr
    (curve,) = json.loads(result.stdout)["sweeps"][0]["curves"]
    assert curve["name"] == query
    line = one_error_line(run(*sweep, "--what", "rank", "--layer", "vit.layers.9"))
    assert query in line
    result = run(*sweep, "--what", "budget")
    assert result.returncode == 0, result.stderr
    points = [point for each in json.loads(result.stdout)["sweeps"][0]["curves"] for point in each["points"]]
    assert any(query in point["ranks"] for point in points)
