"The explorer in real JupyterLab, in a real browser: what the page shows is what the library computes."
import re
from pathlib import Path

import numpy as np
import pytest
from pages import BOXES, SCREENSHOTS, SETUP, assert_map, assert_shows, drawn, idle, put, small_text
from PIL import Image

import lab
from prograd_viz.screen import explorer_data

CELLS = ["explorer = explore(runs, images=4); explorer", """import ipywidgets
slider, lam, told = ipywidgets.IntSlider(max=30), ipywidgets.FloatSlider(max=1), ipywidgets.Label()
maps = show_maps(runs, images=2)
ipywidgets.jslink((slider, "value"), (maps, "step"))
ipywidgets.jslink((lam, "value"), (maps, "lam"))
maps.observe(lambda change: setattr(told, "value", f"step is {change['new']}"), "step")
ipywidgets.HBox([ipywidgets.VBox([slider, lam, told]), ipywidgets.VBox([maps])])""",
         "show_cosine(runs)", "show_gradient_plane(runs)", "show_landscape(runs)", """import pathlib, time
from prograd_viz.runs import Recorder
record = Recorder(runs.classes, "mine", zero_shot=runs.zero_shot)
record.log(1, loss_ce=1.0, text_features=runs.zero_shot)
def train_on():
    for step in (2, 3, 4):
        while not pathlib.Path(f"step-{step}").exists(): time.sleep(0.05)
        record.log(step, loss_ce=1 / step, text_features=runs.zero_shot)
explore(record, images=2, clip=runs.clip, task=runs.task)"""]


@pytest.fixture(scope="module")
def server(tmp_path_factory, trained):
    "JupyterLab with a notebook; folder, address, token"
    folder = tmp_path_factory.mktemp("lab")
    lab.notebook(folder / "e.ipynb", [SETUP.format(folder=str(trained[1])), *CELLS])
    with lab.jupyterlab(folder) as (address, token): yield folder, address, token


@pytest.fixture(scope="module")
def page(server, browser):
    "The notebook, run from top to bottom"
    page = lab.watched(browser, 1280, 1000)
    lab.open_notebook(page, *server[1:], "e.ipynb")
    run_all(page)
    return page


def run_all(page):
    lab.command(page, "notebook:run-all-cells")
    page.locator(".pv-root").nth(len(CELLS) - 1).wait_for(timeout=120_000)
    page.locator(".pv-root").first.locator(".pv-thumbs button").nth(3).wait_for(timeout=60_000)


def run_in_a_new_cell(page, code):
    "Start a cell, and see that the kernel has begun it"
    lab.command(page, "notebook:insert-cell-below")
    lab.command(page, "notebook:enter-edit-mode")
    page.wait_for_timeout(300)
    page.keyboard.type(code)
    page.keyboard.press("Control+Enter")
    page.locator(".jp-InputPrompt", has_text="[*]").wait_for()


@pytest.fixture
def root(page): return page.locator(".pv-root").first


@pytest.fixture(scope="module")
def data(trained): return explorer_data(trained[0], images=4)


@pytest.fixture
def runs(trained): return trained[0]


def test_numbers_and_maps_are_the_librarys_at_thirty_states(root, runs, data):
    rng = np.random.default_rng(0)
    for n in range(30):
        state = {"lam": float(rng.choice([0, 0.5, 1])), "step": int(rng.choice(runs.snapshot_steps)),
                 "image": int(rng.integers(4)), "target": str(rng.choice(["predicted", "true", "contrast"]))}
        put(root, **state)
        assert_shows(root, runs, data, **state)
        if n % 6 == 0: assert_map(root, runs, data, 1 + n % 3)
    put(root, target="predicted")


@pytest.mark.parametrize("key, lam, step", [
    ("Home", 1.0, 0), ("ArrowRight", 1.0, 1), ("End", 1.0, 30), ("ArrowLeft", 1.0, 29), ("Shift+ArrowLeft", 1.0, 19),
    ("PageUp", 1.0, 29), ("ArrowDown", 0.5, 29), ("ArrowUp", 1.0, 29)])
def test_keys_move_lambda_and_step(root, runs, data, key, lam, step):
    root.focus()
    if key == "Home": put(root, lam=1.0, step=15)
    root.press(key)
    assert_shows(root, runs, data, lam=lam, step=step)


