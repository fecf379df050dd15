"Every picture that a text shows has a command that makes it, and what can be drawn from tables alone is drawn."
import re
from pathlib import Path

import nbformat
import pytest
from PIL import Image

import figures

ROOT = Path(__file__).resolve().parent.parent


TEXTS = {f: f.read_text(encoding="utf-8") for f in [ROOT / "README.md", *ROOT.glob("README.*.md")]}
TEXTS |= {f: "\n".join(c.source for c in nbformat.read(f, as_version=4).cells if c.cell_type == "markdown")
          for f in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in f.parts}


def test_every_picture_that_a_text_shows_names_its_command():
    shown = {m for text in TEXTS.values() for m in re.findall(r"figures/([\w./-]+\.png)", text)}
    assert len(shown) >= 5 and not shown - set(figures.commands())


def test_every_picture_in_the_folder_is_in_the_table_and_every_row_is_in_the_folder():
    there = {f.relative_to(ROOT / "figures").as_posix() for f in (ROOT / "figures").rglob("*.png")}
    assert there == set(figures.commands())


def test_every_command_exists():
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in set(figures.commands().values()):
        if command.startswith("make "): assert re.search(rf"^{command.split()[1]}: .*## ", make, re.M), command
        else: assert any((ROOT / word).exists() for word in command.split()), command


def test_make_figures_draws_what_the_table_says_it_draws():
    assert {p for p, command in figures.commands().items() if command == "make figures"} == set(figures.PICTURES)


@pytest.mark.parametrize("name", ["headline/lambda.png", "headline/lambda_share.png"])
def test_pictures_of_a_table_are_drawn_again_to_the_pixel(name, tmp_path):
    figures.PICTURES[name]().savefig(tmp_path / "again.png")
    assert Image.open(tmp_path / "again.png").tobytes() == Image.open(ROOT / "figures" / name).tobytes()


def test_runs_that_say_something_else_than_the_table_are_noticed():
    table = figures.rows()
    same = table.sample(frac=1, random_state=1)
    assert figures.apart(same, table) < 1e-12
    other = table.assign(acc_new=table["acc_new"] + 0.05 * table["lam"].fillna(0))
    assert abs(figures.apart(same, other) - 0.05) < 1e-9
