"""The cases that `same_outputs.py` runs, and the inputs they name.

The inputs are made by plain torch, safetensors and onnx, with nothing of this project.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILES = {
    "$samples": "{{digits,mnist,fashion}_mlp.safetensors,cifar10_cnn.pt}",
    "$mlps": "{mlp.safetensors,mlp.pt,mlp.legacy.pt,mlp.ckpt,mlp.onnx,mlp.pt2,mlp.whole.pt,mlp.jit.pt,shards,hf}",
    "$convs": "{conv.pt,conv.onnx,conv.pt2,conv.whole.pt,conv.jit.pt}",
    "$others": "{kinds.safetensors,kinds.pt,mlp.bf16.safetensors,mlp.f16.pt,torch.onnx,lstm.onnx,lstm.pt2}",
    "$bad": "{missing.pt,empty.pt,text.pt,text.safetensors,cut.safetensors,cut.pt,lfs.safetensors,cut.onnx,"
    "nan.safetensors,vectors.safetensors,nofolder,nets.py,shards/config.json,badindex}",
    "$tune": "finetune --data digits --arch mlp:64,96,64,10 --samples 400 --epochs 2 --prune-every 1",
}
CASES = """
{,-h,--help,--version,nosuch,--nosuch,analyze --nosuch,prune a b}
{analyze,prune,sweep,evaluate,finetune,export,show} --help
analyze $samples {,--json,--csv out.csv,--quantiles paper,--sort saving --alpha 0.2 --beta 0.05}
analyze {$mlps,$convs,$others} --trust {,--json}
analyze {{mlp,conv}.{whole,jit}.pt,mlp.ckpt} {,--json}
analyze kinds.pt {--embeddings,--embeddings --json,--min-size 8,--include lstm*,--exclude lstm* --exclude lora*}
analyze kinds.pt --sort {order,name,gof,spikes,energy,size,saving}
analyze kinds.safetensors --min-size 8 --embeddings --csv all.csv --json
analyze {digits_mlp.safetensors,kinds.pt,conv.onnx} --plots out --jobs 1 ; analyze mlp.pt --plots out
analyze mlp.pt --csv nets.py ; analyze mlp.pt --csv nets.py --force ; analyze mlp.pt --csv mlp.pt --force
analyze mlp.ckpt --weights {ema,model,nosuch} --json
analyze {,--jobs 2} ; # mlp.pt
analyze {,--json} ; # mlp.pt conv.pt
analyze ; prune ; show
{analyze,analyze --json,show,show --json,prune,export -o out.pt} $bad
analyze mlp.pt {--alpha 0.7,--alpha 0.7 --beta 2 --gof -1,--min-size 1,--sort nosuch,--include nosuch*,--jobs 0}
{analyze --json,show,prune -o small} lm
{analyze,prune --arch network:Net --fold-batchnorm --dry-run} resnet.pt ; # network.py
prune $samples {--dry-run --json,-o s.pt ; show s.pt,-o s.pth --sparsify 0.02 --json ; show s.pth}
prune {$mlps,$convs} --trust {,--json,--layout dense,--sparsify 0.05,--when-not-smaller truncate --gof 1}
prune $others {,--json,--layout dense,--when-not-smaller truncate --gof 1 --min-size 8,--rule ratio:0.1 --gof 1}
prune mlp.{whole,jit}.pt
prune lstm.{pt,onnx,pt2,whole.pt} --trust --gof 1 --rule rank:4 {,--layout dense --when-not-smaller truncate}
prune mlp.safetensors -o s.pt {--gof 0.001,--gof 1 --gof-conv 0.01,--keep-bulk 0.3,--quantiles paper} --json
prune mlp.pt -o s.safetensors --rule {energy:0.9,gd14,ratio:0.25,rank:7,rank:5000} --gof 1 {,--json}
prune mlp.pt -o s.pt {--sparsity 0.5,--sparsity 0.9 --sparsify 0.1,--rank-multiple 16,--alpha 0.1} ; show s.pt
prune {mlp.pt --include 1*,conv.pt --include *conv --include f*,mlp.pt --exclude *3*,kinds.pt --min-size 45} -o s.pt
prune {mlp,conv}.pt -o s.safetensors {--include 1.* --include conv,--min-size 70,--jobs 1}
prune mlp.pt --sparsity 0.9 --layout dense -o s.{safetensors,pt} ; show s.{safetensors,pt} --json
prune {kinds.pt,conv.onnx,hf} --save-plan p.json --dry-run --gof 1 ; prune {kinds.pt,conv.onnx,hf} --plan p.json
prune mlp.pt --save-plan p.json -o a.pt ; prune mlp.pt --plan p.json -o b.pt --json ; prune conv.pt --plan p.json
prune mlp.pt --plan {nosuch.json,nets.py,wrong.json} ; prune mlp.pt --plan wrong.json --gof 1 --rule gd14
prune mlp.ckpt {--carry-over -o s.{pt,safetensors},--weights ema,--carry-over --weights ema -o s.ckpt}
prune mlp.pt -o a.pt ; prune mlp.pt -o a.pt ; prune mlp.pt -o a.pt --force ; prune a.pt -o b.pt ; prune a.pt -o a.pt
prune mlp.pt {-o out.txt,-o no/such.pt,-o mlp.pt,-o mlp.pt --force,--carry-over,-o hf,--save-plan nets.py}
prune {hf,shards} {-o small,-o small --layout dense --json,-o small.safetensors,-o small.pt} ; show small
prune mlp.pt --rule {nosuch,energy:2,ratio:-1,rank:x,bema:1} ; prune mlp.pt --layout nosuch
prune mlp.pt --keep-bulk 2 --gof -1 --alpha 0.9 --rule x ; prune mlp.pt --keep-bulk 2 --sparsity 3 --rule x
prune conv.pt --fold-batchnorm {,--arch nets:Conv,--arch nets:Conv --json -o s.safetensors,--arch nets:nosuch}
prune {digits_mlp.safetensors,mlp.pt --arch nets:mlp,mlp.onnx,mlp.pt2} --data digits --gof 1 {,--json}
prune {digits_mlp.safetensors,mlp.pt,mlp.onnx} --data digits --arch mlp:64,96,80,10
prune {conv.pt --arch nets:Conv -o small.pt,conv.onnx -o small.onnx} --data nets:batches
prune {conv.pt --data nets:batches,mlp.pt --data nosuch,mlp.pt --data nets.py,mlp.pt --arch nosuch:1}
show {$samples,$mlps,$convs,$others} --trust {,--json}
show mlp.ckpt --weights ema ; show mlp.whole.pt ; show mlp.jit.pt
export $mlps --trust -o out.{safetensors,pt} ; show out.{safetensors,pt} --json
export {$samples,mlp.pt --arch nets:mlp --input-shape 64,conv.whole.pt --trust --input-shape 8\\,8\\,8} -o out.onnx
export {conv.pt --arch nets:Conv --input-shape 8\\,8\\,8,conv.pt,mlp.onnx,mlp.pt2,kinds.pt} -o out.{onnx,pt}
prune digits_mlp.safetensors -o s.pt --sparsify 0.02 ; export s.pt -o d.{onnx,pt,safetensors} ; analyze s.pt --json
prune conv.pt -o s.safetensors ; export s.safetensors --arch nets:Conv --input-shape 8,8,8 -o d.onnx ; show d.onnx
export mlp.pt {,-o out.txt,-o mlp.pt,-o nets.py,-o mlp.pt --force,-o out.onnx,-o out.onnx --input-shape x}
sweep digits_mlp.safetensors --data digits --limit 60 --points 3 --what {rank,share,sparsity,all} {,--json}
sweep digits_mlp.safetensors --data digits --limit 60 --points 2 --layer fc2 --rules bema,gd14 -o out --gof 1
sweep mlp.{onnx,pt2,whole.pt} --trust --data digits --limit 60 --points 2
sweep mlp.pt {,--data digits,--data digits --arch nets:mlp {--layer no,--rules x,--what x},--data no} --points 2
sweep {mlp.pt,mlp.ckpt --weights ema} --arch nets:mlp --data digits --limit 50 --points 2 -o out --json
sweep conv.pt --arch nets:Conv --data nets:batches --points 2 -o out --batch-size 16 ; sweep conv.pt --data x -o out
evaluate {digits_mlp.safetensors,mlp.{onnx,pt2},mlp.{whole,jit}.pt --trust} --data digits --limit 9 {,--json}
evaluate mlp.pt {,--arch mlp:1\\,2,--arch nets:mlp --device no,--arch nosuch,--limit 0,--arch nets:no} --data digits
evaluate mlp.{pt,jit.pt} {--arch nets:mlp --data nosuch,--arch nets:mlp --data nets:nosuch,--data digits}
evaluate mlp.pt --arch nets:mlp --data digits --batch-size 7 ; evaluate mnist_mlp.safetensors --data digits
evaluate conv.pt --arch nets:Conv --data nets:batches ; evaluate {conv.pt,conv.onnx} --data nets:batches
prune digits_mlp.safetensors -o s.pt ; evaluate s.pt --against digits_mlp.safetensors --data digits {,--json}
prune mlp.onnx -o s.onnx ; evaluate s.onnx --against mlp.onnx --data digits
evaluate mnist_mlp.safetensors --data mnist --limit 500 {,--json}
evaluate fashion_mlp.safetensors --data fashion-mnist --limit 200 ; evaluate cifar10_cnn.pt --data cifar10 --limit 9
$tune -o t.safetensors {,--json,--plots out,--mode recursive,--keep-bulk 0.6\\,0 --gof 1}
$tune -o t.pt {--sparsify 0.01,--sparsify 0.001:0.02 --masks released,--sparsify-after 0.02,--no-prune} --json
$tune -o t.pt {--compare,--compare --json --seeds 0\\,1,--seeds 3\\,1,--optimizer adamw --l1 1e-5}
$tune -o t.pt {--schedule cosine --loss mse,--schedule step:0.5\\,1 --augment flip-shift --momentum 0.5}
$tune -o t.pt {--min-accuracy 0.05,--min-accuracy 0.9,--when-not-smaller truncate --gof 1,--max-seconds 1e-4}
$tune -o t.pt ; $tune -o t.pt ; $tune -o t.pt --resume ; $tune -o t.pt --epochs 3 --resume ; $tune --epochs 1
$tune -o t.pt --resume ; $tune -o t.pt ; $tune -o t.pt --force ; show t.pt --json ; $tune --prune-every 5
$tune --epochs 0 --lr -1 --keep-bulk x --schedule y --sparsify z ; $tune --seeds a,b ; $tune --mode no ; finetune
finetune --data digits --epochs 2 --prune-every 1 --samples 99 ; finetune mlp.pt --data digits --epochs 1
finetune digits_mlp.safetensors --data digits --epochs 2 --prune-every 1 --samples 300 {,--json,--rank-multiple 8}
finetune mlp.{pt,ckpt} --arch nets:mlp --data digits --epochs 1 --samples 300 ; show mlp.tuned.{pt,ckpt}
prune digits_mlp.safetensors -o s.pt ; finetune s.pt --data digits --epochs 1 --mode {recursive,recombine}
finetune --arch cnn:1x8x8/32,p,48/40,10 --data digits --epochs 3 --samples 200 {--gof 1,--gof-conv 1 --gof 0.01}
finetune {conv.onnx,conv.pt --arch nets:Conv,mlp.pt2} --data nets:batches --epochs 1 -o t.pt ; show t.pt
python print(json.dumps(rmt.analyze('kinds.pt', min_size=8, embeddings=True).to_json()))
python print(json.dumps(rmt.analyze(nets.lively(), quantiles='paper').to_json()))
python print(told(rmt.make_plan(rmt.analyze('conv.onnx'), gof=1, keep_bulk=0.2, sparsify=0.01)))
python m = rmt.compress(nets.lively(), rmt.make_plan(rmt.analyze('mlp.pt'), rule='rank:9')); print(m, tell(m))
python m = nets.lively(); p = rmt.make_plan(rmt.analyze(m)); rmt.save(rmt.compress(m, p), 's.pt', plan=p)
python print(json.dumps(rmt.prune('mlp.pt', 's.pt').to_json()), tell(rmt.load('s.pt', model=nets.mlp())))
python rmt.prune('conv.pt', 's.pt'); print(tell(rmt.load_dense('s.pt'))); print(rmt.load('s.pt', model=nets.Conv()))
python for f in ('mlp.pt', 'kinds.pt'): print([(x.name, x.kind, x.shape) for x in rmt.open_checkpoint(f).layers()])
python print(tell(rmt.fold_batchnorm(nets.Conv().eval()))); print(sorted(rmt.__all__))
python rmt.prune('mlp.pt', 's.pt', save_plan=pathlib.Path('p.json')); print(told(rmt.load_plan('p.json')))
python rmt.save(nets.lively(), 'a.safetensors'); print(list(rmt.open_checkpoint('a.safetensors').tensors))
python rmt.analyze('nan.safetensors', alpha=3)
python rmt.load('mlp.pt', model=nets.Conv())
python rmt.compress(nets.Conv(), rmt.make_plan(rmt.analyze('mlp.pt')))
"""
"""One case a line, braces expanded as a shell would; steps, `` ; `` between, share a folder; # names inputs."""

