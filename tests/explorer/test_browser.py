"""The explorer's page in a real browser: what a person does with it, and what they see."""

import re
import shutil
import threading
import time
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as pq
import pytest
import uvicorn

from deepfits.explorer.oddity import rank
from deepfits.explorer.server import make_app
from tests.helpers.drawn_run import NUM, load

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]
FLAGS = [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip
PATIENCE_MS = 60_000


@contextmanager
def served(app):
    """Serve an application; give its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address(loaded):
    with served(make_app(*loaded, title="a <b>run</b>")) as place:
        yield place


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.set_default_timeout(PATIENCE_MS)
    said = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    elsewhere = []
    page.on(
        "request",
        lambda r: elsewhere.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None,
    )
    page.goto(address)
    page.wait_for_function("window.deepfits?.complete")
    page.said = said
    yield page
    page.close()
    assert not said
    assert not elsewhere, "nothing is loaded from elsewhere"


def place_of(page, row):
    """Return where a point lies in the window."""
    box = page.locator("#canvas").bounding_box()
    x, y = page.evaluate(f"window.deepfits.plot.getScreenPosition({row})")
    return box["x"] + x, box["y"] + y


def lonely_row(page):
    """Return the row whose point lies furthest from all others, inside the map."""
    places = np.array([page.evaluate(f"window.deepfits.plot.getScreenPosition({row})") for row in range(NUM)])
    box = page.locator("#canvas").bounding_box()
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(NUM)
    inside = (places > 20).all(1) & (places[:, 0] < box["width"] - 20) & (places[:, 1] < box["height"] - 20)
    return int(np.argmax(np.where(inside, apart.min(1), -1)))


def lasso_all(page):
    page.click("#box")
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 8, box["y"] + 8)
    page.mouse.down()
    for step in np.linspace(0, 1, 12):
        page.mouse.move(box["x"] + 8 + step * (box["width"] - 16), box["y"] + 8 + step * (box["height"] - 16))
        page.wait_for_timeout(40)
    page.mouse.up()
    page.wait_for_function("window.deepfits.selection.length > 1")


def test_a_click_shows_the_right_object(page, loaded):
    row = lonely_row(page)
    page.mouse.move(*place_of(page, row))
    page.wait_for_timeout(300)
    page.mouse.click(*place_of(page, row))
    page.wait_for_function(f"window.deepfits.row === {row}")
    page.wait_for_selector("#object-id")
    assert page.inner_text("#object-id") == str(loaded[0].object_id[row])
    page.wait_for_function("document.getElementById('panels').naturalWidth > 0")
    drawn = page.evaluate(
        "() => { const i = document.getElementById('panels'), c = document.createElement('canvas');"
        "c.width = i.naturalWidth; c.height = i.naturalHeight; const x = c.getContext('2d');"
        "x.drawImage(i, 0, 0);"
        "return Array.from(x.getImageData(0, 54, 48, 48).data).filter((_, n) => n % 4 === 0); }"
    )
    shown = np.array(drawn, dtype=float).reshape(48, 48)[1::3, 1::3][::-1]  # row 0 is below
    image = loaded[1].store.take(np.array([row])).image[0, 0]
    order = shown.ravel()[np.argsort(image.ravel())]
    assert len(np.unique(order)) > 10
    # The screen's copy of the picture may round; brighter pixels are shown brighter all the same.
    assert (np.diff(order) >= -2).all()


def test_points_are_drawn_in_the_colours_asked_for(page):
    lit = "() => { const c = document.getElementById('canvas'); const k = document.createElement('canvas');"
    lit += "k.width = c.width; k.height = c.height; const x = k.getContext('2d');"
    lit += "x.drawImage(c, 0, 0);"
    lit += "const d = x.getImageData(0, 0, k.width, k.height).data; const seen = new Set();"
    lit += "for (let n = 0; n < d.length; n += 4) if (d[n + 3] > 200 && d[n] + d[n + 1] + d[n + 2] < 600)"
    lit += " seen.add((d[n] >> 4) * 256 + (d[n + 1] >> 4) * 16 + (d[n + 2] >> 4)); return seen.size; }"
    page.select_option("#colour", "z_spec")
    page.wait_for_timeout(1500)
    coloured = page.evaluate(lit)
    assert coloured > 10
    page.select_option("#colour", "")
    page.wait_for_timeout(1500)
    assert 0 < page.evaluate(lit) < coloured


def test_the_legend_states_the_values_at_the_ends_of_the_colours(page, tmp_path):
    value = np.arange(NUM)
    rows = [f"{150 + k / 100},2.0,{1000 + k / 1000},{k - 5}\n" for k in value]
    (tmp_path / "mine.csv").write_text("ra,dec,near,mixed\n" + "".join(rows))
    page.click("nav >> text=Save")
    page.set_input_files("#overlay-file", tmp_path / "mine.csv")
    page.click("#overlay-go")
    page.wait_for_function("document.getElementById('message').textContent.includes('objects matched')")

    def legend(column):
        page.select_option("#colour", column)
        page.wait_for_function(f"document.getElementById('legend').textContent.includes('{column}')")
        return page.inner_text("#legend").split("\n")

    _, low, high = legend("mine.near")  # 4 digits would be 1000 for both
    np.testing.assert_allclose(
        [float(low), float(high)], 1000 + np.percentile(value, [1, 99]) / 1000, rtol=1e-6
    )
    legend("mine.mixed")
    page.click("#log")
    page.wait_for_function("document.getElementById('legend').textContent.includes('(log)')")
    _, low, high, grey = page.inner_text("#legend").split("\n")
    assert 0 < float(low) < float(high)
    assert grey == "grey: unknown, or not above 0"


def test_a_selection_survives_zooming_and_recolouring_and_is_saved(page, loaded, tmp_path):
    lasso_all(page)
    before = sorted(page.evaluate("window.deepfits.selection"))
    assert len(before) > NUM / 2
    page.select_option("#colour", "z_spec")
    page.wait_for_timeout(1000)
    page.click("#zoom-selection")
    page.wait_for_timeout(1000)
    assert sorted(page.evaluate("window.deepfits.selection")) == before
    page.click("nav >> text=Save")
    page.select_option("#save-format", "parquet")
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "selection.parquet")
    saved = pq.read_table(tmp_path / "selection.parquet")["object_id"].to_pylist()
    assert sorted(saved) == [int(loaded[0].object_id[row]) for row in before]


def test_neighbours_of_the_chosen_object_are_shown(page, loaded):
    page.fill("#find-id", str(loaded[0].object_id[4]))
    page.click("#find button")
    page.wait_for_selector("#panels")
    page.click("nav >> text=Like this")
    page.click("#like-go")
    page.wait_for_selector("#like-strip .tile")
    shown = page.eval_on_selector_all("#like-strip .tile", "tiles => tiles.map((t) => Number(t.dataset.row))")
    assert shown[:10] == loaded[0].neighbours([4], number=10)[0].tolist()


def test_more_and_less_like_that(page, loaded):
    page.fill("#find-id", str(loaded[0].object_id[4]))
    page.click("#find button")
    page.click("#object >> text=More like this")
    page.wait_for_selector("#like-strip .tile")
    row = int(page.get_attribute("#like-strip .tile >> nth=1", "data-row"))
    page.hover("#like-strip .holder >> nth=1")
    page.click("#like-strip .less >> nth=1")
    page.wait_for_function(f"window.deepfits.unlike[0] === {row} && !window.deepfits.found.includes({row})")
    expected = loaded[0].neighbours([4], unlike=[row], number=48)[0].tolist()
    assert page.evaluate("window.deepfits.found") == expected
    assert page.inner_text("#examples").split("\n") == ["like", "less like"]


def test_the_odd_say_why_and_obey_the_filters(page, loaded):
    page.select_option("#filters select", "z_spec")
    page.fill("#filters input[placeholder=to]", "0.1999")
    page.keyboard.press("Tab")
    page.wait_for_function("document.getElementById('count').textContent.includes('10 shown')")
    page.click("nav >> text=Odd")
    page.click("#odd-go")
    page.wait_for_selector("#odd-list .card")
    expected = rank(loaded[0], 48, np.arange(NUM) < 10)
    assert page.evaluate("window.deepfits.odd.map((one) => one.row)") == expected.rows.tolist()
    said = page.inner_text("#odd-list .card >> nth=0")
    assert said == f"{expected.score[0]:.1f}: {expected.why[0]}"
    assert expected.why[0]


def test_a_walk_between_two_galaxies_ends_at_the_other(page, loaded):
    def drawn():
        page.wait_for_function("document.getElementById('walk').complete")
        page.wait_for_timeout(300)
        return page.evaluate("fetch(document.getElementById('walk').src).then((r) => r.text())")

    for row in (3, 5):
        page.fill("#find-id", str(loaded[0].object_id[row]))
        page.click("#find button")
        page.wait_for_function(f"window.deepfits.object?.row === {row}")
        page.click("nav >> text=Draw")
        if row == 3:
            far = drawn()
            page.click("#between-set")
    near = drawn()
    page.fill("#draw-way", "1")
    assert drawn() == far != near
    page.fill("#draw-noise", "2")
    assert drawn() != far
    page.click("#between-go")
    page.wait_for_function("document.querySelector('#between img').naturalWidth === 8 * 36 - 4")


def test_a_map_of_the_sky_has_east_on_the_left_and_a_ring_around_what_is_found_at_a_position(page, loaded):
    page.select_option("#x", "ra")
    page.select_option("#y", "dec")
    page.wait_for_function("document.querySelector('#x-ticks .name').textContent === 'ra'")
    page.wait_for_timeout(500)
    assert place_of(page, 30)[0] < place_of(page, 10)[0], "the later one is farther east"
    page.fill("#find-id", f"{loaded[0].column('ra')[20]:.5f} 2.0001")
    page.click("#find button")
    page.wait_for_function("document.getElementById('message').textContent.startsWith('0.36″ from')")
    assert page.inner_text("#object-id") == str(loaded[0].object_id[20])
    where = (
        "() => { const c = document.getElementById('marks');"
        "const [x, y] = window.deepfits.plot.getScreenPosition(20);"
        "return [0, 11].map((off) => c.getContext('2d').getImageData(x + off, y, 1, 1).data[3] > 0); }"
    )
    assert page.evaluate(where) == [False, True]
    page.set_viewport_size({"width": 900, "height": 700})
    page.wait_for_timeout(500)
    assert page.evaluate(where) == [False, True], "it follows the point"
    page.evaluate("window.deepfits.plot.zoomToPoints([20, 21], { padding: 0.5 })")
    page.wait_for_timeout(500)
    marks = page.eval_on_selector_all("#x-ticks span:not(.name)", "all => all.map((one) => one.textContent)")
    assert len(set(marks)) == len(marks) > 2


def test_without_cutouts_the_page_says_how_to_have_images(browser, run):
    objects, _ = load(run / "features-both")
    objects.store = None
    with served(make_app(objects, None, title="features")) as address:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address)
        page.wait_for_function("window.deepfits?.complete")
        page.click("#select-shown")
        page.wait_for_selector("#object-id")
        assert "start with --store" in page.inner_text("#object")
        page.click("nav >> text=Draw")
        assert "start with --store" in page.inner_text("#draw-what")
        assert not page.is_visible("#walk")
        page.close()


def test_a_server_that_has_ended_is_said(page):
    page.route("**/api/odd*", lambda route: route.abort())
    page.click("nav >> text=Odd")
    page.wait_for_function("document.getElementById('message').textContent.includes('still running')")
    assert "ERR_FAILED" in page.said.pop()


def test_filters_hide_objects(page):
    page.select_option("#filters select", "z_spec")
    page.fill("#filters input[placeholder=to]", "0.1999")
    page.keyboard.press("Tab")
    page.wait_for_function("document.getElementById('count').textContent.includes('10 shown')")


def test_a_catalogue_is_laid_over_and_a_cutout_fitted(page, loaded, tmp_path):
    page.click("nav >> text=Save")
    (tmp_path / "mine.csv").write_text(
        "ra,dec,mine\n150.02,2.0,7\n150.05,2.0,8\n150.3,2.0,9\n150.205,2.0,9\n150.0501,2.0,6\n"
    )
    page.set_input_files("#overlay-file", tmp_path / "mine.csv")
    page.click("#overlay-go")
    page.wait_for_function("document.getElementById('message').textContent.startsWith('3 objects matched')")
    assert "of 5 positions; 1 more are at objects that a nearer position has" in page.inner_text("#message")
    assert sorted(page.evaluate("window.deepfits.selection")) == [2, 5, 30]
    assert page.inner_text("#unmatched-what").startswith("1 position without an object;")
    page.click("#unmatched-show")
    lit = "() => { const c = document.getElementById('marks'); return c.getContext('2d')"
    lit += ".getImageData(0, 0, c.width, c.height).data.some((one) => one > 0); }"
    page.wait_for_function(lit)
    page.click("nav >> text=Fit")
    np.save(tmp_path / "cutout.npy", loaded[1].store.take(np.array([11])).image[0])
    page.set_input_files("#upload-file", tmp_path / "cutout.npy")
    page.wait_for_selector("#upload-result img")
    assert "χ²" in page.inner_text("#upload-result")
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    with page.expect_response(lambda answer: "upload" in answer.url and answer.status == 400):
        page.set_input_files("#upload-file", tmp_path / "bad.npy")
    page.wait_for_function("document.getElementById('message').textContent.includes('bad.npy')")
    # A position that is dropped anywhere is asked for; this run has no images.
    with page.expect_response(lambda answer: "position" in answer.url and answer.status == 400):
        page.evaluate(
            "() => { const text = new DataTransfer(); text.setData('text/plain', '150.02 2.0');"
            "document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: text, bubbles: true })); }"
        )
    page.wait_for_function("document.getElementById('message').textContent.includes('start with --images')")
    assert page.input_value("#position-text") == "150.02 2.0"
    # the browser's own lines about the answers that were waited for above
    assert all("400" in page.said.pop() for _ in range(2))


def test_tags_come_from_keys(page, loaded):
    page.fill("#find-id", str(loaded[0].object_id[6]))
    page.click("#find button")
    page.wait_for_selector("#panels")
    page.locator("#title").click()
    page.keyboard.press("k")
    page.wait_for_function("document.getElementById('count').textContent.includes('1 tagged')")
    page.keyboard.press("u")
    page.wait_for_function("!document.getElementById('count').textContent.includes('tagged')")


def test_where_the_system_is_dark_so_is_the_page_but_not_the_map(page):
    def brightness(of):
        colour = page.evaluate(f"getComputedStyle(document.querySelector('{of}')).backgroundColor")
        return max(int(level) for level in re.findall(r"\d+", colour)[:3])

    assert min(map(brightness, ("body", "aside", "button", "#plot"))) > 240
    page.emulate_media(color_scheme="dark")
    assert max(map(brightness, ("body", "aside", "#umap"))) < 60
    assert [brightness(of) for of in ("#plot", "#legend")] == [255, 255]  # whose colours are for paper


FAINT_TEXTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (level) => level <= 10 ? level / 3294.6 : ((level / 255 + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (e) => { const c = numbers(getComputedStyle(e).backgroundColor);
    return c.length === 3 || c[3] > 0.5 || !e.parentElement ? c : behind(e.parentElement); };
  const contrast = (e) => { const both = [numbers(getComputedStyle(e).color), behind(e)].map(luminance);
    return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05); };
  const says = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  return [...document.querySelectorAll("body *:not(:disabled)")]
    .filter((e) => e.offsetParent && says(e) && contrast(e) < 4.5).map((e) => e.outerHTML);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(page, loaded, monkeypatch, scheme):
    """The contrast that WCAG 2.2 asks for; white on the accent of the dark page had 3.0."""
    page.emulate_media(color_scheme=scheme)
    pdf = {"method": "boosting", "edges": [0, 1], "density": [1], "z_phot": 0.5, "z_spec": 0.4}
    monkeypatch.setattr(loaded[0], "redshift", lambda row: (pdf | {"low": 0.2, "high": 0.8}, ""))
    page.fill("#find-id", str(loaded[0].object_id[4]))
    page.click("#find button")
    page.wait_for_selector("#pz")
    for tab in page.locator("nav button").all():
        tab.click()
        assert page.evaluate(FAINT_TEXTS) == []


def test_a_phone_shows_all_of_it(browser, address):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    page.wait_for_function("window.deepfits?.complete")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.title() == "a <b>run</b>"
    page.close()