def test_quick_keys_all_count_whatever_the_kernel_still_says(page, root, runs, data):
    "The kernel repeats what it was told, when the reader has already moved on"
    root.evaluate("({ explorer: { state } }) => state.watchers.push(() => window.steps?.push(state.get('step')))")
    for wait in (0, 20, 50, 80):
        put(root, lam=1.0, step=30)
        root.focus()
        page.evaluate("window.steps = []")
        for _ in range(12):
            page.keyboard.press("ArrowLeft")
            page.wait_for_timeout(wait)
        page.wait_for_timeout(500)
        assert page.evaluate("window.steps") == list(range(29, 17, -1)), f"a key every {wait} ms"
    assert_shows(root, runs, data, lam=1.0, step=18)


def test_n_and_p_go_to_conflicts_and_space_plays(root, runs, data):
    record = runs.record(0.0)
    conflicts = record.loc[record["conflict"], "step"].tolist()
    put(root, lam=0.0, step=0, speed=60)
    root.focus()
    for step in conflicts[:3]:
        root.press("n")
        assert_shows(root, runs, data, step=step)
    root.press("p")
    assert_shows(root, runs, data, step=conflicts[1])
    root.press(" ")
    assert_shows(root, runs, data, step=30)
    assert root.evaluate("root => root.explorer.playing") is None, "it stops at the end"


def test_native_sliders_move_by_key_and_the_notebook_keeps_its_keys(page, root, runs, data):
    put(root, lam=1.0, step=10)
    root.get_by_label("step", exact=True).press("ArrowRight")
    assert_shows(root, runs, data, step=11)
    root.get_by_label("lambda", exact=True).press("ArrowLeft")
    assert_shows(root, runs, data, lam=0.5, step=11)
    assert page.locator(".jp-Cell").count() == len(CELLS) + 1, "no key reached the notebook's commands"


def test_pointing_reads_and_clicking_seeks(page, root, runs, data):
    chart = root.get_by_role("img", name="Cosine of the two gradients over the steps", exact=True)
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    tip = root.locator(".pv-tip:visible").inner_text()
    step = int(re.match(r"step (\d+): ", tip)[1])
    cos = runs.record(0.0).set_index("step").loc[step, "cos"]
    assert f"CoOp {'−' if cos < 0 else '+'}{abs(cos):.2f}" in tip
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 40)
    assert_shows(root, runs, data, step=step)
    put(root, step=30)
    x, y = root.evaluate("""root => {
      const { chart, paths } = root.explorer.groups[0].panels.find(p => p.xs)
      return [chart.px(paths[0][0][0]), chart.py(paths[0][0][1])] }""")
    root.get_by_role("img", name=re.compile("a path per method")).click(position={"x": x, "y": y})
    assert root.evaluate("root => root.explorer.state.get('step')") != 30


def test_nothing_moves_whatever_the_sliders_say(page, root, runs):
    put(root, lam=1.0, step=30)
    idle(root)
    first, rng = root.evaluate(BOXES), np.random.default_rng(1)
    states = [(lam, step) for lam in (0, 1) for step in (0, 1)]
    states += [(float(rng.choice([0, 0.5, 1])), int(rng.choice(runs.snapshot_steps))) for _ in range(16)]
    for lam, step in states:
        put(root, lam=lam, step=step, image=int(rng.integers(4)))
        assert root.evaluate(BOXES) == first, (lam, step)
    for width in (420, 1280):
        page.set_viewport_size({"width": width, "height": 1000})
        drawn(root)
        first = root.evaluate(BOXES)
        for words in ("a message", "a long message " * 30):
            root.evaluate("(root, words) => root.explorer.controls.say(words, true, 0.5)", words)
            drawn(root)
            assert root.evaluate(BOXES) == first, (width, words)
        root.evaluate("root => root.explorer.controls.say('', false)")