NETWORKS = """
import torch
from torch import nn

class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(8, 48, 3, padding=1)
        self.norm = nn.BatchNorm2d(48)
        self.deconv = nn.ConvTranspose2d(48, 40, 3, stride=2)
        self.fc = nn.Linear(40, 10)

    def forward(self, x):
        return self.fc(self.deconv(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(48, 40, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]

def mlp():
    torch.manual_seed(2)
    layers = nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 80), nn.ReLU(), nn.Linear(80, 10)
    return nn.Sequential(nn.Flatten(), *layers)

def lively():
    model = mlp()
    model.load_state_dict(torch.load("mlp.pt"))
    return model

def batches(split="train"):
    generator = torch.Generator().manual_seed(len(split))
    for _ in range(3):
        yield torch.randn(20, 8, 8, 8, generator=generator), torch.arange(20) % 10
"""
"""The module ``nets`` in every folder, and the classes in the pickled modules."""

LIBRARY_START = """
import hashlib, json, pathlib, torch, nets, rmt_compress as rmt  # mlp.pt
def tell(state):
    state = state.state_dict() if isinstance(state, torch.nn.Module) else state
    return {k: (t.shape, hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest()) for k, t in state.items()}
def told(plan):
    return json.dumps([plan.settings, [(d.name, d.action, d.rank, d.sparsify, d.reason) for d in plan.layers]])
"""


