"The files around the library agree with each other. Nothing here reaches the network."
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import arrows
import check
import matrix
import mutants
from pins import closure, requirements
from readme import directives, links, relink

root = Path(__file__).resolve().parent.parent
lib = root/"prograd_viz"
modules = sorted(f for f in lib.rglob("*.py") if ".ipynb_checkpoints" not in f.parts)


def cfg():
    c = ConfigParser()
    c.read(root/"settings.ini", encoding="utf-8")
    return c["DEFAULT"]

def pins(lines): return dict(line.split("==") for line in lines if line and not line.startswith("#"))

def constraints(): return pins((root/"constraints.txt").read_text(encoding="utf-8").splitlines())


# -- pins ---------------------------------------------------------------------

def test_environment_yml_pins_what_constraints_txt_pins():
    env = yaml.safe_load((root/"environment.yml").read_text(encoding="utf-8"))
    assert env["name"] == cfg()["lib_name"]
    *conda, pip = env["dependencies"]
    assert f"python={cfg()['min_python']}" in conda and "pip" in conda
    *pinned, checkout = pip["pip"]
    assert pins(pinned) == constraints()
    assert checkout == "--editable=.[dev,lab]"

def test_constraints_carry_public_versions_and_not_ourselves():
    found = constraints()
    assert not [v for v in found.values() if "+" in v]
    assert "prograd-viz" not in map(canonicalize_name, found)

@pytest.mark.parametrize("req", requirements(), ids=str)
def test_constraints_satisfy_settings_ini(req):
    found = {canonicalize_name(k): v for k, v in constraints().items()}
    assert req.specifier.contains(found[canonicalize_name(req.name)])

@pytest.mark.parametrize("req", requirements(), ids=str)
def test_extras_are_spelled_as_the_oldest_pip_finds_them(req):
    "Debian 12 has pip 23.0.1: it takes `a_b` and `a-b` for two extras, warns, and installs neither's packages"
    assert req.extras == set(map(canonicalize_name, req.extras))

def test_every_pin_admits_the_first_release_of_the_oldest_python():
    "Debian 12 has Python 3.11.2: what needs a later patch cannot be installed there"
    names = {name for name, _ in closure(requirements()).values()}
    wants = {name: distribution(name).metadata.get("Requires-Python", "") for name in names}
    assert not {name: spec for name, spec in wants.items()
                if not SpecifierSet(spec).contains(f"{cfg()['min_python']}.0")}

def test_constraints_pin_everything_below_the_requirements():
    needed = {name for name, _ in closure(requirements()).values()}
    found = set(map(canonicalize_name, constraints()))
    assert not {n for n in needed if canonicalize_name(n) not in found}, "run `make pins`"


# -- imports ------------------------------------------------------------------

def third_party(fname, at_once=False):
    """Top-level names that a file imports, anywhere in it or as soon as it is imported, from neither itself nor the
    standard library."""
    names, tree = set(), ast.parse(fname.read_text(encoding="utf-8"))
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import): names |= {a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level: names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"prograd_viz"}

@pytest.mark.parametrize("fname", modules, ids=lambda f: f.relative_to(lib).as_posix())
def test_every_import_is_a_declared_requirement(fname):
    extras = ["ray_requirements", "hf_requirements", "torchjd_requirements"]
    always, optional = ({canonicalize_name(r.name) for r in requirements(keys)} for keys in (["requirements"], extras))
    dists, first = packages_distributions(), third_party(fname, at_once=True)
    for name in third_party(fname):
        owners = {canonicalize_name(d) for d in dists.get(name, [name])}
        allowed = always if name in first else always | optional
        assert owners & allowed, f"{fname.name} imports {name}: add {' or '.join(owners)} to settings.ini"

def test_every_requirement_with_an_exact_version_says_why():
    "A pin that nobody can explain is never lifted."
    lines = (root/"settings.ini").read_text(encoding="utf-8").splitlines()
    block = lines[lines.index("requirements ="):lines.index("console_scripts =")]
    for i, line in enumerate(block):
        if "==" in line and not line.lstrip().startswith("#"):
            above = next(b for b in reversed(block[:i]) if "==" not in b or b.lstrip().startswith("#"))
            assert above.lstrip().startswith("#"), line.strip()


