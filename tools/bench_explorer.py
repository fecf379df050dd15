"""How long a reader waits for the explorer, in JupyterLab in headless Chromium: from a key to the frame it asks for.

    python tools/bench_explorer.py   # three minutes on two idle cores; writes figures/bench/explorer.csv and .md

Times are taken in the page. A frame counts as shown at the second animation frame after the new picture is decoded.
"""
import argparse
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from bench import ROOT, machine
from lab import chromium, jupyterlab, notebook, open_notebook, watched

SETUP = {"pocket": """from prograd_viz.all import *
task = few_shot("pocket", shots=4, seed=1, classes=6, test_per_class=4)
runs = train(load_clip("pocket"), task, lambdas=[0, 0.5, 1], epochs=100, progress=False)
print("trained")""",
         "RN50, random weights": """from prograd_viz.all import *
from prograd_viz.data import Task
task = few_shot("pocket", shots=4, seed=1, classes=37, test_per_class=1, px=224)
task = Task("RN50-sized", task.train, {"shifted": task.tests["shifted"]})
runs = train(load_clip("RN50", "random"), task, lambdas=[0, 1], n_ctx=16, epochs=60, batch_size=148,
             evaluate_every=20, views=0, progress=False)
print("trained")"""}
OPEN = "explorer = explore(runs); explorer"

# The maps' picture is the first image of the explorer besides the gradient plane; `window.moved` gets ms per move
WATCH = """() => {
  const img = document.querySelectorAll(".pv-panel img")[1]
  window.moved = []; window.loads = []
  const drawn = () => {
    const now = performance.now()
    window.loads.push(now)
    if (window.pressed) { window.moved.push(now - window.pressed); window.pressed = 0 }
  }
  const shown = () => requestAnimationFrame(() => requestAnimationFrame(drawn))
  img.addEventListener("load", shown)
  document.addEventListener("keydown", e => { window.pressed = e.timeStamp }, true)
  document.addEventListener("pointerup", e => { window.released = e.timeStamp }, true)
}"""


def moves(
    page, # With an open explorer
    key:str, # The key to press
    n:int, # How often
)->list: # ms from the key to the frame, one for each
    "Press a key on the step slider, wait for the frame, and again"
    page.locator(".noUi-handle").nth(2).focus()
    for i in range(n):
        page.keyboard.press(key)
        page.wait_for_function(f"window.moved.length > {i}", timeout=10_000)
        page.wait_for_timeout(60)
    return page.evaluate("window.moved")


def drag(
    page, # With an open explorer
)->float: # ms from letting go to the last frame
    "Drag the step slider from one end to the other; the picture must end where the slider ends"
    handle = page.locator(".noUi-handle").nth(2)
    track = handle.locator("xpath=ancestor::*[contains(@class, 'noUi-target')]").bounding_box()
    box = handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for i in range(31): page.mouse.move(track["x"] + track["width"] * i / 30, box["y"] + box["height"] / 2)
    page.mouse.up()
    page.wait_for_timeout(1500)
    return max(0, page.evaluate("window.loads.at(-1) - window.released"))


def measure(
    name:str, # One of `SETUP`
    n:int, # Moves of each kind
)->list: # Rows
    "Open the explorer in JupyterLab, move, drag"
    with tempfile.TemporaryDirectory() as folder, jupyterlab(Path(folder)) as (address, token), chromium() as browser:
        notebook(Path(folder)/"explore.ipynb", [SETUP[name], OPEN])
        page = watched(browser)
        open_notebook(page, address, token, "explore.ipynb")
        page.keyboard.press("Shift+Enter")
        # JupyterLab has gone on to the next cell
        page.locator(".jp-OutputArea-output", has_text="trained").wait_for(timeout=120_000)
        page.evaluate('document.addEventListener("keydown", e => { window.asked ||= e.timeStamp }, true)')
        page.keyboard.press("Shift+Enter")
        ready = "(i => i.length > 1 && i[1].complete && i[1].naturalWidth > 0)"
        page.wait_for_function(f'{ready}(document.querySelectorAll(".pv-panel img"))', timeout=60_000)
        first = page.evaluate("performance.now() - window.asked")
        page.locator(".pv-thumbs button").nth(7).wait_for(timeout=60_000)
        page.wait_for_timeout(2000)
        page.evaluate(WATCH)
        back = moves(page, "ArrowLeft", n)
        page.evaluate("window.moved = []")
        page.keyboard.press("Home")
        page.wait_for_timeout(500)
        settled = drag(page)
        assert not page.wrong, page.wrong
    row = lambda what, value, bar, note="": {"model": name, "what": what, "ms": value, "bar": bar, "note": note}
    return [row("key to frame, median", median(back), 100, f"{n} moves of the step slider"),
            row("key to frame, 95th percentile", float(np.quantile(back, 0.95)), 200),
            row("first picture", first, 3000, "from running the cell `explore(runs)`"),
            row("end of a drag to the last frame", settled, 300, "from one end to the other")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=50, help="moves of the slider")
    parser.add_argument("--out", type=Path, default=ROOT/"figures"/"bench", help="where to write")
    options = parser.parse_args()
    table = pd.DataFrame([row for name in SETUP for row in measure(name, options.moves)])
    table.to_csv(options.out/"explorer.csv", index=False)
    lines = [f"| {r.model} | {r.what} | {r.ms:.0f} | {r.bar} | {'yes' if r.ms <= r.bar else '**no**'} | {r.note} |"
             for r in table.itertuples()]
    text = "\n".join(["| model | what | ms | bar | reached | |", "|---|---|---:|---:|---|---|", *lines, "",
                      f"{', '.join(f'{k} {v}' for k, v in machine('cpu').items())}. JupyterLab in headless Chromium.",
                      ""])
    (options.out/"explorer.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__": main()
