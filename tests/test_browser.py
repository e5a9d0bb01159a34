"""The report and the MLflow UI in a real browser: Debian's Chromium, driven by Playwright.

Screenshots go to $ABLATE_SCREENSHOTS, or to the test's temporary folder.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from synthetic import ARMS, DEPTHS, NUM_EPOCHS, Synthetic

from ablate.report.build import build_report
from ablate.store.declaration import SweepFolder, collect
from ablate.store.ledger import Ledger
from ablate.tracking.mirror import Mirror
from ablate.tracking.server import served
from ablate.tracking.view import link

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWEEP = "depth_ablation@smoke"
TIMEOUT_MS = 60_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install .[test])")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = os.environ.get("ABLATE_SCREENSHOTS")
    found = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    found.mkdir(parents=True, exist_ok=True)
    return found


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A sweep in the ledger and in MLflow, with its report in the summary run and in out/report."""
    folder = tmp_path_factory.mktemp("browser") / "runs"
    declaration = Synthetic(folder, confirm={("plain", "56", 1): "diverged"}).write()
    sweep = SweepFolder(folder, SWEEP)
    cells = collect(declaration, sweep.read_proposals(), Ledger(folder))
    for upload in (False, True):  # the second time with links, as the runs are known then
        mirror = Mirror(folder, declaration, "name: depth_ablation\n")
        mirror.replay(cells)
        made = build_report(folder, SWEEP, folder / "report") if upload else None
        mirror.summary(made.folder if made else None, cells)
        assert mirror.close(timeout_s=120) == 0
    return folder


