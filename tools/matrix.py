"""Build environments one after the other, run the tests in each, and write figures/environments/.

    python tools/matrix.py                 # all of them; what is finished in .matrix/ is not done again
    python tools/matrix.py oldest colab    # some of them
    python tools/matrix.py --table         # the tables again, from what is finished

A row is finished for one state of the library: a changed module or requirement is tested again. An environment needs
2 to 7 GB while it is tested and is removed afterwards; --keep leaves it, and the next call tests in it. torch comes
from the usual index, on Linux as its CUDA build.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
OUT = root/"figures"/"environments"

# What Colab had in August 2026, installed before the library and not to be replaced by it.
COLAB = {"torch": "2.11.0", "torchvision": "0.26.0", "pandas": "2.2.3", "numpy": "2.0.2", "matplotlib": "3.10.0",
         "ipywidgets": "7.7.1"}
# A GPU image with Python 3.12; torch and torchvision are there already.
IMAGE = {"torch": "2.11.0", "torchvision": "0.26.0"}

# Chosen by what a version can change: every requirement is used, and Ctrl-C is tried at every line of a training.
# Left out are the files about this checkout, a browser, Ray and the pocket world's own numbers.
TESTS = ["environments", "architectures", "arithmetic", "bad_input", "cam_layers", "datasets", "identity", "images",
         "models", "no_prediction", "own_images", "properties", "protocols", "recorder", "reference", "rules",
         "survival", "takeaway", "threads", "training", "whole_numbers"]
# True of the pinned open_clip alone: newer and older ones know other architectures.
NOT_HERE = ["tests/test_models.py::test_the_table_names_every_architecture_and_the_page_shows_it"]
SHOWN = ["torch", "torchvision", "open_clip_torch", "grad-cam", "numpy", "pandas", "matplotlib", "ipywidgets"]
# What the tests need: pytest, hypothesis, a kernel whose cell is interrupted, and what the fixtures read. Another
# Grad-CAM, captum, comes without the numpy that it names.
TOOLS = ["pytest", "pytest-xdist", "hypothesis", "psutil", "ipykernel", "pyyaml", "packaging"]


def settings():
    "The section of settings.ini"
    cfg = ConfigParser()
    cfg.read(root/"settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]


def lower_bounds()->list: # "name==version" of every requirement
    "The oldest environment that settings.ini admits"
    return [re.sub(r">=([\d.]+).*", r"==\1", r) for r in settings()["requirements"].split()]


def pinned(pins:dict)->list: return [f"{name}=={version}" for name, version in pins.items()]


ENVIRONMENTS = { # Name -> what it stands for, its Python, what is there before, what constrains the rest
    "oldest": ("every lower bound of settings.ini", "3.11", [], lower_bounds),
    "pins": ("constraints.txt", "3.11", [], lambda: (root/"constraints.txt").read_text(encoding="utf-8").splitlines()),
    "image": ("a GPU image with torch 2.11", "3.12", pinned(IMAGE), list),
    "newest": ("the newest release of everything", "3.13", [], list),
    "colab": ("Colab's list", "3.13", pinned(COLAB), list),
}


def quietly(
    command:list, # Program and arguments
    log:Path, # Where its output is added
    **options, # Of `subprocess.run`
)->int: # Its exit status
    "Run a command with its output in a file"
    with open(log, "a", encoding="utf-8") as out:
        print("$", *map(str, command), file=out, flush=True)
        return subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False, **options).returncode


def interpreter(version:str)->str: # Such as "3.13"
    "A Python of that version, or an end with what to install"
    for name in (os.environ.get(f"PYTHON{version.replace('.', '')}"), f"python{version}"):
        found = name and shutil.which(name)
        if found and subprocess.run([found, "-c", ""], check=False, capture_output=True).returncode == 0: return found
    variable = f"PYTHON{version.replace('.', '')}"
    raise SystemExit(f"no python{version} found: install it, or name it in the variable {variable}")


def wheel(folder:Path)->Path:
    "The library as a wheel, built from the checkout"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, root]
    subprocess.run(command, check=True, cwd=folder.parent)
    shutil.rmtree(root/"build", ignore_errors=True)
    return next(folder.glob("*.whl"))


def replaced(
    report:dict, # Of `pip install --dry-run --report`
    before:list, # "name==version"
)->list: # Names that pip would install again
    "What of an environment an installation would replace"
    names = {line.partition("==")[0] for line in before}
    return sorted(names & {i["metadata"]["name"].lower() for i in report["install"]})


def build(name:str, folder:Path, built:Path)->dict:
    "Make the environment and install the wheel into it, without extras; what was found on the way"
    _, version, before, constrain = ENVIRONMENTS[name]
    env, log = folder/name, folder/f"{name}.log"
    if not (env/"bin/python").exists(): subprocess.run([interpreter(version), "-m", "venv", env], check=True)
    pip = [env/"bin/python", "-m", "pip", "--disable-pip-version-check"]
    limits = folder/f"{name}.txt"
    limits.write_text("\n".join(constrain()) + "\n", encoding="utf-8")
    if before and quietly([*pip, "install", "--quiet", *before], log): raise SystemExit(f"{name}: see {log}")
    report = folder/f"{name}.json"
    report.unlink(missing_ok=True)
    if quietly([*pip, "install", "--quiet", "--dry-run", "--report", report, "-c", limits, built], log):
        raise SystemExit(f"{name}: pip finds no solution, see {log}")
    gone = replaced(json.loads(report.read_text(encoding="utf-8")), before)
    # a wheel of the same version may be there from an earlier build
    quietly([*pip, "uninstall", "--quiet", "--yes", "prograd-viz"], log)
    if quietly([*pip, "install", "--quiet", "-c", limits, built], log): raise SystemExit(f"{name}: see {log}")
    for tools in (TOOLS, ["--no-deps", "captum"]):
        if quietly([*pip, "install", "--quiet", *tools], log): raise SystemExit(f"{name}: see {log}")
    return {"replaced": gone}


def versions(python:Path)->dict: # Name -> version
    "What the environment has, and its Python"
    code = ('import json, platform, sys; from importlib.metadata import version; '
            'print(json.dumps({"Python": platform.python_version(), **{n: version(n) for n in sys.argv[1:]}}))')
    return json.loads(subprocess.run([python, "-c", code, *SHOWN], check=True, capture_output=True, text=True).stdout)


def import_seconds(python:Path)->float:
    "Wall time of a star import in a process of its own, the better of two"
    def once():
        start = time.perf_counter()
        command = [python, "-c", "from prograd_viz.all import *"]
        subprocess.run(command, check=True, cwd=root/"tests", capture_output=True)
        return time.perf_counter() - start
    return round(min(once(), once()), 1)


def test(name:str, folder:Path)->dict: # passed, failed
    "Run the test set against the installed wheel"
    env, log = folder/name, folder/f"{name}-tests.log"
    log.unlink(missing_ok=True)
    files = [root/f"tests/test_{t}.py" for t in TESTS]
    skip = [] if name == "pins" else [f"--deselect={t}" for t in NOT_HERE]
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    variables |= {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    pytest = [env/"bin/python", "-m", "pytest", "-c", root/"pyproject.toml", "--rootdir", root, "-n", "2"]
    pytest += ["--dist", "loadfile", "-p", "no:warnings"]
    # not in the checkout, which workers and the processes they start would import in place of the wheel
    quietly([*pytest, *skip, *files], log, cwd=folder/"wheel", env=variables)
    said = log.read_text(encoding="utf-8")
    count = lambda what: sum(map(int, re.findall(rf"(\d+) {what}", said[-300:])))
    if str(env) not in "".join(re.findall(r"^library: (.+)", said, re.M)):
        raise SystemExit(f"{name}: the tests did not import the installed library, see {log}")
    return {"passed": count("passed"), "failed": count("failed") + count("errors?")}


def run(name:str, folder:Path, built:Path)->dict:
    "One environment, from nothing to its row"
    start = time.time()
    row = {"environment": name, "what": ENVIRONMENTS[name][0], "library": state(), **build(name, folder, built)}
    python = folder/name/"bin/python"
    row |= {"versions": versions(python), "import_seconds": import_seconds(python), **test(name, folder)}
    return row | {"minutes": round((time.time() - start) / 60)}


SIZES = """
import json
from importlib.metadata import distributions
from pathlib import Path

