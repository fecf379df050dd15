"Run sets that are not like the others, in JupyterLab: each has a clear picture."
import pytest

import lab

NAMES = """from dataclasses import replace
import numpy as np
from prograd_viz.all import *
from prograd_viz.scenes import explorer_data
from prograd_viz.widgets import show_maps
task = few_shot("pocket", shots=1, seed=1, classes=6, test_per_class=1)
runs = train(load_clip("pocket"), task, lambdas=[0, 1], epochs=4, progress=False)
data = explorer_data(runs, images=3)
names = ("<script>window.hurt = 1</script>", "x" * 200, "风筝", "عنكبوت",
         "<img src=x onerror='window.hurt = 1'>", "plain")
titles = tuple(f"{i + 1}: {n}" for i, n in enumerate(names[:3]))
show_maps(replace(runs, classes=names), data=replace(data, classes=names, names=titles))"""
ALONE = """one = train(runs.clip, runs.task, lambdas=[1], epochs=1, progress=False)
last = {name: getattr(one, name)[-1:] for name in ("snapshot_steps", "contexts", "text_features")}
show_maps(replace(one, **last), images=1)"""
NO_MASKS = "show_maps(runs, data=replace(data, masks=None))"
THOUSAND = """many = tuple(f"class {i}" for i in range(1000))
features = np.tile(runs.text_features, (1, 1, 167, 1))[:, :, :1000]
big = replace(runs, classes=many, text_features=features, zero_shot=np.tile(runs.zero_shot, (167, 1))[:1000])
show_maps(big, data=replace(data, classes=many))"""
CELLS = {"names": NAMES, "one lambda, one step, one image": ALONE, "no masks": NO_MASKS, "a thousand classes": THOUSAND}


@pytest.fixture(scope="module")
def page(tmp_path_factory, browser):
    "A notebook with a cell for each, run"
    folder = tmp_path_factory.mktemp("odd")
    lab.notebook(folder / "odd.ipynb", list(CELLS.values()))
    with lab.jupyterlab(folder) as (address, token):
        page = lab.watched(browser)
        lab.open_notebook(page, address, token, "odd.ipynb")
        lab.command(page, "notebook:run-all-cells")
        page.locator(".jp-OutputArea-child", has=page.locator(".pv-panel")).nth(3).wait_for(timeout=90_000)
        yield page


@pytest.fixture
def area(page):
    return lambda name: page.locator(".jp-OutputArea-child", has=page.locator(".pv-panel")).nth(list(CELLS).index(name))


def test_names_are_text_whatever_they_say(page, area):
    for name in ("<script>window.hurt = 1</script>", "x" * 200, "风筝", "عنكبوت",
                 "<img src=x onerror='window.hurt = 1'>"):
        area("names").get_by_title("The class whose score").select_option(label=name)
        area("names").locator("td", has_text=name).first.wait_for()
    assert page.evaluate("window.hurt") is None
    box = area("names").locator(".pv-panel table").first.bounding_box()
    assert box["x"] + box["width"] <= 1280, "200 characters break, the table does not"


def test_one_lambda_one_step_and_one_image_are_lists_of_one_entry(area):
    alone = area("one lambda, one step, one image")
    assert alone.locator(".pv-thumbs button").count() == 1 and alone.locator("select").count() == 4
    assert alone.locator("td", has_text="ProGrad, lambda 1").first.is_visible()
    assert alone.locator("td", has_text="CoOp").count() == 0


def test_images_without_masks_say_so(area): assert area("no masks").locator("td", has_text="no mask").count() >= 3


def test_a_thousand_classes_can_be_chosen_from(area):
    many = area("a thousand classes")
    many.get_by_title("The class whose score").select_option(label="class 999")
    many.locator("td", has_text="class 999").first.wait_for()
    assert many.get_by_title("The class whose score").locator("option").count() == 1003


def test_nothing_went_wrong(page):
    assert page.wrong == []
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").filter(has_text="Error").count() == 0
