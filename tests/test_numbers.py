"""Numbers in texts are what their files say.

tools/fill.py writes the marked ones; tables come from cells of the front page, or from commands. Of the rest, a number
with a decimal point or a percent sign is in its notebook's own code or outputs, or it is in TYPED.
"""
import inspect
import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

import difficulty
import evidence
import fill
import headline
import readme
from prograd_viz.clip import load_clip
from prograd_viz.pocket import STYLES
from prograd_viz.pretrain import _card_text
from prograd_viz.tasks import few_shot, pocket_task
from prograd_viz.training import train

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "figures"
TABLES = {page: nbformat.read(ROOT / page, as_version=4)  # those with tables from files
          for page in (*readme.PAGES.values(), "nbs/tutorials/evidence.ipynb", "nbs/zh/evidence.ipynb")}


# -- marked numbers ----------------------------------------------------------------------------------

def test_no_number_is_stale():
    assert fill.stale() == []
    assert sum(len(fill.MARK.findall(f.read_text("utf-8"))) for f in fill.texts()) > 80


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "A text with a marked number and the file behind it, as a checkout of their own"
    (tmp_path / "figures/evidence").mkdir(parents=True)
    (tmp_path / "nbs").mkdir()
    shutil.copy(FIGURES / "README.md", tmp_path / "figures")
    shutil.copy(FIGURES / "evidence/differences.csv", tmp_path / "figures/evidence")
    monkeypatch.setattr(fill, "root", tmp_path)
    fill.rows.cache_clear()
    yield tmp_path
    fill.rows.cache_clear()


def test_a_changed_file_changes_the_text_and_a_stale_number_is_refused(checkout, monkeypatch):
    text, source = checkout / "TEXT.md", checkout / "figures/evidence/differences.csv"
    text.write_text("Ahead in 19<!--ahead acc_shifted-->, up by +0.267 ± 0.086<!--gain acc_shifted-->: 19.", "utf-8")
    assert fill.stale() == []
    table = pd.read_csv(source)
    table.loc[table["column"] == "acc_shifted", ["mean", "decided"]] = 0.5, True
    table.to_csv(source, index=False)
    fill.rows.cache_clear()
    assert fill.stale() == [("TEXT.md", "19<!--ahead acc_shifted--> should be 30"),
                            ("TEXT.md", "+0.267 ± 0.086<!--gain acc_shifted--> should be +0.500 ± 0.086")]
    monkeypatch.setattr("sys.argv", ["fill.py"])
    fill.main()
    written = "Ahead in 30<!--ahead acc_shifted-->, up by +0.500 ± 0.086<!--gain acc_shifted-->: 19."
    assert text.read_text("utf-8") == written and fill.stale() == []


def test_a_sentence_that_no_longer_holds_is_refused(checkout):
    with pytest.raises(ValueError, match="ProGrad is not ahead in all settings of 4 shots or more"):
        fill.filled("in all 9<!--wins unified 4-->")
    with pytest.raises(ValueError, match="no number is called 'won'; there are: chosen"):
        fill.filled("in 9<!--won acc_new-->")
    with pytest.raises(ValueError, match="does not compare ProGrad with 'CoOp' in 'acc_nw'"):
        fill.filled("in 9<!--ahead acc_nw-->")


def test_marks_are_not_in_the_readme():
    for page in readme.PAGES: assert not fill.MARK.search((ROOT / page).read_text("utf-8"))


# -- numbers that the code holds ---------------------------------------------------------------------

def default(function, argument): return inspect.signature(function).parameters[argument].default


def test_the_default_task_is_the_screened_setting_with_the_clearest_gain():
    ways = set(fill.rows("difficulty/difficulty")["way"])
    assert float(fill.chosen("size")) == default(pocket_task, "size") and len(ways) == 6
    for way in ways - {"size"}:
        assert default(pocket_task, way) == 0
        with pytest.raises(ValueError, match="the clearest gain is by size"): fill.chosen(way)


def test_the_default_style_test_has_the_three_styles_that_are_recognised_best():
    found = fill.rows("difficulty/styles").set_index("style")["accuracy"].drop(STYLES[0])
    assert set(default(pocket_task, "styles")) == set(found.nlargest(3).index) and len(found) == len(STYLES) - 1


def test_what_the_evidence_says_of_defaults_is_so():
    text = "\n".join(cell.source for cell in TABLES["nbs/tutorials/evidence.ipynb"].cells)
    classes = few_shot("pocket", shots=1, seed=1, test_per_class=1).classes
    assert f"setting below ({default(pocket_task, 'shots')} shots" in text and f"Each of {len(classes)} classes" in text
    assert f"learn at a rate of {evidence.CONTEXTS['class-specific']['lr']:g}; unified ones" in text
    assert f"the template and learn at {default(train, 'lr'):g}." in text


