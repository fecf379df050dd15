"The site of `make docs`: complete, unbroken, readable without a network and without seeing its pictures."
import importlib
import inspect
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import pytest

import api
import docs
import lab

ROOT = Path(__file__).resolve().parent.parent


VISIBLE = [m for m in api.modules() if m.name != "all"]


class Page(HTMLParser):
    "What a page points to, what can be pointed to in it, and its pictures"
    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.ids, self.alts, self.text = [], [], set(), [], path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        at = dict(attrs)
        if "id" in at: self.ids.add(at["id"])
        if tag == "a" and "href" in at: self.links.append(at["href"])
        if tag == "link" and at.get("rel") not in ("index", "search", "next", "prev", "canonical"):
            self.loads.append(at["href"])
        if tag in ("script", "img", "iframe", "source", "video", "audio") and "src" in at: self.loads.append(at["src"])
        if tag == "img": self.alts.append((at["src"], at.get("alt") or ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The site, built once, warnings being errors; {path from its top: Page} and its top"
    out = tmp_path_factory.mktemp("docs") / "site"
    assert docs.build(out) == 0
    return {f.relative_to(out).as_posix(): Page(f) for f in out.rglob("*.html")}, out


def test_every_link_and_anchor_leads_somewhere(site):
    pages, top = site
    broken = []
    for name, page in pages.items():
        for link in {*page.links, *page.loads}:
            path, anchor = urldefrag(unquote(link))
            if re.match(r"[a-z][a-z0-9+.-]*:", path): continue
            target = os.path.normpath(os.path.join(os.path.dirname(name), path.partition("?")[0])) if path else name
            lost = anchor and target in pages and anchor not in pages[target].ids
            if lost or not (top / target).is_file(): broken.append((name, link))
    assert sum(len(p.links) for p in pages.values()) > 2000 and not broken


def test_every_picture_says_what_it_shows(site):
    alts = [(name, src, alt) for name, page in site[0].items() for src, alt in page.alts]
    assert len(alts) > 30 and not [a for a in alts if len(a[2]) < 12 or a[2].endswith(".png")]


def test_nothing_is_loaded_from_elsewhere(site):
    pages, top = site
    loads = [(name, link) for name, page in pages.items() for link in page.loads]
    assert not [(name, link) for name, link in loads if re.match(r"(https?:)?//", link)]
    styles = "".join(f.read_text(encoding="utf-8") for f in top.rglob("*.css"))
    assert "@font-face" not in styles and not re.findall(r"url\([\"']?(?:https?:)?//|@import", styles)


def test_every_notebook_has_its_page_and_its_place_in_the_sidebar(site):
    pages, _ = site
    shown = [f for f in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in f.parts
             and f.stem not in ("index", "app")]
    for f in shown:
        page = f.relative_to(ROOT).with_suffix(".html").as_posix()
        assert page in pages, page
        assert page in pages["index.html"].links, f"{page} is missing in the sidebar"


@pytest.mark.parametrize("m", VISIBLE, ids=lambda m: m.name)
def test_every_public_name_is_described_where_it_is_promised(site, m):
    page = site[0][f"api/{m.name}.html"]
    for name in m.defined: assert f"prograd_viz.{m.name}.{name}" in page.ids, name
    homes = {Path(nb).stem for nb, _ in map(m.cell, m.defined.values())}
    for home in homes: assert any(link.startswith(f"../nbs/{home}.html#cell-") for link in page.links), home


def test_the_reference_says_what_python_says():
    "Parameters read from the source are those of the functions themselves, and each has its comment"
    for m in VISIBLE:
        module = importlib.import_module(f"prograd_viz.{m.name}")
        for name, node in m.defined.items():
            if not isinstance(node, api.ast.FunctionDef): continue
            rows = api.parameters(m, node)
            assert [r[0].lstrip("*") for r in rows] == list(inspect.signature(getattr(module, name)).parameters), name
    train = next(m for m in VISIBLE if m.name == "training")
    rows = {name: (kind, default, said) for name, kind, default, said in api.parameters(train, train.defined["train"])}
    assert rows["clip"] == ("Clip", "", "The frozen model")
    assert rows["lr"][:2] == ("float", "0.002")
    assert all(said for _, _, said in rows.values())
    assert api.returned(train, train.defined["epoch_batches"])[1].startswith("Arrays of indices")


def test_formulas_are_mathml(site):
    "As many as the notebooks have, none left as TeX"
    formula = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$[^$\n]+?\$", re.S)
    pages, checked = site[0], 0
    for f in sorted((ROOT / "nbs").rglob("*.ipynb")):
        page = pages.get(f.relative_to(ROOT).with_suffix(".html").as_posix())
        if page is None or f.parent.name == ".ipynb_checkpoints": continue
        prose = [re.sub(r"```.*?```|`[^`\n]*`", "", c.source, flags=re.S) for c in nbformat.read(f, as_version=4).cells
                 if c.cell_type == "markdown"]
        wanted = sum(len(formula.findall(p)) for p in prose)
        assert page.text.count("<math") >= wanted, f.name
        checked += wanted
    assert checked > 60
    assert "\\frac" not in re.sub(r"<pre>.*?</pre>|<code.*?</code>", "", pages["nbs/21_gradients.html"].text,
                                  flags=re.S)


def test_tables_that_cells_display_are_tables(site):
    "No page shows the bars and dashes of markdown"
    raw = re.compile(r"\|\s*:?(-{2,}|[\u2013\u2014]+-?):?\s*\|")
    code = re.compile(r"<pre>.*?</pre>|<code.*?</code>", re.S)
    assert not [name for name, page in site[0].items() if raw.search(code.sub("", page.text))]
    assert site[0]["nbs/tutorials/evidence.html"].text.count("<table") >= 3


def test_no_page_shows_a_progress_bar_that_never_moves(site):
    assert not [name for name, page in site[0].items() if re.search(r" 0%\| +\| 0/\d", page.text)]


def test_names_in_the_text_lead_to_the_reference(site):
    pages, target = site[0], "api/plots.html#prograd_viz.plots.plot_cosine"
    notebooks = [page for name, page in pages.items() if name.startswith("nbs/")]
    assert target in pages["index.html"].links or any(f"../{target}" in page.links for page in notebooks)


def test_a_picture_without_words_stops_the_build(tmp_path):
    picture = nbformat.v4.new_output("display_data", {"image/png": "", "text/plain": "<Figure>"})
    cell = nbformat.v4.new_code_cell("fig", outputs=[picture])
    path = ROOT / "nbs" / "21_gradients.ipynb"
    mute = tmp_path / path.name
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), mute)
    old, docs.root = docs.root, tmp_path
    try:
        with pytest.raises(SystemExit, match="fig-alt"): docs.write_notebook(mute, tmp_path / "out.ipynb")
    finally: docs.root = old


