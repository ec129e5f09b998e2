import math
import re
import sys

import pytest
import torch
from torch import nn

from rmt_compress.errors import SettingsError
from rmt_compress.networks.architectures import CNN, MLP, POOL, UserModel, build, parse

CANONICAL = [
    "mlp:784,1000,10",
    "mlp:2,1",
    "mlp:784,1000,1000,500,10/init=he,final=relu",
    "mlp:64,10/final=relu",
    "cnn:3x32x32/32,64,p,128,128,p,256,p/192,10/dropout=0.35",
    "cnn:1x28x28/8,p/10/dropout=0.0,init=normal",
    "cnn:1x28x28/8,p/64,32,10/dropout=0.123456789,init=xavier,final=relu",
    "package.module:Class.method",
    "net.py:Net",
    "some folder/net.py:Net(16, hidden=[1, 2], name='a, b')",
    "nets:Net()",
]


@pytest.mark.parametrize("spec", CANONICAL)
def test_specs_round_trip(spec):
    assert str(parse(spec)) == spec
    assert parse(str(parse(spec))) == parse(spec)


@pytest.mark.parametrize(
    ("spec", "architecture"),
    [
        ("mlp:784,1000,10", MLP((784, 1000, 10))),
        ("mlp:4,2/init=uniform,final=none", MLP((4, 2))),
        ("cnn:3x8x6/4,5,6/10", CNN((3, 8, 6), (4, 5, POOL, 6), (10,), 0.35)),  # a pool after every second one
        ("cnn:3x8x8/4,p,5/7,2/final=relu,dropout=.5", CNN((3, 8, 8), (4, POOL, 5), (7, 2), 0.5, "uniform", "relu")),
        ("nets:Net", UserModel("nets:Net")),
    ],
)
def test_what_a_spec_means(spec, architecture):
    assert parse(spec) == architecture


@pytest.mark.parametrize(
    ("spec", "messages"),
    [
        ("", ["'' is none of mlp:784"]),
        ("resnet18", ["'resnet18' is none of"]),
        ("mlp", ["'mlp'", "'' is not a positive whole number"]),
        ("mlp:784", ["at least inputs and outputs"]),
        ("mlp:784,-5,0,ten,1.5", ["'-5' is", "'0' is", "'ten' is", "'1.5' is"]),
        ("mlp:784,,10", ["'' is not a positive whole number"]),
        (
            "mlp:784,10/init=kaiming,final=tanh",
            ["init=kaiming is none of uniform, normal", "final=tanh is none of"],
        ),
        ("mlp:784,10/dropout=0.5", ["option 'dropout=0.5' is unknown, known are init, final"]),
        ("mlp:784,10/init=he,init=he", ["option init is given twice"]),
        ("mlp:784,10/5,5", ["1 part before the options expected, 2 found"]),
        ("cnn:3x32x32/32/10/dropout=much", ["dropout=much is not a number"]),
        ("cnn:3x32x32/32/10/dropout=1", ["dropout=1.0 is outside [0, 1)"]),
        ("cnn:3x32x32/32/10/dropout=nan", ["dropout=nan is outside [0, 1)"]),
        ("cnn:32x32/32,q/10,p", ["'q' is", "'p' is"]),
        ("cnn:32x32/32/10", ["three sizes, channels×height×width"]),
        ("cnn:3x4x8/8,p,8,p,8,p/10", ["3 pools leave nothing of an image of 4×8 pixels"]),
        ("cnn:3x4x4/p/10", ["at least one convolution"]),
        ("cnn:3x32x32/8", ["3 parts before the options expected, 2 found"]),
        ("net.py", ["'net.py' is a file: name the class in it too, net.py:Net"]),
        ("nets:Net(16", ["'nets:Net(16' is none of mlp:784"]),
        ("nets:Net(16, )x)", ["(16, )x) cannot be read", "arguments are numbers"]),
        ("nets:Net(size)", ["size is no literal; arguments are numbers"]),
        ("nets:Net(__import__('os').abort())", ["__import__('os').abort() is no literal"]),
        ("nets:Net(*[1])", ["is no literal"]),
        ("nets:Net(**{})", ["has a ** in it"]),
        ("nets:Net(1)(2)", ["is no list of arguments"]),
        ("nets:Net(1) or (2)", ["is no list of arguments"]),
    ],
)
def test_errors_name_every_offending_part(spec, messages):
    with pytest.raises(SettingsError) as caught:
        parse(spec)
    text = str(caught.value)
    assert f"architecture {spec!r}" in text
    for message in messages:
        assert message in text
    assert "\n" not in text


