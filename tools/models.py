"Build every architecture of open_clip without weights and list how it works here: figures/models/models.csv and .md."
import argparse
import logging
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the same table with and without a network

import pandas as pd
import torch
from tqdm import tqdm

from prograd_viz.cam import _as_grid, find_layer
from prograd_viz.clip import Clip, load_clip
from prograd_viz.prompts import has_fast_path

# isort: split
import open_clip  # after `clip`, which makes torchvision importable

root = Path(__file__).resolve().parent.parent
folder = root/"figures"/"models"


def names():
    configs = Path(open_clip.__file__).parent/"model_configs"
    return [n for n in open_clip.list_models() if (configs/f"{n}.json").is_file()]


COLUMNS = ("architecture", "image_px", "parameters_M", "works", "text_path", "tokenizer", "cam_layer", "cam_grid",
           "remark")
EARLY = "Grad-CAM: the default is an early layer, deeper ones are coarser than 6 x 6; name one with target_layer="


def grid(
    clip:Clip, # On the meta device
)->tuple: # (name of the default layer, its grid as text, remark)
    "Grad-CAM's default layer, from the shapes of one forward pass."
    layer, shapes = find_layer(clip), []
    name = next(k for k, m in clip.model.visual.named_modules() if m is layer)
    hook = layer.register_forward_hook(lambda module, args, out: shapes.append(out.shape))
    clip.model.encode_image(torch.zeros(1, 3, clip.image_size, clip.image_size, device="meta"))
    hook.remove()
    high, wide = _as_grid(clip, layer, torch.empty(shapes[0], device="meta")).shape[2:]
    return name, f"{high} x {wide}", EARLY if "stem" in name else ""


@torch.no_grad()
def row(
    name:str, # open_clip's name of an architecture
)->dict: # A row of the table
    "How an architecture works here."
    cfg = open_clip.get_model_config(name)
    tokenizer = cfg["text_cfg"].get("hf_tokenizer_name", "CLIP")
    res = dict.fromkeys(COLUMNS, "") | {"architecture": name, "tokenizer": tokenizer}
    res["image_px"] = cfg["vision_cfg"].get("image_size", 224)
    if "hf_model_name" in cfg["text_cfg"]:
        try: load_clip(name, "random")
        except OSError as e: return res | {"works": "refused", "remark": str(e).splitlines()[0]}
    with torch.device("meta"):
        model = open_clip.create_model(name, pretrained_image=False, pretrained_text=False, device="meta").eval()
    clip = Clip(model, None, None, name, "random")
    layer, cells, remark = grid(clip)
    works, path = ("fully", "fast") if has_fast_path(clip) else ("text at full length", "full length")
    needs = "" if tokenizer == "CLIP" else "its tokenizer needs the package transformers"
    size = f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"
    return res | {"parameters_M": size, "works": works, "text_path": path, "cam_layer": layer, "cam_grid": cells,
                  "remark": "; ".join(filter(None, [needs, remark]))}


def markdown(
    table:pd.DataFrame, # All rows
)->str:
    "The table with a summary above it."
    counts = ", ".join(f"{n} {what}" for what, n in table["works"].value_counts().items())
    head = f"""# Every CLIP of open_clip {open_clip.__version__}

`python tools/models.py` builds each of the {len(table)} architectures without weights and writes this table: {counts}.

- **fully**: the text tower takes the fast path (padding cut, prefix shared, last layer for end tokens only).
- **text at full length**: the text tower is bidirectional or has a token of its own (SigLIP, CLIPA, MobileCLIP, \
CoCa); each step encodes all tokens of every class. Exact, but slower.
- **refused**: with the message that `load_clip` gives.
- The Grad-CAM layer is the default of `target_layer`, its grid is at the model's own image size.

"""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|"*len(table.columns)]
    lines += ["| " + " | ".join(map(str, r)) + " |" for r in table.itertuples(index=False)]
    return head + "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--check", action="store_true", help="write nothing; fail if a row differs from the table")
    args, start = p.parse_args(), time.time()
    logging.disable(logging.ERROR)
    table = pd.DataFrame([row(n) for n in tqdm(names(), unit="model", disable=None)]).astype(str)
    if args.check:
        known = pd.read_csv(folder/"models.csv", dtype=str, keep_default_na=False)
        old, new = (dict(zip(t["architecture"], t.to_dict("records"))) for t in (known, table))
        wrong = [n for n in {**old, **new} if old.get(n) != new.get(n)]
        sys.exit(f"differs from the table: {', '.join(wrong)}" if wrong else 0)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder/"models.csv", index=False)
    (folder/"models.md").write_text(markdown(table), encoding="utf-8")
    print(f"{len(table)} architectures in {time.time() - start:.0f} s: {table['works'].value_counts().to_dict()}")


if __name__ == "__main__": main()