def size(f): return Path(f.locate()).stat().st_size if Path(f.locate()).is_file() else 0

print(json.dumps([(sum(map(size, d.files or [])) / 1e6, d.metadata["Name"]) for d in distributions()]))
"""
# What the tests brought, and the library itself
NOT_OURS = [*TOOLS, "captum", "pip", "prograd_viz", "execnet", "iniconfig", "pluggy", "sortedcontainers", "debugpy",
            "jupyter_client", "jupyter_core", "nest-asyncio", "nest-asyncio2", "platformdirs", "pyzmq", "tornado"]


def bulk(python:Path)->list: # (MB, name) of each distribution, heaviest first
    "What an environment weighs, by the files that each distribution lists"
    done = subprocess.run([python, "-c", SIZES], check=True, capture_output=True, text=True)
    return sorted(((mb, name) for mb, name in json.loads(done.stdout) if name not in NOT_OURS), reverse=True)


WHY = { # The heaviest -> why it stays
    "torch": "everything is computed with it", "pandas": "the record of a run is a table", "numpy": "arrays",
    "pyarrow": "`Runs.export` and the demo write Parquet with it, for other tools", "matplotlib": "figures",
    "opencv-python-headless": "GrabCut; grad-cam needs OpenCV in any case", "opencv-python": "grad-cam asks for it",
    "scipy": "intervals of means; scikit-learn needs it in any case", "sympy": "torch needs it",
    "fontawesomefree": "the silhouettes of the pocket world; one font of it is read, and its licence travels with it",
    "scikit-learn": "grad-cam needs it", "fonttools": "matplotlib needs it", "torchvision": "open_clip needs it"}


def weight_table(
    weights:list, # (MB, name), heaviest first
)->str:
    "Markdown of the ten heaviest, the CUDA libraries left out"
    mine = [(mb, name) for mb, name in weights if not name.lower().startswith(("nvidia", "cuda"))]
    rows = [f"| {name} | {mb:.0f} | {WHY.get(name.lower(), 'others need it')} |" for mb, name in mine[:10]]
    total = sum(mb for mb, _ in mine) / 1000
    head = (f"An install without extras, beside a CPU build of torch, has {len(mine)} packages and {total:.2f} GB "
            "(`pins`, without what the tests need). The ten heaviest:")
    lighter = ("Removed: JupyterLab and its dependencies, now the extra `lab`. Ray, transformers and the tools of "
               "development are extras too.")
    return "\n".join([head, "", "| package | MB | why it stays |", "|---|---|---|", *rows, "", lighter])


def cells(row:dict)->list:
    "What the table says of one environment"
    v = row["versions"]
    return [row["environment"], row["what"], v["Python"], *(v[n] for n in SHOWN), row["passed"], row["failed"],
            ", ".join(row["replaced"]) or "nothing", row["import_seconds"]]


def table(rows:list)->str:
    "Markdown of the matrix"
    head = ["environment", "what it stands for", "Python", *SHOWN, "tests passed", "failed", "replaced", "import, s"]
    lines = [head, ["---"] * len(head), *map(cells, rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


INTRODUCTION = """# Environments

