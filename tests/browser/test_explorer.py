"""The tutorial in real JupyterLab, in a real browser: what the page shows is what the library computes.

SCREENSHOTS=figures/explorer python -m pytest tests/browser    # also writes the pictures that the README shows
"""
import io
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from pages import ROOT, SCREENSHOTS, assert_shows, computed, panels_of, press, shown
from PIL import Image

import lab
from prograd_viz.clip import load_clip
from prograd_viz.tasks import few_shot
from prograd_viz.training import train
from prograd_viz.widgets import explore, show_cosine, show_gradient_plane

TUTORIAL = "nbs/tutorials/explore.ipynb"
SLIDERS = ("overlay", "lambda", "step")  # of the explorer, in the order of the page


@pytest.fixture(scope="module")
def twin():
    "What the tutorial makes, in this process"
    runs = train(load_clip("pocket"), few_shot("pocket", shots=8, seed=1), lambdas=[0, 0.5, 1], epochs=100,
                 progress=False)
    plane = show_gradient_plane(runs)
    plane.controls.jump("next conflict")
    return show_cosine(runs), plane, explore(runs).wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "JupyterLab beside a copy of the tutorial; folder, address, token"
    folder = tmp_path_factory.mktemp("lab")
    for name in (TUTORIAL, "figures/explorer/explorer.png"):
        (folder / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, folder / name)
    with lab.jupyterlab(folder) as (address, token): yield folder, address, token


@pytest.fixture(scope="module")
def page(server, browser):
    "The tutorial, run from top to bottom"
    page = lab.watched(browser)
    lab.open_notebook(page, *server[1:], TUTORIAL)
    run_all(page, 5)
    return page


def run_all(page, cells):
    "Run all cells and wait for the last one"
    lab.command(page, "notebook:run-all-cells")
    executed(page, cells)


def executed(page, cells):
    "Wait for the last cell, and for the explorer's images"
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").filter(has_text=re.compile(r"\[\d+\]"))
    prompts.nth(cells).wait_for(timeout=240_000)
    page.locator(".pv-thumbs button").nth(7).wait_for(timeout=60_000)


@pytest.fixture(scope="module")
def outputs(page):
    "The parts of the page: the two small widgets and the explorer"
    areas = page.locator(".jp-OutputArea-child", has=page.locator(".pv-panel"))
    return areas.nth(0), areas.nth(1), areas.nth(2)


def slider(area, name): return area.locator(".noUi-handle").nth(SLIDERS.index(name))


def test_the_tutorial_runs_from_top_to_bottom_and_shows_what_the_library_computes(page, outputs, twin):
    code = [c for c in nbformat.read(ROOT / TUTORIAL, 4).cells if c.cell_type == "code"]
    assert page.locator(".jp-CodeCell").count() == len(code) == 6 and len(computed(panels_of(twin[2])())[0]) == 5
    for area, screen in zip(outputs[:2], twin): assert_shows(area, lambda screen=screen: list(screen.panels.values()))
    assert_shows(outputs[2], panels_of(twin[2]))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("handle, key", [(1, "ArrowLeft"), (1, "Home"), (1, "ArrowRight"), (0, "ArrowLeft")])
def test_a_key_moves_the_slider_of_a_small_widget(outputs, twin, which, handle, key):
    outputs[which].locator(".noUi-handle").nth(handle).press(key)
    press((twin[which].controls.lam, twin[which].controls.step)[handle], key)
    assert_shows(outputs[which], lambda: list(twin[which].panels.values()))


@pytest.mark.parametrize("name, key", [("lambda", "ArrowLeft"), ("step", "ArrowLeft"), ("step", "Home"),
                                       ("step", "ArrowRight"), ("step", "End"), ("lambda", "ArrowRight"),
                                       ("overlay", "ArrowLeft")])
def test_a_key_moves_a_slider_the_picture_and_the_numbers(outputs, twin, name, key):
    explorer, before = twin[2], shown(outputs[2])
    slider(outputs[2], name).press(key)
    if name == "overlay": explorer.gallery.strength.value = round(explorer.gallery.strength.value - 0.05, 10)
    else: press({"lambda": explorer.controls.lam, "step": explorer.controls.step}[name], key)
    assert_shows(outputs[2], panels_of(explorer))
    assert shown(outputs[2])[0] != before[0] and (name == "overlay"
                                                  or shown(outputs[2])[1] != before[1]), ("pictures changed, and words "
                                                                                          "where numbers did")
    if key in ("Home", "End") or name != "step": assert shown(outputs[2])[0][1] != before[0][1], "the maps changed"


