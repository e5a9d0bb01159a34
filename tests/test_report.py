"""The report of a synthetic sweep: what it says, what it must not say, and that it says it twice alike."""

from __future__ import annotations

import csv
import dataclasses
import getpass
import html.parser
import itertools
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from synthetic import ARMS, DEPTHS, TRUTH, Synthetic, accuracy

from ablate.errors import UsageError
from ablate.metrics import signed_number
from ablate.report.build import build_report
from ablate.report.inference import estimate
from ablate.report.latex import latex_escaped
from ablate.report.page import space_text
from ablate.report.summary import status, status_lines
from ablate.report.text import broken, first_line, hours_text, interval_note, p_text, redact
from ablate.store.declaration import SweepFolder, collect
from ablate.store.ledger import Ledger

SWEEP = "depth_ablation@smoke"
TROUBLED = {
    ("plain", "56", 1): "diverged",
    ("plain+ortho", "110", 2): "waiting",
    ("plain+ortho", "110", 1): "running",
    ("residual", "110", 1): "failed",
}


def report(tmp_path, **options):
    Synthetic(tmp_path / "runs", **options).write()
    return build_report(tmp_path / "runs", SWEEP, tmp_path / "report")


def table_rows(text):
    """The first Markdown table of a text: cells by row label."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    header = rows[0]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in reversed(rows[2 : 2 + len(DEPTHS)])}


def sweep_status(out, **options):
    folder = SweepFolder(out, SWEEP)
    declaration = folder.read_declaration()
    return status(declaration, collect(declaration, folder.read_proposals(), Ledger(out)), **options)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    return report(tmp_path_factory.mktemp("troubled"), confirm=TROUBLED)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    exact = {(arm, depth, study): 0.9 + 0.01 * study for arm in ARMS for depth in DEPTHS for study in range(5)}
    exact |= {("residual", "20", study): 0.92 + 0.011 * study for study in range(5)}
    return report(tmp_path_factory.mktemp("whole"), confirm=exact, num_studies=5, num_seeds=1)


@pytest.mark.figures
def test_all_files_are_written(whole):
    names = {file.relative_to(whole.folder).as_posix() for file in whole.files}
    shown = ("accuracy_by_depth", "learning_curves", "train_curves", "degradation", "expected_best", "cost")
    figures = {f"figures/{name}.{kind}" for name in shown for kind in ("svg", "pdf")}
    assert names == {"report.html", "table.md", "table.tex", "table.csv", "results.parquet", *figures}
    assert {file.relative_to(whole.folder).as_posix() for file in whole.folder.rglob("*.*")} == names


def test_entries_have_mean_and_interval(whole):
    # 0.90 to 0.94: sd 0.0158, half width 2.776 * 0.0158 / sqrt(5) = 0.0196.
    assert table_rows(whole.table)["20"]["plain"] == "92.0 [90.0, 94.0]"
    assert "Test accuracy in percent, mean over n=5 studies" in whole.table


def test_differences_are_paired_with_the_baseline(whole):
    # 0.020 to 0.024: sd 0.00158, half width 0.00196.
    differences = table_rows(whole.table.partition("Difference to plain")[2])
    assert differences["20"] == {"residual": "+2.2 [+2.0, +2.4] ▲", "plain+ortho": "0.0 [0.0, 0.0]"}


def test_what_the_intervals_cover_is_said_once_on_a_page_and_under_every_table_of_latex(whole, troubled):
    sample = "they do not cover the choice of the test sample (350 images)"
    rest = ", the split, the ranges that are searched nor the data set."
    for found, note in (
        (whole, f"they cover tuning and training; {sample}{rest}"),
        (troubled, f"they cover training; {sample} nor the luck of tuning."),
    ):
        assert found.table.count(note) == 1
        assert (found.folder / "report.html").read_text().count(note) == 1
        assert (found.folder / "table.tex").read_text().count(note) == 2


def test_a_sweep_without_trouble_has_no_notices(tmp_path):
    assert (
        report(tmp_path, tune_states=("complete",), confirm={("plain", "110", s): 0.9 for s in range(3)}).notices == []
    )


def test_a_mixed_cell_lists_its_seeds_and_has_no_interval(troubled):
    assert re.fullmatch(r"10\.0, 8\d\.\d, 8\d\.\d \(1/3 diverged\)", table_rows(troubled.table)["56"]["plain"])
    differences = table_rows(troubled.table.partition("Difference to plain")[2])
    assert differences["56"]["residual"].endswith("(seeds collapsed)")


def test_unfinished_and_failed_seeds_are_counted_in_the_entry(troubled):
    rows = table_rows(troubled.table)
    assert rows["110"]["plain+ortho"] == "… (1/3 seeds)"
    assert rows["110"]["residual"].endswith("(n=2, 1 failed) △")
    assert rows["20"]["plain"].endswith("] (n=3)")


def test_a_difference_over_fewer_seeds_says_so(troubled):
    differences = table_rows(troubled.table.partition("Difference to plain")[2])
    assert differences["110"] == {"residual": differences["110"]["residual"], "plain+ortho": "–"}
    assert differences["110"]["residual"].endswith("(n=2) △")


def test_near_chance_entries_are_named_above_the_table(troubled):
    notice = "plain at depth 110 (10.0%) is near chance (chance is 10.0%, one in 10 classes): it did not train."
    assert troubled.notices[0] == notice
    assert troubled.table.index(notice) < troubled.table.index("| depth")
    page = (troubled.folder / "report.html").read_text()
    assert page.index(notice) < page.index('id="entries"')


def test_an_interval_that_includes_chance_is_named(tmp_path):
    found = report(tmp_path, num_seeds=2, confirm={("plain", "20", 0): 0.2, ("plain", "20", 1): 0.9})
    assert "The interval of plain at depth 20 includes chance (10.0%, one in 10 classes)." in found.notices[0]


def test_notices_tell_unfinished_failed_and_diverged_trials(troubled):
    text = "\n".join(troubled.notices)
    assert "1 of 9 cells is unfinished: plain+ortho at depth 110." in text
    assert "python cli.py sweep search_spaces/depth_ablation.yaml --profile smoke" in text
    assert "10 trials failed (error: 10)" in text
    assert "10 of 79 trials diverged, 1 of them while confirming" in text


def test_a_baseline_that_is_tuned_less_freely_is_named(tmp_path):
    found = report(tmp_path, freer_arm="plain+ortho")
    assert (
        "The baseline plain has fewer tuned parameters than plain+ortho, with the same 6 tune trials a cell."
        in found.notices
    )


@pytest.mark.figures
def test_a_page_that_grows_too_large_leaves_figures_to_their_files(tmp_path, monkeypatch):
    monkeypatch.setattr("ablate.report.build.MAX_PAGE_BYTES", 100_000)
    found = report(tmp_path)
    assert (found.folder / "report.html").stat().st_size <= 100_000
    assert (found.folder / "figures" / "train_curves.svg").exists()


def test_all_diverged_is_a_result(tmp_path):
    found = report(tmp_path, confirm={(a, d, s): "diverged" for a in ARMS for d in DEPTHS for s in range(3)})
    assert table_rows(found.table)["56"]["residual"] == "10.0 (3/3 diverged)"
    assert "are near chance" in found.notices[0]


def test_one_seed_has_no_interval(tmp_path):
    found = report(tmp_path, num_seeds=1, confirm={("residual", "20", 0): 0.95})
    assert table_rows(found.table)["20"]["residual"] == "95.0 (n=1, no interval)"


def test_the_answer_is_one_paragraph_made_from_the_verdicts(whole, tmp_path):
    page = (whole.folder / "report.html").read_text()
    assert "The arm residual has the highest mean at depth 20, 94.2 [92.0, 96.4]" in page
    assert (
        "The arm residual is better than plain at depth 20 (+2.2); neither is shown at depth 56 (0.0) and depth 110"
        in page
    )
    assert "All others of the row are beaten by residual at depth 20." in page
    assert "For plain+ortho, neither is shown at depth 20 (0.0), depth 56 (0.0) and depth 110 (0.0)." in page
    equal = {(arm, depth, seed): 0.9 + 0.01 * seed for arm in ARMS for depth in DEPTHS for seed in range(3)}
    page = (report(tmp_path, confirm=equal).folder / "report.html").read_text()
    assert "With 3 seeds a cell, no arm is shown to be better or worse than plain: none of the 6 paired tests" in page
    assert "no proof that the arms are equal" in page


def test_a_sweep_that_confirmed_nothing_says_how_to_go_on(tmp_path):
    waiting = {(arm, depth, seed): "waiting" for arm in ARMS for depth in DEPTHS for seed in range(3)}
    with pytest.raises(
        UsageError, match=r"no finished confirm trial yet: 54 of 81 .* run: python cli.py sweep search_spaces/depth"
    ):
        report(tmp_path, confirm=waiting)
    assert not (tmp_path / "report").exists()


def test_an_unknown_metric_names_those_that_were_recorded(tmp_path):
    Synthetic(tmp_path / "runs").write()
    with pytest.raises(UsageError, match=r"'test_acuracy'. Did you mean 'test_accuracy'\? Available: test_acc"):
        build_report(tmp_path / "runs", SWEEP, tmp_path / "report", metric="test_acuracy")


def test_an_unknown_sweep_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no sweep"):
        build_report(tmp_path, "nothing", tmp_path / "report")


@pytest.mark.figures
def test_the_same_trials_give_the_same_bytes(troubled, tmp_path):
    again = build_report(troubled.folder.parent / "runs", SWEEP, tmp_path)
    for first, second in zip(troubled.files, again.files, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_nothing_in_the_report_tells_who_or_where(troubled):
    private = [str(troubled.folder.parent), "/home/", "alice", "gpu7", socket.gethostname()]
    if getpass.getuser() != "root":  # a word of CSS
        private.append(getpass.getuser())
    for file in troubled.files:
        # A short host name stands in compressed bytes by chance; what a PDF draws is in its SVG too.
        content = re.sub(rb"\bstream\r?\n.*?endstream", b"", file.read_bytes(), flags=re.DOTALL)
        text = content.decode("utf-8", errors="replace")
        found = [word for word in private if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)]
        assert not found, f"{file.name} has {found}"
    table = pq.read_table(troubled.folder / "results.parquet")
    assert "alice" not in table.to_pandas().to_csv() + str(table.schema.metadata)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot open /home/alice/data/x.bin, stop", "cannot open …/x.bin, stop"),
        ("in /home/alice", "in …"),
        ("~/secret/run/a.txt and C:\\Users\\Alice\\b.txt", "…/a.txt and …/b.txt"),
        ("git@github.com:alice/ablate.git", "…"),
        ("https://alice.example.org/x", "…"),
        ("see https://arxiv.org/abs/1810.09102", "see https://arxiv.org/abs/1810.09102"),
        ("node 10.0.0.7:6379 is gone", "node … is gone"),
        ("node fe80::1ff:fe23:4567:890a, [2001:db8::7]:6379", "node …, …"),
        ("cannot reach gpu7.cluster.local or head-node:6379", "cannot reach … or …"),
        (
            "train.py:123: torch.nn.Module at 12:30:45, c10::Error, width:16, ratio 1:100",
            "train.py:123: torch.nn.Module at 12:30:45, c10::Error, width:16, ratio 1:100",
        ),
        ("depth and/or width, 10/12 images, lr 0.1", "depth and/or width, 10/12 images, lr 0.1"),
        ("expected (64, 3) / got 2.14.0", "expected (64, 3) / got 2.14.0"),
    ],
)
def test_paths_hosts_and_remotes_are_redacted(text, expected):
    assert redact(text) == expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.04996, "p<0.05"),
        (0.05, "p=0.05"),
        (0.0504, "p>0.05"),
        (0.031, "p=0.031"),
        (0.0996, "p=0.10"),
        (1e-4, "p<0.001"),
    ],
)
def test_p_is_never_rounded_across_five_percent(p, expected):
    assert p_text(p) == expected


def test_numbers_have_no_negative_zero_and_hours_two_digits():
    assert [signed_number(-0.04), signed_number(-0.06), accuracy().signed(-0.0004)] == ["0.0", "−0.1", "0.0"]
    assert [hours_text(hours) for hours in (0.01, 0.0098, 2.5, 9.96, 140.4)] == ["0.010", "0.0098", "2.5", "10", "140"]


def test_names_break_after_a_plus_a_hyphen_or_a_blank():
    assert broken("plain+ortho+modulation", 12) == ["plain+ortho+", "modulation"]
    assert broken("batch norm+mean-only", 11) == ["batch norm+", "mean-only"]
    assert broken("modulation", 4) == ["modulation"]


def test_the_note_says_which_intervals_are_bootstraps_and_of_which_sample(tmp_path):
    declaration = Synthetic(tmp_path).declaration()
    t, bootstrap = (estimate([0.9 + 0.001 * seed for seed in range(n)], 0, accuracy()) for n in (19, 20))
    assert interval_note(declaration, [t]).startswith("[low, high]: 95% t intervals over training seeds (init")
    assert interval_note(declaration, [bootstrap]).startswith("[low, high]: 95% bootstrap (BCa) intervals over")
    both = (
        "95% intervals over training seeds (initialisation, data order, augmentation), t with fewer than 20 seeds and "
    )
    note = interval_note(declaration, [t, bootstrap])
    assert f"{both}bootstrap (BCa) from 20 on: they cover training; they do not cover" in note
    for metric, sample in (
        ("train_accuracy", "training sample (1,097 images)"),
        ("val_accuracy", "validation sample (350 images)"),
        ("test_loss", "test sample (350 images)"),
    ):
        asked = dataclasses.replace(declaration, report={"metric": metric})
        assert f"the choice of the {sample} nor" in interval_note(asked, [t])


def test_marks_and_intervals_are_told_apart_under_the_table(whole):
    note = "Every interval stands on its own, unadjusted: one of a difference that excludes 0 may carry no mark."
    assert whole.table.count(note) == 1


def test_the_note_under_the_differences_says_only_what_is_new(tmp_path):
    same = {("plain", "20", study): 0.9 + 0.01 * study for study in range(5)}
    same |= {("residual", "20", study): 0.91 + 0.01 * study for study in range(5)}
    made = report(tmp_path, confirm=same, num_studies=5, num_seeds=1)
    new = "An interval of no width: all studies gave the same value, which says nothing about others."
    assert f"\n\n{new} See also the note under the table above.\n\n" in made.table


def test_the_first_line_of_a_traceback_is_its_error():
    assert first_line("Traceback (most recent call last):\n  File x\nValueError: bad\n") == "ValueError: bad"
    assert first_line("no memory\nlog") == "no memory"
    assert first_line("") == ""


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href") and not value.startswith("#"):
                self.links.append(value)
        if tag not in ("meta", "br", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(troubled):
    text = (troubled.folder / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.links == []
    assert "<script" not in text
    assert "@import" not in text
    assert len(text) < 10_000_000
    assert 'name="viewport"' in text


def test_the_page_escapes_what_users_wrote(tmp_path):
    axes = {"depth": ["20"], "arm": ["residual", "plain"], "note": ["<script>a&b</script>"]}
    text_file = report(tmp_path, axes=axes).folder / "report.html"
    assert "<script>" not in text_file.read_text()
    assert "&lt;script&gt;a&amp;b" in text_file.read_text()


def test_the_page_tells_where_trials_diverged_and_why_they_failed(troubled):
    page = (troubled.folder / "report.html").read_text()
    assert "stage2.block0.conv1" in page
    assert "RuntimeError: cannot open …/train.bin on …" in page
    assert "b2c4e6f801" in page
    assert "946241c" in page


def test_further_axes_come_first_in_the_row_label(tmp_path):
    axes = {"depth": ["20", "56"], "arm": list(ARMS), "augment": ["none", "crop"]}
    found = report(tmp_path, axes=axes)
    assert "augment · depth" in found.table
    assert set(re.findall(r"^\| (\w+ · \d+)", found.table, re.MULTILINE)) == {
        "none · 20", "none · 56", "crop · 20", "crop · 56",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("axes", "layout"),
    [
        ({"arm": list(ARMS)}, {"rows": None}),
        ({"depth": list(DEPTHS)}, {"columns": None, "baseline": None}),
        ({"depth": list(DEPTHS), "arm": list(ARMS)}, {"rows": "arm", "columns": "depth", "baseline": "20"}),
        ({"depth": list(DEPTHS), "arm": list(ARMS)}, {"baseline": None}),
        ({}, {"rows": None, "columns": None, "baseline": None}),
    ],
)
@pytest.mark.figures
def test_other_layouts_have_a_report_too(tmp_path, axes, layout):
    found = report(tmp_path, axes=axes, report=layout)
    assert ("Difference to" in found.table) == (layout.get("baseline", "plain") is not None)
    assert {file.name for file in found.files} >= {"report.html", "table.tex", "learning_curves.svg", "cost.svg"}


def test_csv_has_a_row_a_cell_with_numbers(troubled):
    rows = list(csv.DictReader((troubled.folder / "table.csv").read_text().splitlines()))
    assert len(rows) == 9
    cell = next(row for row in rows if row["depth"] == "56" and row["arm"] == "residual")
    assert 0.9 < float(cell["low"]) < float(cell["mean"]) < float(cell["high"]) < 1
    assert json.loads(cell["best_settings"]) == {"lr": 0.1, "optimizer": "sgd", "weight_decay": 0.01}
    assert cell["num_tune_complete"] == "3"


def test_csv_has_the_verdicts(whole, troubled):
    rows, others = (
        {(row["arm"], row["depth"]): row for row in csv.DictReader((folder / "table.csv").read_text().splitlines())}
        for folder in (whole.folder, troubled.folder)
    )
    names = ("verdict", "adjusted_p", "permutation_p", "g", "is_best")
    won, equal = rows["residual", "20"], rows["plain+ortho", "20"]
    # t = 0.022 / (0.00158 / sqrt(5)) = 31.1 with 4 degrees of freedom, times 6; g = 13.9 * (1 - 3 / 15).
    assert (won["verdict"], won["is_best"], won["permutation_p"]) == ("better", "True", "0.0625")
    assert float(won["adjusted_p"]) == pytest.approx(6 * 6.371e-6, rel=0.01)
    assert float(won["g"]) == pytest.approx(11.13, rel=0.001)
    assert [equal[name] for name in names] == ["not shown", "1.0", "1.0", "", "False"]
    assert [rows["plain", "20"][name] for name in names] == ["", "", "", "", "False"]
    assert [others["plain+ortho", "110"][name] for name in names] == [""] * 5
    mixed = others["plain", "56"]
    assert [others["residual", "56"][name] for name in names] == ["seeds collapsed", "", "", "", "False"]
    assert [mixed[name] for name in ("mean", "sd", "low", "delta", "num_diverged")] == ["", "", "", "", "1"]


def test_csv_has_no_rounding_and_no_negative_zero(tmp_path):
    equal = {("residual", "20", seed): value for seed, value in enumerate((0.3, 0.7, 0.9))}
    equal |= {("plain", "20", seed): value for seed, value in enumerate((0.7, 0.3, 0.9))}
    found = report(tmp_path, confirm=equal)
    rows = list(csv.DictReader((found.folder / "table.csv").read_text().splitlines()))
    cell = next(row for row in rows if (row["arm"], row["depth"]) == ("residual", "20"))
    assert cell["delta"] == "0.0"
    assert float(cell["delta_low"]) == -float(cell["delta_high"])


def test_parquet_has_a_row_a_trial_and_names_its_sweep(troubled):
    table = pq.read_table(troubled.folder / "results.parquet")
    assert table.num_rows == 79
    frame = table.to_pandas()
    assert set(frame["state"]) == {"complete", "pruned", "diverged", "failed"}
    assert frame.loc[frame["phase"] == "tune", "test_accuracy"].isna().all()
    assert frame["config.optimizer"].notna().all()
    assert "config.modulation_window" in frame
    assert "provenance.torch" in frame
    assert table.schema.metadata[b"ablate.sweep"] == SWEEP.encode()
    assert json.loads(table.schema.metadata[b"ablate.store.declaration"])["file"] == "search_spaces/depth_ablation.yaml"


def test_latex_specials_are_escaped():
    assert latex_escaped("a_b & 5% #1 [x] −1") == r"a\_b \& 5\% \#1 {[}x{]} $-$1"


LONG_ARMS = ("residual", "plain", "plain+ortho", "plain+ortho+modulation", "plain+weight normalization+modulation")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_latex_tables_fit_a_page(troubled, tmp_path, monkeypatch):
    for arm, depth in itertools.product(LONG_ARMS, DEPTHS):
        monkeypatch.setitem(TRUTH, (arm, depth), 0.9)
    wide = report(
        tmp_path, axes={"depth": list(DEPTHS), "arm": list(LONG_ARMS)}, num_seeds=5, confirm=TROUBLED,
        report={"baseline": LONG_ARMS[-1]},
    )  # fmt: skip
    tables = [(found.folder / "table.tex").read_text() for found in (troubled, wide)]
    source = r"\documentclass{article}\usepackage{booktabs,graphicx,textcomp}\begin{document}%s\end{document}"
    (tmp_path / "a.tex").write_text(source % "\n".join(tables))
    done = subprocess.run(["pdflatex", "-halt-on-error", "a.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def test_the_latex_tables_have_as_many_cells_in_every_row(troubled):
    entries, differences = (troubled.folder / "table.tex").read_text().split(r"\end{table}")[:2]
    for table, number in ((entries, len(ARMS)), (differences, len(ARMS) - 1)):
        lines = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {number}
    assert r"\label{tab:depth-ablation-smoke-differences}" in differences


def test_the_latex_tables_have_intervals_below_means(whole):
    text = (whole.folder / "table.tex").read_text()
    first, second = text[text.index("    20 &") :].splitlines()[:2]
    assert first.split(" & ")[1:3] == [r"\textbf{94.2} $\uparrow$", "92.0"]
    assert second.split(" & ")[1:3] == [r"{\scriptsize {[}92.0, 96.4{]}}", r"{\scriptsize {[}90.0, 94.0{]}}"]


def test_figures_are_pictures_without_dates(troubled):
    for file in (troubled.folder / "figures").iterdir():
        content = file.read_bytes()
        assert content.startswith(b"<?xml" if file.suffix == ".svg" else b"%PDF")
        assert b"CreationDate" not in content
        assert b"dc:date" not in content


def test_the_first_figure_says_where_chance_is(whole):
    # Every seed is far above chance: the axis leaves it out, so that differences can be seen.
    from ablate.report import figures
    from ablate.report.entries import entries
    from ablate.report.layout import grid

    folder = SweepFolder(whole.folder.parent / "runs", SWEEP)
    declaration = folder.read_declaration()
    cells = collect(declaration, folder.read_proposals(), Ledger(folder.out))
    figure = figures.metric_by_row(declaration, grid(declaration, entries(declaration, cells)))
    assert figure.get_supxlabel() == "chance (10.0%, one in 10 classes) is below this range"
    assert figure.axes[0].get_ylim()[0] > 80


def test_status_counts_every_planned_trial_once(troubled):
    found = sweep_status(troubled.folder.parent / "runs")
    counts = found["trials"]
    assert counts == {
        "planned": 81, "waiting": 2, "running": 0, "complete": 50, "pruned": 9, "diverged": 10, "failed": 10,
    }  # fmt: skip
    assert counts["planned"] == sum(counts.values()) - counts["planned"]
    assert len(found["trial_keys"]) == 69  # a failed trial runs again
    assert found["trial_keys"] == sorted(found["trial_keys"])
    json.dumps(found, allow_nan=False)


def test_status_has_running_what_the_driver_has_launched_and_nothing_else(troubled):
    out = troubled.folder.parent / "runs"
    folder = SweepFolder(out, SWEEP)
    cells = collect(folder.read_declaration(), folder.read_proposals(), Ledger(out))
    trials = [(t.cell.key, p.key, r and r.state) for t in cells for p, r in (*t.tune, *t.confirm)]
    (proposed,) = [(cell, key) for cell, key, state in trials if state is None]
    failed = next((cell, key) for cell, key, state in trials if state == "failed")
    complete = next((cell, key) for cell, key, state in trials if state == "complete")
    counts = sweep_status(out, running={proposed, failed, complete, ("another", proposed[1])})["trials"]
    assert counts == {
        "planned": 81, "waiting": 1, "running": 2, "complete": 50, "pruned": 9, "diverged": 10, "failed": 9,
    }  # fmt: skip


def test_status_lines_name_every_cell(troubled, tmp_path):
    lines = status_lines(sweep_status(troubled.folder.parent / "runs"))
    assert lines[0] == f"{SWEEP}: 81 trials planned"
    assert lines[1] == "  2 waiting, 0 running, 50 complete, 9 pruned, 10 diverged, 10 failed"
    assert len(lines) == 2 + len(ARMS) * len(DEPTHS)
    assert re.fullmatch(r"  depth=56, arm=plain +\d+\.\d, 10\.0, \d+\.\d \(n=3, 1 diverged\)", lines[6])
    SweepFolder(tmp_path, SWEEP).write_declaration(Synthetic(tmp_path).declaration(), "")
    assert status_lines(sweep_status(tmp_path))[2].endswith("no confirmed seed yet")


def test_status_tells_the_best_configuration_and_the_confirmed_accuracy(troubled):
    cells = {tuple(cell["levels"].values()): cell for cell in sweep_status(troubled.folder.parent / "runs")["cells"]}
    plain = cells["20", "plain"]
    assert plain["best_configs"] == [{"lr": 0.1, "optimizer": "sgd", "weight_decay": 0.01}]
    assert plain["confirm"]["low"] < plain["confirm"]["mean"] < plain["confirm"]["high"]
    mixed = cells["56", "plain"]["confirm"]
    assert (mixed["n"], mixed["diverged"], mixed["mean"], mixed["low"], len(mixed["values"])) == (3, 1, None, None, 3)


def test_status_of_a_sweep_that_has_not_begun_is_undefined(tmp_path):
    synthetic = Synthetic(tmp_path)
    SweepFolder(tmp_path, SWEEP).write_declaration(synthetic.declaration(), "")
    found = sweep_status(tmp_path)
    assert found["trials"]["waiting"] == found["trials"]["planned"] == 81
    assert found["cells"][0]["best_configs"] == []
    nothing = {"n": 0, "mean": None, "low": None, "high": None, "values": [], "diverged": 0, "collapsed": 0}
    assert found["cells"][0]["confirm"] == nothing


def test_the_best_configurations_of_single_studies_have_no_column_of_studies(troubled):
    page = (troubled.folder / "report.html").read_text()
    assert '<th scope="col" class="number">study</th>' not in page


def test_a_search_space_reads_as_a_sentence():
    assert space_text(["sgd", "adam"]) == "sgd, adam"
    assert space_text({"low": 1e-3, "high": 1.0, "log": True, "when": {"optimizer": ["sgd", "adam"]}}) == (
        "0.001 to 1 (log) when optimizer is sgd or adam"
    )
    assert space_text({"choices": {"always": [0, 1]}, "when": {"modulation": "anchor"}}) == (
        "always [0, 1] when modulation is anchor"
    )
    assert space_text("sgd | adam") == "sgd | adam"


def test_the_report_imports_no_training_and_no_sweep():
    code = (
        "import sys, ablate.report.build, ablate.report.summary; heavy = {'torch', 'ray', 'optuna', 'mlflow'};"
        "own = ('ablate.run', 'ablate.tasks.image_classification.training');"
        "print([n for n in sys.modules if n in heavy or n.startswith(own)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_status_loads_nothing_heavy_when_imported():
    code = "import sys, ablate.report.summary; print([n for n in ('pandas', 'scipy') if n in sys.modules])"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
