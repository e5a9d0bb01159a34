"""Diagnostics: the same training with and without, measures against their definitions, the ledger, the heat maps."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from packs import packed
from synthetic import Synthetic
from torch import nn

from ablate.errors import LedgerError
from ablate.report.build import build_report
from ablate.report.drawing import render_pages
from ablate.report.heatmaps import _colours, grid_of, heat_maps
from ablate.run.checkpoints import Checkpoints
from ablate.run.pack import Request
from ablate.store.declaration import SweepFolder, collect
from ablate.store.ledger import LAYERS_SCHEMA_VERSION, Ledger
from ablate.tasks.image_classification.config import resolve
from ablate.tasks.image_classification.figures import DEPTH_CURVES, HEAT_MAPS
from ablate.tasks.image_classification.methods import inits
from ablate.tasks.image_classification.methods.diagnostics import MEASURES, Probe
from ablate.tasks.image_classification.methods.kernel_measures import kernel_measures
from ablate.tasks.image_classification.models.kernels import kernel
from ablate.tasks.image_classification.task import TASK
from ablate.tasks.image_classification.training.statistics import estimate, holding
from ablate.tasks.image_classification.training.trainer import Trainer, written
from ablate.tasks.parameters import ConfigError

pytestmark = pytest.mark.figures

CPU = torch.device("cpu")
BASE = {"depth": 8, "width": 4, "batch_size": 16, "epochs": 2, "lr": 0.05}
VARIANTS = [
    {},
    {"shortcut": "identity", "optimizer": "adam", "lr": 0.01},
    {"init": "orthonormal", "regularizer": "orthonormal", "modulation": "anchor"},
    {"norm": "batch_renorm", "renorm_window": [0, 0.2], "precise_batches": 2, "statistics": "running"},
    {"norm": "batch", "frozen_statistics": 0.5, "statistics": "running"},
    {"norm": "weight"},
    {"norm": "none", "precision": "bfloat16"},
    {"model": "dirac"},
]


def train(dataset, checkpoints=None, report=None, **settings):
    config = resolve({**BASE, **settings})
    settings = json.loads(json.dumps(config.settings()))
    task = Request(key="k", fingerprint="f", seed=1, phase="confirm", settings=settings, data_digest="d")
    pack = packed([task], dataset, CPU, checkpoints)
    return (pack.run(report) if report else pack.run())[0]


def trainer(dataset, **settings) -> Trainer:
    return Trainer(resolve({**BASE, "diagnostics": "epoch", **settings}), dataset, 1, CPU)


def measured(one: Trainer) -> dict[str, torch.Tensor]:
    images, labels = next(iter(one.batches()))
    return dict(zip(MEASURES, one.probe.measure(one.forward, images, labels), strict=True))


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_diagnostics_leave_training_the_same_bit_for_bit(tiny_dataset, settings):
    without, with_them = (train(tiny_dataset, diagnostics=choice, **settings) for choice in ("none", "epoch"))
    assert without.state == with_them.state == "complete", with_them.message
    assert with_them.weights_digest == without.weights_digest
    over_depth = {"error_log_slope", "error_top_over_bottom"} | ({"modulated_share"} & with_them.curves.keys())
    assert ("modulated_share" in over_depth) == ("modulation" in settings)
    assert {**without.curves, **{name: with_them.curves[name] for name in over_depth}} == with_them.curves
    assert {**without.metrics, **{name: with_them.curves[name][-1] for name in over_depth}} == with_them.metrics
    assert not without.layers
    assert len(with_them.layers["epoch"]) == 2 * 8
    assert with_them.layers["layer"][:2] == ["stem", "blocks.0.first"]
    assert with_them.layers["layer"][7] == "fc"
    assert with_them.layers["epoch"] == [1] * 8 + [2] * 8
    for name in MEASURES:
        finite = [math.isfinite(value) for value in with_them.layers[name]]
        missing = {"norm_gain"} if settings.get("norm") in ("none", "weight") else set()
        missing |= {"effective_lr"} if settings.get("norm") == "none" else set()
        missing |= set() if "modulation" in settings else {"modulation_factor"}
        assert any(finite) == (name not in missing), name


def test_diagnostics_are_repeated_after_a_resume(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("ablate.run.pack.CHECKPOINT_EVERY_S", 0.0)
    whole = train(tiny_dataset, epochs=3, diagnostics="epoch")

    def stop(epoch, values):
        if epoch == 2:
            raise InterruptedError

        return set()

    with pytest.raises(InterruptedError):
        train(tiny_dataset, Checkpoints(tmp_path), stop, epochs=3, diagnostics="epoch")
    resumed = train(tiny_dataset, Checkpoints(tmp_path), epochs=3, diagnostics="epoch")
    assert str(resumed.layers) == str(whole.layers)


def test_a_diverged_trial_keeps_the_epochs_before(tiny_dataset):
    one = trainer(tiny_dataset, epochs=3)
    assert one.run_epoch() is None
    with torch.no_grad():
        one.net.fc.weight.fill_(math.nan)
    assert one.run_epoch() is not None
    assert len(one.progress.layers) == 1


def test_errors_are_the_gradients_at_the_convolutions_outputs(tiny_dataset):
    one = trainer(tiny_dataset, depth=14)
    one.run_epoch()
    found = measured(one)
    errors = {}
    for name, module in one.net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _, __, out, name=name: out.register_hook(lambda e: errors.setdefault(name, e)) and None
            )
    images, labels = next(iter(one.batches()))
    one.net.train()
    one.net.zero_grad()
    F.cross_entropy(one.net(images), labels).backward()
    expected = [error.square().mean() for error in reversed(errors.values())]
    torch.testing.assert_close(found["error_mean_square"][:-1], torch.stack(expected))
    layers = [m for m in one.net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    ratios = torch.stack([layer.weight.grad.norm() / layer.weight.norm() for layer in layers])
    torch.testing.assert_close(found["gradient_ratio"], ratios.detach())


MODULATED = [
    {"shortcut": "none"},
    {"shortcut": "none", "modulation_tolerance": 2.0},
    {"shortcut": "none", "modulation_every_k": 3, "modulation_side": "damp"},
    {"shortcut": "none", "modulation_site": "norm"},
    {"shortcut": "none", "modulation_ema": 0.9},
    {"shortcut": "identity"},
    {"shortcut": "identity", "modulation_tolerance": 1.1},
]


@pytest.mark.parametrize("settings", MODULATED, ids=str)
def test_the_factors_of_modulation_are_those_of_the_step(tiny_dataset, settings):
    # By hand: ρ is what a point leaves of an error over what comes to it, in the step that the probe tells of.
    one = trainer(tiny_dataset, depth=14, modulation="anchor", **settings)
    one.run_epoch()
    images, labels = next(iter(one.batches()))
    state = {name: value.clone() for name, value in one.modulation.state().items()}
    found = one.probe.measure(one.forward, images, labels, 0.1, one.modulation)[
        list(MEASURES).index("modulation_factor")
    ]
    assert one.modulation.state().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in one.modulation.state().items())
    config = resolve({**one.config.settings(), "modulation_form": "backward"})
    acting = config.row("modulation").load()(config, one.net)
    acting.load_state(state)
    modulate, pairs = acting.begin(), []

    def watched(x, token, site="conv"):
        if site != config.options["modulation_site"]:
            return x, token
        pair = {}
        pairs.append(pair)
        x = x.clone()
        x.register_hook(lambda error: pair.__setitem__("left", error.norm()))
        x, token = modulate(x, token, site)
        x = x.clone()
        x.register_hook(lambda error: pair.__setitem__("came", error.norm()))
        return x, token

    one.net.train()
    F.cross_entropy(one.net(images, watched), labels).backward()
    expected = [(pair["left"] / pair["came"]).item() for pair in pairs]
    assert len(expected) == 13
    every_k = config.options["modulation_every_k"]
    for index, factor in enumerate(expected):
        if index % every_k:
            assert factor == pytest.approx(1)
            assert math.isnan(found[index])
        else:
            assert found[index].item() == pytest.approx(factor, rel=1e-4), index
    assert math.isnan(found[13])
    assert found[12 - 12 % every_k] == 1  # The topmost point keeps its error.


def test_a_layers_factor_is_that_of_the_last_layer_before_the_point(tiny_dataset):
    one = trainer(tiny_dataset, modulation="top", modulation_site="block", shortcut="identity")
    images, labels = next(iter(one.batches()))
    measures = one.probe.measure(one.forward, images, labels, 0.1, one.modulation)
    found = measures[list(MEASURES).index("modulation_factor")]
    assert torch.isfinite(found).tolist() == [False, False, True, False, True, False, True, False]


def test_outside_of_its_window_modulation_has_no_factors_and_no_share(tiny_dataset):
    record = train(tiny_dataset, diagnostics="epoch", modulation="anchor", modulation_window=[0, 0.5])
    factors = np.asarray(record.layers["modulation_factor"]).reshape(2, 8)
    assert np.isfinite(factors[0, :7]).all()
    assert np.isnan(factors[1]).all()
    # The topmost of seven convolutions keeps its error.
    assert record.curves["modulated_share"] == [pytest.approx(6 / 7), 0]


def test_curves_over_depth_are_their_definitions(tiny_dataset):
    one = trainer(tiny_dataset)
    measures = torch.full((len(MEASURES), 8), torch.nan)
    of = {name: measures[index] for index, name in enumerate(MEASURES)}
    of["error_mean_square"][:] = torch.tensor([64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 1e9])  # The last is the fc layer.
    of["modulation_factor"][:7] = torch.tensor([0.5, 1.0, 0.5, 1.0, 1.0, 2.0, 1.0])
    found = one.probe.depth_curves(measures, True)
    expected = {"error_log_slope": -math.log(2), "error_top_over_bottom": 1 / 64, "modulated_share": 3 / 7}
    assert found == pytest.approx(expected)
    assert one.probe.depth_curves(measures, False).keys() == expected.keys() - {"modulated_share"}
    q = [5.0, 0.0, 3.0, math.inf, 2.0, 7.0, 1.0]
    of["error_mean_square"][:7] = torch.tensor(q)
    usable = [(index, math.log(value)) for index, value in enumerate(q) if value not in (0, math.inf)]
    slope = np.polyfit(*zip(*usable, strict=True), 1)[0]
    assert one.probe.depth_curves(measures, False)["error_log_slope"] == pytest.approx(slope)
    of["error_mean_square"][:6] = 0.0
    assert all(value == math.inf for value in one.probe.depth_curves(measures, False).values())


def test_the_effective_learning_rate_is_lr_over_the_squared_norm_of_a_filter(tiny_dataset):
    one = trainer(tiny_dataset)
    with torch.no_grad():
        one.net.blocks[0].first.conv.weight.zero_()
        for index, norm in enumerate((1.0, 2.0, 0.5, 1.0)):
            one.net.blocks[0].first.conv.weight[index, 0, 1, 1] = norm
    images, labels = next(iter(one.batches()))
    found = one.probe.measure(one.forward, images, labels, 0.3)[list(MEASURES).index("effective_lr")]
    assert found[1].item() == pytest.approx(0.3 * (1 + 1 / 4 + 4 + 1) / 4)
    assert math.isnan(found[7])  # No norm follows the fc layer.
    # A net that is blind to the scale of its filters: twice the weights, a quarter of the step that counts.
    with torch.no_grad():
        one.net.blocks[0].first.conv.weight *= 2
    halved = one.probe.measure(one.forward, images, labels, 0.3)[list(MEASURES).index("effective_lr")]
    assert halved[1].item() == pytest.approx(found[1].item() / 4)
    record = train(tiny_dataset, diagnostics="epoch", epochs=1, lr=0.05)
    assert min(record.layers["effective_lr"][:7]) > 0
    weight_norm = train(tiny_dataset, diagnostics="epoch", epochs=1, norm="weight")
    assert np.isfinite(weight_norm.layers["effective_lr"][:7]).all()


def test_a_checkpoint_with_other_measures_starts_over(tiny_dataset, tmp_path, monkeypatch):
    whole = train(tiny_dataset, epochs=3, diagnostics="epoch")
    one = trainer(tiny_dataset, epochs=3)
    one.run_epoch()
    state = one.state()
    state["layers"] = [layers[:-1] for layers in state["layers"]]
    state["measures"] = state["measures"][:-1]
    Checkpoints(tmp_path).save("k", written(state))
    resumed = train(tiny_dataset, Checkpoints(tmp_path), epochs=3, diagnostics="epoch")
    assert resumed.state == "complete", resumed.message
    assert str(resumed.layers) == str(whole.layers)


@pytest.mark.parametrize("shape", [(3, 6, 20), (2, 8, 5), (1, 1, 4)])
def test_kernel_measures_are_their_definitions(shape):
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(shape, dtype=torch.float64, generator=generator)
    found = kernel_measures(stack)
    for index, w in enumerate(stack):
        gram = w @ w.T
        eye = torch.eye(len(w), dtype=w.dtype)
        floor = max(0, shape[1] - shape[2])
        pairs = [F.cosine_similarity(w[i], w[j], dim=0) for i in range(len(w)) for j in range(len(w)) if i != j]
        expected = {
            "defect": (gram - eye).square().sum() - floor,
            "diagonal_defect": (gram - eye).diagonal().square().sum(),
            "off_diagonal_defect": (gram * (1 - eye)).square().sum(),
            "cosine": torch.stack(pairs).mean() if pairs else torch.tensor(math.nan, dtype=w.dtype),
            "absolute_cosine": torch.stack(pairs).abs().mean() if pairs else torch.tensor(math.nan, dtype=w.dtype),
            "singular_min": torch.linalg.svdvals(w)[-1],
            "singular_max": torch.linalg.svdvals(w)[0],
        }
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name][index], value, equal_nan=True, msg=name)


def test_orthonormal_filters_have_no_defect_and_unit_singular_values():
    weight = torch.empty(6, 20, dtype=torch.float64)
    inits.orthonormal(weight, torch.Generator().manual_seed(0))
    found = {name: value.item() for name, value in kernel_measures(weight.unsqueeze(0)).items()}
    assert found["defect"] == pytest.approx(0, abs=1e-12)
    assert [found["singular_min"], found["singular_max"]] == pytest.approx([1, 1])
    assert found["absolute_cosine"] == pytest.approx(0, abs=1e-12)


def test_dead_channels_collapse_and_the_gap_are_seen(tiny_dataset):
    one = trainer(tiny_dataset)
    first, second = one.net.blocks[0].first.bn, one.net.blocks[0].second.bn
    with torch.no_grad():
        first.bias[:3] = -100.0
        second.weight.zero_()
        second.bias.fill_(1.0)
        one.net.blocks[1].first.bn.running_mean.fill_(50.0)
    found = measured(one)
    assert found["dead_share"][1] == 0.75
    assert found["dead_share"][0] == 0
    assert found["activation_cosine"][2] == pytest.approx(1, abs=1e-5)
    assert found["norm_gain"][2] == 0
    assert found["norm_gap"][3] > 10
    assert found["norm_gap"][2] == 0
    assert math.isnan(found["dead_share"][7])


def test_the_gap_is_nil_where_running_and_batch_statistics_agree(tiny_dataset):
    one = trainer(tiny_dataset)
    images, labels = next(iter(one.batches()))
    with holding(one.net, estimate(one.net, [images], one.forward)):
        gap = dict(zip(MEASURES, one.probe.measure(one.forward, images, labels), strict=True))["norm_gap"]
    assert gap.max() < 1e-4


def test_reparametrised_layers_show_the_kernel_that_convolves(tiny_dataset):
    one = trainer(tiny_dataset, model="dirac")
    found = measured(one)
    convolution = kernel(one.net.blocks[0].first.conv).detach().flatten(1)
    assert found["singular_max"][1] == pytest.approx(torch.linalg.svdvals(convolution)[0].item(), rel=1e-5)
    stored = torch.linalg.svdvals(one.net.blocks[0].first.conv.weight.detach().flatten(1))[0].item()
    assert found["singular_max"][1] != pytest.approx(stored, rel=1e-2)


def test_a_net_without_our_layers_is_measured_too():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    probe = Probe(net)
    assert probe.names == ["0", "4"]
    found = probe.measure(net, torch.randn(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64))
    assert torch.isfinite(found[list(MEASURES).index("error_mean_square")]).all()
    assert net.training
    assert net[1].num_batches_tracked == 0


def test_diagnostics_are_the_same_for_all_trials():
    with pytest.raises(ConfigError, match="unknown diagnostics 'step'"):
        resolve({"diagnostics": "step"})
    assert resolve({"diagnostics": "epoch"}).fingerprint("d") != resolve({}).fingerprint("d")


@pytest.fixture
def record(tiny_dataset):
    return train(tiny_dataset, diagnostics="epoch", modulation="anchor")


def test_the_ledger_keeps_one_row_for_each_epoch_and_layer(record, tmp_path):
    ledger = Ledger(tmp_path)
    ledger.write(record)
    read = ledger.read("k", "any", items=None)
    assert read == record
    assert not read.layers
    table = ledger.read_layers(read)
    assert table.num_rows == 16
    assert table.column_names == ["epoch", "position", "layer", *MEASURES]
    assert table["layer"].to_pylist() == record.layers["layer"]
    np.testing.assert_array_equal(table["defect"].to_pylist(), record.layers["defect"])
    pruned = dataclasses.replace(record, key="p", state="pruned", sweep="mine")
    ledger.write(pruned)
    assert ledger.read_layers(pruned).num_rows == 16
    assert ledger.read_layers(dataclasses.replace(record, key="other")) is None


def test_a_table_of_layers_that_lacks_a_measure_is_read_and_drawn(record, tmp_path):
    older = dataclasses.replace(record, layers={n: v for n, v in record.layers.items() if n != "modulation_factor"})
    ledger = Ledger(tmp_path)
    ledger.write(older)
    table = ledger.read_layers(older)
    drawn = [np.isfinite(grid_of(table, heat_map)).any() for heat_map in HEAT_MAPS]
    assert [heat_map.measure for heat_map, is_drawn in zip(HEAT_MAPS, drawn, strict=True) if not is_drawn] == [
        "modulation_factor"
    ]


def test_a_damaged_table_of_layers_is_set_aside_and_a_newer_one_ends_the_command(record, tmp_path):
    ledger = Ledger(tmp_path)
    ledger.write(record)
    path = ledger.layers_path("k")
    table = pq.ParquetFile(path).read()
    pq.write_table(table.replace_schema_metadata({"schema_version": str(LAYERS_SCHEMA_VERSION + 1)}), path)
    with pytest.raises(LedgerError, match=f"{path}: its schema version {LAYERS_SCHEMA_VERSION + 1} is newer"):
        ledger.read_layers(record)
    assert path.exists()
    for columns in (["epoch"], ["position"], ["layer"]):
        pq.write_table(table.drop_columns(columns), path)
        assert ledger.read_layers(record) is None
        assert not path.exists()
    path.write_bytes(b"no parquet")
    assert ledger.read_layers(record) is None
    assert not path.exists()
    assert ledger.read("k", "any", items=None) == record


def test_every_measure_has_a_heat_map(record, tmp_path):
    assert [heat_map.measure for heat_map in HEAT_MAPS] == list(MEASURES)
    Ledger(tmp_path).write(record)
    table = Ledger(tmp_path).read_layers(record)
    for heat_map in HEAT_MAPS:
        assert np.isfinite(grid_of(table, heat_map)).any(), heat_map.measure


def test_the_report_has_heat_maps_where_there_are_tables_of_layers(record, tmp_path):
    Synthetic(tmp_path, axes={"depth": ["20"], "arm": ["residual", "plain"]}).write()
    folder = SweepFolder(tmp_path, "depth_ablation@smoke")
    declaration, ledger = folder.read_declaration(), Ledger(tmp_path)
    cells = collect(declaration, folder.read_proposals(), ledger)
    assert heat_maps(TASK, cells, ledger) == {}
    for trials in cells:
        confirmed = trials.confirm[1][1]
        ledger.path(confirmed.key).unlink()
        ledger.write(dataclasses.replace(confirmed, layers=record.layers, curves=record.curves))
    report = build_report(tmp_path, declaration.sweep, tmp_path / "report")
    drawn = {file.stem for file in report.files if file.suffix == ".svg" and file.stem.startswith("layers_")}
    measured = [heat_map.measure for heat_map in HEAT_MAPS if np.isfinite(record.layers[heat_map.measure]).any()]
    assert len(measured) >= 12
    assert drawn == {*(f"layers_{measure}" for measure in measured), "layers_over_depth"}
    document = (tmp_path / "report" / "figures" / "layers.pdf").read_bytes()
    assert len(re.findall(rb"/Type /Page\b", document)) == len(drawn), "a page a measure"
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Orthogonality defect minus its floor, by layer over training, one confirm seed a cell." in page
    assert "Errors over depth after each epoch, one confirm seed a cell." in page
    figure = heat_maps(TASK, cells, ledger)["layers_defect"][1]
    panels = figure.axes[0]
    assert len(panels.images) == 2
    words = [text.get_text() for text in panels.texts]
    assert [word for word in words if "arm" in word] == ["depth=20, arm=residual", "depth=20, arm=plain"]
    # From 1 to the number of layers, and of epochs.
    assert (words.count("1"), words.count("8"), words.count("2")) == (4, 2, 2)
    once, twice = (render_pages([heat_maps(TASK, cells, ledger)["layers_defect"][1]])[0][0] for _ in range(2))
    assert once == twice == (tmp_path / "report" / "figures" / "layers_defect.svg").read_bytes()


def test_a_heat_map_of_errors_is_relative_to_the_topmost_convolution(record, tmp_path):
    ledger = Ledger(tmp_path)
    ledger.write(record)
    table = ledger.read_layers(record)
    heat_map = next(heat_map for heat_map in HEAT_MAPS if heat_map.by_top)
    grid = grid_of(table, heat_map)
    assert grid.shape == (8, 2)
    assert grid[6] == pytest.approx([1, 1])
    assert np.isnan(grid[7]).all()
    q = np.asarray(record.layers["error_mean_square"]).reshape(2, 8).T
    assert grid[0] == pytest.approx(q[0] / q[6])


def test_the_page_of_the_nets_has_every_measure_in_the_words_of_the_code():
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    cells = {name: summary.replace("|", r"\|") for name, summary in MEASURES.items()}
    assert [name for name, summary in cells.items() if f"| `{name}` | {summary} |" not in page] == []
    assert [curve.name for curve in DEPTH_CURVES if f"| `{curve.name}` |" not in page] == []


def test_colours_of_factors_are_symmetric_about_one(record, tmp_path):
    Ledger(tmp_path).write(record)
    table = Ledger(tmp_path).read_layers(record)
    heat_map = next(heat_map for heat_map in HEAT_MAPS if heat_map.measure == "modulation_factor")
    colours = _colours(heat_map, [("a", grid_of(table, heat_map))])
    factors = np.asarray(record.layers["modulation_factor"])
    assert colours.vmin * colours.vmax == pytest.approx(1)
    assert colours.vmax == pytest.approx(max(np.nanmax(factors), 1 / np.nanmin(factors)))


@pytest.mark.parametrize("site", ["conv", "norm"])
def test_every_convolution_of_a_net_with_projections_has_its_own_factor(site):
    config = resolve({
        "model": "imagenet", "dataset": "image_folder", "image_size": 64, "depth": 18, "width": 2, "modulation": "top",
        "shortcut": "projection", "modulation_site": site,
    })  # fmt: skip
    net = config.row("model").load()(config, 3, 4).train()
    modulation = config.row("modulation").load()(config, net)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    measures = Probe(net).measure(net, images, torch.arange(4), 0.1, modulation)
    found = measures[list(MEASURES).index("modulation_factor")]
    convolutions = [isinstance(layer, nn.Conv2d) for layer in Probe(net).layers]
    assert torch.isfinite(found).tolist() == convolutions
    assert sum(convolutions) == 20  # 17 on the longest path, 3 projections.
    # The topmost point, the last layer of the last block, is the only one that keeps its error.
    assert [index for index, factor in enumerate(found.tolist()) if factor == 1] == [19]
