"""What a device gains or loses where weights are decomposed and thin, sparse or half-precision networks run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gpu_parity import Place, Row, agreeing, relative, tuned
from measuring import stopwatch
from networks import build
from safetensors.torch import save_file
from torch import nn

import rmt_compress as rmt
from rmt_compress.analysis.sent_layers import analyze_there
from rmt_compress.analysis.settings import AnalysisSettings
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.checkpoints.moved import moved
from rmt_compress.data.in_memory import InMemory
from rmt_compress.decomposition.svd import decompose
from rmt_compress.networks.architectures import build as network_of
from rmt_compress.networks.calibration.statistics import renew_statistics
from rmt_compress.networks.evaluation import compare, evaluate
from rmt_compress.networks.latency import measure_latency
from rmt_compress.networks.tasks.agreement import Agreement
from rmt_compress.planning.settings import PlanSettings

# Of two blocks of Llama 7B: queries, keys, values and outputs; gate, up, and down.
_BLOCK = {**{f"self_attn.{name}_proj": (4096, 4096) for name in "qkvo"}, "mlp.gate_proj": (11008, 4096)}
_BLOCK |= {"mlp.up_proj": (11008, 4096), "mlp.down_proj": (4096, 11008)}


def many_layers(place: Place) -> list[Row]:
    """200 small layers and the large MLP: as a file and live by the road that is taken, and by others."""
    rows: list[Row] = []
    for name in ("tiny",) if place.quick else ("200-layers", "large-mlp"):
        file, model = place.folder / f"{name}.safetensors", build(name)
        save_file(model.state_dict(), file)
        work = [found.layer for found in rmt.analyze(file).analyzed]
        there = moved(open_checkpoint(file), torch.device(place.device))
        weights = [there.weight(layer) for layer in work]
        weights = [weight if weight.shape[0] <= weight.shape[1] else weight.T for weight in weights]
        sides: dict[str, Callable[[], object]] = {
            "CPU": partial(rmt.analyze, file),
            "with the device": partial(rmt.analyze, file, device=place.device),
            "live on the device": partial(rmt.analyze, model.to(place.device)),
            "every layer on the device": partial(_all_there, work, there),
            "bare Gram matrices and eigenvalues there": partial(_bare, weights, place),
        }
        rows += [{"what": f"{name}: {side}", "seconds": _median(run)} for side, run in sides.items()]
    return rows


def _all_there(work: Sequence[rmt.Layer], checkpoint: rmt.Checkpoint) -> list[tuple[rmt.Layer, rmt.LayerAnalysis]]:
    return list(analyze_there(work, checkpoint, AnalysisSettings(), 8))


def _bare(weights: Sequence[torch.Tensor], place: Place) -> None:
    """The least there is to do for weights that are on the device already."""
    for weight in weights:
        torch.linalg.eigvalsh(weight @ weight.T)
    place.wait()


def by_size(place: Place) -> list[Row]:
    """A file of square layers of one size, analysed on the CPU and on the device whatever its size: each layer."""
    rows: list[Row] = []
    for p in (48, 80) if place.quick else (256, 512, 576, 640, 768, 1024, 2048):
        k = 3 if place.quick else 16
        file = place.folder / f"{p}.safetensors"
        save_file({f"{i}.weight": torch.randn(p, p) for i in range(k)}, file)
        here = {each.layer: each.fit.sigma2 for each in rmt.analyze(file).analyzed if each.fit is not None}
        work, there = list(here), moved(open_checkpoint(file), torch.device(place.device))
        found = _all_there(work, there)
        apart = max(relative(each.fit.sigma2, here[layer]) for layer, each in found if each.fit is not None)
        row: Row = {"p": p, "sigma2 apart": apart}
        cpu, device = _median(partial(rmt.analyze, file)), _median(partial(_all_there, work, there))
        rows.append({**row, "CPU, s a layer": cpu / k, "device, s a layer": device / k, "CPU/device": cpu / device})
    return rows


def vectors_by_size(place: Place) -> list[Row]:
    """All directions of one matrix, and an eighth of them, on the CPU and on the device, its way there included."""
    rows: list[Row] = []
    for p in (48, 80) if place.quick else (64, 128, 256, 512, 1024, 2048):
        matrix = torch.randn(p, 2 * p)
        for rank in (p // 8, p):
            times = [_median(partial(_cut, matrix, rank, device), 1 if p > 512 else 3) for device in place.sides]
            rows.append(
                {"p": p, "rank": rank, "CPU": times[0], "device": times[1], "CPU/device": times[0] / times[1]}
            )
    return rows


def _cut(matrix: torch.Tensor, rank: int, device: str) -> torch.Tensor:
    down, up = decompose(matrix.to(device), rank).factors(rank)
    return torch.cat([down.cpu().flatten(), up.cpu().flatten()])


def blocks(place: Place) -> list[Row]:
    """Two blocks of the size of Llama 7B's in bfloat16, made here: a file analysed, and cut in several ways.

    The CPU does one block, whose time is doubled: it would take too long else.
    """
    files = [place.folder / f"blocks-{count}.safetensors" for count in (1, 2)]
    torch.manual_seed(0)
    for count, file in enumerate(files, start=1):
        save_file(
            {
                f"layers.{block}.{name}.weight": _llama_weight(*shape, place)
                for block in range(count)
                for name, shape in _BLOCK.items()
            },
            file,
        )
    plans = {file: rmt.make_plan(rmt.analyze(file, device=place.device)) for file in files}
    ratio = PlanSettings(rule="ratio:0.25")

    def analysed(file: Path, device: str) -> None:
        rmt.analyze(file, device=device)

    def cut(file: Path, device: str) -> None:
        rmt.compress(file, plans[file], device=device)

    def pruned(file: Path, device: str) -> None:
        running = rmt.RunSettings(device=device)
        rmt.prune(file, file.with_suffix(".out.safetensors"), plan=ratio, force=True, running=running)

    runs = {"analysed": analysed, "cut to its spikes": cut, "pruned to a quarter of its ranks": pruned}
    rows: list[Row] = []
    for what, run in runs.items():
        there = stopwatch(partial(run, files[1], place.device))
        # A quarter of the eigenvectors of seven such layers takes a CPU minutes.
        here = None if run is pruned and not place.quick else 2 * stopwatch(partial(run, files[0], "cpu"))
        rows.append(_ratio(f"two blocks {what}", here, there))
    return rows


def _ratio(what: str, here: float | None, there: float) -> Row:
    return {"what": what, "CPU, s": here, "device, s": there, "CPU/device": None if here is None else here / there}


def _llama_weight(rows: int, columns: int, place: Place) -> torch.Tensor:
    """Noise, and eight directions from just above its edge to six times it."""
    shape = (rows // 64, columns // 64) if place.quick else (rows, columns)
    weight = 0.02 * torch.randn(shape, device=place.device)
    edge = 0.02 * (shape[0] ** 0.5 + shape[1] ** 0.5)
    left, right = (nn.functional.normalize(torch.randn(size, 8, device=place.device), dim=0) for size in shape)
    weight += (left * edge * torch.linspace(1.2, 6.0, 8, device=place.device)) @ right.T
    return weight.bfloat16().cpu()


def half_precision(place: Place) -> list[Row]:
    """Seconds of an epoch of training, in float32 and with products in bf16."""
    widths, count = ("64,128,10", 512) if place.quick else ("64,8192,8192,10", 40_000)
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((count, 64), dtype=np.float32)
    labels = (inputs @ generator.standard_normal((64, 10))).argmax(1)
    file, network = place.folder / "inputs.npz", place.folder / "wide.pt"
    np.savez(file, x=inputs, y=labels)
    rmt.save(network_of(f"mlp:{widths}"), network)
    rows: list[Row] = []
    for precision in ("no", "bf16"):
        epochs = tuned(
            place.output(f"half-{precision}", 1),
            *(network, "--arch", f"mlp:{widths}", "--data", f"array:{file}", "--epochs", 3, "--prune-every", 9),
            *("--batch-size", 1024, "--mixed-precision", precision, "--device", place.device),
        )
        rows.append(
            {
                "network": f"mlp:{widths}",
                "products": "float32" if precision == "no" else precision,
                "seconds of an epoch, the least": min(each["seconds"]["train"] for each in epochs[1:]),
                "test accuracy": epochs[-1]["test_accuracy"],
                "train loss": epochs[-1]["train_loss"],
            }
        )
    return rows


def semi_structured(place: Place) -> list[Row]:
    """A layer of pattern 2:4 as torch's semi-structured tensor: its outputs beside the masked ones, its time."""
    if not place.cuda:
        return [{"what": "semi-structured tensors are for CUDA: not run"}]
    size = 256 if place.quick else 4096
    file, pruned = place.folder / "dense.safetensors", place.folder / "grouped.safetensors"
    torch.manual_seed(0)
    save_file({"0.weight": torch.randn(size, size) / size**0.5, "0.bias": torch.zeros(size)}, file)
    rmt.prune(file, pruned, plan=PlanSettings(gof=0.0, pattern="2:4"), force=True)
    masked, sparse = (
        rmt.load(pruned, nn.Sequential(nn.Linear(size, size))).half().to(place.device).eval() for _ in range(2)
    )
    zeros = float((masked.get_parameter("0.weight") == 0).double().mean())
    turned = rmt.to_semi_structured(sparse)
    rows: list[Row] = [
        {"what": f"share of zeros in the layers turned, of which there are {len(turned)}", "value": zeros}
    ]
    with torch.inference_mode():
        for batch in (64, 1024, 8192):
            inputs = torch.randn(batch, size, device=place.device, dtype=torch.float16)
            one, other = masked(inputs), sparse(inputs)
            far = float((one - other).float().norm() / one.float().norm())
            dense, thin = (_on_gpu(partial(model, inputs)) for model in (masked, sparse))
            rows.append(
                {
                    "what": f"{size} × {size}, {batch} inputs",
                    "outputs apart": far,
                    "masked, ms": dense,
                    "2:4, ms": thin,
                    "times faster": dense / thin,
                }
            )
    return rows


