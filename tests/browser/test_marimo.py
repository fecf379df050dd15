"The explorer in marimo's editor, where it stands in a shadow root: readable, and without faults that axe-core finds."
import importlib.util
import json
from pathlib import Path

import pytest
from pages import SCREENSHOTS, assert_shows, put, small_text

import lab
from prograd_viz.screen import explorer_data

pytestmark = pytest.mark.skipif(importlib.util.find_spec("marimo") is None, reason="marimo is not installed")
AXE = importlib.util.find_spec("axe_playwright_python")  # it brings axe.min.js
CELL = """import marimo

app = marimo.App(width="full")


@app.cell
def _():
    from prograd_viz.all import explore, few_shot, load_clip, load_runs
    task = few_shot("pocket", shots=4, seed=1, classes=6, test_per_class=5)
    explore(load_runs({folder!r}, load_clip("pocket"), task), images=4)
    return


if __name__ == "__main__": app.run()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory, trained, browser):
    "The editor with an open explorer"
    app = tmp_path_factory.mktemp("marimo") / "e.py"
    app.write_text(CELL.format(folder=str(trained[1])), encoding="utf-8")
    app.with_name("pyproject.toml").write_text("[tool.marimo.runtime]\nauto_instantiate = true\n", encoding="utf-8")
    with lab.marimo(app) as (address, token):
        page = lab.watched(browser, 1280, 1000)
        page.goto(f"{address}/?access_token={token}", wait_until="commit")
        page.locator(".pv-thumbs button").nth(3).wait_for(timeout=300_000)
        yield page


@pytest.fixture
def root(page): return page.locator(".pv-root")


def test_it_shows_what_the_library_computes(root, trained):
    runs = trained[0]
    data = explorer_data(runs, images=4)
    for step in (30, 7):
        put(root, step=step)
        assert_shows(root, runs, data, step=step)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_readable(page, root, scheme):
    "Also where what lies under a text is outside the shadow root"
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", scheme == "dark")
    page.locator(f".pv-root[data-theme={scheme}]").wait_for()
    if SCREENSHOTS: root.screenshot(path=Path(SCREENSHOTS) / f"marimo-{scheme}.png")
    assert small_text(root) == []


@pytest.mark.skipif(AXE is None, reason="axe-core is not installed: pip install axe-playwright-python")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page, root, scheme):
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", scheme == "dark")
    page.locator(f".pv-root[data-theme={scheme}]").wait_for()
    page.add_script_tag(path=Path(AXE.origin).with_name("axe.min.js"))
    found = root.evaluate("root => axe.run(root)")["violations"]
    faults = {fault["id"]: [node["html"][:120] for node in fault["nodes"]] for fault in found}
    assert not faults, json.dumps(faults, indent=1)
