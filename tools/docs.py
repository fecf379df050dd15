"""The documentation as a site of static pages: every notebook with its stored outputs, and the API from its docments.

    python tools/docs.py            # writes _docs/

Nothing is executed, and the pages ask no network for anything: formulas are MathML, fonts are the reader's own.
"""
import argparse
import re
import shutil
import sys
import tempfile
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.console import nocolor
from sphinx.util.docutils import docutils_namespace, patch_docutils

import api
from readme import bar, directives

root = Path(__file__).resolve().parent.parent

# Stories to read from the beginning to the end, in this order
TUTORIALS = ["paper_walkthrough", "explore", "maps", "sweeps"]
# Pages that answer "how do I ...", in this order; a tutorial that is named in neither list comes after them
HOW_TO = ["your_own_data", "real_clip", "scale", "colab"]
# Pages beside the notebooks, in the order of the sidebar
PLACES = ["nbs/places.ipynb"]
REFERENCE = ["nbs/glossary.ipynb", "prograd_viz/assets/MODEL_CARD.md", "CHANGELOG.md", "SECURITY.md"]
INSIDE = ["CONTRIBUTING.md"]
PAGES = [*PLACES, *REFERENCE, *INSIDE]
# What pages link to and readers download
FILES = ["LICENSE", "NOTICE", "CITATION.cff"]


# -- the pages, in a folder laid out as the checkout is, so that every relative link holds ----------

def tutorials():
    "Names of the tutorials"
    there = {f.stem for f in (root/"nbs/tutorials").glob("*.ipynb")}
    known = [*TUTORIALS, *HOW_TO]
    return [t for t in known if t in there] + sorted(there - set(known))


def chapters(): return [f"nbs/{f.stem}" for f in sorted((root/"nbs").glob("[0-9]*.ipynb"))]
def translations(): return [f"nbs/zh/{f.stem}" for f in sorted((root/"nbs/zh").glob("*.ipynb")) if f.stem != "index"]
def figure_folders(): return sorted(f.name for f in (root/"figures").iterdir() if f.is_dir())


def sections()->dict: # Caption -> pages
    "The sidebar"
    there = lambda *names: [re.sub(r"\.(md|ipynb)$", "", n) for n in names if (root/n).exists()]
    measured = ["nbs/tutorials/evidence", *(f"figures/{f}/index" for f in figure_folders())]
    pages = {t: f"nbs/tutorials/{t}" for t in tutorials()}
    stories = [page for t, page in pages.items() if t in TUTORIALS]
    how_to = [page for t, page in pages.items() if t not in TUTORIALS and page not in measured]
    return {
        "Tutorials": stories,
        "How to": how_to + there(*PLACES),
        "Reference": ["api/index", *there(*REFERENCE)],
        "Measurements": there("figures/README.md") + measured,
        "中文": there("README.zh.md") + translations(),
        "Inside: the library, notebook by notebook": there(*INSIDE) + chapters(),
    }


def toctree(pages, caption=""):
    "A table of contents, for the sidebar alone"
    options = [":hidden:", ":maxdepth: 1", f":caption: {caption}"][:3 if caption else 2]
    return "\n".join(["```{toctree}", *options, "", *pages, "```", ""])


def write_pages(
    to:Path, # An empty folder
):
    "All sources of the site"
    for f in ["README.md", "README.zh.md", *PAGES, *FILES]:
        if (root/f).exists() and not f.endswith(".ipynb"): copy(root/f, to/f)
    shutil.copytree(root/"figures", to/"figures")
    for name in figure_folders(): write_figures(to/"figures"/name)
    beside = [p.removesuffix(".ipynb") for p in PAGES if p.endswith(".ipynb") and (root/p).exists()]
    for name in [*chapters(), *translations(), *(f"nbs/tutorials/{t}" for t in tutorials()), *beside]:
        write_notebook(root/f"{name}.ipynb", to/f"{name}.ipynb")
    api.write(to/"api")
    contents = "\n".join(toctree(pages, caption) for caption, pages in sections().items() if pages)
    for page in to.rglob("*.md"): page.write_text(relink(page, to), encoding="utf-8")
    front = (to/"README.md").read_text(encoding="utf-8")
    (to/"README.md").unlink()
    (to/"index.md").write_text(re.sub(MOVING, DEMO, front) + "\n" + contents, encoding="utf-8")


# The recording on the front page, for which the site has the thing itself
MOVING = r"!\[[^]]*\]\(figures/explorer/explorer\.webp\)"
DEMO = """```{raw} html
<iframe class="demo" src="demo.html" title="The explorer on a training in the pocket world" loading="lazy"></iframe>
```"""


def disagreeing_first(
    runs, # The training
    data, # Its `ExplorerData`
): # The same
    "Images on which the methods disagree at the end come first: one that all of them get wrong shows less"
    text = np.stack([runs.text(key) for key in runs.shown()])
    predicted, = data.views(text, "predicted")["predicted"]  # [methods, images]
    order = np.argsort((predicted == predicted[0]).all(0), kind="stable")
    arrays = {name: x[order] for name, x in vars(data).items() if isinstance(x, np.ndarray)}
    return replace(data, **arrays, names=[data.names[b] for b in order])


