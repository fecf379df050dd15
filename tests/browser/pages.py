"What a page shows, and what it must show: the numbers of the library."
import os
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = os.environ.get("SCREENSHOTS")  # a folder for pictures of the pages
SETUP = """from prograd_viz.all import *
from prograd_viz.explorer import show_cosine, show_gradient_plane, show_landscape, show_maps
task = few_shot("pocket", shots=4, seed=1, classes=6, test_per_class=5)
runs = load_runs({folder!r}, load_clip("pocket"), task)"""

READ = """root => {
  const text = (node, name) => node.querySelector(name).textContent
  const cards = [...root.querySelectorAll(".pv-maps")][0].querySelectorAll(".pv-card")
  return { state: root.explorer.state.values, where: text(root, ".pv-where"),
           cards: [...cards].map(card => [text(card, "figcaption"), text(card, ".pv-says"), text(card, ".pv-share")]) }
}"""
# The map on a card, in parts of the largest of its row, at the resolution it is painted with
MAP = ("(root, n) => { const c = root.explorer.groups[0].maps[0].cards[n]; return [c.height, c.width, "
       "Array.from(c.values, v => v * c.scale / 255)] }")
BOXES = """root => {
  const origin = root.getBoundingClientRect()
  const names = ".pv-panel, .pv-card, .pv-stage, .pv-thumbs, .pv-sliders, .pv-bar, .pv-body, .pv-share"
  return [...root.querySelectorAll(names)].map(node => {
    const box = node.getBoundingClientRect()
    return [box.left - origin.left, box.top - origin.top, box.width, box.height].map(Math.round)
  })
}"""


def number(x, digits):
    "As the page writes a number that reached it as float32"
    return f"{float(np.float32(x)):.{digits}f}"


def card(view, area, label):
    "The two lines below a map"
    says = view.predicted if np.isnan(view.probability) else (f"{view.predicted} "
                                                              f"{float(np.float32(view.probability)):.0%}")
    verdict = "" if label is None else "✓ right" if view.predicted == label else "✗ wrong"
    share = float(np.float32(view.share))
    none = "no mask" if view.cam.any() else "empty map"
    return [f"{says} {verdict}", none if np.isnan(share) else f"{share:.0%} on the object, {share / area:.1f} per area"]


def expected(runs, data, state):
    "Titles and numbers of the four cards, and the cosine beside the sliders"
    lam, step, b, target = (state[name] for name in ("lam", "step", "image", "target"))
    label = data.classes[data.labels[b]] if data.labels[b] >= 0 else None
    known = data.areas[b] > 0
    first = [data.names[b].split(": ", 1)[1], f"object: {data.areas[b]:.0%} of the image" if known else "no mask"]
    keys = [None, runs.ends()[0], lam]
    cards = [["image", *first]]
    for key in keys:
        cards.append([runs.name(key), *card(data.view(b, runs.text(key, step), target), data.areas[b], label)])
    record = runs.record(lam).set_index("step")["cos"]
    cos = record.get(step, np.nan)
    sign = "−" if cos < 0 else "+"
    last = int(runs.steps["step"].max())
    return {"cards": cards, "where": f"{step} of {last}" + ("" if np.isnan(cos) else f"cos {sign}{abs(cos):.2f}")}


def drawn(root):
    "Wait until the page has drawn its state: a change within a frame of another one waits for the next"
    root.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def put(root, **state):
    "Set the state as a click would"
    root.evaluate(f"root => root.explorer.state.set({state!r})".replace("True", "true").replace("None", "null"))
    drawn(root)


def idle(root, seconds=120):
    "Wait until the kernel has had nothing under way for a second: the landscape follows a new lambda unasked"
    cancel, end, quiet = root.get_by_role("button", name="cancel"), time.time() + seconds, 0
    while quiet < 5:
        assert time.time() < end, "something is under way all the time"
        quiet = 0 if cancel.is_visible() else quiet + 1
        time.sleep(0.2)


def assert_shows(root, runs, data, seconds=30, **state):
    "The page arrives at what this process computes for its state"
    end = time.time() + seconds
    while True:
        seen = root.evaluate(READ)
        ours = expected(runs, data, seen["state"] | {"image": min(seen["state"]["image"], len(data) - 1)})
        there = all(seen["state"][name] == value for name, value in state.items())
        if there and seen["cards"] == ours["cards"] and seen["where"] == ours["where"]: return
        if time.time() > end: break
        time.sleep(0.05)
    assert {name: seen["state"][name] for name in state} == state
    assert seen["cards"] == ours["cards"]
    assert seen["where"] == ours["where"]


def assert_map(root, runs, data, n):
    "The map on card n is the library's, in parts of the largest of its row, to 1/255"
    import torch

    from prograd_viz.cam import resize_maps
    state = root.evaluate(READ)["state"]
    b, keys = state["image"], [None, runs.ends()[0], state["lam"]]
    views = [data.view(b, runs.text(key, state["step"]), state["target"]) for key in keys]
    top = max(np.nan_to_num(view.cam).max() for view in views) or 1  # all three may be empty
    height, width, values = root.evaluate(MAP.replace("(root, n)", "root").replace("[n]", f"[{n}]"))
    ours = resize_maps(torch.tensor(views[n - 1].cam), (height, width)).numpy() / top
    assert np.abs(np.reshape(values, (height, width)) - ours).max() <= 1 / 255


def small_text(root):
    "Text that is smaller than 11 pixels or that is cut off, and pairs of colours whose contrast is below 4.5"
    return root.evaluate(LOOK)


LOOK = """root => {
  const wrong = []
  const linear = v => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4
  const light = c => { const [r, g, b] = c.map(linear); return 0.2126 * r + 0.7152 * g + 0.0722 * b }
  const rgb = text => { const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1
    const pen = canvas.getContext("2d"); pen.fillStyle = text; pen.fillRect(0, 0, 1, 1)
    return [...pen.getImageData(0, 0, 1, 1).data] }
  const under = node => { for (; node; node = node.parentElement ?? node.getRootNode().host) {
      const c = rgb(getComputedStyle(node).backgroundColor); if (c[3] === 255) return c } return [255, 255, 255, 255] }
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), node = walker.currentNode.parentElement
    if (!text || !node.checkVisibility({ visibilityProperty: true }) || node.closest("option, [hidden]")) continue
    const style = getComputedStyle(node), svg = node.closest("svg")
    if (parseFloat(style.fontSize) < 11) wrong.push(`${style.fontSize}: ${text}`)
    const a = light(rgb(svg ? style.fill : style.color)), b = light(under(svg ? svg.parentElement : node))
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
    if (contrast < 4.5) wrong.push(`contrast ${contrast.toFixed(1)}: ${text}`)
    const range = document.createRange(); range.selectNodeContents(node)
    const box = range.getBoundingClientRect(), outer = root.getBoundingClientRect()
    const outside = box.right > outer.right + 1 || box.left < outer.left - 1
    if (!svg && node.closest(".pv-thumbs") === null && outside) wrong.push(`outside: ${text}`)
    const clip = node.closest(".pv-says, .pv-share, figcaption, header, .pv-legend, .pv-where, button")
    if (clip && clip.scrollWidth > clip.clientWidth + 1) wrong.push(`cut off: ${clip.textContent}`)
  }
  return [...new Set(wrong)]
}"""
