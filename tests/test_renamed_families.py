"""Folders whose tensors have other names than the class: cut, and loaded back by the library's own renaming.

A few of each sort here; `RMT_COMPRESS_ALL_FAMILIES=1` goes through all that the library lists (about 40 minutes, to
be run with `-rs`, which tells what could not be built and why).
"""

import os

import pytest
import torch

import rmt_compress as rmt
from rmt_compress.networks.loading import load_model
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.pruning import road
from rmt_compress.pruning.road import prune
from tests.samples.renamed_families import classes_of, renamed_names, small_network

transformers = pytest.importorskip("transformers", minversion="5")

pytestmark = pytest.mark.usefixtures("few_tokens")

# Renamed; joined expert by expert; turned or divided; nested in another; with a bias of another name.
FEW = (
    *("ViTMAEModel", "yolos", "GPTNeoXForCausalLM", "timesfm2_5", "mixtral", "olmoe", "granitemoe", "phimoe"),
    *("gte", "nomic_bert", "fuyu", "CLIPTextModel", "mistral3", "videomae"),
)
NAMES = renamed_names() if os.environ.get("RMT_COMPRESS_ALL_FAMILIES") else FEW


def weights(model):
    """The tensors of a network, of two layers the weight that they stand for."""
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if hasattr(module, "swaps"):
            state.pop(f"{name}.down.weight"), state.pop(f"{name}.up.weight")
            state[f"{name}.weight"] = module.weight.detach()
            if module.bias is not None:
                state[f"{name}.bias"] = state.pop(f"{name}.up.bias")
    return state


def in_two(model):
    return sum(hasattr(module, "swaps") for module in model.modules())


def test_the_few_are_in_the_library_s_list():
    assert set(FEW) <= set(renamed_names())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_both_layouts_load_back(tmp_path, monkeypatch, name):
    for cls in classes_of(name) or [None]:
        if cls is None:
            pytest.skip("no class of this name")
        try:
            config, model = small_network(cls)
        except ValueError as error:
            pytest.skip(f"{cls.__name__}: {error}")
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.is_floating_point() and parameter.dim() > 1:
                    parameter.normal_(std=0.1)
        source, dense, small = (tmp_path / cls.__name__ / part for part in ("source", "dense", "small"))
        model.save_pretrained(source)
        settings = PlanSettings(rule="rank:4")
        with monkeypatch.context() as patch:
            patch.setattr(road, "changed_outputs", lambda *_: None)  # the other layout asks the same network
            if not prune(source, dense, plan=settings, layout="dense").changes:
                continue
        prune(source, small, plan=settings)
        wanted, report = cls.from_pretrained(dense, output_loading_info=True)
        assert not report["missing_keys"]
        wanted = weights(wanted.float())
        loaded = [load_model(small), rmt.load(small, model=cls(config)), rmt.load(dense, model=cls(config))]
        assert in_two(loaded[0]) == in_two(loaded[1]) > 0
        for each in loaded:
            torch.testing.assert_close(weights(each), wanted, atol=1e-5, rtol=1e-5, equal_nan=True)