def write_demo(
    path:Path, # Of the page
):
    "The explorer of the training in figures/app, live"
    from prograd_viz.clip import load_clip
    from prograd_viz.landscape import landscape
    from prograd_viz.report import save_report
    from prograd_viz.runs import load_runs
    from prograd_viz.screen import ExplorerData
    from prograd_viz.tasks import few_shot
    app = root/"figures"/"app"
    task = few_shot("pocket", shots=8, seed=1, test_per_class=10)
    runs = load_runs(app, load_clip("pocket"), task)
    land = landscape(runs, size=21, progress=False)
    data = disagreeing_first(runs, ExplorerData.load(app/"explorer.safetensors"))
    save_report(runs, path, data=data, land=land)


def copy(a, b):
    b.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(a, b)


def write_figures(
    folder:Path, # Copied from figures/
):
    "A page for a folder of measurements: its texts as pages, its tables to download, its pictures beside their names"
    texts, tables = sorted(folder.glob("*.md")), sorted(folder.glob("*.csv"))
    for f in texts:
        text = f.read_text(encoding="utf-8")
        if not text.startswith("# "): f.write_text(f"# {folder.name}/{f.stem}\n\n{text}", encoding="utf-8")
    listed = [f"- [{f.stem}]({f.name})" for f in texts] + [f"- [{f.name}]({f.name})" for f in tables]
    contents = toctree([f.stem for f in texts]) if texts else ""
    (folder/"index.md").write_text("\n".join([f"# {folder.name}", "", *listed, "", contents]), encoding="utf-8")


def relink(
    page:Path, # A markdown page
    top:Path, # Of the sources
    text:str=None, # Instead of what is in it
)->str:
    "Links to the front page's sources and to folders go to the pages made of them"
    front, chinese = {(top/f).resolve() for f in ("README.md", "nbs/index.ipynb")}, (top/"nbs/zh/index.ipynb").resolve()

    def fix(m):
        path, hash_, part = m[2].partition("#")
        if not path or re.match(r"[a-z][a-z0-9+.-]*:", path, re.I): return m[0]
        target = (page.parent/path).resolve()
        up = "../" * len(page.parent.resolve().relative_to(top.resolve()).parts)
        if target in front: return f"{m[1]}{up}index.md{hash_}{part}"
        if target == chinese: return f"{m[1]}{up}README.zh.md{hash_}{part}"
        if target.is_dir(): return f'{m[1]}{path.rstrip("/")}/index.md'
        return m[0]

    return re.sub(r"(\]\()([^)\s]+)", fix, page.read_text(encoding="utf-8") if text is None else text)


# -- notebooks --------------------------------------------------------------------

def write_notebook(a, b):
    "A notebook as its page shows it"
    nb = nbformat.read(a, as_version=4)
    cells, drawn, top = [], docstrings(), Path(str(b)[:-len(str(a.relative_to(root)))])
    for c in nb.cells:
        if c.cell_type == "markdown":
            c.source = relink(b, top, c.source)
            cells.append(c)
        elif c.cell_type == "code": cells += shown(c, drawn, a.relative_to(root))
    nb.cells = cells
    nb.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    b.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, b)


def shown(c, drawn, notebook):
    "A code cell as its page shows it: a list, empty for a hidden one, with a target for links before an exported one"
    flags, c.source = directives(c.source)
    if flags.keys() & {"hide", "default_exp"} or flags.get("include") == "false" or not c.source: return []
    if flags.get("echo") == "false": c.metadata["tags"] = ["remove-input"]
    c.outputs = [o for o in map(static, c.outputs) if o]
    kinds = [kind for o in c.outputs for kind in o.get("data", {})]
    if any(kind.startswith("image/") for kind in kinds):
        alt = flags.get("fig-alt") or alternative(c.source, drawn)
        if not alt:
            raise SystemExit(f"{notebook}, cell {c.id}: a picture has no description; begin with `#| fig-alt: ...`")
        c.metadata["mystnb"] = {"image": {"alt": alt}}
    if "export" not in flags: return [c]
    c.metadata["tags"] = [*c.metadata.get("tags", []), "exported"]
    return [nbformat.v4.new_markdown_cell(f"(cell-{c.id})="), c]


def static(out):
    "An output that needs no kernel, or None"
    if out.output_type == "stream": return out if out.name == "stdout" else None
    data = out.get("data")
    if data is None: return None
    data.pop("application/vnd.jupyter.widget-view+json", None)
    return out if data and not bar(data.get("text/plain", "")) else None


def docstrings(
)->dict: # Name of a function that draws -> the first line of its docstring
    "Descriptions of the pictures that the library draws"
    defined = [pair for m in api.modules() for pair in m.defined.items()]
    draws = [(n, node) for n, node in defined if n.startswith("plot_") or n == "contact_sheet"]
    return {n: api.ast.get_docstring(node).split("\n")[0] for n, node in draws}


