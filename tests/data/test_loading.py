import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from rmt_compress.data import KNOWN_SETS, Dataset, load_data, loading
from rmt_compress.errors import DataError, MissingDependencyError


def test_digits_splits_are_the_whole_set_once_and_balanced():
    train, test = load_data("digits", split="train"), load_data("digits", split="test")
    assert (len(train), len(test)) == (1437, 360)
    assert tuple(test.images.shape) == (360, 1, 8, 8)
    both = torch.cat([train.images, test.images]).flatten(1).mul(16).round().to(torch.int64)
    everything = torch.from_numpy(load_digits().data).to(torch.int64)
    assert sorted(both.tolist()) == sorted(everything.tolist())
    assert torch.bincount(test.labels).tolist() == pytest.approx([36] * 10, abs=1)
    assert float(train.images.max()) == 1.0


def test_digits_labels_belong_to_their_images():
    digits = load_digits()
    label_of = {
        image.tobytes(): label for image, label in zip(digits.data.astype(np.int64), digits.target, strict=True)
    }
    data = load_data("digits", split="test")
    images = data.images.flatten(1).mul(16).round().to(torch.int64).numpy()
    assert [label_of[image.tobytes()] for image in images] == data.labels.tolist()


@pytest.mark.slow
def test_digits_split_is_the_same_in_every_process(python):
    code = "from rmt_compress.data import load_data; print(load_data('digits', split='test').labels.tolist())"
    assert python.run("-c", code).stdout.strip() == str(load_data("digits", split="test").labels.tolist())


def test_importing_is_cheap():
    imports = "import sys, rmt_compress.data, rmt_compress.networks.architectures"
    code = f"{imports}; print({{'torch', 'sklearn', 'numpy', 'pooch', 'PIL'}} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"


def test_an_unknown_name_lists_the_known_ones_and_the_way_out():
    with pytest.raises(DataError) as caught:
        load_data("cifar-11", split="test")
    message = str(caught.value)
    assert "'cifar-11'" in message
    assert all(known in message for known in KNOWN_SETS)
    assert "directory" in message
    assert "\n" not in message


def test_unknown_split():
    with pytest.raises(DataError, match="split 'validation' is unknown"):
        load_data("digits", split="validation")


def test_a_file_where_a_directory_belongs(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is a file: give the directory"):
        load_data(str(path), split="test")


def test_a_directory_without_data(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match="nothing known in it; expected IDX files"):
        load_data(str(tmp_path), split="test")


def test_scikit_learn_missing_is_one_line(monkeypatch):
    loading._digits.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r"scikit-learn: pip install 'rmt-compress\[train\]'"):
        load_data("digits", split="test")


def test_dataset_checks_itself():
    images = torch.zeros(2, 1, 4, 4)
    for labels, message in (
        ([0], "2 images but 1 labels"),
        ([0, 3], "label 3 is outside"),
        ([-1, 0], "label -1 is"),
    ):
        with pytest.raises(DataError, match=message):
            Dataset("toy", "test", images, torch.tensor(labels), classes=3)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Writes a module into the current folder and gives its name; forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    name = "users_own_data"

    def write(code: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        return name

    yield write
    sys.modules.pop(name, None)


def test_a_callable_with_split(user_module):
    module = user_module("""
        import numpy as np, torch
        def load(split):
            start = 0 if split == "train" else 10
            for step in range(2):
                yield torch.full((3, 5), float(start + step)), np.array([0, 1, 2 + step])
        load.classes = 7
    """)
    path = list(sys.path)
    train, test = (load_data(f"{module}:load", split=split) for split in ("train", "test"))
    assert sys.path == path
    assert train.images[:, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert test.images[:, 0].tolist() == [10, 10, 10, 11, 11, 11]
    assert test.labels.tolist() == [0, 1, 2, 0, 1, 3]
    assert (test.classes, test.notes) == (7, ())


def test_a_callable_without_split_is_noted(user_module):
    module = user_module("""
        import torch
        class Source:
            @staticmethod
            def batches():
                return [(torch.ones(2, 3), torch.tensor([0, 4]))]
    """)
    data = load_data(f"{module}:Source.batches", split="test")
    assert data.classes == 5
    assert "train and test are the same data" in data.notes[0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('two\\nlines')", "calling it failed (RuntimeError: two lines)"),
        ("return 5", "calling it failed (TypeError"),
        ("return []", "yields no batches for the test split"),
        ("return [torch.ones(2)]", "must be a pair (inputs, labels), not Tensor"),
        ("return [(torch.ones(2, 3), torch.tensor([0.5, 1.0]))]", "labels must be integers"),
        ("return [(torch.ones(2, 3), torch.tensor([[1, 0], [0, 1]]))]", "labels must be integers"),
        ("return [(torch.ones(2, 3), torch.tensor([0]))]", "2 images but 1 labels"),
        ("return [(torch.ones(1, k), torch.tensor([0])) for k in (3, 4)]", "its batches do not fit together"),
        ("return [('text', 'label')]", "calling it failed"),
    ],
)
def test_a_callable_that_misbehaves(user_module, body, message):
    module = user_module(f"import torch\ndef load():\n    {body}\n")
    with pytest.raises(DataError) as caught:
        load_data(f"{module}:load", split="test")
    assert message in str(caught.value)
    assert "users_own_data:load" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_module_at_all:load", "importing no_such_module_at_all failed: ModuleNotFoundError"),
        ("users_own_data:absent", "has no absent"),
        ("users_own_data:number", "is a int, not callable"),
        ("users_own_data:broken.name", "has no broken.name"),
    ],
)
def test_a_reference_that_leads_nowhere(user_module, spec, message):
    user_module("number = 5\n")
    with pytest.raises(DataError) as caught:
        load_data(spec, split="test")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
