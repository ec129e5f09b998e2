"""What is left of a network at a size: the portfolio of rmt-compress against published ways to cut, in one run.

    OMP_NUM_THREADS=1 python benchmarks/budget.py --seeds 0 1 2   # goes on where it was broken off
    python benchmarks/budget.py lm --seeds 0
    python benchmarks/budget.py --draw                            # table and picture again from the numbers
    python benchmarks/budget.py --join DIR/budget.json            # and with those of a run that had --out DIR
    python benchmarks/budget.py --quick --out DIR                 # a tiny network on noise: does it run at all?

All methods see the same calibration inputs, correct biases alike and are asked the same test samples, which have
chosen nothing. The portfolio also asks samples of the training data, other than those that calibrate, which of its
fifteen rules is the best, of text a third of them first; ASVD asks calibration samples. Without data the portfolio
has only what the network makes itself, as much as `prune` lets it make: three quarters calibrate, every fourth
chooses, of few images and vectors all. Where a network has batch norms every cut is asked twice: as it is, and with
their statistics estimated anew, of the ResNet on 768 images as in method.md §14, else on the calibration inputs.
Peers are in budget_peers.py.

Writes budget.json after every measurement, budget.md and budget.png to benchmarks/results (``--out``). Networks,
texts and images lie under ../shared (``--shared``).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import budget_peers as peers
import torch
from budget_report import ALONE, METHODS, OURS, OWN, Row, draw, joined, markdown, which
from measuring import machine
from torch import nn

from rmt_compress.analysis import analyze
from rmt_compress.checkpoints import open_checkpoint
from rmt_compress.compression import compress
from rmt_compress.networks.calibration.calibrating import calibrate
from rmt_compress.networks.calibration.statistics import batch_norms, renew_statistics
from rmt_compress.networks.calibration_settings import SELF, CalibrationSettings
from rmt_compress.networks.replacing import replaced
from rmt_compress.outputs import replacing
from rmt_compress.planning.budgets import BudgetSettings
from rmt_compress.planning.candidates import Candidates
from rmt_compress.planning.costs import Parameters
from rmt_compress.planning.searching import Asking, search
from rmt_compress.pruning.asking_candidates import Renewal, asking_for
from rmt_compress.pruning.calibration import Calibration, Inputs, calibration_for

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
from real_networks import SHARED, SUBJECTS, Questions, Subject

if TYPE_CHECKING:
    from rmt_compress.decomposition.moments import Moments

RESULTS = Path(__file__).parent / "results"
Seconds = dict[str, list[float]]
"""Name of a step -> seconds that have passed, processor seconds."""


@dataclass(frozen=True)
class Size:
    """How much of a network's samples is taken.

    Attributes:
        calibration: how many calibrate.
        batch: so many at a time.
        selection: how many choose among the portfolio.
        part: the first of them, which every rule is asked; the best four are asked all. 0 for all of every rule.
        sensitive: how many ASVD asks for each layer and share.
        asked: how many of the test samples are asked.
        keeps: shares of the weights of the layers that are cut.
        samples: what one of them is.
        whole: whether the network and what the portfolio makes of it with data are asked all test samples, too.
        shape: of one input, where the network cannot tell it itself.
        renewing: how many samples the statistics of batch norms are renewed with once a cut is chosen, those that
            calibrate among them; 0 for these alone.
    """

    calibration: int
    batch: int
    selection: int
    part: int
    sensitive: int
    asked: int
    keeps: tuple[float, ...]
    samples: str
    whole: bool = False
    shape: str | None = None
    renewing: int = 0


SIZES = {
    "lm": Size(32, 4, 6, 2, 1, 24, (0.8, 0.6, 0.4), "stretches of 512 bytes", whole=True),
    "resnet": Size(256, 64, 256, 0, 64, 1000, (0.25, 0.15, 0.1), "images", shape="3,32,32", renewing=768),
    "fashion_mlp": Size(1024, 256, 2000, 0, 256, 10000, (0.1, 0.05, 0.03), "images"),
    "cifar10_cnn": Size(512, 128, 500, 0, 128, 2000, (0.5, 0.3, 0.15), "images", shape="3,32,32"),
}


class Watch:
    """Seconds of steps."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}

    def time(self, step: str, work: Callable[[], Any]) -> Any:
        """What `work` returns; its seconds are added to the step's."""
        wall, processor = time.perf_counter(), time.process_time()
        found = work()
        before = self.seconds.get(step, [0.0, 0.0])
        spent = time.perf_counter() - wall, time.process_time() - processor
        self.seconds[step] = [old + new for old, new in zip(before, spent, strict=True)]
        return found

    def beside(self, other: Watch) -> Watch:
        """A new watch with the steps of both."""
        new = Watch()
        new.seconds = {**self.seconds, **other.seconds}
        return new