@pytest.fixture(scope="module")
def server(out):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with served(out, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def experiment(out) -> str:
    return re.search(r'"experiment": "(\d+)"', (out / SWEEP / "mlflow_runs.json").read_text())[1]


def shown(browser, address, *, width=1280, height=900, scheme="light"):
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(address)
    return page


@pytest.mark.parametrize(
    ("name", "width", "scheme"), [("light", 1200, "light"), ("dark", 1200, "dark"), ("phone", 390, "light")]
)
def test_the_page_fits_in_light_in_dark_and_on_a_phone(browser, out, pictures, name, width, scheme):
    page = shown(browser, (out / "report" / "report.html").as_uri(), width=width, scheme=scheme)
    page.context.set_offline(True)
    page.screenshot(path=pictures / f"report-{name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{what}") for what in ("color", "backgroundColor"))
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (light[0] > light[1]) == (scheme == "dark")
    assert abs(light[0] - light[1]) > 400
    # Whatever is wider than the window scrolls by itself, and text is large enough to read.
    assert page.locator("#entries tbody tr").count() == len(DEPTHS)
    sizes = page.evaluate(
        "[...document.querySelectorAll('p, td, th, dd')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 12
    assert page.errors == []


def test_every_entry_of_the_page_leads_to_its_run(browser, out, server, pictures):
    page = shown(browser, (out / "report" / "report.html").as_uri())
    addresses = page.locator("#entries td a").evaluate_all("links => links.map(link => link.href)")
    assert len(set(addresses)) == len(DEPTHS) * len(ARMS)
    assert all(address.startswith("http://127.0.0.1:5000/#/experiments/") for address in addresses)
    run = shown(browser, addresses[0].replace("http://127.0.0.1:5000", server))
    run.get_by_text("depth=20 arm=residual").first.wait_for()
    run.get_by_role("link", name="Runs", exact=True).first.wait_for()
    run.screenshot(path=pictures / "mlflow-cell.png")


def test_the_run_list_is_sorted_by_confirmed_accuracy(browser, out, server, experiment, pictures):
    page = shown(browser, link(server, experiment), width=1600, height=1000)
    page.get_by_text("depth=20 arm=plain+ortho").first.wait_for()
    page.screenshot(path=pictures / "mlflow-runs.png")
    text = page.inner_text("body")
    found = [name for name in re.findall(r"depth=\d+ arm=\S+", text) if not name.startswith("tune")]
    assert set(found[:3]) <= {"depth=20 arm=residual", "depth=20 arm=plain+ortho", "depth=20 arm=plain",
                              "depth=56 arm=residual"}  # fmt: skip
    assert found.index("depth=20 arm=residual") < found.index("depth=56 arm=plain")
    assert "confirmed_accuracy" in text
    # A click on the column turns the order round: the cell that learned nothing comes first.
    page.get_by_test_id("sort-header-confirmed_accuracy").click()
    page.locator('[role=row][row-index="0"]').get_by_text("depth=110 arm=plain", exact=True).wait_for()
    page.screenshot(path=pictures / "mlflow-sorted.png")


def test_the_cells_hold_their_trials_when_sorted_by_creation(browser, out, server, experiment, pictures):
    address = f"{server}/#/experiments/{experiment}/runs?orderByKey=attributes.start_time&orderByAsc=false"
    page = shown(browser, f"{address}&workflowType=machine_learning", width=1600, height=1000)
    cell = page.get_by_role("row").filter(has=page.get_by_text("depth=20 arm=residual", exact=True))
    cell.first.wait_for()
    names = [
        *(f"tune {number}" for number in range(Synthetic.num_tune)),
        *(f"confirm {number}" for number in range(Synthetic.num_seeds)),
    ]
    trials = [page.get_by_text(f"{name} depth=20 arm=residual", exact=True) for name in names]
    assert [trial.count() for trial in trials] == [0] * len(trials)
    cell.first.get_by_role("button").click()
    for trial in trials:
        trial.first.wait_for()
    page.screenshot(path=pictures / "mlflow-tree.png")


def test_the_report_opens_in_the_summary_run(browser, out, server, experiment, pictures):
    runs = shown(browser, f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning", width=1600)
    runs.get_by_role("link", name="summary", exact=True).first.click()
    runs.get_by_role("tab", name="Artifacts").or_(runs.get_by_text("Artifacts", exact=True)).first.click()
    runs.get_by_text("report", exact=True).first.click()
    runs.get_by_text("report.html").first.click()
    frame = runs.frame_locator("iframe").first
    frame.get_by_role("heading", name="Short answer").wait_for()
    runs.screenshot(path=pictures / "mlflow-report.png")
    assert frame.locator("#entries tbody tr").count() == len(DEPTHS)


def test_the_curves_of_two_arms_are_compared(browser, server, experiment, pictures):
    page = shown(browser, link(server, experiment), width=2000, height=1000)
    search = page.get_by_placeholder("metrics.rmse")
    search.fill("params.depth = '56' and tags.phase = 'confirm' and tags.number = '0'")
    search.press("Enter")
    page.get_by_text(f"{len(ARMS)} matching runs").wait_for()
    names = [f"confirm 0 depth=56 arm={arm}" for arm in ("residual", "plain")]
    for name in names:
        run = page.get_by_role("row").filter(has=page.get_by_text(name, exact=True)).first.get_attribute("row-id")
        page.locator(f'[row-id="{run}"] input[type=checkbox]').first.check()
    page.get_by_test_id("runs-compare-button").click()
    page.get_by_role("heading", name="Comparing 2 Runs from 1 Experiment").wait_for()
    page.screenshot(path=pictures / "mlflow-compare.png")
    page.get_by_role("link", name="val_accuracy", exact=True).first.click()
    page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for()
    curves = page.evaluate("document.querySelector('.js-plotly-plot').data.map(line => [line.name, line.y.length])")
    page.screenshot(path=pictures / "mlflow-curves.png")
    assert {name for name, _ in curves} == set(names)
    assert min(length for _, length in curves) >= NUM_EPOCHS


@pytest.fixture
def foreign(tmp_path):
    """A web server of somebody else, as seen by the browser: another port of this machine."""
    (tmp_path / "index.html").write_text("<p>somebody else's page</p>")
    pages = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    thread = threading.Thread(target=pages.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{pages.server_port}"
    pages.shutdown()
    thread.join()
    pages.server_close()


CREATE = """async ([server, name, mode, kind]) => {
    const body = JSON.stringify({name});
    const headers = {"Content-Type": kind};
    try {
        const address = server + "/ajax-api/2.0/mlflow/experiments/create";
        return (await fetch(address, {method: "POST", mode, headers, body})).status;
    } catch (error) { return 0; }
}"""
READ = """async server => {
    try { return (await fetch(server + "/ajax-api/2.0/mlflow/experiments/search?max_results=1")).status; }
    catch (error) { return 0; }
}"""
FORM = """([server, name]) => {
    const form = document.createElement("form");
    const action = server + "/ajax-api/2.0/mlflow/experiments/create";
    Object.assign(form, {method: "POST", action, enctype: "text/plain"});
    const input = document.createElement("input");
    Object.assign(input, {name: '{"name": "' + name + '", "x": "', value: '"}'});
    form.append(input);
    document.body.append(form);
    form.submit();
}"""


def test_the_uis_own_page_writes_and_somebody_elses_neither_writes_nor_reads(browser, server, foreign):
    own, other = shown(browser, server), shown(browser, foreign)
    assert own.evaluate(CREATE, ["", "own", "cors", "application/json"]) == 200
    assert own.evaluate(READ, "") == 200
    for name, mode, kind in (("cors", "cors", "application/json"), ("simple", "no-cors", "text/plain")):
        assert other.evaluate(CREATE, [server, name, mode, kind]) == 0, "0 is what the browser tells of a refusal"
    assert other.evaluate(READ, server) == 0
    with other.expect_navigation(url=f"{server}/**") as navigation:
        other.evaluate(FORM, [server, "form"])
    assert navigation.value.status == 403
    names = {experiment.name for experiment in MlflowClient(server).search_experiments()}
    assert "own" in names
    assert not names & {"cors", "simple", "form"}


def test_a_tag_is_written_in_the_ui(browser, server, experiment):
    """The UI's own requests that change something have what the guard asks for."""
    page = shown(browser, f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning", width=1600)
    page.get_by_role("link", name="summary", exact=True).first.click()
    page.get_by_role("button", name="Add tags").or_(page.get_by_role("button", name="Edit tags")).first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").fill("reviewed")
    page.keyboard.press("Enter")
    dialog.get_by_placeholder("Type a value").fill("by hand")
    dialog.get_by_role("button", name="Add tag", exact=True).click()
    with page.expect_response(lambda answer: answer.request.method == "POST" and "set-tag" in answer.url) as written:
        dialog.get_by_role("button", name="Save", exact=False).click()
    assert written.value.status == 200
    run = MlflowClient(server).search_runs([experiment], "tags.`ablate.kind` = 'summary'")[0]
    assert run.data.tags["reviewed"] == "by hand"
