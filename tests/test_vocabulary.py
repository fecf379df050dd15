"Every signature and every table speaks the vocabulary that tools/vocabulary.py holds; exceptions have a reason there."
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import vocabulary  # noqa: E402

FUNCTIONS = dict(vocabulary.functions())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_signature_keeps_the_order_the_names_and_the_defaults(name):
    found = {f"{name}({argument})": complaint for argument, complaint in vocabulary.departures(name, FUNCTIONS[name])}
    assert {key: why for key, why in found.items() if key not in vocabulary.EXCEPTIONS} == {}


def test_every_exception_is_one_and_has_its_reason():
    found = {f"{name}({argument})" for name, f in FUNCTIONS.items() for argument, _ in vocabulary.departures(name, f)}
    assert set(vocabulary.EXCEPTIONS) == found & set(vocabulary.EXCEPTIONS)
    assert all(len(why.split()) > 5 for why in vocabulary.EXCEPTIONS.values())


@pytest.fixture(scope="module")
def tables(): return vocabulary.tables()


def test_the_glossary_explains_every_column(tables):
    explained = set(re.findall(r"`([a-z_]+)`", (ROOT / "nbs" / "glossary.ipynb").read_text(encoding="utf-8")))
    assert {name: sorted({*columns} - explained) for name, columns in tables.items()} == {name: [] for name in tables}


def test_tables_have_the_same_columns_for_the_same_things(tables):
    assert {name: vocabulary.misnamed(columns) for name, columns in tables.items()} == dict.fromkeys(tables, [])
    assert all("method" in columns for columns in tables.values())


@pytest.mark.parametrize(("definition", "complaint"), [
    ("f(runs, images, split=None)", "the order is runs, split, images"),
    ("f(runs, split=None, images=3)", "is a keyword, as all after split"),
    ("f(runs, split='same')", "has the default None, not 'same'"),
    ("f(runs, split=None, *, target='true')", "has the default 'predicted', not 'true'"),
    ("f(runs, path, split=None)", "stands between runs and split"),
    ("f(runs, split)", "has the default None"),
    ("f(clip, layer=None)", "is called target_layer"),
])
def test_a_departure_is_found(definition, complaint):
    names = {}
    exec(f"def {definition}: pass", names)
    assert complaint in [said for _, said in vocabulary.departures("f", names["f"])]


def test_a_column_with_another_name_is_found():
    assert vocabulary.misnamed(["prompt", "lam", "share"]) == ["'prompt' is called 'method'"]
    assert vocabulary.misnamed(["lam", "method"])
    assert vocabulary.misnamed(["image", "method", "lam", "step", "share"]) == []
