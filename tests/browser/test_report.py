"The report from disk, with no network, in a real browser."
import base64
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pages import BOXES, ROOT, SCREENSHOTS, assert_map, assert_shows, expected, put, small_text

import lab
from buffers import some
from prograd_viz.clip import ASSETS
from prograd_viz.explorer import PANELS, Explorer
from prograd_viz.landscape import landscape
from prograd_viz.report import save_report
from prograd_viz.screen import explorer_data
from prograd_viz.training import train


@pytest.fixture(scope="module")
def data(trained): return explorer_data(trained[0], images=4)


@pytest.fixture(scope="module")
def path(trained, data, tmp_path_factory):
    runs = trained[0]
    land = landscape(runs, size=9, progress=False)
    return save_report(runs, tmp_path_factory.mktemp("report") / "report.html", data=data, land=land)


def opened(browser, path, width=1280, hash="", **options):
    "The page without network; every request is an error"
    page = lab.watched(browser, width, 1000, offline=True, **options)
    page.on("request", lambda r: page.wrong.append(r.url) if not r.url.startswith(("file:", "data:",
            "blob:")) else None)
    page.goto(path.as_uri() + hash)
    page.locator(".pv-thumbs button").first.wait_for()
    return page, page.locator(".pv-root")


def test_the_report_works_from_disk_with_no_network(browser, trained, data, path):
    "The numbers and maps of the library at every state, by keyboard; the state stands in the address"
    runs, (page, root) = trained[0], opened(browser, path)
    assert path.stat().st_size < 5e6
    assert_shows(root, runs, data, lam=1.0, step=30, image=0)
    for n in (1, 2, 3): assert_map(root, runs, data, n)
    root.get_by_label(data.names[2].split(": ")[1]).click()
    root.press("ArrowDown")
    root.press("Home")
    root.press("ArrowRight")
    assert_shows(root, runs, data, lam=0.5, step=1, image=2)
    page.wait_for_url(re.compile("lam=0.5&step=1&image=2"))
    root.get_by_label("target").select_option(label="true class")
    assert_shows(root, runs, data, target="true")
    assert "nats" in page.locator("footer", has_text="light").inner_text(), "the landscape is there"
    assert page.wrong == []


def test_an_address_opens_the_state_that_it_names(browser, trained, data, path):
    page, root = opened(browser, path, hash="#lam=0&step=7&image=3&target=contrast")
    assert_shows(root, trained[0], data, lam=0, step=7, image=3, target="contrast")
    page.get_by_role("link", name="What does this page show?").click()
    assert_shows(root, trained[0], data, lam=0, step=7, image=3, target="contrast")
    page.evaluate("location.hash = 'lam=0.5&step=3'")  # a link that is opened in the same tab
    assert_shows(root, trained[0], data, lam=0.5, step=3, image=0, target="predicted")
    assert page.wrong == []
    page, root = opened(browser, path, hash="#lam=&step=<script>&image=99&target=nothing&evil=1")
    assert root.locator(".pv-says").first.inner_text(), "an address that makes no sense shows the page all the same"
    assert page.wrong == []


EDGES = [".hint a", ".pv-title strong", ".pv-sliders", ".pv-rail"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1280, 1920])
def test_a_report_is_readable_at_every_width(browser, path, scheme, width):
    page, root = opened(browser, path, width, color_scheme=scheme)
    page.wait_for_timeout(200)
    if SCREENSHOTS: page.screenshot(path=Path(SCREENSHOTS) / f"report-{scheme}-{width}.png", full_page=True)
    assert root.evaluate("r => r.dataset.theme") == scheme
    assert small_text(root) == []
    edges = [page.locator(name).first.evaluate("node => node.getBoundingClientRect().left") for name in EDGES]
    assert max(edges) - min(edges) < 1, "one left edge"
    for node in (":root", ".words"):
        assert page.locator(node).evaluate("node => node.scrollWidth - node.clientWidth") <= 0, "nothing is cut off"
    assert "towards the end of CoOp" in root.locator(".pv-panel", has_text="Landscape").inner_text()


