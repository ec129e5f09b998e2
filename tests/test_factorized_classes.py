"""Factorized folders loaded by transformers alone, with the classes written beside the weights."""

import json

import pytest
import torch
from safetensors.torch import load_file

import rmt_compress as rmt
from rmt_compress.networks.loading import load_model
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from tests.samples.library_alone import VERSIONS, alone
from tests.samples.transformers_models import FAMILIES, built, logits

transformers = pytest.importorskip("transformers")
modeling_factorized = pytest.importorskip("rmt_compress.layers.modeling_factorized")
Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D

pytestmark = pytest.mark.usefixtures("few_tokens")
RANK = PlanSettings(rule="rank:6")

ALONE = """
for family, (auto, inputs, wanted) in torch.load(sys.argv[1] + "/wanted.pt").items():
    folder, auto = f"{sys.argv[1]}/{family}-small", getattr(transformers, auto)
    model, report = auto.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert type(model).__module__.endswith("modeling_factorized"), type(model)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    model.eval().save_pretrained(folder + "-again")
    again = auto.from_pretrained(folder + "-again", trust_remote_code=True).eval()
    bare = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert sum(type(part).__name__ == "Factors" for part in bare.modules()) > 3
    for each in (model, again):
        with torch.no_grad():
            torch.testing.assert_close(each(**inputs).logits, wanted, atol=1e-5, rtol=1e-5)
    assert model.num_parameters() == again.num_parameters()
    if model.can_generate() and "decoder_input_ids" not in inputs:
        options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
        written = [model.generate(inputs["input_ids"], use_cache=cache, **options) for cache in (True, False)]
        assert torch.equal(*written) and written[0].shape == (2, 12)
    print(family, model.num_parameters())
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every family saved, and cut; and what `load_model` answers."""
    root = tmp_path_factory.mktemp("families")
    wanted = {}
    for family, (_, _, inputs, auto) in FAMILIES.items():
        built(family).save_pretrained(root / family)
        assert prune(root / family, root / f"{family}-small", plan=RANK).notes == ()
        wanted[family] = (auto, inputs, logits(load_model(root / f"{family}-small"), family))
    torch.save(wanted, root / "wanted.pt")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_family_in_a_process_without_this_package(folders, tmp_path, version):
    printed = alone(ALONE, folders, version=version, home=tmp_path)
    small = {line.split()[0]: int(line.split()[1]) for line in printed.splitlines()}
    assert small.keys() == FAMILIES.keys()
    if version == "5.":
        dense = {family: built(family).num_parameters() for family in FAMILIES}
        # Experts that the class has in one tensor are multiplied again.
        assert all(small[family] < dense[family] for family in FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.traced
def test_rmt_load_and_the_dense_layout_answer_the_same(folders, tmp_path, family):
    model = built(family)
    prune(folders / family, tmp_path / "dense", plan=RANK, layout="dense")
    dense = type(model).from_pretrained(tmp_path / "dense").eval()
    wanted = torch.load(folders / "wanted.pt")[family][2]
    torch.testing.assert_close(logits(dense, family), wanted, atol=1e-5, rtol=1e-5)
    for source in (folders / f"{family}-small", tmp_path / "dense"):
        loaded = rmt.load(source, model=built(family))
        torch.testing.assert_close(logits(loaded, family), wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(model, family), wanted, atol=1e-3)


def test_the_folder_says_which_classes_it_has_and_a_plain_class_finds_no_weights(tmp_path):
    built("bert").save_pretrained(tmp_path / "bert")
    before = json.loads((tmp_path / "bert" / "config.json").read_text())
    prune(tmp_path / "bert", tmp_path / "small", plan=RANK)
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["auto_map"]["AutoModelForMaskedLM"] == "modeling_factorized.BertForMaskedLM"
    assert config["auto_map"]["AutoModelForSequenceClassification"].endswith(".BertForSequenceClassification")
    assert config["auto_map"]["AutoModel"] == "modeling_factorized.BertModel"
    assert set(config["factorized"]["layers"].values()) == {6}
    assert {key: config[key] for key in before} == before
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "small")


