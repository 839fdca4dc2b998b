"""The page: what is in it, that it is harmless whatever the records say, and that it works in a browser."""

import functools
import json
import re
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

import reports
from reports.base import Results
from reports.charts import Line, ticks
from reports.page import write_page
from tests.reports.conftest import Fabricated, masks

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


def test_a_long_table_is_folded(fabricated, tmp_path):
    fabricated.add("dense", 0.5, 2.0, task="imagenet")
    heading = "Table 4: embedded, scale mini, measured here"
    assert f"<caption>{heading}" in (html := page(fabricated, tmp_path)) and f"<summary>{heading}" not in html
    for number in range(20):
        fabricated.add(f"method_{number}", 0.4, 1.0, task="imagenet")
    assert f"<details><summary>{heading}: 21 rows</summary>" in page(fabricated, tmp_path)


def hostile(fabricated):
    fabricated.curves()
    fabricated.add(
        "mine", 0.4, 1.0, parameters={"note": HOSTILE}, dataset=f"data {HOSTILE}", method_label=HOSTILE,
        method_references=[HOSTILE],
    )  # fmt: skip
    fabricated.add("mine", None, None, parameters={"note": "x"}, status="failed", error=HOSTILE)
    return fabricated


def pictured(fabricated):
    fabricated.add("stochastic", 0.4, 1.0, parameters={"gamma": 0.06}, samplings=[masks(0.3, draws=2)])
    return fabricated


def hundred(fabricated):
    for index in range(100):
        fabricated.add(f"method_{index:03d}", 0.3 + index / 1000, 1.0 + index / 50)


def with_nan(fabricated):
    fabricated.add("dense", 0.5, 2.0)
    fabricated.add("stochastic", float("nan"), float("nan"), parameters={"gamma": 0.7})


def varied(fabricated):
    """Two tasks, two seeds, a failed cell, a hostile plug-in, and kept masks."""
    pictured(hostile(fabricated).curves("imagenet", seeds=(0, 1)))