@pytest.mark.skipif(not lab.CHROMIUM and not os.environ.get("CI"),
                    reason="NO BROWSER: install chromium to test the site in one")
def test_the_site_works_from_disk_with_no_network(site, browser):
    "Every page opens without an error and without a request; formulas have a size; the search finds"
    pages, top = site
    page = lab.watched(browser, offline=True)
    page.on("request", lambda r: page.wrong.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    for name in pages:
        page.goto((top / name).as_uri())
        broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        assert not broken and page.title(), name
    page.goto((top / "nbs/21_gradients.html").as_uri())
    sizes = page.evaluate("[...document.querySelectorAll('math')].map(m => [m.getBoundingClientRect().width, "
                          "m.getBoundingClientRect().height])")
    assert len(sizes) > 10 and all(w > 4 and h > 4 for w, h in sizes)
    bar, letter = page.evaluate("[...document.querySelectorAll('mfrac')].slice(0, 1).flatMap(f => "
                                "[f.getBoundingClientRect().height, f.children[0].getBoundingClientRect().height])")
    assert bar > 1.8 * letter, "a fraction stands on two lines"
    page.goto((top / "search.html").as_uri() + "?q=gradient")
    page.locator("#search-results li a").first.wait_for()
    assert page.locator("#search-results li").count() > 3
    assert not page.wrong