@dataclass(frozen=True, eq=False)
class Told:
    """What the portfolio knows of a network, besides its weights.

    Attributes:
        moments: of the inputs.
        asking: how candidates are asked.
        inputs: what has calibrated.
        renewal: of batch-norm statistics.
    """

    moments: Moments
    asking: Asking
    inputs: Iterable[Any]
    renewal: Renewal


@dataclass(eq=False)
class Run:
    """One network and seed, by every method and at every size; what has been measured is left out.

    Attributes:
        name: of the network.
        subject: the network.
        size: how much is taken.
        seed: of what is drawn.
        rows: all that has been measured.
        save: called after every measurement.
    """

    name: str
    subject: Subject
    size: Size
    seed: int
    rows: list[Row]
    save: Callable[[], None]

    def __post_init__(self) -> None:
        self.calibration = self.subject.drawn(self.size.calibration, self.seed, 0)
        self.batches = self.calibration.batches(self.size.batch)
        renewing = max(self.size.renewing, self.size.calibration)
        self.renewing = self.subject.drawn(renewing, self.seed, 0).batches(self.size.batch)
        self.questions = self.subject.asked(self.size.asked)
        self.all_questions = self.subject.asked(None) if self.size.whole else None
        model = self.subject.model
        self.shapes = {name: _matrix(model.get_parameter(name)) for name in self.subject.layers}

    def measure(self, methods: tuple[str, ...]) -> None:
        """The uncut network, ours, then the peers."""
        if not self._known("uncut", 1.0):
            # All seeds ask the same samples.
            asked = [row for row in self.rows if row["network"] == self.name and row["method"] == "uncut"]
            self._note(
                asked[0] if asked else {"method": "uncut", "keep": 1.0, **self._scores(self.subject.model, True)}
            )
        self._ours([method for method in (OURS, ALONE) if method in methods], self._with_data)
        self._ours([method for method in (OWN,) if method in methods], self._without_data)
        self._peers([method for method in METHODS if method in methods and method not in (OURS, ALONE, OWN)])

    def _ours(self, methods: list[str], find: Callable[[Watch], Told]) -> None:
        model, layers = self.subject.model, self.subject.layers
        missing = self._missing(methods)
        if not missing:
            return
        calibrated = Watch()
        told = find(calibrated)
        whole = Parameters(float(sum(rows * columns for rows, columns in self.shapes.values())))
        for method, keeps in missing.items():
            started = Watch()
            analysis = started.time("plan", lambda: analyze(model, include=layers))
            with open_checkpoint(model) as checkpoint:
                # Layers are decomposed once for all sizes, in the time of the first.
                settings = BudgetSettings(keep=keeps[0])
                candidates = Candidates(checkpoint, analysis, told.moments, settings, {"keep": whole})
                for keep in keeps:
                    watch = calibrated.beside(started if keep == keeps[0] else Watch())
                    candidates.settings = replace(settings, keep=keep)
                    asking = Asking() if method == ALONE else told.asking
                    found = watch.time("plan", partial(search, candidates, asking))
                    plan = candidates.plan(found.candidate, found.record)
                    small = watch.time("cut", partial(compress, model, plan, told.moments))
                    left = found.candidate.sizes["keep"]
                    looked: Any = found.record.get("on_a_part", {})
                    more = {"rule": str(found.candidate.rule), "evaluations": found.record["evaluations"]}
                    more |= {"evaluations on a part": len(looked)} if looked else {}
                    self._ask(method, keep, left, small, watch, told, **more)

    def _with_data(self, watch: Watch) -> Told:
        """Calibrated and asked on samples of what the network was trained on."""
        ahead = max(self.size.renewing, self.size.calibration)
        chosen = self.subject.drawn(self.size.selection, self.seed, ahead)
        inputs = Inputs(self.calibration.task, self.size.batch)
        told = self._told(Calibration(inputs, chosen.task, "measured", (), {}), watch)
        if not self.size.part:
            return told
        part = Calibration(inputs, chosen.first(self.size.part).task, "measured", (), {})
        rough = asking_for(self.subject.model, part, told.renewal).score
        return replace(told, asking=replace(told.asking, rough=rough))

    def _without_data(self, watch: Watch) -> Told:
        """Calibrated on inputs that the network makes, asked how far a cut goes from it."""
        model = self.subject.model
        settings = CalibrationSettings(calibrate=SELF, seed=self.seed, input_shape=self.size.shape)
        with open_checkpoint(model) as checkpoint:
            made = watch.time("moments", lambda: calibration_for(model, None, settings, checkpoint))
        return self._told(made, watch)

    def _told(self, calibration: Calibration, watch: Watch) -> Told:
        """As `prune` does it."""
        model, layers = self.subject.model, self.subject.layers
        moments = watch.time("moments", lambda: calibrate(model, calibration.inputs, seed=self.seed, layers=layers))
        renewal = Renewal.of(model, calibration)
        return Told(moments, asking_for(model, calibration, renewal), calibration.inputs, renewal)

    def _peers(self, methods: list[str]) -> None:
        model, shapes, missing = self.subject.model, self.shapes, self._missing(methods)
        if not missing:
            return
        looked = Watch()
        inputs = looked.time("moments", lambda: peers.observe(model, self.subject.layers, self.batches, self.seed))
        decompositions: dict[str, Callable[[str], peers.Cut]] = {
            "plain": lambda name: peers.plain(self._weight(name)),
            "whitened": lambda name: peers.whitened(self._weight(name), inputs[name]),
            "scaled": lambda name: peers.scaled(self._weight(name), inputs[name]),
        }
        ways: dict[str, tuple[str, Callable[[Mapping[str, peers.Cut], float], dict[str, int | None]]]] = {
            "SVD-LLM": ("whitened", lambda _, keep: peers.equal_share(shapes, keep)),
            "BALF": ("whitened", lambda cuts, keep: peers.one_price(cuts, shapes, keep)),
            "ASVD": ("scaled", lambda _, keep: peers.equal_share(shapes, keep)),
            "ASVD, sensitivity": ("scaled", self._sensitive),
            "SVD, energy share": ("plain", lambda cuts, keep: peers.energy_share(cuts, shapes, keep)),
            "SVD, equal share": ("plain", lambda _, keep: peers.equal_share(shapes, keep)),
        }
        self._losses: dict[tuple[str, float], float] = {}
        for kind, decomposed in decompositions.items():
            asked = [method for method in missing if ways[method][0] == kind]
            if not asked:
                continue
            done = looked.beside(Watch()) if kind != "plain" else Watch()
            cuts = dict(zip(shapes, done.time("plan", partial(list, map(decomposed, shapes))), strict=True))
            for method in asked:
                choose = ways[method][1]
                for keep in missing[method]:
                    watch = done.beside(Watch())
                    ranks = watch.time("plan", partial(choose, cuts, keep))
                    small = watch.time("cut", partial(peers.carried_out, model, cuts, ranks, inputs))
                    self._ask(method, keep, peers.size(ranks, shapes), small, watch)

    def _sensitive(self, cuts: Mapping[str, peers.Cut], keep: float) -> dict[str, int | None]:
        """By losses on calibration samples, which are measured once for all sizes."""
        model = self.subject.model
        samples = self.calibration.first(self.size.sensitive)
        for name, cut in cuts.items() if not self._losses else ():
            weight = model.get_parameter(name)
            for share in peers.RATIOS:
                rank = peers.rank_of(self.shapes[name], share)
                assert rank is not None
                with replaced(model, {name: cut.truncated(rank).to(weight.dtype).reshape(weight.shape)}):
                    self._losses[name, share] = samples.loss(model)
        return peers.by_sensitivity(self._losses, self.shapes, keep)

    def _weight(self, name: str) -> torch.Tensor:
        return self.subject.model.get_parameter(name).detach().flatten(1)

    def _ask(
        self,
        method: str,
        keep: float,
        left: float,
        small: nn.Module,
        watch: Watch,
        told: Told | None = None,
        **more: Any,
    ) -> None:
        row: Row = {"method": method, "keep": keep, "left": left, **self._scores(small, method == OURS)}
        if batch_norms(small):
            if told is None or told.renewal.uncut is None:
                renew_statistics(small, self.renewing)
            else:
                renew_statistics(small, told.inputs, uncut=told.renewal.uncut)
            row["renewed"] = self.questions.score(small)
        self._note({**row, "seconds": watch.seconds, **more})

    def _scores(self, network: nn.Module, whole: bool) -> Row:
        """Of the test samples, of all of them too where that is asked for."""
        scores = {"score": self.questions.score(network)}
        if whole and self.all_questions is not None:
            scores |= {"whole": self.all_questions.score(network), "samples": len(self.all_questions.inputs)}
        return scores

    def _missing(self, methods: list[str]) -> dict[str, list[float]]:
        """Methods -> sizes that are to be measured."""
        sizes = {method: [keep for keep in self.size.keeps if not self._known(method, keep)] for method in methods}
        return {method: keeps for method, keeps in sizes.items() if keeps}

    def _known(self, method: str, keep: float) -> bool:
        return any(which(row) == (self.name, self.seed, method, keep) for row in self.rows)

    def _note(self, row: Row) -> None:
        self.rows.append({**row, "network": self.name, "seed": self.seed})
        print(json.dumps(self.rows[-1]), flush=True)
        self.save()