def test_saved_again_from_our_own_loading(tmp_path):
    built("llama").save_pretrained(tmp_path / "llama")
    prune(tmp_path / "llama", tmp_path / "small", plan=RANK)
    model = load_model(tmp_path / "small")
    model.save_pretrained(tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} >= {
        "model.factorized.safetensors",
        "modeling_factorized.py",
    }
    cls = modeling_factorized.LlamaForCausalLM
    assert type(model) is cls
    again = cls.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(logits(again, "llama"), logits(model, "llama"))


def test_weights_with_zeros_are_decoded(tmp_path):
    built("llama").save_pretrained(tmp_path / "llama")
    prune(tmp_path / "llama", tmp_path / "small", plan=PlanSettings(rule="rank:6", sparsity=0.9))
    assert any(name.endswith(".bits") for name in load_file(tmp_path / "small" / "factorized.safetensors"))
    model = modeling_factorized.LlamaForCausalLM.from_pretrained(tmp_path / "small").eval()
    assert torch.equal(logits(model, "llama"), logits(load_model(tmp_path / "small"), "llama"))


def test_weights_stored_by_pivots_are_decoded(tmp_path):
    rank = PlanSettings(rule="rank:16")
    built("gpt2").save_pretrained(tmp_path / "gpt2")
    stock = prune(tmp_path / "gpt2", tmp_path / "stock", plan=rank)
    small = prune(tmp_path / "gpt2", tmp_path / "small", plan=rank, pack="pivots")
    assert small.notes == ("6 of 6 layers in two are stored as pivots and coefficients",)
    assert small.bytes_out < stock.bytes_out
    assert {name.rpartition(".")[2] for name in load_file(tmp_path / "small" / "factorized.safetensors")} == {
        *("weight", "bias", "pivots", "coefficients")
    }
    model = modeling_factorized.GPT2LMHeadModel.from_pretrained(tmp_path / "small").eval()
    answers = logits(load_model(tmp_path / "stock"), "gpt2")
    torch.testing.assert_close(logits(model, "gpt2"), answers, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(load_model(tmp_path / "small"), "gpt2"), answers, atol=1e-5, rtol=1e-5)


def test_a_class_for_another_task_gets_a_new_head(tmp_path):
    built("bert").save_pretrained(tmp_path / "bert")
    prune(tmp_path / "bert", tmp_path / "small", plan=RANK)
    cls = modeling_factorized.BertForSequenceClassification
    model, report = cls.from_pretrained(tmp_path / "small", num_labels=5, output_loading_info=True)
    assert model.classifier.out_features == 5
    assert {name.split(".")[0] for name in report["missing_keys"]} <= {"classifier", "bert"}
    layer = model.bert.encoder.layer[0].attention.self.query
    whole = rmt.load_dense(tmp_path / "small")["bert.encoder.layer.0.attention.self.query.weight"]
    torch.testing.assert_close(layer.weight, whole)


