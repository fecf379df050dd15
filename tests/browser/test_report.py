"The report from disk, with no network, in a real browser."
import base64
import io
from functools import partial
from pathlib import Path

import numpy as np
from pages import SCREENSHOTS
from PIL import Image

import lab
from prograd_viz.clip import load_clip
from prograd_viz.report import save_report
from prograd_viz.scenes import beside, explorer_data, paint
from prograd_viz.tasks import few_shot
from prograd_viz.training import train


def assert_shows(page, runs, scenes, lam, step, b):
    "The page has the numbers of the library for a lambda, a step and an image"
    rows = [page.locator("#numbers tr").nth(i).locator("td").all_inner_texts()
            for i in range(page.locator("#numbers tr").count())]
    prompts = [("zero-shot CLIP", runs.zero_shot), ("CoOp", runs.text(0, step)),
               *([(f"ProGrad, lambda {lam:g}", runs.text(lam, step))] if lam else [])]
    views = [(name, scenes.view(b, text)) for name, text in prompts]
    assert [row[:2] for row in rows] == [[name, v.predicted] for name, v in views]
    for row, (_, v) in zip(rows, views):
        assert abs(int(row[2].rstrip("%")) - 100 * v.probability) < 0.51
        assert row[3] == "-" if v.share != v.share else abs(int(row[3].rstrip("%")) - 100 * v.share) < 0.51
        assert row[4] == "-" if v.preference != v.preference else abs(float(row[4]) - v.preference) < 0.006
    record = runs.steps[(runs.steps["lam"] == lam) & (runs.steps["step"] == step)]
    says = page.locator("#says").inner_text()
    assert f"Step {step}," in says
    assert (f"cosine {record['cos'].item():.2f}" in says if len(record)
            and record["cos"].notna().item() else "no angle" in says)


def test_the_report_works_from_disk_with_no_network(browser, tmp_path):
    "Sliders by keyboard; numbers as the library computes them; not one request, not one error"
    runs = train(load_clip("pocket"), few_shot("pocket", shots=4, seed=1, classes=6, test_per_class=4),
                 lambdas=[0, 0.5, 1], epochs=100, progress=False)
    scenes = explorer_data(runs, images=4)
    path = save_report(runs, tmp_path / "report.html", data=scenes)
    assert path.stat().st_size < 5e6
    page = lab.watched(browser, 1280, 1150, offline=True)
    page.on("request", lambda r: page.wrong.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.goto(path.as_uri())
    page.locator("#numbers tr").nth(2).wait_for()

    expect = partial(assert_shows, page, runs, scenes)
    ink = lambda name="panels": page.locator(f"#{name}").evaluate("c => c.toDataURL()")
    expect(1.0, int(runs.snapshot_steps[-1]), 0)
    before = ink(), ink("curve"), ink("accuracy")
    page.locator("#image").select_option(index=2)
    expect(1.0, int(runs.snapshot_steps[-1]), 2)
    assert ink() != before[0]
    page.locator("#lam").press("ArrowLeft")
    expect(0.5, int(runs.snapshot_steps[-1]), 2)
    page.locator("#lam").press("Tab")
    page.keyboard.press("Home")
    expect(0.5, 0, 2)
    assert ink("curve") != before[1] and ink("accuracy") != before[2]
    page.keyboard.press("End")
    drawn = Image.open(io.BytesIO(base64.b64decode(ink().split(",")[1]))).convert("RGB")
    views = [scenes.view(2, text) for text in (runs.zero_shot, runs.text(0), runs.text(0.5))]
    ours = beside([paint(scenes.pictures[2], mask=scenes.masks[2]),
                   *(paint(scenes.pictures[2], v.cam, max(v.cam.max() for v in views), scenes.masks[2])
                     for v in views)], ["", ""])
    crop = lambda image, head: np.asarray(image.crop((0, head + 2, 814, head + 194)), float)
    assert np.abs(crop(drawn, 26) - crop(ours, 24)).mean() < 8, "the browser paints what the library paints"
    if SCREENSHOTS: page.screenshot(path=Path(SCREENSHOTS) / "report.png")
    plain = browser.new_context(java_script_enabled=False, offline=True).new_page()
    plain.goto(path.as_uri())
    assert plain.locator(".still img").first.is_visible()
    assert not plain.locator("fieldset").is_visible()
    assert plain.locator("table", has_text="steps in conflict").is_visible()
    assert not page.wrong


def test_names_in_a_report_are_text_whatever_they_say(browser, tmp_path):
    "Scripts, 200 characters, Chinese, right to left: shown, not run"
    from dataclasses import replace
    runs = train(load_clip("pocket"), few_shot("pocket", shots=2, seed=1, classes=6, test_per_class=1), lambdas=[1],
                 epochs=5, progress=False)
    scenes = explorer_data(runs, images=6)
    names = ("<script>window.hurt = 1</script>", "x" * 200, "风筝", "عنكبوت", "' onerror='window.hurt = 1",
             "</script><script>window.hurt = 1</script>")
    path = save_report(replace(runs, classes=names), tmp_path / "report.html",
                       data=replace(scenes, classes=names, names=names))
    page = lab.watched(browser, offline=True)
    page.goto(path.as_uri())
    page.locator("#numbers tr").nth(1).wait_for()
    for i in range(6):
        page.locator("#image").select_option(index=i)
        assert page.locator("#numbers td").nth(1).inner_text() in names
    assert page.evaluate("window.hurt") is None and page.wrong == []
    assert page.locator("#image option").all_inner_texts() == list(names)