# -- packages -----------------------------------------------------------------

@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "(names in the wheel, names in the sdist), built from a copy with the setuptools that is here."
    pytest.importorskip("setuptools")
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for f in root.iterdir():
        if f.is_file(): shutil.copy(f, tree)
    for d in "prograd_viz", "nbs", "tests", "tools":
        if (root/d).exists(): shutil.copytree(root/d, tree/d, ignore=shutil.ignore_patterns("__pycache__"))
    # the hooks overwrite sys.argv
    code = "import sys; from setuptools.build_meta import *; out = sys.argv[1]; build_sdist(out); build_wheel(out)"
    subprocess.run([sys.executable, "-c", code, out], cwd=tree, check=True, capture_output=True,
                   env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    with tarfile.open(sdist) as t: names = [n.partition("/")[2] for n in t.getnames()]
    return set(zipfile.ZipFile(wheel).namelist()), set(names)

def package_files():
    "What a user of the library needs on disk."
    return {f.relative_to(root).as_posix() for f in lib.rglob("*")
            if f.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(f.parts)}

def test_the_wheel_holds_every_file_of_the_package(built): assert not package_files() - built[0]

def test_the_wheel_holds_nothing_but_the_package_and_its_metadata(built):
    assert {n.partition("/")[0] for n in built[0]} <= {"prograd_viz", f"prograd_viz-{cfg()['version']}.dist-info"}

def test_the_sdist_holds_the_package_and_what_builds_and_tests_it(built):
    needed = {"settings.ini", "setup.py", "pyproject.toml", "constraints.txt", "environment.yml", "Makefile",
              "LICENSE", "NOTICE", "CHANGELOG.md", "tests/test_scaffold.py", "tools/readme.py"}
    assert not (package_files() | needed) - built[1]

def test_the_wheel_carries_licence_and_notice(built):
    assert {"LICENSE", "NOTICE"} <= {Path(n).name for n in built[0] if ".dist-info/" in n}


# -- environments and workflows ------------------------------------------------

def workflow(name):
    found = yaml.safe_load((root/f".github/workflows/{name}.yaml").read_text(encoding="utf-8"))
    return found["jobs"], (root/f".github/workflows/{name}.yaml").read_text(encoding="utf-8")

def test_the_workflow_runs_every_environment_of_the_matrix_with_its_python():
    jobs, _ = workflow("test")
    rows = {r["environment"]: r["python"] for r in jobs["environment"]["strategy"]["matrix"]["include"]}
    assert rows == {name: python for name, (_, python, _, _) in matrix.ENVIRONMENTS.items()}
    assert jobs["elsewhere"]["continue-on-error"] is True and "continue-on-error" not in jobs["environment"]

def test_a_release_needs_no_secret_and_publishes_what_was_checked():
    jobs, text = workflow("release")
    assert "secrets." not in text and jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["needs"] == "build"
    assert any("twine check" in s.get("run", "") for s in jobs["build"]["steps"])

def test_the_oldest_environment_is_every_lower_bound():
    bounds = dict(b.split("==") for b in matrix.lower_bounds())
    assert len(bounds) == len(requirements(["requirements"]))
    for req in requirements(["requirements"]):
        assert req.specifier.contains(bounds[req.name])
        below = re.sub(r"\d+$", lambda m: str(max(int(m[0]) - 1, 0)), bounds[req.name])
        assert below == bounds[req.name] or not req.specifier.contains(below), req

def test_a_package_that_pip_would_replace_is_named():
    wants = lambda *names: {"install": [{"metadata": {"name": n}} for n in names]}
    assert matrix.replaced(wants("open_clip_torch", "prograd_viz"), ["torch==2.11.0", "pandas==2.2.3"]) == []
    assert matrix.replaced(wants("Pandas", "torch"), ["torch==2.11.0", "pandas==2.2.3"]) == ["pandas", "torch"]

def test_every_environment_in_the_table_is_green_and_keeps_what_was_there():
    rows = json.loads((root/"figures/environments/environments.json").read_text(encoding="utf-8"))
    assert {r["environment"] for r in rows} <= set(matrix.ENVIRONMENTS) and rows
    assert all(r["passed"] > 500 and not r["failed"] and not r["replaced"] for r in rows)
    text = (root/"figures/environments/environments.md").read_text(encoding="utf-8")
    assert matrix.table(rows) in text

def test_make_env_refuses_python_3_10_with_one_line(tmp_path):
    for name in ("Makefile", "settings.ini", "setup.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(root/name, tmp_path)
    old = tmp_path/"python3.10"
    old.write_text('#!/bin/sh\ncase "$2" in *exit*) exit 1;; *print*) echo 3.10;; esac\n', encoding="utf-8")
    old.chmod(0o755)
    done = subprocess.run(["make", "env", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode and not (tmp_path/".venv").exists()
    assert said == [f"{old} is Python 3.10, prograd_viz needs 3.11 or newer: make PYTHON=/path/to/python3.11 env"]

def test_pip_is_told_which_python_the_package_needs():
    found = tomllib.loads((root/"pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert found == f">={cfg()['min_python']}" and not SpecifierSet(found).contains("3.10.13")

@pytest.mark.parametrize("page", ["README.md", "README.zh.md", "nbs/tutorials/colab.ipynb", "nbs/places.ipynb"])
def test_every_page_installs_from_the_address_of_settings_ini(page):
    text = (root/page).read_text(encoding="utf-8")
    address = f"https://github.com/{cfg()['user']}/{cfg()['repo']}"
    assert f"git+{address}" in text and set(re.findall(r"git\+(https://[\w./-]+)", text)) == {address}

def test_the_front_page_has_four_ways_to_install():
    rows = [line.split("|")[1].split(",")[0].strip()
            for line in (root/"README.md").read_text(encoding="utf-8").splitlines()
            if re.match(r"\| [\w ,]+ \| `(git clone|pip|conda|uv) ", line)]
    assert rows == ["a clone", "pip", "conda", "uv"]


# -- versions, targets, front page --------------------------------------------

def test_the_front_page_is_short_enough_to_be_read_to_its_end():
    words = [w for w in (root/"README.md").read_text(encoding="utf-8").split() if re.search(r"\w", w)]
    assert 500 < len(words) <= 1200

def test_the_version_is_the_same_everywhere():
    version = cfg()["version"]
    init = (lib/"__init__.py").read_text(encoding="utf-8")
    assert re.search(r'^__version__ = "(.+)"$', init, re.M)[1] == version
    assert f"\n## {version}\n" in (root/"CHANGELOG.md").read_text(encoding="utf-8")

def test_no_notebook_imports_from_a_higher_number_and_no_private_name_crosses():
    found, modules = arrows.notebooks(), {f.stem for f in (root / "prograd_viz").glob("[a-z]*.py")}
    assert found.keys() == modules and arrows.wrong(found) == []

@pytest.mark.parametrize("cell, exported, says", [
    ("from prograd_viz.high import f", False, "01_low.ipynb imports high, which has a higher number"),
    ("def g():\n    from prograd_viz import high", True, "01_low.ipynb imports high, which has a higher number"),
    ("import prograd_viz.base as b\nb._secret", True, "01_low.ipynb uses _secret, which is private to base"),
    ("from prograd_viz.base import _secret", False, "01_low.ipynb uses _secret, which is private to base"),
    ("from prograd_viz.same import f", True, "a circle: "),
    ("from prograd_viz.same import f\n%time f()", False, None),
])
def test_an_import_that_points_up_a_circle_and_a_private_name_are_found(cell, exported, says):
    sources = {"base": ("00_base.ipynb", []), "low": ("01_low.ipynb", [(arrows.python_of(cell), exported)]),
               "same": ("01_same.ipynb", [("from prograd_viz.low import f", True)]), "high": ("02_high.ipynb", [])}
    found = arrows.wrong(sources)
    assert len(found) == bool(says) and all(line.startswith(says) for line in found)

def test_every_mutant_has_a_line_to_break():
    found = {m.name: m.text().count(m.old) for m in mutants.read_mutants()}
    assert len(found) == len(mutants.read_mutants()) >= 100 and not {name: n for name, n in found.items() if n != 1}

def test_long_lines_and_long_bodies_are_found_but_not_in_what_nbdev_writes(tmp_path):
    names = "__all__ = [" + "'a', " * 30 + "\n    'b']\n"
    header = "# %% ../nbs/" + "x" * 120 + "\n"
    body = "".join(f"    x{i} = {i}\n" for i in range(41))
    path = tmp_path/"m.py"
    path.write_text(f'{names}{header}def f():\n    "Say"\n{body}y = "{"y" * 120}"\n', encoding="utf-8")
    assert check.long_lines(path) == [("line 47", "126 columns")]
    assert check.long_bodies(path) == [("line 4", "the body of f has 41 lines")]
    cells = [{"cell_type": "code", "id": "a1", "source": ["x = 1\n", "#" * 121]}]
    notebook = tmp_path/"n.ipynb"
    notebook.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert check.long_lines(notebook) == [("cell a1", "121 columns")]

def test_no_page_table_or_notebook_names_a_path_of_a_machine():
    kinds = ".ipynb", ".md", ".csv", ".json", ".html"
    texts = [f for place in ("nbs", "figures") for f in (root/place).rglob("*") if f.suffix in kinds]
    texts += [*root.glob("*.md")]
    path = re.compile(r"(?<![\w.:/])/(?:tmp|root|home|Users)/\w+")
    found = {f.name: path.findall(f.read_text(encoding="utf-8"))[:3] for f in texts if "checkpoints" not in str(f)}
    assert len(texts) > 80 and not {name: paths for name, paths in found.items() if paths}


def test_every_make_target_explains_itself():
    text = (root/"Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", text, re.M)[1].split()
    explained = re.findall(r"^([a-z-]+):.*## \S", text, re.M)
    assert sorted(phony) == sorted(explained)

def test_every_make_target_finds_the_script_it_starts():
    text = (root/"Makefile").read_text(encoding="utf-8")
    for script in re.findall(r"python (tools/\w+\.py)", text): assert (root/script).exists(), script
    for module in re.findall(r"-m (prograd_viz\.\w+)", text):
        assert (root/f"{module.replace('.', '/')}.py").exists(), module
    for entry in cfg()["console_scripts"].split():
        module, _, func = entry.partition("=")[2].partition(":")
        tree = ast.parse((root/f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        assert func in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, entry

def test_readme_links_and_pictures_are_there():
    found = links((root/"README.md").read_text(encoding="utf-8"))
    assert any(f.startswith("figures/") for f in found), "the README shows a picture"
    assert not [f for f in found if not (root/f).exists()]

@pytest.mark.parametrize("nb, md", [
    ("![a](../figures/x.png)", "![a](figures/x.png)"),
    ("[b](03_clip.ipynb#load)", "[b](nbs/03_clip.ipynb#load)"),
    ('<img src="../figures/x.png" width="9">', '<img src="figures/x.png" width="9">'),
    ("[c](https://a.b/c) [d](#e) [f](mailto:g@h.i)", "[c](https://a.b/c) [d](#e) [f](mailto:g@h.i)"),
    ("```\n[b](03_clip.ipynb)\n```", "```\n[b](03_clip.ipynb)\n```"),
])
def test_links_of_the_front_page_work_from_the_root(nb, md): assert relink(nb) == md

def test_directives_are_read_and_removed():
    assert directives("#| hide\n#|eval: False\nx = 1  #| no") == ({"hide": "", "eval": "false"}, "x = 1  #| no")
    long = "#| fig-alt: A dog\n#|   on Sand: outlined\n#| hide\nx = 1"
    assert directives(long) == ({"fig-alt": "A dog on Sand: outlined", "hide": ""}, "x = 1")
