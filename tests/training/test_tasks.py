"""Training on whatever a network is asked: text, numbers, dictionaries, streams."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.data import DataSettings
from rmt_compress.data.rows import ArrayRows, RowSamples
from rmt_compress.errors import SettingsError
from rmt_compress.networks.architectures import build
from rmt_compress.networks.tasks.language import MaskedLanguage
from rmt_compress.networks.tasks.settings import TaskSettings
from rmt_compress.training import CycleSettings, TrainingSettings, finetune
from rmt_compress.training.event_log import of_kind, read_lines
from rmt_compress.training.feeding import Feed
from rmt_compress.training.finetuning import Listeners, default_output
from rmt_compress.training.optimizers import make_optimizer
from rmt_compress.training.steps import Course, train_epoch
from rmt_compress.training.workers import Workers
from tests.samples.learners import LEARNERS, stream
from tests.samples.memory import Memory

WINDOWS = TaskSettings(data=DataSettings(sequence_length=16))


@pytest.fixture
def text(tmp_path):
    """A text of 50 windows: words that follow one another, so that there is something to learn."""
    path = tmp_path / "book.txt"
    path.write_bytes((b"the cat sat on the mat; the hat sat on the cat. " * 17)[:800])
    return path


def _tuned(tmp_path, data, arch, **more):
    training = more.pop("training", TrainingSettings(epochs=2))
    out = tmp_path / more.pop("out", "x.safetensors")
    arch = f"{LEARNERS}:{arch}"
    return finetune(None, out, data=data, arch=arch, training=training, cycle=more.pop("cycle", None), **more)


@pytest.mark.slow
def test_a_language_model_learns_as_in_a_plain_loop(tmp_path, text):
    """Llama's weights after two epochs are bit for bit those of a loop that calls it as everybody does."""
    pytest.importorskip("transformers")
    training = TrainingSettings(epochs=2, optimizer="adamw", learning_rate=5e-3)
    result = _tuned(tmp_path, f"text:{text}", "llama", asked=WINDOWS, training=training)
    model = build(f"{LEARNERS}:llama", seed=0).train()
    # Two of every eight windows are test, the last ones.
    windows = torch.tensor(list(text.read_bytes())).view(50, 16)[:38]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for epoch in (1, 2):
        order = torch.randperm(38, generator=torch.Generator().manual_seed(epoch * 7919))
        for batch in order.split(8):
            logits = model(windows[batch], use_cache=False).logits
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[batch][:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    written = load_file(tmp_path / "x.safetensors")
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(written[name], value) for name, value in model.state_dict().items())
    (run,) = result.runs
    assert run.last["test_score"] < run.first["test_score"] - 0.5
    assert run.last["test_score"] == run.last["test_loss"]
    assert run.metric.name == "loss"


@pytest.mark.slow
@pytest.mark.traced
def test_a_run_on_text_goes_on_to_the_same_weights(tmp_path, text):
    training = TrainingSettings(epochs=4, learning_rate=0.05)
    cycle = CycleSettings(every=1, sparsify="0.01", analysis=AnalysisSettings(gof=0.5))

    def train(out, **more):
        return _tuned(
            tmp_path, f"text:{text}", "bigrams", asked=WINDOWS, training=training, cycle=cycle, out=out, **more
        )

    def stop(event):
        if event["epoch"] == 3:
            raise KeyboardInterrupt

    whole = train("whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train("broken.safetensors", listeners=Listeners(event=stop))
    again = train("broken.safetensors", resume=True)
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "broken"))
    assert one.keys() == other.keys()
    assert any("down" in name for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)
    scores = [[event["test_score"] for event in result.runs[0].events] for result in (whole, again)]
    assert scores[0] == scores[1]
    assert of_kind(whole.runs[0].events, "cycle")[0]["score_before"] == scores[0][1]