def test_the_rail_filters_by_what_the_library_computes(root, runs, data):
    put(root, lam=1.0, target="predicted")
    views = [[data.view(b, runs.text(key)) for b in range(4)] for key in (0.0, 1.0)]
    labels = [data.classes[label] for label in data.labels]
    right = [[v.predicted == name for v, name in zip(of, labels)] for of in views]
    moved = [abs(np.nan_to_num(a.share - b.share)) for a, b in zip(*views)]
    wanted = {"differ": [b for b in range(4) if views[0][b].predicted != views[1][b].predicted],
              "gained": [b for b in range(4) if not right[0][b] and right[1][b]],
              "lost": [b for b in range(4) if right[0][b] and not right[1][b]],
              "moved": sorted(range(4), key=lambda b: -moved[b])}
    shown = lambda: root.evaluate("r => r.explorer.rail.thumbs.map((t, b) => [b, [...t.parentNode?.children ?? []]"
                                  ".indexOf(t)]).filter(([, at]) => at >= 0).sort((a, b) => a[1] - b[1]).map(x => "
                                  "x[0])")
    for name, images in wanted.items():
        root.get_by_label("which images").select_option(label=name)
        drawn(root)
        assert shown() == images, name
    put(root, lam=0.0)
    root.get_by_label("which images").select_option(label="differ")
    root.locator(".pv-thumbs", has_text="CoOp is compared with itself").wait_for()
    put(root, lam=1.0)
    root.get_by_label("which images").select_option(label="all")


def test_pins_add_a_row_and_the_targets_explain(root, runs, data):
    put(root, image=2, step=30, lam=1.0)
    root.get_by_role("button", name="keep this image in view").click()
    put(root, image=3)
    rows = root.locator(".pv-maps:visible")
    assert rows.count() == 2 and data.names[2].split(": ")[1] in rows.nth(1).inner_text()
    put(root, image=2)
    root.get_by_text("unpin", exact=True).wait_for()
    root.get_by_role("button", name="keep this image in view").click()
    root.get_by_label("target", exact=True).select_option(label=data.classes[3])
    assert_shows(root, runs, data, target=data.classes[3])
    root.get_by_label("target", exact=True).select_option(label="true class")
    assert_shows(root, runs, data, target="true")
    put(root, target="predicted")


def test_another_split_and_another_layer_come_from_the_kernel(root, runs, data):
    root.get_by_label("images", exact=True).select_option(label="same")
    assert_shows(root, runs, explorer_data(runs, "same", images=4), split="same")
    root.get_by_label("layer", exact=True).select_option(label="trunk.s2")
    assert_shows(root, runs, explorer_data(runs, "same", images=4, target_layer="trunk.s2"), split="same")
    root.get_by_label("map", exact=True).select_option(label="HiResCAM")
    by_cell = explorer_data(runs, "same", images=4, target_layer="trunk.s2", explainer="HiResCAM")
    assert_shows(root, runs, by_cell, split="same", explainer="HiResCAM")
    root.get_by_label("map", exact=True).select_option(label="Grad-CAM")
    root.get_by_label("layer", exact=True).select_option(index=0)
    root.get_by_label("images", exact=True).select_option(label="shifted")
    assert_shows(root, runs, data, split="shifted")


def test_photos_that_cannot_be_read_are_named_and_the_others_shown(root, runs, tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 90, 3), np.uint8)).save(good)
    bad.write_bytes(b"no image")
    idle(root)
    root.locator("input[type=file]").set_input_files([good, bad])
    root.locator(".pv-work", has_text="bad.png").wait_for()
    root.get_by_label("good.png").wait_for()
    assert_shows(root, runs, explorer_data(runs, [good]), split="photos")
    root.get_by_label("images", exact=True).select_option(label="shifted")
    root.locator(".pv-thumbs button").nth(3).wait_for()


def test_a_lambda_is_refused_trained_and_cancelled(root, runs):
    field, button = root.get_by_label("a lambda to train"), root.get_by_role("button", name="+ train")
    idle(root)
    field.fill("1.5")
    button.click()
    root.locator(".pv-work", has_text="between 0 and 1, got 1.5").wait_for()
    field.fill("0.5")
    button.click()
    root.locator(".pv-maps figcaption", has_text=runs.name(0.5)).first.wait_for()
    field.fill("0.75")
    button.click()
    root.locator(".pv-marks span", has_text="0.75").wait_for(timeout=60_000)
    assert root.evaluate("root => root.explorer.state.get('lam')") == 0.75
    put(root, lam=1.0)


def test_a_choice_that_is_cancelled_is_taken_back(root, runs, data):
    idle(root)
    root.get_by_label("map", exact=True).select_option(label="RISE")  # a thousand masks of each image: time to cancel
    root.get_by_role("button", name="cancel").click()
    root.locator(".pv-work", has_text="cancelled").wait_for(timeout=60_000)
    assert_shows(root, runs, data, split="shifted", explainer="GradCAM")


