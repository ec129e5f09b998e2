"""What is disturbed: works on small networks, each with what it makes and how the next run goes on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CARD = "README.md"
_PAGE = b"</html>"
_DATA = re.compile(rb"small\.onnx\.[0-9a-f]{8}\.data")


@dataclass(frozen=True)
class Work:
    """A command, its inputs and its outputs.

    Attributes:
        name: for the table.
        prepare: puts the inputs into a folder.
        arguments: of the program, run in that folder.
        output: what it makes: a file or a folder.
        together: further files that belong to it: there are all of them, or none.
        beside: what else it may leave: names in the folder.
        resumes: the state that a next run goes on with, where one may be left.
        patch: Python that the process runs first.
        reads: the input that is changed while it is read.
        asked_only: whether signals alone are sent to it unless it is named: it makes nothing that others do not
            make like it.
    """

    name: str
    prepare: Callable[[Path], None]
    arguments: tuple[str, ...]
    output: str
    together: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    resumes: str = ""
    patch: str = ""
    reads: str = ""
    asked_only: bool = False

    def next_arguments(self, folder: Path) -> tuple[str, ...]:
        """The run after one that was disturbed: it goes on where there is something to go on with."""
        if self.arguments[0] == "finetune" and (folder / self.resumes).exists():
            return *(each for each in self.arguments if each != "--force"), "--resume"
        return self.arguments

    def found(self, folder: Path) -> dict[str, bytes]:
        """The output, file by file; empty where there is none."""
        place = folder / self.output
        if self.output and place.is_dir():
            files = (path for path in place.rglob("[!.]*") if path.is_file())
            return {str(path.relative_to(place)): path.read_bytes() for path in files}
        places = (folder / name for name in (self.output, *self.together) if name)
        content = {path.name: path.read_bytes() for path in places if path.exists()}
        for name in [name for name in content if name.endswith(".onnx")]:
            for data in (folder / each for each in _data(content[name])):
                content["data"] = data.read_bytes() if data.exists() else b"missing"
            content[name] = _DATA.sub(b"the file beside it", content[name])
        # A page tells times, which are others in every run.
        whole = {name for name, text in content.items() if name.endswith(".html") and text.rstrip().endswith(_PAGE)}
        return content | dict.fromkeys(whole, _PAGE)

    def strangers(self, folder: Path, inputs: frozenset[str]) -> set[str]:
        """What lies in the folder, or in the output, and is neither input nor output."""
        places = [Path(name) for name in (self.output, *self.together) if name]
        known = inputs | {place.parts[0] for place in places} | {*self.beside}
        for place in places:
            if place.suffix == ".onnx" and (folder / place).exists():
                known |= {*_data((folder / place).read_bytes())}
        found = {path.name for path in folder.iterdir()} - known
        within = {folder / place.parts[0] for place in places} - {folder / name for name in found}
        return found | {path.name for one in within if one.is_dir() for path in one.rglob(".*")}

    def put_old(self, folder: Path) -> None:
        """An output of an earlier run, of other content."""
        if self.name == "folder":
            (folder / self.output).mkdir()
            (folder / self.output / "config.json").write_text("{}")
            (folder / self.output / "old.txt").write_text("old")
            return
        for place in (folder / name for name in (self.output, *self.together) if name):
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(b"old")

    def set_up(self, folder: Path) -> frozenset[str]:
        """Make the folder with the inputs, and say what they are."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.prepare(folder)
        return frozenset(path.name for path in folder.iterdir())


def _data(model: bytes) -> list[str]:
    """The file beside an ONNX model that its tensors are in, whose name is another in every run."""
    return sorted({name.decode() for name in _DATA.findall(model)})


def layers(rows: int = 100, columns: int = 140) -> dict[str, object]:
    """Two layers of noise with three spikes each."""
    import torch

    torch.manual_seed(20261127)
    return {
        f"fc{number}.weight": torch.randn(rows, columns) / 12 + torch.randn(rows, 3) @ torch.randn(3, columns) / 20
        for number in range(2)
    }


def _file(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(layers(), folder / "model.safetensors")


def _saved(folder: Path) -> None:
    import torch

    torch.save(layers(), folder / "model.pt")


def _folder(folder: Path) -> None:
    from safetensors.torch import save_file

    (folder / "net").mkdir(exist_ok=True)
    save_file(layers(), folder / "net" / "model.safetensors", {"format": "pt"})
    (folder / "net" / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 140}))
    (folder / "net" / "tokenizer.json").write_text("{}")
    (folder / "net" / "sub").mkdir(exist_ok=True)
    (folder / "net" / "sub" / "note.txt").write_text("further")


def _digits(folder: Path) -> None:
    _perceptron(folder / "digits.safetensors", kept=80)


def _cut_digits(folder: Path) -> None:
    _digits(folder)
    _perceptron(folder / "cut.safetensors", kept=12)


def _graph(folder: Path) -> None:
    """A model with its tensors in a file beside it."""
    import onnx
    import torch
    from onnx import helper, numpy_helper

    weights = {name.replace(".", "_"): value for name, value in layers(100, 100).items()}
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    names = ["x", *(f"h{number}" for number in range(1, len(weights))), "y"]
    nodes = [
        helper.make_node("MatMul", [taken, weight], [given])
        for taken, weight, given in zip(names, weights, names[1:], strict=False)
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("n", 100)) for name in "xy"]
    tensors = [numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], tensors)
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    # onnx appends to data that are there.
    (folder / "model.weights").unlink(missing_ok=True)
    onnx.save(built, folder / "model.onnx", save_as_external_data=True, location="model.weights", size_threshold=0)


