"What a page shows, and what it must show: the same widgets in this process."
import base64
import os
import re
import time
from html import unescape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = os.environ.get("SCREENSHOTS")  # a folder for pictures of the pages

READ = """async root => {
  const seen = [...root.querySelectorAll("img.widget-image")].filter(i => i.offsetParent !== null && i.src), all = []
  for (const img of seen) {
    const bytes = new Uint8Array(await (await fetch(img.src)).arrayBuffer())
    let text = ""
    for (const byte of bytes) text += String.fromCharCode(byte)
    all.push(btoa(text))
  }
  const shown = [...root.querySelectorAll(".pv-panel [role=status]")].filter(e => e.offsetParent !== null)
  return [all, shown.map(e => e.innerHTML)]
}"""


def shown(root):
    "Bytes of all visible pictures in the order of the page, and all text beside them"
    images, texts = root.evaluate(READ)
    return [base64.b64decode(i) for i in images], [words(t) for t in texts]


def words(html): return " ".join(unescape(re.sub("<[^>]*>", " ", html)).split())


def computed(panels):
    "The same of panels in this process"
    seen = [p for p in panels if p.ui.layout.display != "none"]
    return [bytes(p.picture.value) for p in seen], [words(p.text.value) for p in seen]


def assert_shows(root, panels, seconds=15):
    "The page arrives at what this process computes, picture for picture and word for word"
    end = time.time() + seconds
    while shown(root) != computed(panels()) and time.time() < end: time.sleep(0.05)
    assert shown(root)[1] == computed(panels())[1]
    assert shown(root) == computed(panels())


def panels_of(explorer):
    "Panels of an explorer in the order of its page"
    return lambda: [explorer.panels["plane"], *explorer.gallery.panels,
                    *(explorer.panels[n] for n in ("cosine", "tokens", "accuracy") if n in explorer.panels)]


def press(slider, key):
    "What a key does to a slider of this process"
    slider.index = {"ArrowLeft": slider.index - 1, "ArrowRight": slider.index + 1, "Home": 0,
                    "End": len(slider.options) - 1}[key]
