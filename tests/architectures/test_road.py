"""Every architecture down the whole road: analyse, prune, run, save, load; with random and with trained weights."""

import copy

import pytest
import torch
from safetensors.torch import save_model
from torch.nn import functional

import rmt_compress as rmt
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.layers.splitting import split_refusal
from rmt_compress.plan import LayerDecision, Plan
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from tests.samples import convolutional, sequential
from tests.samples.seeds import repeatable

# Other tests reach every line that these do, and tracing makes a test last more than half as long again.
pytestmark = pytest.mark.no_cover

IMAGES = (3, 32, 32)

# builder, shape of one sample (None for words), kinds that are analysed, kinds that are split
NETWORKS = {
    "VGG-16": (convolutional.vgg16, IMAGES, {"conv2d", "linear"}, {"conv2d", "linear"}),
    "ResNet-18": (convolutional.resnet18, IMAGES, {"conv2d"}, {"conv2d"}),
    "bottleneck ResNet": (convolutional.bottleneck_resnet, IMAGES, {"conv2d"}, {"conv2d"}),
    "MobileNet": (convolutional.mobilenet, IMAGES, {"conv2d"}, {"conv2d"}),
    "U-Net": (convolutional.UNet, IMAGES, {"conv2d", "conv_transpose2d"}, {"conv2d", "conv_transpose2d"}),
    "audio CNN": (convolutional.audio_cnn, (1, 4000), {"conv1d"}, {"conv1d"}),
    "ViT": (sequential.ViT, IMAGES, {"conv2d", "linear"}, {"conv2d", "linear"}),
    "BERT": (sequential.bert, None, {"linear"}, {"linear"}),
    "GPT-2": (sequential.gpt2, None, {"linear", "linear_transposed"}, {"linear_transposed"}),
    "LSTM tagger": (sequential.Tagger, None, {"linear", "recurrent"}, {"linear"}),
}
MIN_SIZE = 16


def samples(shape, count=4):
    if shape is None:
        return torch.randint(0, 100, (count, 16))
    return torch.randn(count, *shape)


def run(model, inputs):
    with torch.no_grad():
        return model(inputs)


def train(model, inputs):
    """A few steps of Adam that learn these inputs by heart; the loss must fall."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    labels, losses = None, []
    for _ in range(12):
        logits = model(inputs)
        logits = logits.movedim(-1, 1) if logits.dim() == 3 else logits
        if labels is None:
            labels = torch.randint(0, logits.shape[1], (len(logits), *logits.shape[2:]))
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses) < losses[0]


@pytest.fixture(scope="module", params=[(n, w) for n in NETWORKS for w in ("random", "trained")], ids="-".join)
@repeatable
def network(request):
    """(name, builder, model in evaluation mode, inputs, ``random`` or ``trained``)."""
    name, weights = request.param
    if name in ("BERT", "GPT-2"):
        pytest.importorskip("transformers")
    builder, shape, _, _ = NETWORKS[name]
    model, inputs = builder(), samples(shape)
    if weights == "trained":
        train(model, inputs)
    return name, builder, model.eval(), inputs, weights


@pytest.fixture(scope="module")
def analysis(network):
    return rmt.analyze(network[2], min_size=MIN_SIZE)


def hand_plan(analysis, decide):
    """`decide` gives action and rank of every layer that was analysed and may be changed."""
    decisions = []
    for each in analysis.layers:
        layer, action, rank = each.layer, "kept", None
        tied = bool(layer.aliases) and not layer.shared
        if each.fit is not None and layer.why_fixed is None and not tied:
            action, rank = decide(layer)
        decisions.append(
            LayerDecision(
                name=layer.name, tensor=layer.tensor, kind=layer.kind, shape=layer.shape, action=action, rank=rank
            )
        )
    return Plan(layers=tuple(decisions))


def largest_that_shrinks(layer):
    rank = (layer.parameters - 1) // sum(layer.matrix)
    if split_refusal(layer) is None:
        return "factorized", rank
    return "truncated", max(1, min(layer.matrix) // 2)


def close(found, expected):
    # Errors of single precision grow with the outputs they are added to.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_everything_is_analysed_or_has_a_reason(network, analysis):
    name, _, model, _, _ = network
    assert {layer.layer.kind for layer in analysis.analyzed} == NETWORKS[name][2]
    assert all(layer.reason for layer in analysis.skipped)
    if name == "MobileNet":
        assert any("groups" in layer.reason for layer in analysis.skipped)
    assert analysis.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_full_rank_changes_nothing(network, analysis):
    _, _, model, inputs, _ = network
    plan = hand_plan(analysis, lambda layer: ("truncated", min(layer.matrix)))
    assert any(decision.changes for decision in plan.layers)
    close(run(rmt.compress(model, plan), inputs), run(model, inputs))


def test_the_largest_rank_that_shrinks_computes_what_the_truncated_weights_do(network, analysis, tmp_path):
    name, builder, model, inputs, _ = network
    plan = hand_plan(analysis, largest_that_shrinks)
    small = rmt.compress(model, plan)
    split = {decision.kind for decision in plan.layers if decision.action == "factorized"}
    assert split == NETWORKS[name][3]
    dense = rmt.compress(model, plan, layout="dense")
    expected = run(dense, inputs)
    close(run(small, inputs), expected)
    assert parameters(small) < parameters(model)
    # Through a file and back, split and multiplied again.
    path = tmp_path / "small.safetensors"
    rmt.save(small, path, plan=plan)
    assert torch.equal(run(rmt.load(path, model=builder().eval()), inputs), run(small, inputs))
    whole = builder().eval()
    whole.load_state_dict(rmt.load_dense(path))
    close(run(whole, inputs), expected)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_a_file_is_pruned_to_the_rank_found_and_runs(network, tmp_path):
    """From a saved file, without the class: what names, shapes and biases tell must be enough to be right."""
    _, builder, model, inputs, weights = network
    suffix = {"random": ".safetensors", "trained": ".pt"}[weights]
    original, target = tmp_path / f"model{suffix}", tmp_path / f"small{suffix}"
    save_model(model, original) if suffix == ".safetensors" else torch.save(model.state_dict(), original)
    settings = PlanSettings(gof=1.0, keep_bulk=0.1)
    result = prune(original, target, analysis=rmt.analysis.AnalysisSettings(min_size=MIN_SIZE), plan=settings)
    assert result.bytes_out < result.bytes_in
    assert result.totals["layers_factorized"] > 0
    small = rmt.load(target, model=builder().eval())
    outputs = run(small, inputs)
    assert outputs.shape == run(model, inputs).shape
    assert bool(outputs.isfinite().all())
    # The same plan on the live module, whose kinds of layers are certain.
    plan = Plan(layers=tuple(renamed(result.plan, model)))
    close(outputs, run(rmt.compress(copy.deepcopy(model), plan, layout="dense"), inputs))


def renamed(plan, model):
    """The decisions with the kinds that the live modules say, for layers that a file reads otherwise."""
    kinds = {layer.tensor: layer.kind for layer in open_checkpoint(model).layers()}
    firsts = {alias: layer.tensor for layer in open_checkpoint(model).layers() for alias in layer.aliases}
    for decision in plan.layers:
        tensor = firsts.get(decision.tensor, decision.tensor)
        yield decision.model_copy(update={"kind": kinds[tensor], "tensor": tensor})