OUTER = '<body data-theme="light"><iframe class="demo" style="width: 100%" src="{}"></iframe><script src="{}"></script>'


@pytest.mark.parametrize("width", [420, 830, 1000])
def test_in_a_frame_it_is_as_tall_as_what_it_shows_and_in_the_theme_of_that_page(browser, path, tmp_path, width):
    outer, script = tmp_path / "outer.html", ROOT / "tools" / "site" / "site.js"
    outer.write_text(OUTER.format(path.as_uri(), script.as_uri()))
    page = lab.watched(browser, width, 1000, offline=True, color_scheme="light")
    page.goto(outer.as_uri())
    root = page.frame_locator("iframe").locator(".pv-root")
    for theme in ("dark", "light"):
        page.evaluate("theme => { document.body.dataset.theme = theme }", theme)
        page.frame_locator("iframe").locator(f".pv-root[data-theme={theme}]").wait_for()
        assert small_text(root) == []
    for _ in range(100):  # the page's policy forbids `wait_for_function`, which evaluates text again and again
        if page.frames[1].evaluate("document.documentElement.scrollHeight <= innerHeight"): break
        page.wait_for_timeout(50)
    else: raise AssertionError("the frame is not as tall as what it shows")
    assert page.wrong == []


def test_without_javascript_there_are_pictures_and_a_table(browser, path):
    page = browser.new_context(java_script_enabled=False, offline=True).new_page()
    page.goto(path.as_uri())
    assert page.locator(".still img").first.is_visible()
    assert page.locator("table", has_text="steps in conflict").is_visible()
    assert "lambda 1 removes all of it" in page.locator("#about").inner_text()


def test_seeds_show_bands_and_a_picker(browser, trained, data, tmp_path):
    "Three run sets of one recipe: the curves have bands, a picker says whose maps are seen"
    runs, rng = trained[0], np.random.default_rng(0)

    def other(seed):
        steps = runs.steps.assign(seed=seed, cos=(runs.steps["cos"] + rng.normal(0, 0.1, len(runs.steps))).clip(-1, 1))
        features = runs.text_features[:] + rng.normal(0, 0.02, runs.text_features.shape).astype(np.float32)
        level = {split: accuracy - 0.1 * seed for split, accuracy in runs.zero_shot_accuracy.items()}
        return replace(runs, steps=steps, text_features=features, config=runs.config | {"seed": seed},
                       zero_shot_accuracy=level)

    sets = [runs, other(2), other(3)]
    page, root = opened(browser, save_report(sets, tmp_path / "seeds.html", data=data))
    assert root.locator(".pv-panel", has_text="95% interval").locator("polygon").count() >= 3
    assert_shows(root, sets[0], data)
    assert root.locator(".pv-legend", has_text="95% interval").count() == 2, "cosine and accuracies"
    charts = "root.explorer.groups[0].panels.find(panel => panel.charts).charts"
    for split, points in root.evaluate(f"root => {charts}.map(chart => [chart.title, chart.lines.at(-1).points])"):
        mean = np.mean([one.zero_shot_accuracy[split] for one in sets])
        assert np.allclose([y for _, y in points], mean), "the dashed line is the mean over seeds, as the curves are"
    before = root.evaluate(BOXES)
    root.get_by_label("seed").select_option(label="seed 3")
    assert_shows(root, sets[2], data, set=2)
    assert root.evaluate(BOXES) == before
    if SCREENSHOTS: page.screenshot(path=Path(SCREENSHOTS) / "seeds.png", full_page=True)
    assert page.locator("caption").all_inner_texts()[:3] == [f"seed {n}" for n in (1, 2, 3)]
    assert page.wrong == []