def alternative(
    source:str, # A code cell
    drawn:dict, # See `docstrings`
)->str:
    "What a cell's pictures show, in the words of the functions that draw them; empty if they are not the library's"
    return "; ".join(dict.fromkeys(drawn[n] for n in re.findall(r"\b(\w+)\(", source) if n in drawn))


# -- Sphinx -----------------------------------------------------------------------

def as_mathml(tex, block):
    "A formula as MathML, which browsers draw by themselves"
    tex = re.sub(r"\\([bB]ig{1,2})(?![a-zA-Z])", r"\\\1l", tex.strip())
    tex = tex.replace("\\dots", "\\ldots").replace("\\lldots", "\\ldots")
    # a bar between two terms is as tall as a letter
    return re.sub(r"<mo([^>]*)>‖", r'<mo\1 stretchy="false">‖', tex2mathml(tex, as_block=block))


def visit_math(self, node):
    self.body.append(as_mathml(node.astext(), False))
    raise nodes.SkipNode


def visit_math_block(self, node):
    self.body.append(f'<div class="formula" role="math">{as_mathml(node.astext(), True)}</div>')
    raise nodes.SkipNode


class LinkNames(SphinxPostTransform):
    "Where a text says `plot_cosine(runs)`, it links to what the reference says of plot_cosine"
    default_priority = 700

    def run(self, **kwargs):
        for node in list(self.document.findall(nodes.literal)):
            m = re.match(r"([A-Za-z_][\w.]*)(\(.*\))?$", node.astext(), re.S)
            page, anchor = self.env.prograd_names.get(m[1] if m else "", ("", ""))
            if not page or page == self.env.docname or self.linked(node): continue
            uri = self.app.builder.get_relative_uri(self.env.docname, page)
            link = {"refuri": f"{uri}#{anchor}", "internal": True, "classes": ["api"]}
            node.replace_self(nodes.reference("", "", node.deepcopy(), **link))

    @staticmethod
    def linked(node):
        while node := node.parent:
            if isinstance(node, (nodes.reference, nodes.title)): return True
        return False


def setup(app):
    "This file as Sphinx's extension"
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.add_post_transform(LinkNames)
    app.connect("env-before-read-docs", lambda app, env, docs: setattr(env, "prograd_names", api.addresses()))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


SPHINX = {  # what would be in conf.py
    "extensions": ["myst_nb", "docs"], "exclude_patterns": [], "language": "en",
    "highlight_language": "python",
    "nb_execution_mode": "off", "nb_merge_streams": True, "nb_ipywidgets_js": {},
    "nb_render_markdown_format": "myst",  # a table that a cell displays is a table
    "myst_enable_extensions": ["dollarmath"], "myst_heading_anchors": 4, "myst_update_mathjax": False,
    "html_math_renderer": "mathml", "html_theme": "furo", "html_theme_options": {"top_of_page_buttons": []},
    "html_static_path": [str(root/"tools/site")], "html_css_files": ["site.css"],
    "html_js_files": [("site.js", {"defer": "defer"})],
    "html_copy_source": False, "html_show_sphinx": False,
    "html_show_search_summary": False,  # a page on a disk may not fetch its neighbours
    "python_maximum_signature_line_length": 88, "add_module_names": False,
    "toc_object_entries": True, "toc_object_entries_show_parents": "hide",
}


def settings():
    "Sphinx's settings, with the names and the version of settings.ini"
    cfg = ConfigParser()
    cfg.read(root/"settings.ini", encoding="utf-8")
    d = cfg["DEFAULT"]
    facts = {key: d[key] for key in ("author", "copyright", "version")}
    title = {"project": d["title"], "html_title": f"{d['title']} {d['version']}"}
    return SPHINX | facts | title | {"release": d["version"]}


def build(
    out:Path, # Replaced
    strict:bool=True, # A warning is an error
)->int: # 0 is good
    "Build the site"
    sys.path.insert(0, str(root/"tools"))
    if not sys.stderr.isatty(): nocolor()
    with tempfile.TemporaryDirectory() as tmp, patch_docutils(), docutils_namespace():
        src = Path(tmp)/"src"
        src.mkdir()
        write_pages(src)
        site = Path(tmp)/"site"
        app = Sphinx(src, None, site, Path(tmp)/"doctrees", "html", settings(), status=None, warning=sys.stderr,
                     freshenv=True, warningiserror=strict, parallel=2)
        app.build()
        if app.statuscode: return app.statuscode
        shutil.rmtree(out, ignore_errors=True)
        for f in ".buildinfo", "objects.inv": (site/f).unlink(missing_ok=True)
        shutil.copytree(site, out)
        write_demo(out/"demo.html")
    return 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=root/"_docs", help="folder to write to (default: _docs)")
    p.add_argument("--lenient", action="store_true", help="do not stop at a warning")
    a = p.parse_args()
    if code := build(a.out, not a.lenient): raise SystemExit(code)
    print(f"open {a.out / 'index.html'}")


if __name__ == "__main__": main()