def test_the_other_controls_do_what_they_say(page, outputs, twin):
    area, explorer = outputs[2], twin[2]
    area.get_by_role("button", name="next conflict").click()
    explorer.controls.jump("next conflict")
    assert_shows(area, panels_of(explorer))
    area.get_by_title("Which image to look at").select_option(index=2)
    explorer.gallery.image.index = 2
    assert_shows(area, panels_of(explorer))
    area.get_by_role("button", name="pin", exact=True).click()
    explorer.gallery.turn_pin()
    area.locator(".pv-thumbs button").nth(5).click()
    explorer.gallery.image.index = 5
    assert_shows(area, panels_of(explorer))
    assert len(shown(area)[0]) == 6, "the pinned image stays"
    area.get_by_title("The class whose score").select_option(label="predicted class")
    explorer.gallery.target.value = "predicted"
    assert_shows(area, panels_of(explorer))
    area.get_by_title("Which image to look at").select_option(index=2)
    area.get_by_role("button", name="unpin", exact=True).click()
    explorer.gallery.image.index = 2
    explorer.gallery.turn_pin()
    assert_shows(area, panels_of(explorer))


def test_play_walks_to_the_end(outputs, twin):
    steps = twin[2].controls.step
    steps.index = len(steps.options) - 6
    slider(outputs[2], "step").press("End")
    for _ in range(5): slider(outputs[2], "step").press("ArrowLeft")
    assert_shows(outputs[2], panels_of(twin[2]))
    outputs[2].locator(".jupyter-widget-play button, .widget-play button").first.click()
    steps.index = len(steps.options) - 1
    assert_shows(outputs[2], panels_of(twin[2]))


def test_a_drag_from_end_to_end_leaves_the_display_at_the_last_value(page, outputs, twin):
    handle = slider(outputs[2], "step")
    handle.press("Home")
    page.wait_for_timeout(300)
    box, track = (x.bounding_box() for x in (handle,
                                             handle.locator("xpath=ancestor::*[contains(@class, 'noUi-target')]")))
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for i in range(31): page.mouse.move(track["x"] + track["width"] * i / 30, box["y"] + box["height"] / 2)
    page.mouse.up()
    twin[2].controls.jump("last")
    assert_shows(outputs[2], panels_of(twin[2]))


def test_another_split_and_another_layer_are_prepared_while_the_page_lives(outputs, twin):
    area, explorer = outputs[2], twin[2]
    area.get_by_title("Which images: of training").select_option(label="same")
    explorer.split.value = "same"
    explorer.wait()
    assert_shows(area, panels_of(explorer), 30)
    area.get_by_title("The layer of the image tower").select_option(index=1)
    explorer.layer.index = 1
    explorer.wait()
    assert_shows(area, panels_of(explorer), 30)
    area.get_by_title("The layer of the image tower").select_option(index=0)
    explorer.layer.index = 0
    area.get_by_title("Which images: of training").select_option(label="shifted")
    explorer.split.value = "shifted"
    assert_shows(area, panels_of(explorer), 30)


def test_a_new_lambda_is_trained_by_a_button_and_can_be_cancelled(outputs, twin):
    area, explorer = outputs[2], twin[2]
    area.get_by_role("button", name="train it").click()
    area.get_by_role("button", name="cancel", exact=True).click()
    area.get_by_text("cancelled: training lambda 0.25").wait_for(timeout=20_000)
    area.get_by_label("new lambda").fill("0.75")
    area.get_by_label("new lambda").press("Tab")
    area.get_by_role("button", name="train it").click()
    explorer.train_lambda(0.75)
    explorer.wait()
    area.get_by_text("ProGrad, lambda 0.75").first.wait_for(timeout=60_000)
    assert_shows(area, panels_of(explorer), 30)
    slider(area, "lambda").press("End")
    press(explorer.controls.lam, "End")
    assert_shows(area, panels_of(explorer))


def test_a_photo_can_be_uploaded(page, outputs, twin):
    area, explorer, photo = outputs[2], twin[2], io.BytesIO()
    explorer.runs.task.tests["same"].image(3).save(photo, "PNG")
    with page.expect_file_chooser() as chooser: area.get_by_role("button", name="your photos").click()
    chooser.value.set_files({"name": "<b>mine.png", "mimeType": "image/png", "buffer": photo.getvalue()})
    explorer._upload([{"name": "<b>mine.png", "content": memoryview(photo.getvalue())}])
    explorer.wait()
    assert_shows(area, panels_of(explorer), 30)
    assert "mine" in shown(area)[1][1] and "no mask" in shown(area)[1][1]
    area.get_by_title("Which images: of training").select_option(label="shifted")
    explorer.split.value = "shifted"
    assert_shows(area, panels_of(explorer))


