import sys
import textwrap

import pytest
import torch

from rmt_compress.data import DataSettings, Samples, open_samples
from rmt_compress.errors import DataError

NAME = "users_own_objects"


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Writes a module into the current folder; forgotten after the test."""
    monkeypatch.chdir(tmp_path)

    def write(code: str) -> None:
        head = "import numpy as np, torch\nfrom torch.utils.data import *\n"
        (tmp_path / f"{NAME}.py").write_text(head + textwrap.dedent(code))

    yield write
    sys.modules.pop(NAME, None)


def opened(name="data", **settings):
    return open_samples(f"{NAME}:{name}", DataSettings(**settings))


def gathered(samples, size=4):
    batches = list(samples.batches(size))
    assert all(len(each.targets) <= size for each in batches if each.targets is not None)
    inputs = torch.cat([each.inputs for each in batches])
    return inputs, None if batches[0].targets is None else torch.cat([each.targets for each in batches])


X = "torch.arange(24.).reshape(12, 2)"
Y = "torch.arange(12)"

NATURAL = {
    "a loader": f"data = DataLoader(TensorDataset({X}, {Y}), batch_size=5)",
    "a shuffling loader": f"data = DataLoader(TensorDataset({X}, {Y}), batch_size=5, shuffle=True, drop_last=True)",
    "a loader with a batch sampler": f"""
        x = TensorDataset({X}, {Y})
        data = DataLoader(x, batch_sampler=BatchSampler(RandomSampler(x), 5, False))
    """,
    "a function that returns a loader": f"def data(): return DataLoader(TensorDataset({X}, {Y}), batch_size=5)",
    "a data set": f"data = TensorDataset({X}, {Y})",
    "a function that returns a data set": f"def data(): return TensorDataset({X}, {Y})",
    "a class of data sets": f"""
        class data(Dataset):
            def __len__(self): return 12
            def __getitem__(self, i): return {X}[i], i
    """,
    "a class that is a data set but for its base": f"""
        class data:
            def __len__(self): return 12
            def __getitem__(self, i): return {{"x": {X}[i].numpy(), "label": i}}
    """,
    "an iterable data set": f"""
        class data(IterableDataset):
            def __iter__(self): yield from zip({X}, {Y})
    """,
    "a loader of batches": f"""
        class Batches(IterableDataset):
            def __iter__(self): yield from zip({X}.split(5), {Y}.split(5))
        data = DataLoader(Batches(), batch_size=None)
    """,
    "a pair of tensors": f"data = ({X}, {Y})",
    "a pair of arrays": f"def data(): return {X}.numpy().astype(float), {Y}.numpy().astype(np.uint8)",
    "a dict of arrays": f"""data = {{"inputs": {X}.numpy(), "targets": {Y}.numpy()}}""",
    "a list of pairs": f"data = list(zip({X}.split(5), {Y}.split(5)))",
    "a function that returns a list of lists": f"""
        def data(): return [[x, y.tolist()] for x, y in zip({X}.split(5), {Y}.split(5))]
    """,
    "a list of dicts": f"""data = [dict(x=x, y=y) for x, y in zip({X}.split(5), {Y}.split(5))]""",
    "a generator function": f"def data(): yield from zip({X}.numpy().reshape(3, 4, 2), {Y}.numpy().reshape(3, 4))",
    "a function that returns an iterator": f"def data(): return zip({X}.split(5), {Y}.split(5))",
    "an object that can be iterated": f"""
        class Data:
            def __iter__(self): return zip({X}.split(7), {Y}.split(7))
        data = Data()
    """,
    "a method": f"""
        class Data:
            def batches(self): return list(zip({X}.split(7), {Y}.split(7)))
        data = Data().batches
    """,
}


@pytest.mark.parametrize("code", NATURAL.values(), ids=NATURAL)
def test_what_is_natural_is_taken(user_module, code):
    user_module(code)
    source = opened()
    whole = source.whole()
    assert isinstance(whole, Samples)
    assert whole.targets == "classes"
    for _ in range(2):
        inputs, labels = gathered(whole)
        assert inputs.tolist() == torch.arange(24.0).reshape(12, 2).tolist()
        assert labels.tolist() == list(range(12))
        assert (inputs.dtype, labels.dtype) == (torch.float32, torch.int64)
    parts = [gathered(source.part(part))[1].tolist() for part in ("calibration", "selection", "test")]
    assert all(parts)
    assert len({each for part in parts for each in part}) == sum(map(len, parts))
    assert "has no test split of its own" in source.part("test").notes[-1]


def test_a_sampler_without_an_end(user_module):
    user_module("""
        class Endless(Sampler):
            def __iter__(self):
                while True: yield from (3, 1, 2)
        data = DataLoader(TensorDataset(torch.arange(6.)[:, None]), sampler=Endless())
    """)
    assert gathered(opened().whole())[0].flatten().tolist() == [1, 2, 3]


def test_a_module_that_is_called_like_a_kind_of_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "csv.py").write_text("")
    (tmp_path / "datasets.py").write_text("import torch\ndef made(): return [torch.tensor([[1.0], [2.0]])]")
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert gathered(open_samples("datasets:made").whole())[0].tolist() == [[1.0], [2.0]]
    monkeypatch.delitem(sys.modules, "datasets")
    (tmp_path / "t").write_text("a\n1\n")
    assert gathered(open_samples("csv:t").whole())[0].tolist() == [[1.0]]


def test_inputs_without_targets(user_module):
    user_module("def data():\n    for _ in range(3): yield torch.ones(2, 3)")
    samples = opened().whole()
    inputs, targets = gathered(samples)
    assert (inputs.shape, targets, samples.targets, samples.count) == ((6, 3), None, "none", None)


def test_a_tensor_alone_and_a_data_set_of_one_tensor(user_module):
    user_module("data = torch.ones(5, 3)\nmore = TensorDataset(torch.ones(5, 3))")
    for name in ("data", "more"):
        assert gathered(opened(name).whole())[1] is None


def test_several_inputs(user_module):
    user_module("""
        def rows(): yield torch.ones(2, 3), torch.zeros(2, 4), torch.tensor([0, 1])
        def pairs(): yield (torch.ones(2, 3), torch.zeros(2, 4)), None
        def names():
            labels = torch.tensor([[1, -100, 2]] * 2)
            yield {"input_ids": torch.ones(2, 3, dtype=torch.int32), "labels": labels}
    """)
    ((inputs, targets),) = opened("rows").whole().batches(2)
    assert [each.shape for each in inputs] == [(2, 3), (2, 4)]
    assert targets.tolist() == [0, 1]
    ((inputs, targets),) = opened("pairs").whole().batches(2)
    assert (len(inputs), targets) == (2, None)
    ((inputs, targets),) = opened("names").whole().batches(2)
    assert (list(inputs), inputs["input_ids"].dtype) == (["input_ids"], torch.int64)
    assert targets.tolist() == [[1, -100, 2]] * 2


def test_a_callable_is_told_which_split(user_module):
    user_module("""
        def data(split): return torch.zeros(16, 1), torch.full((16,), ["train", "test"].index(split))
        def parts(part, split="train"): return torch.zeros(2, 1), torch.full((2,), len(part))
        def train(train=True): return torch.zeros(16, 1), torch.full((16,), int(train))
        def anything(**asked): return torch.zeros(16, 1), torch.full((16,), len(asked["split"]))
    """)
    for name, test, train in (("data", 1, 0), ("train", 0, 1), ("anything", 4, 5)):
        source = opened(name)
        assert gathered(source.part("test"))[1].unique().tolist() == [test]
        assert gathered(source.part("calibration"))[1].tolist() == [train] * 2
        assert gathered(source.part("selection"))[1].tolist() == [test] * 8
        assert source.held_out().notes == ()
    for part in ("calibration", "selection", "test", "train"):
        assert gathered(opened("parts").part(part))[1].tolist() == [len(part)] * 2


def test_classes_are_said_or_counted(user_module):
    user_module("""
        class Named(TensorDataset):
            classes = ["cat", "dog", "mouse"]
        named = Named(torch.zeros(2, 1), torch.tensor([0, 1]))
        loader = DataLoader(named)
        def data(): yield torch.zeros(2, 1), torch.tensor([0, 1])
        def said(): return data()
        said.classes = 7
        pair = torch.zeros(2, 1), torch.tensor([0, 4])
    """)
    found = {name: opened(name).whole().classes for name in ("named", "loader", "data", "said", "pair")}
    assert found == {"named": 3, "loader": 3, "data": None, "said": 7, "pair": 5}


def test_a_stream_is_not_read_further_than_asked(user_module):
    user_module("""
        seen = []
        def data():
            for number in range(10 ** 9):
                seen.append(number)
                yield torch.full((4, 2), float(number)), torch.arange(4)
    """)
    samples = opened().whole().thinned(10)
    inputs, _ = gathered(samples, 3)
    assert inputs[:, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert max(sys.modules[NAME].seen) == 2
    assert samples.thinned(3).thinned(100).share.most == 3


def test_sequences_of_several_lengths_are_not_joined(user_module):
    user_module("""
        def data():
            for length in (3, 3, 5): yield {"input_ids": torch.ones(2, length, dtype=torch.long)}
    """)
    shapes = [tuple(inputs["input_ids"].shape) for inputs, _ in opened().whole().batches(3)]
    assert shapes == [(3, 3), (1, 3), (2, 5)]


def test_bytes_of_a_stream_are_pixels_where_these_are_spoken_of(user_module):
    user_module("def data(): yield torch.full((2, 3, 4, 4), 255, dtype=torch.uint8), torch.tensor([0, 1])")
    plain = opened().whole()
    assert gathered(plain)[0].unique().tolist() == [255.0]
    assert "Inputs are bytes" in plain.notes[0]
    inputs, _ = gathered(opened(mean=".5", std=".25").whole())
    assert (inputs.dtype, inputs.unique().tolist()) == (torch.float32, [2.0])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("data = iter([1])", "it is a list_iterator, which can be gone through only once; name the function"),
        ("def data(): return kept\nkept = iter([torch.ones(2, 1)])", "it returns the same list_iterator each time"),
        ("data = 5", "it is an int; data are a DataLoader, a torch Dataset"),
        ("def data(): return 'text'", "it is a str; data are"),
        ("def data(): raise RuntimeError('two\\nlines')", "calling it failed (RuntimeError: two lines)"),
        ("def data(root): pass", "calling it failed (TypeError"),
        ("data = []", "it yields no batches"),
        ("data = TensorDataset(torch.zeros(0, 2))", "its data set is empty"),
        ("data = [5]", "a batch must be inputs, a pair (inputs, targets) or a dict of arrays, not int"),
        ("data = [()]", "not an empty tuple"),
        ("data = [{'labels': torch.ones(2)}]", "holds no inputs beside its labels"),
        ("data = [(torch.ones(2, 3), 4)]", "targets are one number: a batch has one entry for each"),
        ("data = [(torch.ones(2, 3), torch.tensor([0]))]", "a batch holds 2 inputs, 1 targets"),
        ("data = [('text', 'label')]", "inputs are texts; turn them into ids, or give their file"),
        ("data = [([[1, 2], [3]], [0, 1])]", "inputs are no numbers of one shape"),
        ("data = [(torch.ones(1, k), torch.tensor([0])) for k in (3, 4)]", "samples are of shapes 3 and 4"),
        ("data = [(torch.ones(1, 3), torch.tensor([0])), torch.ones(1, 3)]", "they differ in their parts"),
        ("data = [(torch.ones(1, 3), torch.tensor(y)) for y in ([0], [.5])]", "they are of torch.int64 and"),
        ("data = [(torch.ones(1, 3) * 1j, None)]", "inputs are complex"),
        ("data = [(torch.tensor([[0.], [float('nan')]]), None)]", "inputs hold NaN, first in sample 1"),
        (
            "def data():\n    yield torch.ones(2, 1)\n    raise OSError('gone')",
            "yielding a batch failed (OSError: gone)",
        ),
        (
            "class data(Dataset):\n    def __len__(self): return 3\n    def __getitem__(self, i): 1 / 0",
            "reading its samples",
        ),
        ("import nowhere_at_all", "importing users_own_objects failed: ModuleNotFoundError"),
        ("other = 1", "users_own_objects has no data"),
    ],
)
def test_what_is_no_data_is_one_line(user_module, code, message):
    user_module(code)
    with pytest.raises(DataError) as caught:
        gathered(opened().whole())
    assert message in str(caught.value)
    assert f"{NAME}:data" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stream_in_another_order_each_time_has_no_parts(user_module):
    user_module("""
        def data():
            y = torch.randint(100, (50,))
            yield y[:, None].float(), y
    """)
    samples = opened().part("test")
    with pytest.raises(DataError, match="another sample comes first each time, so that parts would overlap"):
        gathered(samples)
    assert gathered(opened().whole())[0].shape == (50, 1)


def test_parts_of_a_stream_follow_the_seed(user_module):
    user_module("def data():\n    for i in range(20): yield torch.full((1, 1), float(i)), torch.tensor([i])")
    test = gathered(opened().part("test"))[1].tolist()
    assert test == [0, 4, 8, 12, 16]
    assert gathered(opened(seed=1).part("test"))[1].tolist() == [3, 7, 11, 15, 19]
    assert gathered(opened().part("calibration").thinned(2))[1].tolist() == [1, 9]
