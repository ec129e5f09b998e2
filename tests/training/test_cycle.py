from collections import OrderedDict

import pytest
import torch
from torch import nn

from rmt_compress import spectrum
from rmt_compress.analysis import AnalysisSettings
from rmt_compress.planning.settings import PlanSettings
from rmt_compress.training import CycleSettings
from rmt_compress.training.cycle import Cycle
from rmt_compress.training.split_network import Network
from tests.samples.matrices import low_rank_plus_noise


def planted(spikes=6):
    """fc1 is noise and spikes, fc2 has no bulk at all, fc3 is small."""
    model = nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(300, 200),
            relu=nn.ReLU(),
            fc2=nn.Linear(200, 150),
            relu2=nn.ReLU(),
            fc3=nn.Linear(150, 10),
        )
    )
    with torch.no_grad():
        model.fc1.weight.copy_(low_rank_plus_noise(200, 300, spikes))
        u, _, vt = torch.linalg.svd(torch.randn(150, 200), full_matrices=False)
        model.fc2.weight.copy_((u * torch.logspace(0, -3, 150)) @ vt)
    return Network(model)


def test_a_cut_keeps_spikes_and_the_share_of_the_bulk():
    network, cycle = planted(), Cycle(CycleSettings())
    cut = cycle.decide(network, 0.2)
    decisions = cut.plan.by_tensor
    assert decisions["fc1.weight"].rank == 6 + int(0.2 * (200 - 6))
    assert decisions["fc2.weight"].action == "kept"
    assert "fit error" in decisions["fc2.weight"].reason
    assert decisions["fc3.weight"].action == "skipped"
    cycle.apply(network, cut)
    assert network.pairs["fc1.weight"].rank == 44
    assert network.model.fc1.down.weight.shape == (44, 300)


def test_a_later_cut_goes_on_from_the_product_and_its_first_edge():
    network, cycle = planted(), Cycle(CycleSettings())
    dense = network.model.fc1.weight.detach().clone()
    cycle.apply(network, cycle.decide(network, 0.2))
    assert cycle.fits["fc1.weight"].spikes == 6
    cut = cycle.decide(network, 0.0)
    layer = next(each for each in cut.analysis.layers if each.layer.tensor == "fc1.weight")
    values = torch.linalg.svdvals(dense.double())[:44].numpy()
    assert layer.singular_values[:44] == pytest.approx(values, rel=1e-5)
    assert not layer.singular_values[44:].any()
    assert cut.plan.by_tensor["fc1.weight"].rank == 6
    cycle.apply(network, cut)
    u, s, vt = torch.linalg.svd(dense, full_matrices=False)
    product = network.model.fc1.up.weight @ network.model.fc1.down.weight
    torch.testing.assert_close(product, (u[:, :6] * s[:6]) @ vt[:6], atol=1e-5, rtol=1e-4)


def test_a_layer_that_stands_as_two_is_never_put_together_again():
    network, cycle = planted(), Cycle(CycleSettings())
    cycle.apply(network, cycle.decide(network, 0.0))
    before = network.model.fc1.down.weight
    cut = cycle.decide(network, 0.3)
    decision = cut.plan.by_tensor["fc1.weight"]
    assert (decision.action, decision.rank) == ("kept", None)
    assert "stays at 6" in decision.reason
    cycle.apply(network, cut)
    assert network.model.fc1.down.weight is before


def test_recursive_cuts_factors_as_layers_of_their_own():
    network, cycle = planted(), Cycle(CycleSettings(mode="recursive", analysis=AnalysisSettings(gof=1.0)))
    cycle.apply(network, cycle.decide(network, 0.2))
    cut = cycle.decide(network, 0.0)
    names = {layer.layer.tensor for layer in cut.analysis.analyzed}
    assert {"fc1.down.weight", "fc1.up.weight"} <= names
    cycle.apply(network, cut)
    assert any(tensor.startswith("fc1.down.") or tensor.startswith("fc1.up.") for tensor in network.pairs)
    network.join_nested()
    assert set(network.pairs) <= {"fc1.weight", "fc2.weight"}


def test_separate_thresholds_for_convolutions():
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(40, 64, 3), fc=nn.Linear(200, 300)))
    network = Network(model)
    for gof_conv, expected in ((0.0, "kept"), (None, "factorized")):
        cut = Cycle(CycleSettings(analysis=AnalysisSettings(gof=0.2), plan=PlanSettings(gof_conv=gof_conv))).decide(
            network, 0.1
        )
        assert cut.plan.by_tensor["conv.weight"].action == expected
        assert cut.plan.by_tensor["fc.weight"].action == "factorized"


def test_excluded_layers_are_left_alone_and_unknown_globs_refused():
    from rmt_compress.errors import SettingsError

    network = planted()
    cut = Cycle(CycleSettings(analysis=AnalysisSettings(exclude=("fc1",)))).decide(network, 0.0)
    assert cut.plan.by_tensor["fc1.weight"].action == "skipped"
    with pytest.raises(SettingsError, match="nothing"):
        Cycle(CycleSettings(analysis=AnalysisSettings(include=("nothing*",)))).decide(network, 0.0)


def test_a_layer_split_before_the_run_stays_as_it_is():
    from tests.samples.split_networks import split

    network = planted()
    split(network, "fc1.weight", 40)
    cut = Cycle(CycleSettings()).decide(network, 0.0)
    assert cut.plan.by_tensor["fc1.weight"].action in ("kept", "skipped")
    layer = next(each for each in cut.analysis.layers if each.layer.tensor == "fc1.weight")
    assert "not known" in layer.reason


def test_the_record_of_a_cut_has_the_keys_of_analyze_with_rank_and_action():
    network, cycle = planted(), Cycle(CycleSettings())
    cut = cycle.decide(network, 0.1)
    cycle.apply(network, cut)
    records = {record["name"]: record for record in cut.records(network)}
    assert set(records) == {"fc1", "fc2", "fc3"}
    assert records["fc1"]["rank"] == network.pairs["fc1.weight"].rank
    fit = spectrum.fit_bulk(torch.linalg.svdvals(low_rank_plus_noise(200, 300, 6).double()).numpy() ** 2 / 300, 300)
    assert records["fc1"]["spikes"] == fit.spikes == 6
    assert records["fc1"]["gof"] == pytest.approx(fit.gof, rel=1e-4)