STORES = {
    "varied": (varied, None),
    "empty": (lambda fabricated: None, 0),
    "one cell": (lambda fabricated: fabricated.add("dense", 0.5, 2.0), 1),
    "a hundred methods": (hundred, 100),
    "a number that is none": (with_nan, 1),
    "failed cells alone": (lambda fabricated: fabricated.add("dense", None, None, status="failed", error="x" * 300), 0),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Return a function: name of a store to the file of its page, which is written once."""

    @functools.cache
    def write(name):
        folder = tmp_path_factory.mktemp("page")
        fabricated = Fabricated(folder / "store")
        STORES[name][0](fabricated)
        page(fabricated, folder / "out")
        return folder / "out" / "index.html"

    return write


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


def test_a_hundred_methods_fit(pages):
    html = pages("a hundred methods").read_text()
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
    image = {"image": 1, "seconds_dense": 0.0125, "speedup": 1.0, "gmacs": 1.0, "speedup_measured_macs": 1.0}
    timed = {
        "machine": {"finished": "2026", "cpu": "a", "threads": 1, "instruction_set": "avx2"}, "settings": {},
        "cell": {"cell_id": record.cell_id, "masks_in_pytorch": 0, "images": [image]},
    }  # fmt: skip
    (folder / "one.json").write_text(json.dumps(timed))
    html = page(fabricated, tmp_path / "b")
    assert "accuracy over measured time" in html and "12.5 ms" in html


def test_kept_masks_are_pictures_and_records_without_say_what_adds_them(fabricated, tmp_path):
    fabricated.curves()
    before = page(fabricated, tmp_path / "a")
    assert "no record of this set keeps its masks" in before and "<img" not in before
    after = page(pictured(fabricated), tmp_path / "b")
    assert "no record of this set" not in after and after.count('<img src="data:image/png;base64,') == 2
    assert "Stochastic sampling, γ = 0.06: AP 40.0 %, 1 GMACs" in after


def test_methods_of_one_colour_have_other_markers():
    lines = [Line("", "", place, "", []) for place in range(-1, 60)]
    assert len({(line.colour, line.marker) for line in lines}) == len(lines)
    assert [line.again for line in lines].count(True) == 60 - 12


@pytest.mark.parametrize(("low", "high"), [(0, 0.3), (53.2, 65.1), (5, 5), (0, 0)])
def test_ticks_are_round_and_cover_the_range(low, high):
    found = ticks(low, high)
    assert found[0] <= low and high <= found[-1] and 1 <= len(found) <= 12


# ------------------------------------------------------------------------------------------------------- in a browser

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PHONE = {"width": 360, "height": 700}


@pytest.fixture(scope="module")
def browser():
    """Start the Chromium of the PATH; playwright's own downloads are not used."""
    chromium = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if chromium is None:
        pytest.skip(f"no Chromium on the PATH ({', '.join(BROWSERS)}): apt-get install chromium to test the page in it")
    with sync_playwright() as running:
        started = running.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """Return a function that opens a file in a new window; at the end no window may have complained."""
    said, contexts = [], []

    def open_(path, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        window = context.new_page()
        window.on("console", lambda line: said.append(line.text) if line.type in ("error", "warning") else None)
        window.on("pageerror", lambda error: said.append(str(error)))
        window.on("dialog", lambda box: (said.append(f"dialog {box.message}"), box.dismiss()))
        window.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        window.goto(path if isinstance(path, str) else path.as_uri())
        return window

    yield open_
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture
def shown(opened, pages):
    """Open the page of a varied store."""
    return opened(pages("varied"))


def serious(window):
    found = Axe().run(window).response["violations"]
    return [
        (each["id"], each["nodes"][0]["target"]) for each in found if each["impact"] in ("serious", "critical")
    ]  # fmt: skip


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


def test_the_tab_key_reaches_marks_one_after_the_other(shown):
    marks = shown.locator(".pt")
    marks.nth(0).focus()
    told = [shown.locator("#tip").inner_text()]
    for _ in range(3):
        shown.keyboard.press("Tab")
        told.append(shown.locator("#tip").inner_text())
    assert told == [marks.nth(place).get_attribute("aria-label") for place in range(4)]
    shown.keyboard.press("Space")
    assert shown.locator("dialog").is_visible()


def test_filters_hide_marks_rows_and_pictures_and_stay_in_the_address(shown):
    every = shown.locator(".pt:visible").count()
    closed = shown.locator("details:not([open]) summary")
    while closed.count():
        closed.first.click()
    rows = shown.locator("table.cells tbody tr:visible").count()
    assert shown.locator(".gallery figure:visible").count() == 2
    shown.select_option("select[name=task]", "imagenet")
    shown.select_option("select[name=seed]", "1")
    some = shown.locator(".pt:visible").count()
    assert 0 < some < every and "task=imagenet" in shown.url and "seed=1" in shown.url
    assert 0 < shown.locator("table.cells tbody tr:visible").count() < rows
    assert shown.locator(".gallery figure:visible").count() == 0
    shown.reload()
    assert shown.locator(".pt:visible").count() == some
    shown.click("button[type=reset]")
    shown.wait_for_function("!location.hash.includes('task')")
    assert shown.locator(".pt:visible").count() == every


def test_a_link_with_filters_that_are_not_there_shows_all(opened, shown):
    other = opened(shown.url.split("#")[0] + "#task=koko&method=%3Cscript%3E")
    assert other.locator(".pt:visible").count() == shown.locator(".pt:visible").count()


def test_the_page_fits_a_phone_and_works_by_touch(opened, shown):
    phone = opened(shown.url, viewport=PHONE, has_touch=True)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    rows = phone.locator("tbody tr").evaluate_all("(rows) => rows.map((row) => row.getBoundingClientRect().height)")
    assert max(rows) < PHONE["height"] / 2  # a table is wider than the screen rather than a word wide
    phone.locator("[data-method=mine] .pt").first.tap()
    tip = phone.locator("#tip").bounding_box()
    assert phone.locator("dialog").is_hidden() and tip["x"] >= 0 and tip["x"] + tip["width"] <= 360
    phone.locator("[data-method=mine] .pt").first.tap()
    box = phone.locator("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_in_print_there_is_all_but_what_is_to_be_clicked(shown):
    shown.emulate_media(media="print")
    assert shown.locator("#filters").is_hidden() and shown.locator("nav").is_hidden()
    assert shown.locator(".pt:visible").count() == shown.locator(".pt").count() > 0
    assert shown.locator("details:not([open])").count() > 0
    assert shown.evaluate("[...document.querySelectorAll('table')].every((e) => e.checkVisibility())")
    shown.set_viewport_size({"width": 720, "height": 1000})  # a page of A4
    overflowing = (
        "[...document.querySelectorAll('svg, img, p, li')].filter((e) => e.getBoundingClientRect().right > 721)"
    )
    assert shown.evaluate(f"{overflowing}.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened, shown, scheme):
    window = opened(shown.url, color_scheme=scheme)
    assert serious(window) == []
    window.locator("button.record").first.click()
    assert window.locator("dialog").is_visible() and serious(window) == []


@pytest.mark.parametrize("store", [name for name in STORES if name != "varied"])
def test_any_store_gives_a_page_that_works_at_every_width(opened, pages, store):
    marks = STORES[store][1]
    window = opened(pages(store), viewport=PHONE)
    assert window.evaluate("document.documentElement.scrollWidth") <= 360
    assert window.locator(".pt:visible").count() == marks
    if marks:
        window.locator(".pt").last.focus()
        assert window.locator("#tip").is_visible()
    assert serious(window) == []
