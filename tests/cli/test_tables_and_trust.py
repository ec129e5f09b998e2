"""Tables, saved data sets and folders with code of their own, through every command that asks a network."""

import json

import pytest
import torch
from torch import nn

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.networks.loading import load_model
from tests.samples.arrow_tables import save
from tests.samples.command_line import one_error_line
from tests.samples.library_alone import VERSIONS, alone

NET = """
from torch import nn


def Net():
    return nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))


def tokens():
    import torch

    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        yield torch.randint(3, 64, (8, 12), generator=generator)
"""
# As an author puts it beside the weights; transformers knows nothing of it.
OWN = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class OwnConfig(PretrainedConfig):
    model_type = "own-network"

    def __init__(self, width=32, vocab_size=64, **more):
        self.width, self.vocab_size = width, vocab_size
        super().__init__(**more)


class OwnForCausalLM(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.up, self.down = nn.Linear(config.width, 64), nn.Linear(64, config.width)
        self.head = nn.Linear(config.width, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, **more):
        x = self.embed(input_ids)
        return {"logits": self.head(x + self.down(torch.relu(self.up(x))))}
"""
ALONE = """
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
print(model(input_ids=torch.arange(12)[None])["logits"].tolist())
"""
QUICK = ("--epochs", "2", "--prune-every", "1", "--gof", "0.9")


def done(result, *statuses):
    assert result.returncode in (statuses or (0,)), result.stderr
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture
def net(tmp_path):
    (tmp_path / "tabled.py").write_text(NET)
    names = {}
    exec(NET, names)
    torch.save(names["Net"]().state_dict(), tmp_path / "net.pt")
    return "--arch", "tabled:Net"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "datasets"])
def test_a_table_through_every_command(run, net, tmp_path, kind):
    pa = pytest.importorskip("pyarrow", reason="PYARROW MISSING: nothing of Parquet files is tested")
    parquet = pytest.importorskip("pyarrow.parquet")
    x = torch.randn(160, 6)
    labels = x @ torch.randn(6, 3)
    table = pa.table({f"x{i}": x[:, i].numpy() for i in range(6)} | {"label": labels.argmax(1).numpy()})
    if kind == "parquet":
        parquet.write_table(table, tmp_path / "t.parquet")
    else:
        save(tmp_path / "saved", table.slice(0, 90), table.slice(90))
    data = ("--data", "parquet:t.parquet" if kind == "parquet" else "saved")
    report = json.loads(done(run("evaluate", "net.pt", *net, *data, "--json")).stdout)
    with torch.no_grad():
        model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
        model.load_state_dict(torch.load(tmp_path / "net.pt"))
        right = float((model(x).argmax(1) == labels.argmax(1)).double().mean())
    assert report["model"]["accuracy"] == pytest.approx(right)
    assert report["data"]["samples"] == 160
    done(run("finetune", "net.pt", *net, *data, *QUICK, "-o", "tuned.pt"), 0, 1)
    done(run("prune", "net.pt", *net, *data, "--keep", "0.7", "-o", "small.pt"), 0, 1)
    done(run("prune", "net.pt", *net, *data, "--rule", "rank:5", "-o", "five.pt"), 0, 1)
    done(run("sweep", "net.pt", *net, *data, "--what", "share", "--points", "2", "--rules", "energy"))
    for path in ("tuned.pt", "small.pt", "five.pt", "net.sweep"):
        assert (tmp_path / path).exists()
    if kind == "parquet":
        line = one_error_line(run("evaluate", "net.pt", *net, "--data", "parquet:t.parquet:nix"))
        assert "no column 'nix'; it has x0, x1" in line


@pytest.fixture
def own(tmp_path):
    """A folder whose network is code in it."""
    pytest.importorskip("transformers")
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "modeling_own.py").write_text(OWN)
    names = {"__name__": "modeling_own"}
    exec(OWN, names)
    names["OwnForCausalLM"](names["OwnConfig"]()).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["OwnForCausalLM"]
    config["auto_map"] = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "tabled.py").write_text(NET)
    return "--data", "tabled:tokens"


@pytest.mark.slow
def test_code_in_a_folder_runs_where_it_is_trusted_and_nowhere_else(run, own, tmp_path):
    for command in ("evaluate", "sweep", "prune", "finetune"):
        line = one_error_line(run(command, "own", *own))
        assert "is code in the folder (modeling_own.py), which is not run; if you trust it, add --trust" in line
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["own", "tabled.py"]
    asked = (*own, "--trust")
    done(run("evaluate", "own", *asked))
    done(run("sweep", "own", *asked, "--what", "rank", "--points", "2"))
    done(run("prune", "own", *asked, "--rule", "rank:8", "-o", "small"), 0, 1)
    done(run("prune", "own", *asked, "--keep", "0.6", "-o", "budget"), 0, 1)
    done(run("finetune", "own", *asked, *QUICK, "-o", "tuned"), 0, 1)
    done(run("finetune", "tuned", *asked, "--epochs", "1", "--no-prune", "-o", "again"), 0, 1)
    report = json.loads(done(run("evaluate", "small", *asked, "--against", "own", "--json"), 0, 1).stdout)
    assert 0 < report["model"]["agreement"]["relative_error"] < 1
    # What was cut of it brings both codes.
    with torch.no_grad():
        wanted = load_model(open_checkpoint(tmp_path / "tuned", trust=True))(torch.arange(12)[None])["logits"]
    for version in VERSIONS:
        home = tmp_path / version
        home.mkdir()
        answer = json.loads(alone(ALONE, tmp_path / "tuned", version=version, home=home))
        torch.testing.assert_close(torch.tensor(answer), wanted, atol=1e-5, rtol=1e-5)