def test_other_widgets_lead_and_follow(page, runs):
    box = page.locator(".jp-OutputArea-output", has=page.locator(".noUi-handle")).first
    small = box.locator(".pv-root")
    small.locator(".pv-thumbs button").nth(1).wait_for()
    box.locator(".noUi-handle").first.press("Home")
    box.locator(".noUi-handle").first.press("ArrowRight")
    page.wait_for_function("r => r.explorer.state.get('step') === 1", arg=small.element_handle())
    box.get_by_text("step is 1").wait_for()
    small.focus()
    small.press("End")
    box.get_by_text("step is 30").wait_for()
    box.locator(".widget-readout", has_text=re.compile("^30$")).first.wait_for()
    data = explorer_data(runs, images=2)
    assert_shows(small, runs, data, step=30)


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
@pytest.mark.parametrize("width", [420, 1280, 1920])
def test_everything_is_readable_in_either_theme_at_every_width(page, root, theme, width):
    "Text of 11 pixels or more, contrast by WCAG AA, nothing cut off, nothing outside"
    lab.command(page, "apputils:change-theme", theme=theme)
    page.set_viewport_size({"width": width, "height": 1000})
    if page.locator("#jp-left-stack:visible").count(): lab.command(page, "application:toggle-left-area")
    dark = "dark" if "Dark" in theme else "light"
    page.wait_for_function("([r, dark]) => r.dataset.theme === dark", arg=[root.element_handle(), dark])
    page.wait_for_timeout(300)
    if SCREENSHOTS: root.screenshot(path=Path(SCREENSHOTS) / f"explorer-{dark}-{width}.png")
    assert small_text(root) == []


def test_every_control_has_a_name_and_is_reached_by_tab(page, root):
    page.set_viewport_size({"width": 1280, "height": 1000})
    names = root.evaluate("""root => [...root.querySelectorAll("button, select, input:not([type=file])")]
      .filter(n => n.checkVisibility() && !n.disabled).map(n => n.getAttribute("aria-label") ?? n.textContent)""")
    assert all(names) and len(names) > 15
    root.focus()
    seen = set()
    for _ in range(len(names) + 5):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.getAttribute('aria-label') ?? "
                               "document.activeElement.textContent"))
    assert set(names) <= seen


def test_save_writes_what_is_on_screen(root, server, runs):
    put(root, lam=1.0, step=29, image=0)
    root.evaluate("""root => {
      root.explorer.state.set({ step: 30, image: 1 })
      const saves = button => button.textContent === "save figure"
      ;[...root.querySelectorAll("button")].find(saves).click()  // before the kernel knows the step
    }""")
    root.locator(".pv-work", has_text="saved explorer-lambda1-step30-image2.pdf").wait_for(timeout=30_000)
    for kind in ("pdf", "png", "csv"):
        assert (server[0] / f"explorer-lambda1-step30-image2.{kind}").stat().st_size > 400


def test_a_training_is_followed_while_it_runs(page, server):
    "The kernel is in the loop all the while, and each step appears when it is logged"
    live = page.locator(".pv-root").last
    live.locator(".pv-thumbs button").nth(1).wait_for()
    run_in_a_new_cell(page, "train_on()")
    for step in (2, 3, 4):
        page.wait_for_timeout(1100)  # a record tells its watchers at most once a second
        (server[0] / f"step-{step}").touch()
        live.locator(".pv-where", has_text=re.compile(f" of {step}$")).wait_for(timeout=30_000)
    loss = live.evaluate("r => [...r.explorer.training().column('loss_ce', 0)]")
    assert np.allclose(loss, [1, 1 / 2, 1 / 3, 1 / 4])


def test_it_answers_while_the_kernel_is_busy_and_when_it_is_gone(page, root, runs, data):
    run_in_a_new_cell(page, "while True: pass")
    put(root, lam=1.0, step=30, image=0, target="predicted")
    root.focus()
    root.press("Home")
    assert_shows(root, runs, data, step=0)
    lab.command(page, "kernelmenu:shutdown")
    page.wait_for_timeout(1000)
    root.press("ArrowRight")
    assert_shows(root, runs, data, step=1)


def test_nothing_went_wrong_in_the_page(page):
    assert [line for line in page.wrong if "kernel" not in line.lower() and "404" not in line] == []
    said = page.locator("[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()
    assert [text for text in said if "Error" in text] == []