@pytest.mark.parametrize("family", ("t5", "vit"))
def test_live_networks_that_read_the_weights_of_their_layers(family):
    model = built(family)
    plan = rmt.make_plan(rmt.analyze(model), rule="rank:6")
    small, dense = (rmt.compress(model, plan, layout=layout) for layout in ("factorized", "dense"))
    torch.testing.assert_close(logits(small, family), logits(dense, family), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("whole", "transposed"),
    (
        (torch.nn.Linear(7, 5), False),
        (Conv1D(5, 7), True),
        (torch.nn.Conv1d(3, 5, 3, stride=2, padding=1), False),
        (torch.nn.Conv2d(3, 5, (3, 2), dilation=2, padding_mode="circular", padding=1), False),
        (torch.nn.ConvTranspose1d(3, 5, 3, stride=2, output_padding=1), True),
        (torch.nn.ConvTranspose2d(3, 5, 2, stride=2, bias=False), True),
    ),
)
def test_two_layers_at_full_rank_are_the_one_they_stand_for(whole, transposed):
    """And `compress` makes the same two."""
    whole.requires_grad_(False)
    if isinstance(whole, Conv1D):
        whole.bias.normal_()
    matrix = whole.weight.flatten(1)
    left, right = torch.eye(len(matrix)), matrix
    pair = modeling_factorized.split(whole, len(matrix))
    factors = modeling_factorized.Product(left, right, tuple(whole.weight.shape))
    with torch.no_grad():
        for part, weight in zip(
            (pair.down, pair.up), modeling_factorized.factor_weights(pair, factors), strict=True
        ):
            part.weight.copy_(weight)
        if whole.bias is not None:
            pair.up.bias.copy_(whole.bias)
    sizes = {1: (2, 7), 2: (2, 3, 9), 3: (2, 3, 9, 8)}[max(1, whole.weight.dim() - 1)]
    inputs = torch.randn(sizes)
    torch.testing.assert_close(pair(inputs), whole(inputs))
    # Networks read these of their layers.
    torch.testing.assert_close(pair.weight, whole.weight)
    for name in ("out_features", "kernel_size", "stride", "nf"):
        assert getattr(pair, name, None) == getattr(whole, name, None)
    told = modeling_factorized.product(pair.down.weight, pair.up.weight, transposed=transposed)
    torch.testing.assert_close(told.whole(), whole.weight)


def edited(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("entries", "why"),
    (
        ({"quantization_config": {"quant_method": "gptq"}}, "the other weights are quantized"),
        (
            {"auto_map": {"AutoModelForCausalLM": "someone/else--modeling_x.Net"}},
            "its code is in another repository",
        ),
        ({"model_type": "nobody_knows"}, "the installed transformers knows no nobody_knows"),
    ),
)
def test_a_folder_that_is_left_without_classes_says_why(tmp_path, entries, why):
    built("llama").save_pretrained(tmp_path / "llama")
    edited(tmp_path / "llama", **entries)
    result = prune(tmp_path / "llama", tmp_path / "small", plan=RANK)
    assert result.notes == (
        f"from_pretrained cannot load the new folder by itself ({why}); see docs/huggingface.md",
    )
    assert not (tmp_path / "small" / "modeling_factorized.py").exists()
    assert (tmp_path / "small" / "config.json").read_bytes() == (tmp_path / "llama" / "config.json").read_bytes()


def test_without_transformers_there_is_a_note(tmp_path, monkeypatch):
    built("llama").save_pretrained(tmp_path / "llama")
    monkeypatch.setattr("rmt_compress.saving.folder_code.find_spec", lambda _: None)
    (note,) = prune(tmp_path / "llama", tmp_path / "small", plan=RANK).notes
    assert "pip install 'rmt-compress[hf]'" in note


OWN_CODE = """
from transformers import LlamaForCausalLM

class Mine(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        answer = super().forward(*args, **kwargs)
        answer.logits = 2 * answer.logits
        return answer
"""


def test_code_in_the_folder_is_built_upon(tmp_path):
    folder, small = tmp_path / "llama", tmp_path / "on_own_code"
    built("llama").save_pretrained(folder)
    (folder / "modeling_mine.py").write_text(OWN_CODE)
    edited(
        folder,
        architectures=["Mine"],
        auto_map={"AutoModelForCausalLM": "modeling_mine.Mine", "AutoTokenizer": "a.B"},
    )
    assert prune(folder, small, plan=RANK).notes == ()
    config = json.loads((small / "config.json").read_text())
    assert config["auto_map"] == {"AutoModelForCausalLM": "modeling_factorized.Mine", "AutoTokenizer": "a.B"}
    with pytest.raises(rmt.errors.UntrustedError, match=r"code in the folder \(modeling_factorized\.py\).*--trust"):
        load_model(small)
    trusted = load_model(rmt.checkpoints.open_checkpoint(small, trust=True))
    plain = rmt.load(small, model=built("llama"))
    torch.testing.assert_close(logits(trusted, "llama"), 2 * logits(plain, "llama"))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(small, trust_remote_code=True).eval()
    torch.testing.assert_close(logits(loaded, "llama"), 2 * logits(plain, "llama"))