def graphs(place: Place) -> list[Row]:
    """Milliseconds of a product whole and split in two, in eager mode and in a CUDA graph, by batch and rank."""
    kind = torch.float16 if place.cuda else torch.float32
    rows: list[Row] = []
    shapes = [((64, 64), 8)] if place.quick else [((4096, 4096), 512), ((11008, 4096), 512)]
    for (outputs, inputs), rank in shapes:
        for batch in (1, 32) if place.quick else (1, 512, 4096):
            whole = nn.Linear(inputs, outputs, device=place.device, dtype=kind)
            split = nn.Sequential(
                nn.Linear(inputs, rank, bias=False, device=place.device, dtype=kind),
                nn.Linear(rank, outputs, device=place.device, dtype=kind),
            )
            task = Agreement(InMemory(torch.randn(batch, inputs)), whole)
            dense, thin = measure_latency([whole, split], task, batches=(batch,))
            size = str(batch)
            row: Row = {"weight": f"{outputs}×{inputs}", "batch": batch, "rank": rank}
            for mode, one, other in (("eager", dense.eager, thin.eager), ("graph", dense.graph, thin.graph)):
                known = bool(one and other)
                row[f"whole, {mode}"] = one[size] if known else None
                row[f"split, {mode}"] = other[size] if known else None
                row[f"times faster, {mode}"] = one[size] / other[size] if known else None
            rows.append(row)
    return rows


