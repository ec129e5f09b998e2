"""Checkpoints as people's scripts write them, with objects of classes that are not there when they are read."""

import argparse
import collections
import datetime
import enum
import functools
import pathlib
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from rmt_compress.analysis import AnalysisSettings
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.errors import CheckpointError, UntrustedError
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning.road import prune
from rmt_compress.saving.reloading import load
from tests.samples.contents import assert_holds
from tests.samples.seeds import repeatable

SETTINGS = {"analysis": AnalysisSettings(min_size=8), "plan": PlanSettings(rule="ratio:0.25", gof=1.0)}
BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@repeatable
def network():
    return nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 10))


STATE = network().state_dict()


class _Absent:
    """A module that can be imported while a file is written, and never after."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch

    def define(self, name, *bases, module="their_package.config", **attributes):
        """A class of that module."""
        made = types.new_class(name, bases, exec_body=lambda space: space.update(attributes))
        made.__module__ = module
        made.__qualname__ = name
        parts = module.split(".")
        for length in range(1, len(parts) + 1):
            above = ".".join(parts[:length])
            self._monkeypatch.setitem(sys.modules, above, sys.modules.get(above) or types.ModuleType(above))
        setattr(sys.modules[module], name, made)
        return made


@pytest.fixture
def absent():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield _Absent(monkeypatch)


def filled(kind, **attributes):
    made = kind.__new__(kind)
    made.__dict__.update(attributes)
    return made


def lightning(absent):
    """Lightning, with hyper-parameters of every kind that scripts hand it."""
    stage = enum.Enum("Stage", "FIT TEST", module="their_package.config")
    absent.define("Anchor").Stage = stage
    sys.modules["their_package.config"].Stage = stage
    return {
        "epoch": 2,
        "state_dict": STATE,
        "hyper_parameters": {"lr": np.float64(0.1), "root": pathlib.PurePosixPath("/data"), "stage": stage.FIT},
        "callbacks": {"ModelCheckpoint": {"best": np.float32(0.5), "when": datetime.datetime(2024, 1, 2)}},
        "optimizer": functools.partial(torch.optim.Adam, lr=1e-3),
    }


def detectron(absent):
    """Detectron2's model zoo, with an array among the tensors."""
    model = {"fc.weight": STATE["0.weight"], "pixel_mean": np.arange(3, dtype=np.float32)}
    return {"model": model, "__author__": "their team", "matching_heuristics": True, "iteration": np.int64(9)}


def fairseq(absent):
    config = absent.define("DictConfig", module="omegaconf.dictconfig")
    key = absent.define("AnyNode", module="omegaconf.nodes")
    node = filled(config, _content={}, _parent=None)
    node._content["lr"] = filled(key, _val=0.1, _parent=node)
    return {
        "args": argparse.Namespace(arch="transformer", lr=[0.1]),
        "cfg": node,
        "model": STATE,
        "criterion": None,
        "extra_state": {"metrics": collections.OrderedDict(a=[1, 2]), "previous": collections.deque([1, 2], 3)},
        "last_optimizer_state": None,
    }


def timm(absent):
    return {
        "epoch": 3,
        "arch": "resnet50",
        "state_dict": STATE,
        "optimizer": torch.optim.SGD(network().parameters(), 0.1).state_dict(),
        "version": 2,
        "args": argparse.Namespace(model="resnet50", output=pathlib.PurePosixPath("out")),
        "metric": np.float64(76.1),
    }


def omegaconf(absent):
    node = filled(absent.define("ListConfig", module="omegaconf.listconfig"), _content=[1, 2], _metadata=None)
    return {"config": node, "model_state_dict": STATE, "created": datetime.date(2023, 4, 5)}


def old_script(absent):
    """An old script: the whole of its state under keys of its own."""
    meter = filled(absent.define("AverageMeter"), sum=3.0, count=2)
    return {"net": STATE, "opt": argparse.Namespace(gpu="0"), "meters": [meter, meter], "best_acc": 0.9}


def yolo_like(absent):
    """What YOLO's scripts write after the optimizer was stripped, with weights as a state dict."""
    return {"epoch": -1, "best_fitness": np.array([0.5]), "model": STATE, "date": datetime.datetime(2024, 5, 6)}


def keras_like(absent):
    """Arrays and nothing else."""
    return {name: tensor.numpy().copy() for name, tensor in STATE.items()} | {"steps": np.array(3)}


def defaults(absent):
    nested = collections.defaultdict(dict)
    nested["weights"].update(STATE)
    history = collections.defaultdict(list, loss=[1.0])
    return {"states": nested, "counts": collections.Counter("aab"), "history": history}


def own_mapping(absent):
    """Weights in a class of mappings."""
    return {"state_dict": absent.define("EasyDict", dict)(STATE), "config": filled(absent.define("Config"), lr=0.1)}


SCRIPTS = (
    lightning,
    detectron,
    fairseq,
    timm,
    omegaconf,
    old_script,
    yolo_like,
    keras_like,
    defaults,
    own_mapping,
)