def _matrix(weight: torch.Tensor) -> tuple[int, int]:
    return weight.shape[0], weight[0].numel()


def tiny(shared: Path) -> Subject:
    """An MLP with a batch norm, as it was initialised, on noise: to see that all runs."""
    torch.manual_seed(0)
    layers = (nn.Linear(40, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 4))
    model = nn.Sequential(*layers).eval()

    def drawn(count: int, seed: int, ahead: int) -> Questions:
        inputs = torch.randn(ahead + count, 40, generator=torch.Generator().manual_seed(seed))[ahead:]
        with torch.no_grad():
            return Questions(inputs, model(inputs).argmax(1))

    def asked(count: int | None) -> Questions:
        return drawn(count or 400, 17, 0)

    return Subject(model, ["0.weight", "3.weight"], drawn, asked, "accuracy")


QUICK = {"tiny": Size(64, 32, 64, 16, 32, 200, (0.5, 0.2), "vectors of noise", whole=True)}


def main() -> None:
    """Measure what is asked for, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*SIZES, []], help="which networks; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="a tiny network, to see that it runs")
    parser.add_argument("--draw", action="store_true", help="only table and picture")
    parser.add_argument("--join", type=Path, nargs="+", default=[], help="only those, of these budget.json as well")
    asked = parser.parse_args()
    if asked.quick and asked.out == RESULTS:
        parser.error("--quick would stand beside the results; add --out")
    subjects, sizes = ({"tiny": tiny}, QUICK) if asked.quick else (SUBJECTS, SIZES)
    path = asked.out / "budget.json"
    record: Row = {"machine": machine(), "networks": {}, "rows": []}
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))

    def save() -> None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    if asked.join:
        record = joined(record, [json.loads(other.read_text(encoding="utf-8")) for other in asked.join])
        save()
    for name in () if asked.draw or asked.join else (asked.networks or list(sizes)):
        size, subject = sizes[name], subjects[name](asked.shared)
        samples = f"{size.calibration} {size.samples} calibrate, {size.selection} choose, {size.asked} are asked"
        samples += f", {size.renewing} renew the statistics of batch norms" if size.renewing else ""
        record["networks"][name] = {"unit": subject.unit, "samples": samples}
        for seed in asked.seeds:
            Run(name, subject, size, seed, record["rows"], save).measure(tuple(asked.methods))
    (asked.out / "budget.md").write_text(markdown(record), encoding="utf-8")
    draw(record, asked.out / "budget.png")


if __name__ == "__main__":
    main()