def _perceptron(file: Path, kept: int) -> None:
    """Three layers that nobody has trained, the middle one of so high a rank."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(20261128)
    state = {}
    for number, (columns, rows) in enumerate(((64, 80), (80, 80), (80, 10)), 1):
        weight = torch.randn(rows, columns) / columns**0.5 + torch.randn(rows, 2) @ torch.randn(2, columns) / 20
        if number == 2:
            left, values, right = torch.linalg.svd(weight)
            weight = (left[:, :kept] * values[:kept]) @ right[:kept]
        state |= {f"fc{number}.weight": weight, f"fc{number}.bias": torch.zeros(rows)}
    save_file(state, file, {"architecture": "mlp:64,80,80,10"})


ALSO = ("transformers.modeling_utils", "torch.distributed.device_mesh", "sklearn.datasets", "torch.profiler")
"""What the works import beside what `ForkServer` imports."""
WORKS = {
    work.name: work
    for work in (
        Work(
            "prune",
            _file,
            ("prune", "model.safetensors", "-o", "small.safetensors", "--force", "--jobs", "1"),
            "small.safetensors",
            reads="model.safetensors",
        ),
        Work(
            "prune-pt",
            _saved,
            (
                *("prune", "model.pt", "-o", "small.pt", "--force", "--jobs", "1"),
                *("--save-plan", "plan.json", "--report", "report.html"),
            ),
            "small.pt",
            beside=("plan.json", "report.html"),
            reads="model.pt",
        ),
        Work(
            "folder",
            _folder,
            ("prune", "net", "-o", "small", "--force", "--jobs", "1"),
            "small",
            reads="net/model.safetensors",
        ),
        Work(
            "calibration",
            _digits,
            (
                *("prune", "digits.safetensors", "-o", "small.safetensors", "--force", "--jobs", "1"),
                *("--keep", "0.3", "--calibrate", "digits", "--calibration-samples", "128"),
                *("--selection-samples", "64", "--save-moments", "moments.safetensors"),
            ),
            "small.safetensors",
            beside=("moments.safetensors",),
            resumes="moments.safetensors.partial",
            reads="digits.safetensors",
            # Sums are written after every batch, not once in a minute.
            patch="import rmt_compress.networks.calibration.interrupted as kept; kept.SECONDS = 0",
        ),
        Work(
            "finetune",
            lambda _: None,
            (
                *("finetune", "--data", "digits", "--arch", "mlp:64,160,160,10", "--epochs", "3"),
                *("--batch-size", "16", "--samples", "400", "--lr", "0.05", "--prune-every", "2", "--gof", "0.3"),
                *("--sparsify", "0.001:0.01", "-o", "small.safetensors", "--force"),
            ),
            "small.safetensors",
            beside=("small.log.jsonl",),
            resumes="small.training.pt",
        ),
        Work(
            "tuned",
            _digits,
            (
                *("finetune", "digits.safetensors", "--data", "digits", "--epochs", "3", "--batch-size", "16"),
                *("--samples", "400", "--lr", "0.05", "--no-prune", "-o", "small.safetensors", "--force"),
            ),
            "small.safetensors",
            beside=("small.log.jsonl",),
            resumes="small.training.pt",
            reads="digits.safetensors",
            asked_only=True,
        ),
        Work(
            "graph",
            _graph,
            ("prune", "model.onnx", "-o", "small.onnx", "--force", "--jobs", "1", "--exclude", "fc0*"),
            "small.onnx",
            reads="model.onnx",
        ),
        Work(
            "measured",
            _digits,
            (
                *("prune", "digits.safetensors", "-o", "small.safetensors", "--force", "--jobs", "1"),
                *("--data", "digits", "--rule", "energy:0.7", "--report", "page.html"),
            ),
            "small.sweep.csv",
            together=("small.sweep.json", "small.sweep.png"),
            beside=("small.safetensors", "page.html"),
            asked_only=True,
        ),
        Work(
            "analyze",
            _file,
            (
                *("analyze", "model.safetensors", "--csv", "table.csv", "--report", "page.html"),
                *("--plots", "drawn", "--force"),
            ),
            "table.csv",
            together=("page.html", "drawn/fc0.png", "drawn/fc1.png"),
            asked_only=True,
        ),
        Work(
            "evaluate",
            _digits,
            (
                *("evaluate", "digits.safetensors", "--data", "digits", "--limit", "200"),
                *("--report", "page.html", "--force"),
            ),
            "page.html",
            asked_only=True,
        ),
        Work(
            "sweep",
            _digits,
            (
                *("sweep", "digits.safetensors", "--data", "digits", "--limit", "100", "--what", "rank"),
                *("--layer", "fc2", "--points", "3", "-o", "swept", "--force"),
            ),
            "swept/rank.csv",
            together=("swept/rank.json", "swept/rank.png"),
            asked_only=True,
        ),
        Work(
            "export",
            _digits,
            ("export", "digits.safetensors", "-o", "digits.onnx", "--force"),
            "digits.onnx",
            asked_only=True,
        ),
        Work(
            "certify",
            _cut_digits,
            (
                *("certify", "digits.safetensors", "--cut", "cut.safetensors", "--data", "digits"),
                *("--limit", "100", "--plot", "bounds.png", "--report", "page.html", "--force"),
            ),
            "page.html",
            together=("bounds.png",),
            asked_only=True,
        ),
        Work("show", _digits, ("show", "digits.safetensors"), "", asked_only=True),
    )
}