def road(place: Place) -> list[Row]:
    """Numbers of the road from calibration to a repaired cut of a live network, on the CPU and on the device."""
    here, there = (_road(device, place.quick) for device in ("cpu", place.device))
    return [{"what": key, "CPU": here[key], "device": there[key]} for key in here]


def _road(device: str, quick: bool) -> dict[str, float]:
    torch.manual_seed(0)
    width = 16 if quick else 64
    layers: list[nn.Module] = []
    for entering, leaving, stride in ((3, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 2)):
        layers += [nn.Conv2d(entering, leaving, 3, padding=1, stride=stride), nn.BatchNorm2d(leaving), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * width * 16, 256), nn.ReLU(), nn.Linear(256, 10))
    images = torch.randn(256, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    batches = torch.chunk(images, 4)
    renew_statistics(model, batches)
    model = model.eval().to(device)
    task = agreeing(model, images)
    moments = rmt.calibrate(model, batches, seed=3)
    found = {
        f"tr C of {name}": float(own.inputs.diagonal().sum()) for name, own in list(moments.layers.items())[:3]
    }
    analysis = rmt.analyze(model)
    plan = rmt.plan_within(analysis, moments, keep=0.4, metric="two-sided", scaling="uniform", search="one")
    found["share kept"] = plan.settings["budget"]["reached"]["keep"]
    small = rmt.compress(model, plan, moments)
    after, before = compare(small, model, task, latency=False)
    found["accuracy before"], found["accuracy after"] = before.score.value, after.score.value
    assert after.agreement is not None
    found["distance of outputs"] = float(after.agreement.details["relative_error"] or 0.0)
    renew_statistics(small, batches)
    found["accuracy, statistics renewed"] = task.score(small).value
    report = rmt.repair_blocks(small, model, batches, passes=1, rate=1e-3)
    found["error of the last block before repair"], found["after"] = report.before, report.after
    found["accuracy, repaired"] = task.score(small).value
    found["peak memory, bytes"] = float(evaluate(model, task, latency=False).peak_memory or 0)
    return found


def _median(run: Callable[[], object], runs: int = 3) -> float:
    run()
    return statistics.median(stopwatch(run) for _ in range(runs))


def _on_gpu(run: Callable[[], object], spent: float = 0.2) -> float:
    """Milliseconds of one run among many, one behind the other."""
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    begun, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - begun) < spent:
        for _ in range(50):
            run()
        count += 50
        torch.cuda.synchronize()
    return 1000 * passed / count
