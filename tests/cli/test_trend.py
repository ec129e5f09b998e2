"""Several states of one network, set side by side."""

import csv
import json

import pytest
import torch
from safetensors.torch import save_file

import rmt_compress as rmt
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.analysis.trend import QUANTITIES, analyze_states, short_names
from rmt_compress.checkpoints.directories import states_in
from rmt_compress.errors import CheckpointError
from rmt_compress.reporting.trend_plots import trend_figure
from tests.samples.command_line import one_error_line


def state(spikes, size=64):
    """A layer of noise with so many spikes, one that stays noise, and a bias."""
    noise = torch.randn(size, 100)
    left, right = (torch.linalg.qr(torch.randn(n, max(spikes, 1)))[0][:, :spikes] for n in (size, 100))
    return {
        "fc1.weight": noise + 60 * left @ right.T,
        "fc2.weight": torch.randn(48, size),
        "fc1.bias": torch.ones(3),
    }


@pytest.fixture
def folder(tmp_path):
    """Three states in which one layer gains spikes; by the alphabet the last would be the second."""
    made = tmp_path / "states"
    made.mkdir()
    for epoch, spikes in ((0, 0), (2, 2), (10, 5)):
        save_file(state(spikes), made / f"epoch{epoch}.safetensors")
    return made


def test_a_trend_says_of_each_state_what_its_own_analysis_does(folder):
    paths = [folder / f"epoch{epoch}.safetensors" for epoch in (0, 2, 10)]
    seen = []
    trend = analyze_states(paths, AnalysisSettings(beta=0.01), progress=lambda *each: seen.append(each))
    assert trend.names == ("epoch0", "epoch2", "epoch10")
    assert [layer.name for layer in trend.layers] == ["fc1", "fc2"]
    assert trend.layers[0].series("spikes") == (0, 2, 5)
    for place, path in enumerate(paths):
        alone = rmt.analyze(path, beta=0.01).analyzed
        for quantity in QUANTITIES:
            together = [layer.series(quantity)[place] for layer in trend.layers]
            assert together == [QUANTITIES[quantity](layer) for layer in alone]
    assert (2, 2, "epoch10: fc2") in seen


def test_layers_that_are_not_everywhere_are_named_with_the_state_that_lacks_them():
    whole, without, broken = state(1), state(1), state(1)
    del without["fc2.weight"]
    broken["fc1.weight"][0, 0] = torch.nan
    trend = analyze_states([whole, without], names=["a", "b"])
    assert trend.missing == {"fc2": "b: there is no such layer"}
    assert [layer.name for layer in trend.layers] == ["fc1"]
    assert "NaN" in analyze_states([broken, whole], names=["a", "b"]).missing["fc1"]
    with pytest.raises(CheckpointError, match=r"share no layer.*fc1 \(b: there is no such layer"):
        analyze_states([whole, {"other.weight": torch.randn(64, 64)}], names=["a", "b"])
    with pytest.raises(CheckpointError, match="b is another network than a: fc1 is 80×100 in it and 64×100 there"):
        analyze_states([whole, state(1, size=80)], names=["a", "b"])
    with pytest.raises(ValueError, match="two states at least"):
        analyze_states([whole])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["run/epoch1.pt", "run/epoch2.pt"], ("epoch1", "epoch2")),
        (["run/1/model.pt", "run/2/model.pt"], ("1/model", "2/model")),
        (["a.pt", "a.safetensors"], ("a.pt", "a.safetensors")),
        (["x/step.1", "x/step.2"], ("step.1", "step.2")),
        (["a.pt", "a.pt"], ("a", "a")),
        (["/tmp/a.pt", "b.pt"], ("/tmp/a", "b")),
    ],
)
def test_names_without_what_all_paths_share(paths, names):
    assert short_names(paths) == names


def test_a_folder_of_states_is_told_from_one_checkpoint(folder, tmp_path):
    assert [path.name for path in states_in(folder)] == [f"epoch{n}.safetensors" for n in (0, 2, 10)]
    save_file(state(0), folder / "model.safetensors")
    assert states_in(folder) == []
    for step in (1000, 500):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file(state(0), tmp_path / f"checkpoint-{step}" / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    found = [path.name for path in states_in(tmp_path)]
    assert found == ["checkpoint-500", "checkpoint-1000", "states"]


@pytest.mark.slow
def test_the_command_shows_writes_and_draws_them(run, folder, tmp_path):
    result = run("analyze", folder, "--csv", tmp_path / "t.csv", "--plots", tmp_path / "drawn")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "epoch0 → epoch10, 3 states"
    assert max(map(len, lines)) <= 100
    row = next(line for line in lines if "fc1" in line)
    assert "0 → 5/64" in row
    assert "▁▄█" in row
    assert "noise → mixed" in row
    assert "1 with more spikes at the end" in result.stdout
    assert result.stderr.startswith(f"next: rmt-compress analyze {folder / 'epoch10.safetensors'}")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(each["name"], each["state"], each["spikes"]) for each in rows[:3]] == [
        ("fc1", "epoch0", "0"),
        ("fc1", "epoch2", "2"),
        ("fc1", "epoch10", "5"),
    ]
    assert (tmp_path / "drawn" / "trend.png").read_bytes().startswith(b"\x89PNG")


def test_json_of_two_networks(run, folder):
    first, last = folder / "epoch0.safetensors", folder / "epoch10.safetensors"
    result = run("analyze", last, "--against", first, "--json")
    report = json.loads(result.stdout)
    assert report == json.loads(json.dumps(analyze_states([first, last]).to_json()))
    assert report["schema"] == "rmt-compress/trend/1"
    assert [each["name"] for each in report["states"]] == ["epoch0", "epoch10"]
    assert report["layers"][0]["verdict"] == ["noise", "mixed"]


def test_what_cannot_be_set_side_by_side_is_one_line(run, folder, tmp_path):
    first = folder / "epoch0.safetensors"
    assert "--against is for one checkpoint" in one_error_line(run("analyze", folder, "--against", first))
    assert "--sort and --group" in one_error_line(run("analyze", folder, "--group"))
    assert "no such file" in one_error_line(run("analyze", first, "--against", tmp_path / "none.pt"))
    assert "the output is the input" in one_error_line(run("analyze", folder, "--csv", first, "--force"))
    damaged = state(1)
    damaged["fc2.weight"][0, 0] = torch.inf
    save_file(damaged, folder / "epoch11.safetensors")
    result = run("analyze", folder)
    assert result.returncode == 2
    assert "warning: epoch11: fc2.weight skipped" in result.stderr


def test_the_picture_colours_what_changed_most_and_stands_at_the_numbers():
    states = [state(spikes) for spikes in (0, 3, 3)]
    for number in range(9):
        for each in states:
            each[f"more.{number}.weight"] = torch.randn(40, 40)
    figure = trend_figure(analyze_states(states, names=["step-10", "step-20", "step-100"]))
    spikes, edge, *_ = figure.axes
    lines = {line.get_label(): line for line in spikes.lines}
    assert list(lines["fc1"].get_xdata()) == [10, 20, 100]
    assert list(lines["fc1"].get_ydata()) == pytest.approx([0, 300 / 64, 300 / 64])
    assert [line.get_ydata()[0] for line in edge.lines] == pytest.approx([1] * len(edge.lines))
    assert [text.get_text() for text in figure.legends[0].texts][-1] == "3 more, which changed less"
    assert spikes.get_xlabel() == "step"