def test_every_control_has_a_label_and_a_tooltip(outputs):
    for name, tip in (("lambda", "How much"), ("step", "Training step"), ("image", "Which image to look"),
                      ("explain", "The class whose"), ("overlay", "Strength"), ("split", "Which images"),
                      ("layer", "The layer"), ("new lambda", "A lambda to train")):
        assert outputs[2].locator(f".widget-label:text-is('{name}')").count() == 1, name
        assert outputs[2].get_by_title(tip).count() >= 1, name
    for name in ("first", "previous conflict", "next conflict", "last", "save", "pin", "train it", "your photos"):
        assert outputs[2].get_by_role("button", name=name).first.get_attribute("title"), name
    assert all(outputs[2].locator(".pv-thumbs button").nth(i).get_attribute("title").startswith("Look at")
               for i in range(8))


def test_every_control_is_reached_by_tab(page, outputs):
    outputs[2].get_by_title("Which image to look at").focus()
    reached = set()
    for _ in range(36):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('title') || "
                                  "document.activeElement.labels?.[0]?.title || "
                                  "document.activeElement.getAttribute('role') || ''"))
    wanted = {"slider", "The class whose score the maps explain", "Go to the start", "Go to the end",
              "Which images: of training, of a test set, or your own",
              "The layer of the image tower that maps are read from", "A lambda to train, from 0 to 1",
              "Train this lambda just as the others were, and add it to the slider", "Look at photos of your own",
              "Save what is on screen: a picture at print resolution and a table"}
    assert wanted <= reached, wanted - reached


def test_save_writes_what_is_on_screen_into_the_folder_of_the_notebook(outputs, twin, server):
    outputs[2].get_by_role("button", name="save", exact=True).click()
    said = outputs[2].locator("[role=status]", has_text="saved explorer-")
    said.wait_for(timeout=20_000)
    names = re.findall(r"explorer-[\w.-]+\.(?:png|csv)", said.inner_text())
    assert len(names) == 2
    for name in names:
        content = (server[0] / TUTORIAL).with_name(name).read_bytes()
        if name.endswith("png"): assert Image.open(io.BytesIO(content)).width >= 2400
        else: assert content.decode().replace("\r", "") == twin[2].gallery.table().to_csv(index=False)


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
@pytest.mark.parametrize("width", [1280, 1920])
def test_nothing_is_cut_off_in_either_theme_at_either_width(page, outputs, theme, width):
    page.set_viewport_size({"width": width, "height": 1150})
    lab.command(page, "apputils:change-theme", theme=theme)
    outputs[2].get_by_title("Which image to look at").scroll_into_view_if_needed()
    page.wait_for_timeout(1200)
    wide = page.evaluate("[...document.querySelectorAll('.pv-panel img, .pv-panel table')].filter(e => "
                         "e.offsetParent).map(e => [e.getBoundingClientRect().right, "
                         "e.closest('.jp-OutputArea-output').getBoundingClientRect().right])")
    assert len(wide) >= 5 and all(right <= edge + 1 for right, edge in wide), wide
    clipped = page.evaluate("[...document.querySelectorAll('.jp-OutputArea-output .jupyter-button')].filter(e => "
                            "e.offsetParent && e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)")
    assert clipped == [], "button texts fit"
    if SCREENSHOTS:
        dark = "-dark" if theme.endswith("Dark") else ""
        outputs[2].screenshot(path=Path(SCREENSHOTS) / f"explorer{dark}{'-wide' if width > 1280 else ''}.png")


def test_a_restarted_kernel_leaves_the_page_whole_and_runs_again(page, twin, outputs):
    page.set_viewport_size({"width": 1280, "height": 900})
    lab.command(page, "notebook:restart-run-all")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.locator(".pv-thumbs").wait_for(state="detached", timeout=60_000)
    executed(page, 5)
    fresh = explore(twin[0].controls.runs).wait()
    assert_shows(page.locator(".jp-OutputArea-child", has=page.locator(".pv-thumbs")), panels_of(fresh), 30)


def test_nothing_went_wrong_in_the_page_the_console_or_the_kernel(page, server):
    assert page.wrong == []
    said = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()
    assert [text for text in said if "Error" in text] == []
    assert "Traceback" not in (server[0] / "log").read_text()
