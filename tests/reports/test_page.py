"""The page: what is in it, that it is harmless whatever the records say, and that it works in a browser."""

import json
import re
import shutil

import pytest

import reports
from reports.base import Results
from reports.charts import ticks
from reports.page import write_page

HOSTILE = "<script>alert(1)</script>"


def page(fabricated, out):
    """Write the page beside the reports that are tables only: figures take long to draw and are not in it."""
    fabricated.store.root.mkdir(parents=True, exist_ok=True)
    outputs = reports.build([fabricated.store.root], out, ["table2", "table4"])
    write_page(Results.read([fabricated.store.root]), outputs, out)
    return (out / "index.html").read_text()


def data_of(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def test_an_empty_store_gives_a_page_that_says_what_to_run(fabricated, tmp_path):
    html = page(fabricated, tmp_path)
    assert "saibench sweep coco" in html and html.count('<strong class="status not-run">') == 17
    assert data_of(html) == {}


def test_one_cell_is_a_mark_and_a_row_and_a_record(fabricated, tmp_path):
    record = fabricated.add("dense", 0.5, 2.0)
    html = page(fabricated, tmp_path)
    assert html.count('class="pt"') == 1 and html.count(f'data-cell="{record.cell_id}"') == 2
    assert data_of(html)[record.cell_id]["provenance"]["dataset_fingerprint"] == "f00dcafe"


def test_every_finished_cell_is_a_mark_and_every_cell_is_in_the_table(fabricated, tmp_path):
    fabricated.curves(seeds=(0, 1))
    fabricated.add("stochastic", None, None, parameters={"gamma": 9.0}, status="diverged")
    html = page(fabricated, tmp_path)
    cells = fabricated.store.records()
    assert html.count('class="pt"') == (cells["status"] == "finished").sum()
    assert all(f'<button type="button" class="record" data-cell="{cell}">' in html for cell in cells["cell_id"])
    assert "Diverged: Stochastic sampling" in html and "Table 2" in html


def hostile(fabricated):
    fabricated.curves()
    fabricated.add(
        "mine", 0.4, 1.0, parameters={"note": HOSTILE}, dataset=f"data {HOSTILE}", method_label=HOSTILE,
        method_references=[HOSTILE],
    )  # fmt: skip
    fabricated.add("mine", None, None, parameters={"note": "x"}, status="failed", error=HOSTILE)
    return fabricated


def test_a_plug_in_of_any_name_is_harmless(fabricated, tmp_path):
    html = page(hostile(fabricated), tmp_path)
    assert HOSTILE not in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert html.count("<script") == 2
    for path in tmp_path.glob("*.md"):
        assert HOSTILE not in path.read_text()


def test_a_record_with_nan_is_told_and_is_no_mark(fabricated, tmp_path):
    fabricated.curves()
    before = page(fabricated, tmp_path / "a").count('class="pt"')
    missing = fabricated.add("stochastic", float("nan"), 1.0, parameters={"gamma": 0.7})
    broken = fabricated.add("stochastic", 0.4, 1.0, parameters={"gamma": 0.8})
    path = broken.folder / "record.json"
    path.write_text(path.read_text().replace('"metric_AP": 0.4', '"metric_AP": NaN'))
    html = page(fabricated, tmp_path / "b")
    assert html.count('class="pt"') == before
    assert missing.cell_id in html and broken.cell_id in html
    assert not re.search(r">\s*nan\b", html, re.I)


def test_a_hundred_methods_fit(fabricated, tmp_path):
    for index in range(100):
        fabricated.add(f"method_{index:03d}", 0.3 + index / 1000, 1.0 + index / 50)
    html = page(fabricated, tmp_path)
    assert html.count('class="pt"') == 100 and len(html.encode()) < 2e6


def test_the_page_needs_nothing_from_elsewhere(fabricated, tmp_path):
    html = page(fabricated.curves(), tmp_path)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", html) and "http" not in html.split("<body>")[0]
    assert "@import" not in html and "url(" not in html


def test_measured_time_is_a_second_chart(fabricated, tmp_path):
    record = fabricated.add("dense", 0.5, 2.0)
    assert "accuracy over measured time" not in page(fabricated, tmp_path / "a")
    folder = fabricated.store.root / "timing"
    folder.mkdir()
    timed = {"machine": {"finished": "2026"}, "cell": {"cell_id": record.cell_id, "images": [{"seconds": 0.0125}]}}
    (folder / "one.json").write_text(json.dumps(timed))
    html = page(fabricated, tmp_path / "b")
    assert "accuracy over measured time" in html and "12.5 ms" in html


@pytest.mark.parametrize(("low", "high"), [(0, 0.3), (53.2, 65.1), (5, 5), (0, 0)])
def test_ticks_are_round_and_cover_the_range(low, high):
    found = ticks(low, high)
    assert found[0] <= low and high <= found[-1] and 1 <= len(found) <= 12


# ------------------------------------------------------------------------------------------------------- in a browser

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright to test the page")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium to test the page")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def shown(browser, fabricated, tmp_path):
    """Open the page of some stores; what the console said is in ``.said``."""
    html = tmp_path / "out" / "index.html"
    hostile(fabricated).curves("imagenet", seeds=(0, 1))
    page(fabricated, html.parent)
    context = browser.new_context()
    opened = context.new_page()
    opened.said = []
    opened.on("console", lambda line: opened.said.append(line.text) if line.type == "error" else None)
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("dialog", lambda box: opened.said.append(f"dialog {box.message}"))
    opened.goto(html.as_uri())
    yield opened
    assert opened.said == []
    context.close()


def test_hover_focus_and_keys_tell_of_a_mark(shown):
    mark = shown.locator("[data-method=mine] .pt").first  # others lie on one another
    mark.hover()
    assert shown.locator("#tip").inner_text() == mark.get_attribute("aria-label")
    shown.mouse.move(0, 0)
    assert shown.locator("#tip").is_hidden()
    mark.focus()
    assert shown.locator("#tip").is_visible()
    shown.keyboard.press("Enter")
    assert "dataset_fingerprint" in shown.locator("dialog").inner_text()
    shown.keyboard.press("Escape")
    assert shown.locator("dialog").is_hidden()


def test_filters_hide_marks_and_rows_and_stay_in_the_address(shown):
    every = shown.locator(".pt:visible").count()
    shown.select_option("select[name=task]", "imagenet")
    shown.select_option("select[name=seed]", "1")
    some = shown.locator(".pt:visible").count()
    assert 0 < some < every and "task=imagenet" in shown.url and "seed=1" in shown.url
    shown.reload()
    assert shown.locator(".pt:visible").count() == some
    shown.click("button[type=reset]")
    shown.wait_for_function("!location.hash.includes('task')")
    assert shown.locator(".pt:visible").count() == every


def test_the_page_fits_a_phone_and_works_by_touch(browser, shown):
    context = browser.new_context(viewport={"width": 360, "height": 700}, has_touch=True)
    phone = context.new_page()
    phone.goto(shown.url)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    phone.locator("[data-method=mine] .pt").first.tap()
    assert phone.locator("#tip").is_visible() and phone.locator("dialog").is_hidden()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, shown, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    context = browser.new_context(color_scheme=scheme)
    opened = context.new_page()
    opened.goto(shown.url)
    found = axe.Axe().run(opened).response["violations"]
    assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
    context.close()
