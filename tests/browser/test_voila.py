"The explorer as a web page: served by Voila on this machine only, to those who know the token."
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from pages import ROOT, SCREENSHOTS, assert_shows, small_text

import lab
from prograd_viz.clip import load_clip
from prograd_viz.evaluate import disagreeing
from prograd_viz.runs import load_runs
from prograd_viz.screen import ExplorerData, explorer_data
from prograd_viz.tasks import few_shot

MAKE = (ROOT / "Makefile").read_text(encoding="utf-8")
APP = ROOT / "figures" / "app"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "What `make app` serves, on a free port"
    with lab.voila(tmp_path_factory.mktemp("voila"), ROOT / "nbs" / "app.ipynb") as (address, token):
        yield address, token


def test_the_app_asks_for_its_token(server):
    "Without it the page is refused, before a kernel starts"
    for bad in ("", "?token=wrong"):
        try: answer = urllib.request.urlopen(f"{server[0]}/{bad}", timeout=120)
        except urllib.error.HTTPError as e: assert e.code in (401, 403)
        else: assert "/login" in answer.url, answer.url


def test_make_app_serves_this_machine_alone_with_a_token_of_its_own():
    recipe = MAKE.split("\napp: ")[1].split("\n\n")[0]
    assert "--Voila.ip=127.0.0.1" in recipe and "--token" in recipe.split()
    assert 'PROGRAD_VIZ_APP="$(abspath $(ARGS))"' in recipe, "it takes a run folder"


EDGES = ["h1", ".jp-RenderedMarkdown p", ".pv-title strong", ".pv-sliders"]


def test_the_app_shows_what_the_library_computes(server, browser):
    page = lab.watched(browser)
    page.goto(f"{server[0]}/?token={server[1]}", wait_until="commit")
    page.locator(".pv-thumbs button").nth(7).wait_for(timeout=300_000)
    runs, data = load_runs(APP), ExplorerData.load(APP / "explorer.safetensors")
    root = page.locator(".pv-root")
    assert_shows(root, runs, data, seconds=120, lam=1.0)
    root.focus()
    for key in ("ArrowLeft", "Home", "ArrowDown", "End", "ArrowUp"):
        root.press(key)
        assert_shows(root, runs, data)
    if SCREENSHOTS: page.screenshot(path=Path(SCREENSHOTS) / "app.png", full_page=True)
    for width, scheme in ((1920, "light"), (420, "dark")):
        page.set_viewport_size({"width": width, "height": 1000})
        page.emulate_media(color_scheme=scheme)
        page.locator(f".pv-root[data-theme={scheme}]").wait_for()
        assert small_text(page.locator("#rendered_cells")) == []
        edges = [page.locator(name).first.evaluate("node => node.getBoundingClientRect().left") for name in EDGES]
        assert max(edges) - min(edges) < 1, "one left edge"
    assert page.wrong == [] and not page.get_by_text("load_clip").count(), "no errors, no code"


def test_what_the_app_shows_belongs_to_its_model():
    "The kept images are the pocket world's own: prepared again, they give the same numbers"
    runs = load_runs(APP, load_clip("pocket"), few_shot(**load_runs(APP).config["task"]))  # as the app finds it
    kept = ExplorerData.load(APP / "explorer.safetensors")
    rows = disagreeing(runs, images=8)
    assert [runs.split().labels[row] for row in rows] == kept.labels.tolist()
    again = explorer_data(runs, images=rows[:2], explainer="Occlusion")
    assert again.names == kept.names[:2] and (again.pictures == kept.pictures[:2]).all()
    for b in range(2): assert again.view(b, runs.text(1)).predicted == kept.view(b, runs.text(1)).predicted