Written by `make matrix`. In each environment a wheel of the library is installed without extras, and these test
files run against it: {tests} (`tests/test_*.py`). They are a part of the whole suite, chosen so that every
requirement is used and a training is interrupted at every line; `make test` runs all of it with the pins.
*Replaced* lists the installed packages that pip's dry run would have replaced: torch and torchvision in
`image`, {colab} in `colab`. The table of all architectures is compared with
the pinned open_clip only. Ray, transformers and JupyterLab are in none of these environments. Import seconds were
measured on two cores under other load.

"""


def state()->str:
    "A digest of the library and its requirements"
    package = [f for f in (root/"prograd_viz").rglob("*") if f.is_file() and f.suffix != ".pyc"]
    files = [root/"settings.ini", *sorted(package)]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:12]


def finished(folder:Path, name:str)->dict: # Empty where there is none
    "The row of an environment"
    done = folder/f"{name}.done"
    return json.loads(done.read_text(encoding="utf-8")) if done.exists() else {}


def write(folder:Path):
    "The tables, from the rows that are finished"
    rows = [row for name in ENVIRONMENTS if (row := finished(folder, name))]
    weights = folder/"weights.json"
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT/"environments.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    text = INTRODUCTION.format(tests=", ".join(TESTS), colab=", ".join(COLAB)) + table(rows)
    if weights.exists(): text += "\n\n## Weight\n\n" + weight_table(json.loads(weights.read_text(encoding="utf-8")))
    (OUT/"environments.md").write_text(text + "\n", encoding="utf-8")
    print(OUT/"environments.md")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(ENVIRONMENTS)
    p.add_argument("names", nargs="*", metavar="environment", help=f"some of {names}; default: all")
    p.add_argument("--folder", type=Path, default=root/".matrix", help="where environments and finished rows are kept")
    p.add_argument("--keep", action="store_true", help="leave each environment where it is")
    p.add_argument("--table", action="store_true", help="write the tables and run nothing")
    a = p.parse_args()
    if unknown := set(a.names) - set(ENVIRONMENTS): p.error(f"no environment {min(unknown)!r}; there are {names}")
    folder = a.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if a.table: return write(folder)
    todo = [n for n in a.names or ENVIRONMENTS if finished(folder, n).get("library") != state()]
    built, bad = wheel(folder/"wheel") if todo else None, []
    for name in todo:
        print(f"{name}: {ENVIRONMENTS[name][0]}", flush=True)
        row = run(name, folder, built)
        said = f"{row['passed']} passed, {row['failed']} failed, replaced: {', '.join(row['replaced']) or 'nothing'}"
        print(f"{name}: {said}", flush=True)
        if name == "pins":
            (folder/"weights.json").write_text(json.dumps(bulk(folder/name/"bin/python")), encoding="utf-8")
        if row["failed"] or not row["passed"] or row["replaced"]: bad.append(name)
        else: (folder/f"{name}.done").write_text(json.dumps(row), encoding="utf-8")
        if not a.keep and name not in bad: shutil.rmtree(folder/name)
        write(folder)
    if bad: raise SystemExit(f"not green: {', '.join(bad)}; logs are in {folder}")


if __name__ == "__main__": main()
