"""The terms of the field are spelt in one way, over pages, docstrings and tutorials."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from docs_pages import REPOSITORY, TEXTS, name_of, without_code

#: Wrong -> right, in prose. Words in code are not looked at.
SPELLINGS = {
    r"\bAnn ?data\b(?<!AnnData)": "AnnData",
    r"\bann Data\b|\bAnn Data\b": "AnnData",
    r"\bScan[Pp]y\b|\bScanPy\b|\bSCANPY\b": "scanpy",
    r"\bPytorch\b|\bpytorch\b(?!\.org)": "PyTorch",
    r"\bnumpy\b(?!\.|-| \d)": "NumPy",
    r"\bErd[oöó]s\b|\bErd\w+.Renyi\b": "Erdős-Rényi",
    r"\bSchoelkopf\b|\bScholkopf\b": "Schölkopf",
    r"\b[Ll]og ?normal\b(?!-)|\b[Ll]ognormal\b": "log-normal",
    r"\b[Zz]ero inflat\w+": "zero-inflated",
    r"\b[Hh]yperparamet\w+|\b[Hh]yper paramet\w+": "hyper-parameter",
    r"\b[Kk]nockouts?\b|\b[Kk]nock outs\b|\b(?:a|the) knock out\b": "knock-out",
    r"\b[Ss]ingle cell (?:data|perturbation|RNA|expression)": "single-cell",
    r"\bSci-?Plex-3\b|(?<!benchmark )\bsci-?plex ?3\b(?!\.md)|\bSciplex3?\b|\bsciPlex3\b": "SciPlex3",
    r"\b[Nn]ormaliz\w+|\b[Oo]ptimiz(?:e|er|ation|ing)\b|\b[Ii]nitializ\w+|\b[Aa]mortiz\w+": "British spelling, -is-",
    r"\b[Bb]ehavior\w*|\b[Cc]olor(?:s|ed)?\b|\b[Ff]avor\w*|\b[Nn]eighbor\w*": "British spelling, -our",
    r"\b(?:general|regular|standard|visual|character|recogn|stabil|summar)iz(?:e|es|ed|ing|ation)\b": "-is-",
    r"\b(?:model|label|cancel|travel)(?:ed|ing)\b|\b[Aa]nalyz\w+|\b[Cc]enter(?:s|ed)?\b|\b[Gg]ray\b": "British",
    r"\b[Cc]ounter-factual\w*|\b[Cc]ounter factual\w*": "counterfactual",
    r"\bWassertein\b|\bWasserstien\b|\bWassersten\b": "Wasserstein",
    r"\b[Ff]inger-prints?\b|\b[Ff]inger prints?\b": "fingerprint",
    r"\bDachinostat\b|\bDacinistat\b|\bBelinistat\b|\bQuisinistat\b|\bGivinistat\b": "the drugs end in -nostat",
    r"\bPython3\b|\bpython 3\b": "Python 3",
    r"\bMorgan finger print\b": "Morgan fingerprint",
    r"\bacyclity\b|\bacylic\w*": "acyclicity",
    r"\b[Pp]ertubation\w*|\b[Pp]erturabtion\w*": "perturbation",
    r"\bMonte Carlo\b": "Monte-Carlo",
}

#: What reads as translated or is understood only by developers -> plain English.
PHRASES = {
    r"\b[Ss]peaks? for an? (?:target|edge|gene)\b": "is evidence for",
    r"\bKnown are\b": "Valid values:",
    r"\b[Mm]ost seconds\b": "maximum time",
    r"\bhardly a part\b|\bhas hardly an\b": "contributes little; hardly any",
    r"\baim \d|\bAim: ": "an aim is the developers'",
    r"\briddle\b": "say what was unclear",
    r"\bbeside (?:GIM|the (?:truth|default|others))\b|\bbeside other work\b": "compared with; on a busy machine",
    r"\bwhere that is so\b": "where it is",
}


def prose_of_module(path: Path) -> str:
    """The docstrings of a file, without code in them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    lines = [line for text in texts for line in text.splitlines() if not line.lstrip().startswith((">>>", "..."))]
    return re.sub(r"``.+?``|`[^`\n]+`|\"[^\"\n]+\"|\w+\.\w+[\w.]*", "", "\n".join(lines))


def prose() -> Iterator[tuple[str, str]]:
    for path in TEXTS:
        yield name_of(path), re.sub(r"\]\([^)]+\)|<[^>\n]+>", "", without_code(path.read_text(encoding="utf-8")))
    for path in sorted((REPOSITORY / "src").rglob("*.py")):
        yield name_of(path), prose_of_module(path)
    for path in sorted((REPOSITORY / "tutorials").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        yield name_of(path), re.sub(r"\]\([^)]+\)|<[^>\n]+>", "", without_code(text))


def test_terms_are_spelt_as_the_field_does() -> None:
    wrong = [
        f"{name}: {found[0]!r}, which should be {right}"
        for name, text in prose()
        for pattern, right in SPELLINGS.items()
        for found in re.finditer(pattern, text)
    ]
    assert not wrong, "\n".join(wrong)


def test_pages_are_in_plain_english() -> None:
    """Pages and tutorials; of a page of results the text alone, since a script prints the rest."""
    wrong = [
        f"{name}: {found[0]!r}: {better}"
        for name, text in prose()
        if not name.startswith("src/")
        for pattern, better in PHRASES.items()
        for found in re.finditer(pattern, text.partition("\n## Reading\n")[2] or text)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_spelling_test_finds_mistakes() -> None:
    for mistake in ("Anndata", "Erdos", "Schoelkopf", "log normal", "hyperparameter", "pertubation", "Scanpy"):
        assert any(re.search(pattern, f"the {mistake} of") for pattern in SPELLINGS), mistake
    for right in ("AnnData", "Erdős-Rényi", "log-normal", "scanpy", "knock-out", "SciPlex3"):
        assert not any(re.search(pattern, f"the {right} of") for pattern in SPELLINGS), right