def test_dataclasses_name_every_problem_at_once():
    with pytest.raises(SettingsError) as caught:
        CNN((3, 0, 4), (-1, POOL), (), dropout=2.0, init="lecun")
    assert len(caught.value.problems) == 5


def test_mlp_is_what_one_writes_by_hand():
    model = build("mlp:6,5,4,3", seed=7)
    x = torch.randn(8, 1, 2, 3)
    state = model.state_dict()
    assert sorted(state) == sorted(f"fc{index}.{kind}" for index in (1, 2, 3) for kind in ("weight", "bias"))
    hidden = x.reshape(8, 6)
    for index in (1, 2, 3):
        hidden = hidden @ state[f"fc{index}.weight"].T + state[f"fc{index}.bias"]
        hidden = hidden.clamp(min=0) if index < 3 else hidden
    assert torch.allclose(model(x), hidden, atol=1e-6)
    assert (hidden < 0).any()


def test_final_relu():
    outputs = build("mlp:6,5,40/final=relu", seed=0)(torch.randn(8, 6))
    assert outputs.min() == 0
    assert outputs.max() > 0
    assert build("cnn:1x4x4/3,p/40/final=relu", seed=0)(torch.randn(8, 1, 4, 4)).min() == 0


def test_cnn_is_what_one_writes_by_hand():
    model = build("cnn:2x9x8/3,4,p,5/7,6,3", seed=3).eval()
    assert isinstance(model, nn.Sequential)
    names = (
        "conv1 conv1_norm conv1_relu conv2 conv2_norm conv2_relu pool1 conv3 conv3_norm conv3_relu flatten dropout"
    )
    names += " fc1 fc1_norm fc1_relu fc1_dropout fc2 fc2_norm fc2_relu fc3"
    assert [name for name, _ in model.named_children()] == names.split()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.get_buffer("running_mean").uniform_(-1, 1)
                module.get_buffer("running_var").uniform_(0.5, 2)
    state = model.state_dict()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = state[f"{name}.weight"] / (state[f"{name}.running_var"] + 1e-5).sqrt()
        return torch.relu((x - state[f"{name}.running_mean"].view(shape)) * scale.view(shape))

    x = torch.randn(5, 2, 9, 8)
    hidden = x
    for index in (1, 2, 3):
        hidden = nn.functional.conv2d(hidden, state[f"conv{index}.weight"], state[f"conv{index}.bias"], padding=1)
        hidden = norm(hidden, f"conv{index}_norm")
        hidden = nn.functional.max_pool2d(hidden, 2) if index == 2 else hidden
    hidden = hidden.reshape(5, 5 * 4 * 4)
    for index in (1, 2):
        hidden = norm(hidden @ state[f"fc{index}.weight"].T + state[f"fc{index}.bias"], f"fc{index}_norm")
    hidden = hidden @ state["fc3.weight"].T + state["fc3.bias"]
    assert torch.allclose(model(x), hidden, atol=1e-5)


def test_dropout_probability_and_places():
    model = build("cnn:1x4x4/3,p/5,4,2/dropout=0.2", seed=0)
    dropouts = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert dropouts == {"dropout": 0.2, "fc1_dropout": 0.2}


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("uniform", 1 / (3 * 576)),
        ("normal", 1 / 576),
        ("he", 2 / 576),
        ("xavier", 2 / (576 + 96 * 9)),
        ("sparse", 1 / 576),
    ],
)
def test_initial_weights(init, variance):
    conv = build(f"cnn:64x4x4/96,p/10/init={init}", seed=1).get_submodule("conv1")
    weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
    # 55,296 entries: the relative standard error of the variance is at most sqrt(2/55296) = 0.6 %.
    assert weight.var().item() == pytest.approx(variance, rel=0.03)
    assert weight.mean().item() == pytest.approx(0, abs=5 * math.sqrt(variance / 55_296))
    if init == "uniform":
        assert weight.abs().max().item() <= 1 / math.sqrt(576)
        assert bias.std() > 0
    else:
        assert weight.abs().max().item() > 3 * math.sqrt(variance)
        assert not bias.any()
    assert (weight == 0).float().mean().item() == pytest.approx(0.9 * (init == "sparse"), abs=0.01)


