"The explorer as a web page: served by Voila on this machine only, to those who know the token."
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from pages import ROOT, SCREENSHOTS, assert_shows, panels_of, press

import lab
from prograd_viz.clip import load_clip
from prograd_viz.tasks import few_shot
from prograd_viz.training import train
from prograd_viz.widgets import explore

MAKE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "What `make app` serves, on a free port"
    with lab.voila(tmp_path_factory.mktemp("voila"), ROOT / "nbs" / "app.ipynb") as (address, token):
        yield address, token


def test_the_app_asks_for_its_token(server):
    "Without it the page is refused, before a kernel starts"
    for bad in ("", "?token=wrong"):
        try: answer = urllib.request.urlopen(f"{server[0]}/{bad}", timeout=20)
        except urllib.error.HTTPError as e: assert e.code in (401, 403)
        else: assert "/login" in answer.url, answer.url


def test_make_app_serves_this_machine_alone_with_a_token_of_its_own():
    recipe = MAKE.split("\napp: ")[1].split("\n\n")[0]
    assert "--Voila.ip=127.0.0.1" in recipe and "--token" in recipe.split()


def test_the_app_shows_what_the_library_computes(server, browser):
    page = lab.watched(browser)
    page.goto(f"{server[0]}/?token={server[1]}", wait_until="commit")
    page.locator(".pv-thumbs button").nth(7).wait_for(timeout=90_000)
    runs = train(load_clip("pocket"), few_shot("pocket", shots=8, seed=1, test_per_class=10), lambdas=[0, 0.5, 1],
                 epochs=60, progress=False)
    explorer, root = explore(runs).wait(), page.locator("body")
    assert_shows(root, panels_of(explorer), 30)
    for handle, key in ((2, "ArrowLeft"), (1, "Home"), (2, "Home"), (1, "End"), (2, "End")):
        page.locator(".noUi-handle").nth(handle).press(key)
        press((None, explorer.controls.lam, explorer.controls.step)[handle], key)
        assert_shows(root, panels_of(explorer))
    if SCREENSHOTS: page.screenshot(path=Path(SCREENSHOTS) / "app.png")
    assert page.wrong == [] and not page.get_by_text("load_clip").count(), "no errors, no code"
    if SCREENSHOTS: page.screenshot(path=Path(SCREENSHOTS) / "app.png")
