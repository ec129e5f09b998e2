"""`prune` within a budget of a network without room in --max-memory: calibrated block after block, not asked."""

import json

import pytest
from safetensors.torch import save_file

from rmt_compress.networks.loading import load_model
from rmt_compress.networks.streamed import block_by_block
from rmt_compress.pruning import unasked_calibration
from tests.samples.command_line import one_error_line
from tests.samples.learners import LEARNERS, llama
from tests.samples.seeds import repeatable
from tests.samples.transformers_models import built, logits

WORDS = ("prune", "llama.safetensors", "--arch", f"{LEARNERS}:llama", "--max-memory", "2GB", "--min-size", "12")


@pytest.fixture
def no_room(monkeypatch, tmp_path):
    """No network fits, and there are one and a text."""
    for module in (block_by_block, unasked_calibration):
        monkeypatch.setattr(module, "fits_whole", lambda checkpoint, max_memory: False)
    save_file(repeatable(llama)().state_dict(), tmp_path / "llama.safetensors")
    (tmp_path / "text.txt").write_text("All that is known of a spike is where it stands. " * 40)


@pytest.mark.usefixtures("no_room")
def test_it_is_cut_in_calibrated_directions_and_unverified(run, tmp_path):
    words = ("--keep", "0.5", "--calibrate", "text:text.txt", "--sequence-length", "16", "--save-moments", "m")
    done = run(*WORDS, *words, "--dry-run", "--save-plan", "plan.json", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["verified"], found["metric"]) == ("unverified", "two-sided")
    assert found["budget"]["reached"]["keep"] <= 0.5
    (note,) = (line for line in done.stderr.splitlines() if "block after block" in line)
    assert "of text:text.txt" in note
    assert "since the network has no room twice in max-memory 2 GB" in note
    # What was measured serves once more, and needs no inputs.
    again = run(*WORDS, "--keep", "0.5", "--moments", "m", "--dry-run", "--save-plan", "again.json")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.json").read_text() == (tmp_path / "plan.json").read_text()


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize(("family", "cut"), (("mixtral", "experts.1.w2"), ("t5", "EncDecAttention.k")))
def test_folders_of_experts_and_of_encoder_and_decoder(run, tmp_path, family, cut):
    pytest.importorskip("transformers", minversion="5")
    built(family, vocab_size=256).save_pretrained(tmp_path / family)
    words = ("--keep", "0.5", "--calibrate", "text:text.txt", "--sequence-length", "16", "--save-moments", "m")
    done = run("prune", family, "-o", "small", *words, "--max-memory", "2GB", "--min-size", "12", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["verified"], found["metric"]) == ("unverified", "two-sided")
    assert found["budget"]["reached"]["keep"] <= 0.5
    actions = {layer["name"]: layer["action"] for layer in found["layers"] if cut in layer["name"]}
    assert len(actions) == 2
    assert "factorized" in actions.values()
    assert logits(load_model(tmp_path / "small"), family).isfinite().all()


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--keep", "0.5"), "makes no inputs then: name some, as --calibrate text:FILE"),
        (("--keep", "0.5", "--data", "text:text.txt"), "data: the network has no room twice in max-memory 2 GB"),
        (("--macs", "0.5"), "macs needs all of it, and the network has no room twice"),
        (("--keep", "0.5", "--repair", "blocks"), "repair needs all of it, and the network has no room twice"),
        (("--max-drop", "1"), "max-drop needs all of it, and the network has no room twice"),
    ],
)
def test_what_needs_the_whole_network(run, words, says):
    assert says in one_error_line(run(*WORDS, *words, "-o", "small.safetensors"))