# -- tables ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("page", TABLES)
def test_tables_of_a_page_are_what_their_files_give(page, monkeypatch):
    "Its hidden cells, run again"
    monkeypatch.chdir((ROOT / page).parent)
    names, shown = {}, []
    for cell in TABLES[page].cells:
        if cell.cell_type != "code" or not cell.source.startswith("#| echo: false"): continue
        *before, last = cell.source.rpartition("\nMarkdown(")
        exec(before[0], names)
        shown.append((eval("Markdown(" + last, names).data.strip(), cell.outputs[0].data["text/markdown"].strip()))
    assert len(shown) == (3 if "evidence" in page else 2)
    for now, stored in shown: assert now == stored


def test_the_table_of_results_follows_from_its_csv():
    table = pd.read_csv(FIGURES / "headline/headline.csv")
    seeds = sorted(table["seed"].unique())
    assert (seeds[0], seeds[-1], len(seeds)) == (headline.SEEDS[0], headline.SEEDS[-1], len(headline.SEEDS))
    read = pd.read_csv(FIGURES / "headline/readings.csv")
    gap = table.pivot(index="seed", columns="method", values="matched_ce")
    assert np.allclose(read[read["every"] == 1].set_index("seed")["matched_ce"], gap["ProGrad"] - gap["CoOp"])
    assert headline.headline_md(table, read) == (FIGURES / "headline/headline.md").read_text(encoding="utf-8")


def test_the_page_of_difficulty_follows_from_its_tables():
    written = (FIGURES / "difficulty/difficulty.md").read_text(encoding="utf-8")
    tables = [fill.rows(f"difficulty/{name}") for name in ("difficulty", "again", "styles")]
    assert difficulty.report(*tables) == written
    for table, seeds in zip(tables, (difficulty.SEEDS, difficulty.AGAIN)):
        assert set(table["way"]) == set(difficulty.WAYS) and set(table["seed"]) == set(seeds)


def test_the_table_of_neighbours_follows_from_its_csv():
    written = (FIGURES / "headline/neighbours.md").read_text(encoding="utf-8")
    assert headline.neighbours_md(pd.read_csv(FIGURES / "headline/neighbours.csv")) == written


def test_the_model_card_follows_from_its_json():
    assets = ROOT / "prograd_viz/assets"
    card = json.loads((assets / "pocket_card.json").read_text())
    assert _card_text(card) == (assets / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{float(load_clip('pocket').logit_scale):.1f}" == f"{card['exam']['logit_scale']:.1f}"


# -- the rest ----------------------------------------------------------------------------------------

PAGES = [ROOT / "nbs/index.ipynb", *sorted((ROOT / "nbs/tutorials").glob("*.ipynb"))]  # others have the same numbers
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?(?![\w]*\d)%?")
VERSIONS = dict.fromkeys(("3.10", "3.11", "3.12", "3.13"), "a version of Python")
SAID = dict.fromkeys(("12.0", "15.2", "63.4"), "accuracies that an issue of CoOp's repository reports")
TYPED = {"95%": "a convention", "2.0": "of Apache-2.0", "0.02": "see above", "0.002": "see above", **VERSIONS, **SAID,
         "3.5": "inches of a column", "2.6": "a version of Lightning", "5.24": "a version of transformers"}


def plain(number): return f"{float(re.sub('[%,]', '', number)):g}"


def prose_of(text):
    "Markdown without code, formulas, addresses, comments and marked numbers"
    text = re.sub(r"<!--.*?-->|```.*?```|\$\$.*?\$\$", " ", fill.MARK.sub(" ", text), flags=re.S)
    return re.sub(r"(?m)^    .*$|`[^`\n]*`|\$[^$\n]+\$|\]\([^)]*\)", " ", text)


def unsupported(nb):
    "Numbers in a notebook's prose that are neither marked, nor in its outputs, nor in its code, nor typed"
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    outputs = [out.get("text") or out.get("data", {}) for cell in code for out in cell.outputs]
    texts = [out if isinstance(out, str) else "".join(out[k] for k in out if k.startswith("text/")) for out in outputs]
    have = {plain(n) for text in (*texts, *(cell.source for cell in code)) for n in NUMBER.findall(text)
            if n.count(".") < 2}
    prose = "\n".join(prose_of(cell.source) for cell in nb.cells if cell.cell_type == "markdown")
    said = [n for n in NUMBER.findall(prose) if re.search("[.%]", n) and n not in TYPED]
    return [n for n in said if n.count(".") > 1 or plain(n) not in have]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_every_other_number_is_shown_where_it_is_said(path):
    nb = nbformat.read(path, as_version=4)
    assert unsupported(nb) == []
    nb.cells.append(nbformat.v4.new_markdown_cell("CoOp reaches 0.123457."))
    assert unsupported(nb) == ["0.123457"]
