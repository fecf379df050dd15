"CITATION.cff says what the format asks for, and what the project says elsewhere."
from configparser import ConfigParser
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CFF = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_fields_that_the_format_requires_are_there():
    "Citation File Format 1.2.0: four required keys, known types, people with names"
    assert CFF["cff-version"] == "1.2.0" and CFF["type"] == "software" and CFF["message"] and CFF["title"]
    allowed = {"cff-version", "message", "type", "title", "abstract", "version", "license", "authors", "keywords",
               "references", "date-released", "url", "repository-code", "doi"}
    assert set(CFF) <= allowed
    for work in (CFF, *CFF["references"]):
        assert work["authors"]
        assert all("name" in a or {"family-names", "given-names"} <= set(a) for a in work["authors"])
    assert all({"type", "title", "authors"} <= set(r) for r in CFF["references"])


def test_it_agrees_with_the_settings():
    cfg = ConfigParser()
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    assert str(CFF["version"]) == cfg["DEFAULT"]["version"]
    assert CFF["title"] == cfg["DEFAULT"]["title"]
    assert CFF["license"] == "Apache-2.0"
    assert CFF["authors"][0]["name"] == cfg["DEFAULT"]["author"]


def test_the_papers_are_those_that_the_front_page_names():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    coop, prograd = CFF["references"]
    for paper, where in ((coop, "IJCV"), (prograd, "ICCV")):
        assert paper["title"] in readme and paper["url"] in readme and f"{where} {paper['year']}" in readme
    assert [a["family-names"] for a in prograd["authors"]] == ["Zhu", "Niu", "Han", "Wu", "Zhang"]
    assert coop["authors"][0]["family-names"] == "Zhou"