HOST = """async ({ source, values, buffers }) => {
  const bytes = text => new DataView(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer)
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }))
  Object.assign(window, (await import(address)).default)
  const [runs, scene, land] = buffers.map(bytes)
  const [data, heard] = [{ ...values, _runs: runs, scenes: [scene], land }, {}]
  const set = (name, value) => {
    data[name] = value
    for (const call of heard[`change:${name}`] ?? []) call()
  }
  const on = (name, call) => (heard[name] ??= []).push(call)
  window.saved = []
  window.model = { get: name => data[name], set, on, off() {}, send() {}, save_changes() { saved.push(data.step) } }
  render({ model, el: document.body })
}"""


def test_a_host_may_tell_of_every_change_and_repeat_an_old_one(browser, trained, data):
    "marimo tells of a value that is set even where it is the same; a kernel repeats what it was told some time ago"
    explorer = Explorer(trained[0], data=data)
    values = {name: value for name, value in explorer.get_state().items() if not isinstance(value, (bytes, list))}
    buffers = [base64.b64encode(x).decode() for x in (explorer._runs, explorer.scenes[0], explorer.land)]
    page = lab.watched(browser, 1280, 1000)
    page.goto("about:blank")
    page.add_style_tag(path=ASSETS / "explorer.css")  # without it, charts grow for ever and take a core
    source = (ASSETS / "explorer.js").read_text(encoding="utf-8")
    page.evaluate(HOST, {"source": source, "buffers": buffers,
                         "values": values | {"pins": [], "_panels": list(PANELS), "_work": {}}})
    root = page.locator(".pv-root")
    root.locator(".pv-thumbs button").first.wait_for()
    view = "document.querySelector('.pv-root').explorer"
    echo = f"{view}.walk(-1); model.set('step', 30); {view}.state.get('step')"
    assert page.evaluate(echo) == 29, "an echo of the choice before"
    page.wait_for_function("saved.length")
    assert page.evaluate(f"model.set('step', 7); {view}.state.get('step')") == 7, "what the kernel says later holds"
    page.wait_for_timeout(300)
    assert page.evaluate("saved") == [29]
    text, bar = root.locator(".pv-work > span"), root.locator(".pv-work progress")
    work = "(text, wrong, done) => model.set('_work', { text, wrong, done })"
    page.evaluate(f"({work})('maps of shifted', false, 0.25); ({work})('not now', true, -1)")
    assert (text.inner_text(), bar.evaluate("bar => bar.value")) == ("not now", 0.25), "a refusal hides no progress"
    page.evaluate(f"({work})('maps of shifted', false, 0.5)")
    assert (text.inner_text(), bar.evaluate("bar => bar.value")) == ("not now", 0.5), "and can be read"
    assert root.get_by_role("button", name="cancel").is_visible()
    page.evaluate(f"({work})('', false, null)")
    assert text.inner_text() == "" and not bar.is_visible()
    page.evaluate("() => { render({ model, el: document.body }) }")
    page.locator(".pv-thumbs").nth(1).wait_for()
    page.evaluate("for (const root of document.querySelectorAll('.pv-root')) root.explorer.walk(1)")
    page.wait_for_timeout(300)
    steps = "[model, ...[...document.querySelectorAll('.pv-root')].map(root => root.explorer.state)]"
    assert len(set(page.evaluate(f"{steps}.map(one => one.get('step'))"))) == 1, "two views of one widget agree"
    assert page.wrong == []
    page.close()


CARDS = """cards => cards.map(card => ["figcaption", ".pv-says", ".pv-share"].map(name => {
  return card.querySelector(name).textContent }))"""


