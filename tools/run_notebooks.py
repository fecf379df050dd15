"Run notebooks in place, each in its own folder, so that what they show is what the library does now."
import argparse
import os
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from readme import directives

root = Path(__file__).resolve().parent.parent


def run(
    fname:Path, # A notebook; its outputs are replaced
    timeout:int=3600, # Seconds a cell may take
):
    "Run all cells but those marked `#| eval: false`, and store what they show."
    nb = nbformat.read(fname, as_version=4)
    for c in nb.cells:
        # the tag is nbclient's; nbdev_clean takes it off again
        if c.cell_type == "code" and directives(c.source)[0].get("eval") == "false":
            c.metadata["tags"] = ["skip-execution"]
    client = NotebookClient(nb, timeout=timeout, kernel_name="python3", skip_cells_with_tag="skip-execution",
                   store_widget_state=False, resources={"metadata": {"path": str(fname.parent)}})
    client.execute()
    for o in (o for c in nb.cells for o in c.get("outputs", [])):
        # its kernel is gone: only the text is left
        o.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    nbformat.write(nb, fname)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("notebooks", nargs="*", type=Path, help="default: all of them")
    files = p.parse_args().notebooks or sorted(f for f in (root/"nbs").rglob("*.ipynb")
                                               if ".ipynb_checkpoints" not in f.parts)
    os.environ["PROGRAD_VIZ_STILL"] = "1"  # the explorer leaves a picture, for its kernel will be gone
    os.environ["PYTHONWARNINGS"] = "ignore"  # they name files of this machine
    # a kernel sees this checkout, installed or not
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    for f in files:
        start = time.time()
        print(f"{f.resolve().relative_to(root)} ...", end=" ", flush=True)
        run(f.resolve())
        print(f"{time.time() - start:.0f} s")


if __name__ == "__main__": main()
