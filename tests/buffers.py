"What the explorer sends to a browser, read back: the other half of `prograd_viz.screen.buffer`."
import base64
import json
import re
from dataclasses import replace

import numpy as np
from safetensors.numpy import load


def unpack(content):
    "What is said about the tensors of a buffer, and the tensors by name"
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8:8 + length])["__metadata__"]["about"]), load(bytes(content))


def texts(about):
    "Every string in what is said"
    if isinstance(about, str): return [about]
    parts = about.values() if isinstance(about, dict) else about if isinstance(about, list) else ()
    return [text for part in parts for text in texts(part)]


def some(data, rows):
    "Images of an explorer's data, by their positions"
    arrays = {name: x[rows] for name, x in vars(data).items() if isinstance(x, np.ndarray)}
    return replace(data, **arrays, names=tuple(data.names[b] for b in rows))


def in_page(page, name):
    "A buffer of a report: _runs, scenes (the first of them) or land"
    found = in_state(page)[name]
    return unpack(base64.b64decode(found[0] if isinstance(found, list) else found))


def in_state(page):
    "The state of the explorer in a report"
    return json.loads(re.search('<script type="application/json" id="state">(.*?)</script>', page)[1])