def test_a_state_of_other_windows_is_refused(tmp_path, text):
    def stop(event):
        if event["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _tuned(tmp_path, f"text:{text}", "bigrams", asked=WINDOWS, listeners=Listeners(event=stop))
    other = TaskSettings(data=DataSettings(sequence_length=8))
    with pytest.raises(Exception, match="sequence_length 16, now 8"):
        _tuned(tmp_path, f"text:{text}", "bigrams", asked=other, resume=True)


def test_samples_are_the_number_of_windows(tmp_path, text):
    steps = []
    listeners = Listeners(steps=lambda epoch: lambda done, total: steps.append((epoch, done, total)))
    _tuned(tmp_path, f"text:{text}", "bigrams", asked=WINDOWS, samples=17, listeners=listeners)
    assert steps == [(epoch, done, 3) for epoch in (1, 2) for done in (1, 2, 3)]


@pytest.mark.slow
@pytest.mark.traced
def test_numbers_are_learned_and_the_smallest_network_within_the_limit_kept(tmp_path):
    training = TrainingSettings(epochs=5, batch_size=20, worst_score=2.0)
    cycle = CycleSettings(every=1, analysis=AnalysisSettings(gof=0.9))
    result = _tuned(tmp_path, f"{LEARNERS}:table", "line", training=training, cycle=cycle)
    (run,) = result.runs
    events = read_lines(result.log)
    assert "test_accuracy" not in events[0]
    assert "accuracy_before" not in of_kind(events, "cycle")[0]
    assert events[0]["score"] == {"name": "mean square error", "unit": "", "higher_is_better": False}
    first, last = run.first["test_score"], run.last["test_score"]
    assert last <= 2.0 < first
    assert not result.goal_missed
    reached = [event for event in of_kind(events, "epoch") if event["test_score"] <= 2.0]
    assert run.last["parameters"] == min(event["parameters"] for event in reached) < run.first["parameters"]
    smallest = [event["test_score"] for event in reached if event["parameters"] == run.last["parameters"]]
    assert last == min(smallest)
    assert run.last["reason"].endswith("the smallest network of mean square error 2.0000 or less was kept")
    report = run.to_json()
    assert report["score"]["value"] == last
    assert "test_accuracy" not in report
    assert set(load_file(tmp_path / "x.safetensors"))


def test_a_limit_that_is_not_reached_is_said_in_the_metrics_own_words(tmp_path):
    training = TrainingSettings(epochs=1, worst_score=1e-6)
    result = _tuned(tmp_path, f"{LEARNERS}:table", "line", training=training)
    assert result.goal_missed.startswith("the mean square error asked for, 0.0000, was not reached: ")


@pytest.mark.parametrize(("data", "arch"), [("sentences", "Pooled"), ("tagged", "Tagger")])
def test_dictionaries_go_into_the_network_by_name(tmp_path, data, arch):
    training = TrainingSettings(epochs=6, batch_size=16, optimizer="adamw", learning_rate=0.03)
    result = _tuned(tmp_path, f"{LEARNERS}:{data}", arch, training=training)
    (run,) = result.runs
    assert run.last["test_accuracy"] == run.last["test_score"] > 0.9
    assert run.first["test_accuracy"] < 0.6
    assert run.to_json()["accuracy_first"] == run.first["test_accuracy"]


def test_a_stream_comes_in_its_own_order(tmp_path):
    """A last batch of one would be left out; here four batches of 30 are 7 of 17 and one of one."""
    steps = []
    training = TrainingSettings(epochs=2, batch_size=17)
    listeners = Listeners(steps=lambda epoch: lambda done, total: steps.append((done, total)))
    _tuned(tmp_path, f"{LEARNERS}:stream", "line", training=training, listeners=listeners)
    assert steps == [(done, None) for _ in (1, 2) for done in range(1, 8)]
    model = build(f"{LEARNERS}:line", seed=0)
    x, y = (torch.cat(parts) for parts in zip(*stream("train"), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in (1, 2):
        for start in range(0, 119, 17):
            loss = functional.mse_loss(model(x[start : start + 17]), y[start : start + 17])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    written = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(written[name], value) for name, value in model.state_dict().items())


class Process:
    """One of several that train together."""

    def __init__(self, rank, count):
        self.rank, self.count = rank, count

    def share(self, indices):
        return indices[self.rank :: self.count]


@pytest.mark.parametrize(("samples", "size"), [(23, 7), (21, 7), (24, 7), (5, 9)])
@pytest.mark.parametrize("targets", ["numbers", "tokens"])
def test_the_shares_of_all_processes_make_up_every_batch(samples, size, targets):
    rows = ArrayRows("made", torch.arange(samples), None if targets == "tokens" else torch.zeros(samples))
    part = RowSamples("made", "train", rows, torch.arange(samples).numpy(), targets, None)
    feeds = [list(Feed(part, size, 5, Process(rank, 3))) for rank in range(3)]
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(5))
    least = 3 if targets == "tokens" else 6
    batches = [batch for batch in order.split(size) if len(batch) >= least]
    assert [len(feed) for feed in feeds] == [len(batches)] * 3
    assert Feed(part, size, 5, Process(0, 3)).steps == len(batches)
    for number, batch in enumerate(batches):
        for rank, feed in enumerate(feeds):
            assert feed[number].of_all == len(batch)
            assert feed[number].mine.inputs.tolist() == batch[rank::3].tolist()


def test_other_tokens_are_masked_in_every_epoch(rng):
    tokens = torch.from_numpy(rng.integers(1, 30, (16, 20)))
    task = MaskedLanguage(Memory(tokens, targets="tokens", part="train"), mask=30)
    seen = []

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(31, 31)

        def forward(self, inputs):
            seen.append(inputs == 30)
            return self.table(inputs)

    model, settings = Network(), TrainingSettings(batch_size=16, device="cpu")
    with Workers(settings) as workers:
        for epoch in (1, 2, 1):
            loss = train_epoch(model, make_optimizer(model, settings), Course(task, settings, workers), epoch)
    first, second, again = seen
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    chosen = replace(task, seed=7919).inputs(next(task.samples.batches(16))) == 30
    assert torch.equal(first, chosen)
    assert loss > 0


@pytest.mark.parametrize(
    ("data", "arch", "more", "words"),
    [
        ("table", "line", {"asked": TaskSettings(task=f"{LEARNERS}:length")}, "has no loss to train with"),
        ("unlabelled", "line", {}, "nothing to train towards"),
        ("table", "line", {"training": TrainingSettings(min_accuracy=0.5)}, "give worst-score"),
        ("table", "line", {"training": TrainingSettings(augment="flip-shift")}, "is for images"),
        ("sentences", "Pooled", {"asked": TaskSettings(task="regression")}, "has classes, and regression needs"),
    ],
)
def test_what_does_not_suit_is_refused_before_anything_is_written(tmp_path, data, arch, more, words):
    with pytest.raises(SettingsError, match=words):
        _tuned(tmp_path, f"{LEARNERS}:{data}", arch, **more)
    assert not list(tmp_path.iterdir())


def test_a_loss_of_classes_is_not_for_text(tmp_path, text):
    with pytest.raises(SettingsError, match="causal has a loss of its own"):
        _tuned(tmp_path, f"text:{text}", "bigrams", asked=WINDOWS, training=TrainingSettings(loss="mse"))


def test_two_limits_are_refused():
    with pytest.raises(SettingsError, match="give one"):
        TrainingSettings(min_accuracy=0.5, worst_score=0.5)
    with pytest.raises(SettingsError, match="worst-score must be a number"):
        TrainingSettings(worst_score=float("nan"))


def test_text_comes_in_small_batches():
    assert [TrainingSettings().at_once(text=text) for text in (True, False)] == [8, 128]
    assert TrainingSettings(batch_size=5).at_once(text=True) == 5


def test_default_outputs_of_text_lie_here():
    assert default_output(None, "text:some/book.txt").as_posix() == "book.tuned.safetensors"
    assert default_output(None, "array:some/table.npz").as_posix() == "table.tuned.safetensors"