def test_linear_uniform_is_torch_own_initialisation():
    torch.manual_seed(11)  # the seed that `build` is given
    expected = nn.Linear(30, 20).weight
    assert torch.equal(build("mlp:30,20", seed=11).get_parameter("fc1.weight"), expected)


def test_seed_decides_and_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    expected = torch.rand(3)
    torch.set_rng_state(before)
    first, second, other = (build("mlp:9,8,7/init=he", seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["fc1.weight"], other["fc1.weight"])


def test_without_seed_the_global_state_is_used():
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(build("mlp:9,8").get_parameter("fc1.weight"))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_own_nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n    def __init__(self): super().__init__(3, 2)\n"
        "def number(): return 5\n"
        "def fails(): raise ValueError('two\\nlines')\n"
        "def of(size, width=1): return nn.Linear(size, width)\n"
        "def late():\n    import users_own_blocks\n    return users_own_blocks.block\n"
        "ready = nn.Linear(5, 4)\n"
        "some = [1]\n"
    )
    (tmp_path / "users_own_blocks.py").write_text("from torch import nn\nblock = nn.Linear(7, 7)\n")
    (tmp_path / "random.py").write_text("from users_own_blocks import block\n")
    yield
    sys.modules.pop("users_own_blocks", None)
    sys.modules.pop("users_own_nets", None)


def test_a_users_own_model(user_module):
    model = build("users_own_nets:Net", seed=4)
    assert type(model).__name__ == "Net"
    again = build("users_own_nets:Net", seed=4)
    assert torch.equal(model.get_parameter("weight"), again.get_parameter("weight"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", "returned int, not a torch.nn.Module"),
        ("fails", "calling it failed (ValueError: two lines)"),
        ("absent", "users_own_nets has no absent"),
        ("some", "it is a list, neither a network nor callable"),
        ("some()", "users_own_nets:some is a list, which takes no arguments"),
        ("of", "calling it failed (TypeError: of() missing 1 required"),
        ("of(1, 2, 3)", "calling it failed (TypeError: of() takes"),
    ],
)
def test_a_users_model_that_is_none(user_module, name, message):
    with pytest.raises(SettingsError, match=rf"users_own_nets:{re.escape(name)}.*{re.escape(message)}"):
        build(f"users_own_nets:{name}")


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("users_own_nets:of(16)", (1, 16)),
        ("users_own_nets.py:of(16, width=3)", (3, 16)),
        ("./users_own_nets.py:of(width=2, size=-0x10 + 20j - 20j)", None),
        ("users_own_nets.py:Net()", (2, 3)),
        ("users_own_nets.py:ready", (4, 5)),
        ("users_own_nets.py:late", (7, 7)),
        ("random.py:block", (7, 7)),
    ],
)
def test_what_stands_in_files_and_takes_arguments(user_module, spec, shape):
    before = list(sys.path)
    if shape is None:
        with pytest.raises(SettingsError, match="is no literal"):
            build(spec)
    else:
        assert build(spec).get_parameter("weight").shape == shape
    assert sys.path == before


@pytest.mark.parametrize("inside", ["[" * 900 + "]" * 900, "9" * 3000, "-" * 1500 + "1"])
def test_arguments_beyond_all_use_are_one_line(inside):
    with pytest.raises(SettingsError, match=r"(cannot be read|no literal).*; arguments are numbers") as caught:
        parse(f"nets:Net({inside})")
    assert "\n" not in str(caught.value)


def test_a_network_ready_made_is_copied(user_module):
    first = build("users_own_nets.py:ready")
    with torch.no_grad():
        first.get_parameter("weight").zero_()
    assert bool(build("users_own_nets.py:ready").get_parameter("weight").any())


def test_a_file_that_is_not_there_or_hides_behind_another_module(user_module, tmp_path):
    with pytest.raises(SettingsError, match=r"architecture no\.py:Net: no\.py: no such file"):
        build("no.py:Net")
    (tmp_path / "wrong.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(SettingsError, match=r"importing wrong\.py failed: .*nothing_of_this_name"):
        build("wrong.py:Net")
    # `random` is Python's own.
    with pytest.raises(SettingsError, match=r"random has no block .*of the file here it is random\.py:block"):
        build("random:block")


def test_no_module_is_imported_by_parsing(user_module):
    parse("users_own_nets:Net")
    parse("users_own_nets.py:Net(1)")
    assert "users_own_nets" not in sys.modules