def cases() -> list[str]:
    """Every case, expanded."""
    text = CASES
    for _ in FILES:
        for name, files in FILES.items():
            text = text.replace(name, files)
    lines = text.strip().splitlines()
    return list(dict.fromkeys(case.strip() for line in lines for case in expanded(line)))


def expanded(line: str) -> Iterator[str]:
    """Braces expanded, the outermost first; the same choice wherever a line holds the same braces again."""
    start = -1 if line.startswith("python ") else line.find("{")
    if start < 0:
        yield line.replace("\\,", ",")
        return
    parts, depth, at = [""], 0, start
    while depth or at == start:
        depth += {"{": 1, "}": -1}.get(line[at], 0)
        if line[at] == "," and depth == 1 and line[at - 1] != "\\":
            parts.append("")
        else:
            parts[-1] += line[at]
        at += 1
    parts[0], parts[-1] = parts[0][1:], parts[-1][:-1]
    for part in parts:
        yield from expanded(line.replace(line[start:at], part))


def make_inputs(folder: Path, samples: Path, data: Path | None) -> None:
    """Write every file that the cases name."""
    import networks
    import onnx
    import torch
    from safetensors.torch import save_file
    from torch import nn

    for path in [*samples.glob("*.safetensors"), *samples.glob("*.pt")]:
        shutil.copy2(path, folder)
    if data is not None and (models := data.parent / "models").is_dir():
        shutil.copytree(models / "lm", folder / "lm")
        for path in (models / "resnet").iterdir():
            shutil.copy2(path, folder)
    (folder / "nets.py").write_text(NETWORKS)
    sys.path.insert(0, str(folder))
    nets: Any = importlib.import_module("nets")

    def planted(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    networks.plant_spikes(weight)
        return model.eval()

    mlp, conv, lstm = planted(nets.mlp()), planted(nets.Conv()), planted(nets.Recurrent())
    state = mlp.state_dict()
    inputs = {"mlp": torch.rand(2, 1, 8, 8), "conv": torch.rand(2, 8, 8, 8), "lstm": torch.rand(2, 5, 48)}
    for name, model in (("mlp", mlp), ("conv", conv), ("lstm", lstm)):
        given: Any = (inputs[name],)
        trace: Any = torch.jit.trace
        torch.save(model.state_dict(), folder / f"{name}.pt")
        torch.save(model, folder / f"{name}.whole.pt")
        torch.jit.save(trace(model, given), folder / f"{name}.jit.pt")
        batch = ({0: torch.export.Dim("batch")},)
        torch.export.save(torch.export.export(model, given, dynamic_shapes=batch), folder / f"{name}.pt2")
        axes = {"input": {0: "batch"}}
        names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"], "dynamic_axes": axes}
        torch.onnx.export(model, given, str(folder / f"{name}.onnx"), dynamo=False, opset_version=17, **names)
    torch.onnx.export(
        conv, (inputs["conv"],), str(folder / "torch.onnx"), dynamo=True, external_data=False, verbose=False
    )
    save_file(state, folder / "mlp.safetensors", {"format": "pt"})
    torch.save(state, folder / "mlp.legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({name: tensor.half() for name, tensor in state.items()}, folder / "mlp.f16.pt")
    save_file({name: tensor.bfloat16() for name, tensor in state.items()}, folder / "mlp.bf16.safetensors")
    optimizer = torch.optim.Adam(mlp.parameters())
    mlp(inputs["mlp"]).sum().backward()
    optimizer.step()
    average = {name: tensor * 0.5 for name, tensor in state.items()}
    beside = {"epoch": 3, "hyper_parameters": {"width": 96}, "best": torch.tensor(0.25)}
    torch.save({"model": state, "ema": average, "optimizer": optimizer.state_dict(), **beside}, folder / "mlp.ckpt")
    for name, count in (("shards", 2), ("hf", 1)):
        root = folder / name
        root.mkdir()
        own = [dict(list(state.items())[index::count]) for index in range(count)]
        files = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
        files = files if count > 1 else ["model.safetensors"]
        for file, tensors in zip(files, own, strict=True):
            save_file(tensors, root / file, {"format": "pt"})
        if count > 1:
            where = {key: file for file, tensors in zip(files, own, strict=True) for key in tensors}
            index = json.dumps({"metadata": {"total_size": 1}, "weight_map": where})
            (root / "model.safetensors.index.json").write_text(index)
        (root / "config.json").write_text('{"model_type": "mlp", "torch_dtype": "float32"}')
        (root / "tokenizer.json").write_text("{}")
    head = planted(nn.Embedding(300, 64)).state_dict()["weight"]
    kinds: dict[str, nn.Module] = {
        "attention": nn.MultiheadAttention(64, 4),
        "lstm": nn.LSTM(48, 40),
        "gru": nn.GRU(48, 40),
        "deconv": nn.ConvTranspose2d(48, 64, 3),
        "grouped": nn.Conv2d(64, 64, 3, groups=64),
        "conv1d": nn.Conv1d(40, 48, 5),
        "lora_A": nn.Linear(64, 6, bias=False),
        "lora_B": nn.Linear(6, 48, bias=False),
        "normed": nn.utils.parametrizations.weight_norm(planted(nn.Linear(64, 48))),
        "old": nn.Linear(64, 48),
    }
    every = {f"{k}.{n}": t.detach() for k, m in kinds.items() for n, t in planted(m).state_dict().items()}
    old = every.pop("old.weight")
    every |= {"old.weight_g": old.norm(dim=1, keepdim=True), "old.weight_v": old, "half.weight": old.bfloat16()}
    every |= {
        "code.weight": (9 * old).to(torch.int8),
        "code.weight_scale": torch.ones(48, 1),
        "step": torch.tensor(3),
    }
    every |= {"noise.weight": torch.randn(90, 120), "flat.weight": torch.randn(90, 120, dtype=torch.float64) ** 3}
    save_file({**every, "embedding.weight": head}, folder / "kinds.safetensors")
    torch.save({**every, "embedding.weight": head, "head.weight": head}, folder / "kinds.pt")
    save_file({**state, "1.weight": state["1.weight"] * torch.nan}, folder / "nan.safetensors")
    save_file({"bias": torch.ones(5)}, folder / "vectors.safetensors")
    for name, text in (
        ("empty.pt", ""),
        ("text.pt", "hello\n"),
        ("text.safetensors", "hello, world, how are you\n"),
    ):
        (folder / name).write_text(text)
    (folder / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for suffix in ("safetensors", "pt", "onnx"):
        whole = (folder / f"mlp.{suffix}").read_bytes()
        (folder / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    (folder / "nofolder").mkdir()
    (folder / "badindex").mkdir()
    (folder / "badindex" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../mlp.safetensors"}}')
    (folder / "wrong.json").write_text('{"schema": "rmt-compress/plan/1", "layers": [{"name": "fc9"}]}')
    onnx.checker.check_model(str(folder / "mlp.onnx"))


def needed(case: str, inputs: Path) -> list[str]:
    """The inputs a case names."""
    text = case if not case.startswith("python ") else LIBRARY_START + case
    return [
        each.name for each in inputs.iterdir() if re.search(rf"(?<![\w./-]){re.escape(each.name)}(?![\w.])", text)
    ]


def missing(case: str, inputs: Path, data: Path | None) -> bool:
    """Whether a case needs real data or networks that are not there."""
    real = re.search(r"--data (mnist|fashion-mnist|cifar10)", case) is not None
    networks = re.search(r" lm$|resnet\.pt", case) is not None
    return (real and data is None) or (networks and not (inputs / "lm").exists())
