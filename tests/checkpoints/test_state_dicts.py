from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.state_dicts import describe, find_ties
from tests.samples.contents import assert_holds


def _optimizer_state() -> dict[str, Any]:
    layer = torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    "key", ["state_dict", "model", "model_state", "model_state_dict", "net", "params", "ema", "weights"]
)
def test_a_state_dict_under_every_usual_key_and_an_unusual_one(
    key: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pth"
    saved = {
        "optimizer": _optimizer_state(),
        "opt": _optimizer_state(),
        "step": torch.tensor(3),
        key: state,
        "epoch": 4,
        "arch": "mlp:4,3",
        "history": [0.5, 0.25],
    }
    torch.save(saved, path)
    assert_holds(path, state)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.notes == (
            f"Took {key!r}; left alone: optimizer (optimizer state), opt (optimizer state), step (number), "
            "epoch (number), arch (text), history (2 entries).",
        )
        assert checkpoint.beside[0] == ("optimizer", "optimizer state")
        assert checkpoint.metadata == {"arch": "mlp:4,3"}


def test_the_first_usual_key_is_taken_and_the_others_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.ckpt"
    other = {"fc.weight": torch.zeros(2, 2)}
    torch.save({"ema": other, "optimizer": _optimizer_state(), "epoch": 3, "state_dict": state}, path)
    assert_holds(path, state)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.notes == (
            "Took 'state_dict'; left alone: ema (weights, 1 tensor), optimizer (optimizer state), epoch (number).",
        )


def test_a_state_dict_two_levels_deep(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": {"state_dict": state, "config": {"depth": 3}}, "epoch": 1}, path)
    assert_holds(path, state)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.notes == ("Took 'model.state_dict'; left alone: epoch (number), model.config (1 entry).",)


def test_several_unnamed_sets_are_not_guessed_at(
    state: dict[str, torch.Tensor], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    path = tmp_path / "gan.pt"
    torch.save({"generator": state, "discriminator": state}, path)
    assert "several sets of tensors (generator, discriminator)" in refusal(path)


@pytest.mark.parametrize(
    "beside",
    [
        # With names in place of numbers, as distributed training saves it; and without param_groups.
        {"opt": {"state": {"fc.weight": {"exp_avg": torch.ones(3, 3)}}, "param_groups": []}},
        {"my_optim_states": {"exp_avg": {"fc.weight": torch.ones(3, 3)}}},
    ],
)
def test_optimizer_state_by_name_is_no_second_set(
    beside: dict[str, Any], state: dict[str, torch.Tensor], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    path = tmp_path / "training.pt"
    torch.save({**beside, "weights": state}, path)
    assert_holds(path, state)
    torch.save(beside, path)
    assert "no named tensors" in refusal(path)


@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: {"optimizer": o}, lambda o: {"model": o}])
def test_optimizer_state_is_never_taken(
    wrap: Callable[[Any], Any], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    path = tmp_path / "optimizer.pt"
    torch.save(wrap(_optimizer_state()), path)
    assert "no named tensors" in refusal(path)


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        (torch.ones(3), "a single tensor"),
        ([torch.ones(3)], "holds a list"),
        ({}, "nothing at all"),
        ({"epoch": 3}, "only epoch"),
        ({0: torch.ones(3)}, "only 0"),
        ({"state_dict": {}}, "only state_dict"),
        (5, "holds a int"),
    ],
)
def test_files_without_a_state_dict(
    saved: object, expected: str, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    path = tmp_path / "other.pt"
    torch.save(saved, path)
    assert expected in refusal(path)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."])
def test_common_prefixes_are_taken_off(prefix: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "wrapped.pt"
    torch.save({prefix + name: tensor for name, tensor in state.items()}, path)
    assert_holds(path, state)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.notes == (f"Took {prefix!r} off every name.",)


def test_a_prefix_that_not_all_have_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    state = {"module.weight": torch.ones(2, 2), "head.weight": torch.ones(2, 2)}
    torch.save(state, path)
    assert_holds(path, state)


def test_a_nested_tensor_is_listed_and_skipped() -> None:
    nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=torch.jagged)
    info = describe("n", nested)
    assert info.why_skipped is not None
    assert find_ties({"n": nested, "m": nested, "w": torch.ones(2)}) == {"n": ("m",)}
