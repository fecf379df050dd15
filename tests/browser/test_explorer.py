"""The explorer in real JupyterLab, and the report from disk, in a real browser: what the page shows is what the library computes.

SCREENSHOTS=figures/explorer python -m pytest tests/browser    # also writes the pictures that the README shows
"""
import base64
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from html import unescape
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from prograd_viz.clip import load_clip
from prograd_viz.data import few_shot
from prograd_viz.report import save_report
from prograd_viz.training import train
from prograd_viz.widgets import Explorer, beside, paint, prepare

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM and not os.environ.get("CI"), reason="NO BROWSER: install chromium to test the explorer in JupyterLab")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
CELL = """from prograd_viz.all import *
task = few_shot("pocket", shots=4, seed=1, classes=6, test_per_class=4)
runs = train(load_clip("pocket"), task, lambdas=[0, 0.5, 1], epochs=100, progress=False)
explore(runs, images=4)"""


@pytest.fixture(scope="module")
def twin():
    "The same explorer in this process"
    task = few_shot("pocket", shots=4, seed=1, classes=6, test_per_class=4)
    runs = train(load_clip("pocket"), task, lambdas=[0, 0.5, 1], epochs=100, progress=False)
    return Explorer(runs, prepare(runs, images=4))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "JupyterLab on a free port with one notebook; its address"
    folder = tmp_path_factory.mktemp("lab")
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}  # without one, a dialog asks
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)], metadata=kernel), folder / "explore.ipynb")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    home = {"HOME": str(folder), "JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--port-retries=0", "--IdentityProvider.token=secret", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", *["--allow-root"] * (os.name == "posix" and os.getuid() == 0)]
    with open(folder / "log", "wb") as log, subprocess.Popen(command, cwd=folder, env=os.environ | home, stdout=log, stderr=log) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(240):
                try: urllib.request.urlopen(f"{address}/api?token=secret", timeout=1); break
                except OSError: time.sleep(0.25)
            else: raise TimeoutError((folder / "log").read_text()[-2000:])
            yield address
        finally: process.terminate()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(server, browser):
    "The notebook, run; its page collects what goes wrong"
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.wrong = []
    page.on("pageerror", lambda e: page.wrong.append(str(e)))
    page.goto(f"{server}/lab/tree/explore.ipynb?token=secret")
    page.get_by_text("| Idle").wait_for(timeout=60_000)  # the kernel is there
    news = page.get_by_role("button", name="No", exact=True)
    if news.count(): news.click()
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Shift+Enter")
    page.locator("img.widget-image").nth(4).wait_for(timeout=90_000)
    return page


def shown(page):
    "Bytes of all pictures in the order of the page, and all text beside them"
    read = "async img => { const b = new Uint8Array(await (await fetch(img.src)).arrayBuffer()); let s = ''; for (const x of b) s += String.fromCharCode(x); return btoa(s) }"
    images = [base64.b64decode(page.locator("img.widget-image").nth(i).evaluate(read)) for i in range(5)]
    return images, words(" ".join(page.locator("[role=status]").evaluate_all("all => all.map(x => x.innerHTML)")))


def words(html): return " ".join(unescape(re.sub("<[^>]*>", " ", html)).split())


def computed(twin): return [bytes(p.value) for p in twin.pictures.values()], words(twin.numbers.value + " " + twin.text.value)


def assert_shows(page, twin):
    "The page arrives at what this process computes, picture for picture and word for word"
    end = time.time() + 15
    while shown(page) != computed(twin) and time.time() < end: page.wait_for_timeout(50)
    assert shown(page)[1] == computed(twin)[1]
    assert shown(page) == computed(twin)


SLIDERS = ("overlay", "lambda", "step")  # in the order of the page


def slider(page, name): return page.locator(".noUi-handle").nth(SLIDERS.index(name))


def test_the_explorer_opens_with_the_end_of_training(page, twin): assert_shows(page, twin)


@pytest.mark.parametrize("name, key", [("lambda", "ArrowLeft"), ("step", "ArrowLeft"), ("step", "Home"), ("lambda", "ArrowRight"), ("step", "ArrowRight"), ("overlay", "ArrowLeft")])
def test_a_key_moves_a_slider_the_picture_and_the_numbers(page, twin, name, key):
    control = {"lambda": twin.lam, "step": twin.step, "overlay": twin.strength}[name]
    before = shown(page)
    slider(page, name).focus()
    page.keyboard.press(key)
    if name == "overlay": control.value = round(control.value - control.step, 10)
    else: control.index = {"ArrowLeft": control.index - 1, "ArrowRight": control.index + 1, "Home": 0}[key]
    assert_shows(page, twin)
    assert shown(page)[0] != before[0], "a picture changed"


def test_the_other_controls_do_what_they_say(page, twin):
    page.get_by_role("button", name="next conflict").click()
    twin.jump("next conflict")
    assert_shows(page, twin)
    page.get_by_title("Which image").select_option(index=2)
    twin.image.index = 2
    assert_shows(page, twin)
    page.get_by_title("The class whose score").select_option(label="predicted class")
    twin.explain.value = "predicted class"
    assert_shows(page, twin)


def test_a_drag_from_end_to_end_leaves_the_display_at_the_last_value(page, twin):
    box, track = (x.bounding_box() for x in (slider(page, "step"), slider(page, "step").locator("xpath=ancestor::*[contains(@class, 'noUi-target')]")))
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for i in range(30): page.mouse.move(track["x"] + track["width"] * i / 29, box["y"] + box["height"] / 2)
    page.mouse.up()
    twin.step.index = len(twin.runs.snapshot_steps) - 1
    assert_shows(page, twin)


def test_every_control_has_a_label_and_a_tooltip(page):
    for name, tip in (("lambda", "How much"), ("step", "Training step"), ("image", "Which image"), ("explain", "The class whose"), ("overlay", "Strength")):
        assert page.locator(f".widget-label:text-is('{name}')").count() == 1 and page.get_by_title(tip).count() >= 1, name
    for name in ("first", "previous conflict", "next conflict", "last", "save"): assert page.get_by_role("button", name=name, exact=True).get_attribute("title")


def test_every_control_is_reached_by_tab(page):
    page.get_by_title("Which image").focus()
    reached = set()
    for _ in range(18):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('title') || document.activeElement.getAttribute('role') || ''"))
    assert {"slider", "The class whose score the maps explain", "Go to the start", "Go to the end"} <= reached, reached


def test_save_writes_what_is_on_screen_into_the_folder_of_the_notebook(page, twin, server):
    page.get_by_role("button", name="save", exact=True).click()
    said = page.locator("[role=status]", has_text="saved explorer-")
    said.wait_for(timeout=20_000)
    for name in re.findall(r"explorer-[\w.-]+\.(?:png|csv)", said.inner_text()):
        content = urllib.request.urlopen(f"{server}/files/{name}?token=secret").read()
        if name.endswith("png"): assert Image.open(io.BytesIO(content)).width >= 2400
        else: assert content.decode().replace("\r", "") == twin.table().to_csv(index=False)


def test_nothing_went_wrong_in_the_page_or_the_kernel(page, twin):
    assert not page.wrong
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").filter(has_text="Error").count() == 0
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.get_by_title("The class whose score").select_option(label="true class")
        moved = lambda b: np.abs(np.subtract(*(twin.scenes.view(b, twin.runs.text(lam)).cam for lam in (0, 1)))).max()
        page.get_by_title("Which image").select_option(index=max(range(len(twin.scenes)), key=moved))  # where the prompts differ most
        page.wait_for_timeout(1000)
        page.screenshot(path=Path(folder) / "explorer.png")


def test_the_report_works_from_disk_with_no_network(twin, browser, tmp_path):
    "Sliders by keyboard; numbers as the library computes them; not one request, not one error"
    runs, scenes, wrong = twin.runs, twin.scenes, []
    path = save_report(runs, tmp_path / "report.html", scenes=scenes)
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.goto(path.as_uri())
    page.locator("#numbers tr").nth(2).wait_for()

    def expect(lam, step, b):
        rows = [page.locator("#numbers tr").nth(i).locator("td").all_inner_texts() for i in range(page.locator("#numbers tr").count())]
        prompts = [("zero-shot CLIP", runs.zero_shot), ("CoOp", runs.text(0, step)), *([(f"ProGrad, lambda {lam:g}", runs.text(lam, step))] if lam else [])]
        views = [(name, scenes.view(b, text)) for name, text in prompts]
        assert [row[:2] for row in rows] == [[name, v.predicted] for name, v in views]
        for row, (_, v) in zip(rows, views):
            assert abs(int(row[2].rstrip("%")) - 100 * v.probability) < 0.51
            assert row[3] == "-" if v.share != v.share else abs(int(row[3].rstrip("%")) - 100 * v.share) < 0.51

    ink = lambda: page.locator("#panels").evaluate("c => c.toDataURL()")
    expect(1.0, int(runs.snapshot_steps[-1]), 0)
    before = ink()
    page.locator("#image").select_option(index=2)
    expect(1.0, int(runs.snapshot_steps[-1]), 2)
    assert ink() != before
    page.locator("#lam").focus()
    page.keyboard.press("ArrowLeft")
    expect(0.5, int(runs.snapshot_steps[-1]), 2)
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    expect(0.5, 0, 2)
    page.keyboard.press("End")
    drawn = Image.open(io.BytesIO(base64.b64decode(ink().split(",")[1]))).convert("RGB")
    views = [scenes.view(2, text) for text in (runs.zero_shot, runs.text(0), runs.text(0.5))]
    ours = beside([paint(scenes.pictures[2], mask=scenes.masks[2]), *(paint(scenes.pictures[2], v.cam, max(v.cam.max() for v in views), scenes.masks[2]) for v in views)], [""] * 4, ["white"] * 4)
    crop = lambda image, head: np.asarray(image.crop((0, head + 2, 814, head + 194)), float)
    assert np.abs(crop(drawn, 26) - crop(ours, 24)).mean() < 8, "the browser paints what the library paints"
    if os.environ.get("SCREENSHOTS"): page.screenshot(path=Path(os.environ["SCREENSHOTS"]) / "report.png")
    plain = browser.new_context(java_script_enabled=False, offline=True).new_page()
    plain.goto(path.as_uri())
    assert plain.locator(".still img").first.is_visible() and not plain.locator("fieldset").is_visible() and plain.locator("table", has_text="steps in conflict").is_visible()
    assert not wrong