@BOTH
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_weights_are_read_without_trust(script, protocol, zipped, tmp_path):
    path = tmp_path / "last.ckpt"
    with pytest.MonkeyPatch.context() as monkeypatch:
        saved = script(_Absent(monkeypatch))
        torch.save(saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    expected = {
        detectron: {"fc.weight": STATE["0.weight"], "pixel_mean": torch.arange(3.0)},
        keras_like: {**STATE, "steps": torch.tensor(3)},
    }.get(script, STATE)
    before = set(sys.modules)
    assert_holds(path, expected)
    assert not {name for name in set(sys.modules) - before if name.startswith(("their_package", "omegaconf"))}
    with open_checkpoint(path) as checkpoint:
        assert not any("was run" in note for note in checkpoint.notes)
        checkpoint.close()
        for name, tensor in expected.items():
            assert torch.equal(checkpoint.read(name), tensor)


def test_objects_are_named_and_never_carried_over(absent, tmp_path):
    path, target = tmp_path / "last.pt", tmp_path / "small.pt"
    torch.save(fairseq(absent), path)
    with open_checkpoint(path) as checkpoint:
        assert dict(checkpoint.beside) == {
            "args": "argparse.Namespace",
            "cfg": "omegaconf.dictconfig.DictConfig",
            "criterion": "None",
            "extra_state": "2 entries",
            "last_optimizer_state": "None",
        }
    result = prune(path, target, carry_over=True, **SETTINGS)
    assert "args was left out: it holds a argparse.Namespace, which was not loaded" in result.notes
    saved = torch.load(target, weights_only=True)
    assert saved["extra_state"] == {"metrics": {"a": [1, 2]}, "previous": [1, 2]}
    assert not {"args", "cfg"} & saved.keys()
    assert load(target, network())(torch.ones(2, 32)).shape == (2, 10)


def test_hyper_parameters_with_an_object_in_them_are_left(absent, tmp_path):
    path, target = tmp_path / "last.ckpt", tmp_path / "small.ckpt"
    torch.save(lightning(absent), path)
    result = prune(path, target, carry_over=True, **SETTINGS)
    assert [note for note in result.notes if note.startswith("hyper_parameters was left out: it holds a ")]
    assert torch.load(target, weights_only=True)["epoch"] == 2


def test_tied_and_strided_tensors_stay_what_they_are(tmp_path):
    table, whole = torch.randn(6, 6), torch.randn(4, 3)
    state = {
        "embed.weight": table,
        "head.weight": table,
        "turned.weight": table.t(),
        "second.weight": whole[2:],
        "half.weight": torch.randn(3, 3).bfloat16(),
        "small.weight": torch.randn(3, 3).to(torch.float8_e4m3fn),
        "sparse": torch.eye(3).to_sparse(),
        "number": torch.tensor(3),
        "none": torch.empty(0, 3),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "model.pt"
    for zipped in (True, False):
        if not zipped:
            # torch itself does not read these from the legacy layout.
            del state["small.weight"]
        torch.save({"model": state, "args": argparse.Namespace()}, path, _use_new_zipfile_serialization=zipped)
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.ties == {"embed.weight": ("head.weight",)}
            for name, tensor in state.items():
                read = checkpoint.read(name)
                assert read.dtype == tensor.dtype
                assert torch.equal(read.to_dense().float(), tensor.detach().to_dense().float()), name


@BOTH
def test_a_tensor_of_a_class_among_the_weights_is_refused_not_forgotten(zipped, absent, tmp_path):
    kind = absent.define("Packed")
    path = tmp_path / "model.pt"
    state = {**STATE, "packed.weight": filled(kind, values=torch.ones(3, 3))}
    torch.save({"model": state}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UntrustedError, match=r"their_package\.config\.Packed"):
        open_checkpoint(path)


def test_a_file_of_objects_alone_says_what_it_lacks(tmp_path):
    path = tmp_path / "args.pt"
    torch.save({"args": argparse.Namespace(lr=0.1), "epoch": 2}, path)
    with pytest.raises(CheckpointError, match="holds no named tensors"):
        open_checkpoint(path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
@BOTH
def test_a_large_checkpoint_is_never_read_whole(zipped, python, tmp_path):
    """As many bytes as mapped pages may stay resident, and one tensor: not the file's 520 MB."""
    path = tmp_path / "large.ckpt"
    state = {f"layers.{number}.weight": torch.full((2500, 4000), float(number)) for number in range(13)}
    torch.save({"state_dict": state, "args": argparse.Namespace()}, path, _use_new_zipfile_serialization=zipped)
    program = (
        "import re, sys, pathlib, torch\n"
        "from rmt_compress.checkpoints import open_checkpoint\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])\n"
        "before = peak()\n"
        "with open_checkpoint(sys.argv[1]) as checkpoint:\n"
        "    for name in checkpoint.tensors:\n"
        "        assert checkpoint.read(name)[7, 7] == int(name.split('.')[1])\n"
        "print(peak() - before)\n"
    )
    run = python.run("-c", program, path)
    run.check_returncode()
    assert int(run.stdout) < 300 * 1024