def test_two_recipes_stand_side_by_side(browser, trained, data, tmp_path):
    runs = trained[0]
    slow = train(runs.clip, runs.task, lambdas=[0, 1], epochs=20, views=0, progress=False)
    page, root = opened(browser, save_report([runs, slow], tmp_path / "two.html", data=data), width=1920)
    assert root.locator(".pv-group").count() == 2 and root.locator("[data-slider=step]").count() == 1
    root.focus()
    root.press("Home")
    assert root.locator(".pv-maps").count() == 2
    names = [text.split("\n")[0] for text in root.locator(".pv-card figcaption").all_inner_texts()]
    assert names == 2 * ["image", "zero-shot CLIP", "CoOp", runs.name(1.0)]
    titles = root.locator("h3").all_inner_texts()
    assert len(set(titles)) == 2 and page.locator("caption").all_inner_texts()[:2] == titles
    twin = root.locator(".pv-twin", has_text=f"{titles[1]}. Step")
    twin.wait_for()
    about = page.locator("#about").inner_text()
    assert all(", ".join(one.methods) in about for one in (runs, slow)) and "beside it" in about
    root.press("End")
    assert root.locator("h3").all_inner_texts()[1].startswith("its last step, 20:")
    put(root, step=20)
    for group, own in zip(root.locator(".pv-group").all(), (runs, slow)):
        shown = group.locator(".pv-card").evaluate_all(CARDS)
        assert shown == expected(own, data, {"lam": 1.0, "step": 20, "image": 0, "target": "predicted"})["cards"]
    if SCREENSHOTS: page.screenshot(path=Path(SCREENSHOTS) / "two.png", full_page=True)
    assert page.wrong == []


NAMES = ("<script>window.hurt = 1</script>", "x" * 200, "风筝", "عنكبوت", "' onerror='window.hurt = 1",
         "</script><script>window.hurt = 1</script>")


def test_names_in_a_report_are_text_whatever_they_say(browser, trained, data, tmp_path):
    "Scripts, 200 characters, Chinese, right to left: shown, not run"
    runs = replace(trained[0], classes=NAMES)
    odd = replace(some(data, [0, 1, 2, 3, 0, 1]), classes=NAMES,
                  names=tuple(f"{n}: {x}" for n, x in enumerate(NAMES)))
    page, root = opened(browser, save_report(runs, tmp_path / "report.html", data=odd))
    before = root.evaluate(BOXES)
    for i in range(6):
        root.locator(".pv-thumbs button").nth(i).click()
        assert_shows(root, runs, odd, image=i)
        assert root.evaluate(BOXES) == before, "no name moves a panel"
    assert page.evaluate("window.hurt") is None and page.wrong == []


@pytest.mark.parametrize("kind", ["no masks", "one lambda", "one image", "no gradients", "a thousand classes", "nan"])
def test_odd_runs_have_a_clear_picture(browser, trained, data, tmp_path, kind):
    runs, shown = trained[0], data
    if kind == "no masks": shown = replace(data, masks=np.zeros_like(data.masks), masks_from="none")
    if kind == "one image": shown = some(data, [1])
    if kind == "one lambda": runs = train(runs.clip, runs.task, lambdas=[1], epochs=1, progress=False)
    if kind == "no gradients":
        nothing = dict.fromkeys(("cos", "angle_deg", "norm_gd", "norm_gg", "norm_g", "cos_step_gd"), np.nan)
        runs = replace(runs, steps=runs.steps.assign(**nothing, conflict=np.nan, agree=np.nan))
    if kind == "a thousand classes":
        many = tuple(f"class {i}" for i in range(1000))
        wide = np.tile(runs.text_features[-2:], (1, 1, 167, 1))[:, :, :1000]
        runs = replace(runs, classes=many, text_features=wide, zero_shot=np.tile(runs.zero_shot, (167, 1))[:1000],
                       snapshot_steps=runs.snapshot_steps[-2:])
        shown = replace(data, classes=many)
    if kind == "nan":
        runs = replace(runs, text_features=np.where(np.arange(3)[:, None, None] == 2, np.nan, runs.text_features[:]))
    page, root = opened(browser, save_report(runs, tmp_path / "odd.html", data=shown))
    if kind != "nan": assert_shows(root, runs, shown)
    words = {"no masks": "no mask", "one lambda": runs.name(1.0), "one image": data.names[1].split(": ")[1],
             "no gradients": "not recorded",
             "a thousand classes": "class ", "nan": "no prediction"}[kind]
    assert words in root.inner_text()
    assert page.wrong == []
