"Write constraints.txt and environment.yml from what this environment has installed."
import argparse
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

root = Path(__file__).resolve().parent.parent

# a CUDA build of torch asks for its own; a CPU build has none, and both must give the same file
accelerator = "nvidia-", "cuda-", "triton"

head = """\
# Every package below prograd_viz and its development tools, at the versions its tests ran with.
# Left to pip: the CUDA libraries of a GPU build of torch, and what only macOS or Windows needs.
# Written by `make pins`; change settings.ini and run that instead of editing here.
"""

conda = """\
# conda env create -f environment.yml && conda activate prograd_viz
# Written by `make pins`: the same pins as constraints.txt, then this checkout in place.
name: prograd_viz
channels:
  - conda-forge
dependencies:
  - python={python}
  - pip
  - pip:
{pins}
      - --editable=.[dev,lab]
"""


def requirements(
    keys=("requirements", "lab_requirements", "dev_requirements"), # Which lists of settings.ini
)->list: # Their `Requirement`s
    "What settings.ini asks for."
    cfg = ConfigParser()
    cfg.read(root/"settings.ini", encoding="utf-8")
    return [Requirement(r) for k in keys for r in cfg["DEFAULT"][k].split()]


def closure(
    reqs, # `Requirement`s to start from
)->dict: # Canonical name -> (name as published, version without its local part)
    "Everything that `reqs` need on this platform, as installed here, but the CUDA libraries."
    found, seen, todo = {}, set(), [(r, "") for r in reqs]
    while todo:
        req, parent = todo.pop()
        name = canonicalize_name(req.name)
        if name.startswith(accelerator): continue
        extras = {"", *req.extras}
        try: dist = distribution(req.name)
        except PackageNotFoundError:
            asker = f" ({parent} needs it)" if parent else ""
            raise SystemExit(f"{req} is not installed{asker}: run `make env` first") from None
        version = Version(dist.version)
        if not req.specifier.contains(version, prereleases=True):
            raise SystemExit(f"{req} is asked for{f' by {parent}' if parent else ''}, {version} is installed")
        found[name] = dist.metadata["Name"], version.public  # 2.13.0+cpu is 2.13.0 on a GPU machine
        for extra in extras - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            for text in dist.requires or []:
                sub = Requirement(text)
                # '' alone for the plain requirements, one extra at a time for the others
                active = sub.marker is None or sub.marker.evaluate({"extra": extra})
                if active: todo.append((sub, dist.metadata["Name"]))
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, default=root, help="folder to write to (default: the checkout)")
    out = p.parse_args().out
    cfg = ConfigParser()
    cfg.read(root/"settings.ini", encoding="utf-8")
    pins = [f"{name}=={version}" for _, (name, version) in sorted(closure(requirements()).items())]
    (out/"constraints.txt").write_text(head + "\n".join(pins) + "\n", encoding="utf-8")
    (out/"environment.yml").write_text(conda.format(
        python=cfg["DEFAULT"]["min_python"], pins="\n".join(f"      - {pin}" for pin in pins)), encoding="utf-8")
    print(f'{len(pins)} pins: {out/"constraints.txt"}, {out/"environment.yml"}')


if __name__ == "__main__": main()
