"""The Chinese edition matches the English one: headings, code, outputs, pictures, links and numbers, cell by cell.

After a change of nbs/index.ipynb: change the same cell of nbs/zh/index.ipynb, run both, `make readme`.
"""
import posixpath
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest

import readme

ROOT = Path(__file__).resolve().parent.parent


PAIRS = {"nbs/index.ipynb": "nbs/zh/index.ipynb",
         "nbs/tutorials/evidence.ipynb": "nbs/zh/evidence.ipynb",
         "nbs/tutorials/paper_walkthrough.ipynb": "nbs/zh/paper_walkthrough.ipynb"}
TWINS = PAIRS | {"README.md": "README.zh.md"}
ALIKE = {b: a for a, b in TWINS.items()}  # a link to a Chinese page stands for the English one
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def cells(name): return nbformat.read(ROOT / name, as_version=4).cells


def target(link, name):
    "Where a relative link leads, from the root, the language forgotten"
    if re.match(r"[a-z]+:|#", link): return link
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    return ALIKE.get(path, path)


def code_of(cell):
    "Code without the words for those who cannot see its picture, and without the depth of its folder"
    return re.sub(r'"(\.\./)+', '"../', re.sub(r"(?m)^#\| fig-alt: .*\n(#\|  .*\n)*", "", cell.source))


def shape_of(cell, name):
    "What must be the same in both languages of a markdown cell"
    fences = re.findall(r"```.*?```", cell.source, re.S)
    prose = re.sub(r"```.*?```", "", cell.source, flags=re.S)
    links = [(bool(picture), target(link, name)) for picture, link in LINK.findall(prose)]
    # the languages point to each other, and the Chinese one mentions its twin once more
    links = Counter(link for link in links if link[1] not in {*TWINS, *ALIKE})
    words = re.sub(r"\]\([^)]*\)|\$\$.*?\$\$|\$[^$\n]+\$", " ", prose, flags=re.S)
    return {"headings": [len(h) for h in re.findall(r"(?m)^(#+) ", prose)], "code": fences, "links": links,
            "formulas": Counter(re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", prose, re.S)),
            "numbers": Counter(NUMBER.findall(words)), "names": Counter(re.findall(r"`[^`\n]+`", prose)),
            "rows": len(re.findall(r"(?m)^\|", prose))}


def differences(one, other, a, b):
    "What two editions do not share"
    if [c.cell_type for c in one] != [c.cell_type for c in other]:
        return [f"{a} has {len(one)} cells and {b} {len(other)}, or in another order"]
    wrong = []
    for i, (x, y) in enumerate(zip(one, other)):
        if x.cell_type == "code":
            if code_of(x) != code_of(y): wrong.append(f"cell {i}: the code differs")
            if [o.get("text", o.get("data")) for o in x.outputs] != [o.get("text", o.get("data")) for o in y.outputs]:
                wrong.append(f"cell {i}: the outputs differ")
        else:
            left, right = shape_of(x, a), shape_of(y, b)
            wrong += [f"cell {i}, {what}: {left[what]} in {a}, {right[what]} in {b}" for what in left
                      if left[what] != right[what]]
    return wrong


@pytest.mark.parametrize("a, b", PAIRS.items())
def test_both_editions_say_the_same(a, b): assert not differences(cells(a), cells(b), a, b)


def test_the_front_pages_have_the_same_tables_and_pictures():
    pages = [(ROOT / f).read_text(encoding="utf-8") for f in readme.PAGES]
    rows = [[NUMBER.findall(re.sub(r"\]\([^)]*\)|\[[^]]*\]", "", line)) for line in p.split("\n")
             if line.startswith("|")] for p in pages]
    assert rows[0] == rows[1] and sum(map(len, rows[0])) > 60
    pictures = [re.findall(r"!\[[^\]]+\]\(([^)]+)\)", p) for p in pages]
    assert pictures[0] == pictures[1] and len(pictures[0]) >= 4


def test_the_editions_lead_to_each_other():
    english, chinese = ((ROOT / f).read_text(encoding="utf-8") for f in readme.PAGES)
    assert "(README.zh.md)" in english and "(README.md)" in chinese


def test_the_chinese_edition_is_chinese():
    for name in PAIRS.values():
        prose = "".join(LINK.sub("", re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$", "", c.source, flags=re.S))
                        for c in cells(name) if c.cell_type == "markdown")
        assert len(re.findall(r"[\u4e00-\u9fff]", prose)) > 0.5 * len(re.findall(r"[A-Za-z]", prose)), name


@pytest.mark.parametrize("old, new", [("## ", "### "), ("12", "13"), ("paths.png", "lambda.png"),
                                      ("`open_clip`", "`clip`"), ("$G_d$", "$G_g$")])
def test_a_change_of_a_text_in_one_edition_is_noticed(old, new):
    a, b = "nbs/index.ipynb", PAIRS["nbs/index.ipynb"]
    other = cells(b)
    cell = next(c for c in other if c.cell_type == "markdown" and old in c.source)
    cell.source = cell.source.replace(old, new)
    assert differences(cells(a), other, a, b)


def test_a_change_of_code_or_of_an_output_in_one_edition_is_noticed():
    a, b = "nbs/index.ipynb", PAIRS["nbs/index.ipynb"]
    for spoil in (lambda c: c.update(source=c.source + "\npass"), lambda c: c.update(outputs=[])):
        other = cells(b)
        spoil(next(c for c in other if c.cell_type == "code" and c.outputs))
        assert differences(cells(a), other, a, b)
