"""The house rules: what may import what, what ships, and that texts which must agree do agree."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import scgim

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "scgim"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())

#: For everyone; these import nothing of scgim but each other.
SHARED = {"_apart", "_dag", "_errors", "_logging", "_optional", "_process", "_rng", "_validation"}
#: A module may import those on its own level or above it in this list, and the shared ones.
LEVELS = [
    {"slots", "simulate", "metrics"},
    {"data", "datasets"},
    {"pp"},
    {"model"},
    {"inference"},
    {"get", "baselines"},
    {"tl"},
    {"pl"},
    {"benchmark"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
#: The mathematics: may import each other, the data of a method and what is shared, nothing else of scgim.
PURE = {"model", "inference"}
#: Import name -> distribution, where they differ.
DISTRIBUTIONS = {"pyro": "pyro-ppl", "sklearn": "scikit-learn"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def part_of(path: Path) -> str:
    """The first name below scgim: `pp` for pp/prepare.py, `cli` for cli.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports, anywhere in it, as absolute names."""
    package = ("scgim", *path.relative_to(PACKAGE).parts[:-1])
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            # `from scgim import pp` and `from . import pp` import a module, too
            found.update([f"{module}.{alias.name}" for alias in node.names] if module == "scgim" else [module])
    return frozenset(found)


def level(part: str) -> int:
    places = [i for i, parts in enumerate(LEVELS) if part in parts]
    assert places, f"{part} has no place in LEVELS: say where it stands"
    return places[0]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return  # loads every part lazily; held to its own test below
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("scgim.")}
    used = inside - SHARED - {part, "__version__"}
    if part in SHARED:
        assert not used, f"{name_of(path)} is for everyone, but imports {used}"
        return
    wrong = {other for other in used if level(other) > level(part)}
    assert not wrong, f"{name_of(path)} imports {wrong}, which stand after it"
    if part in PURE:
        assert used <= PURE | {"data"}, f"{name_of(path)} is mathematics, but imports {used - PURE}"


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) in PURE], ids=name_of)
def test_the_mathematics_knows_no_anndata(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"anndata", "scanpy", "matplotlib"}


def test_everything_imported_is_declared() -> None:
    declared = {re.split(r"[<>=\[; ]", entry)[0].lower() for entry in PROJECT["project"]["dependencies"]}
    for path in MODULES:
        outside = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"scgim"}
        missing = {DISTRIBUTIONS.get(name, name) for name in outside} - declared
        assert not missing, f"{name_of(path)} imports {missing}: declare it, or use optional_import"


def test_optional_imports_name_an_extra_that_has_them() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    found = 0
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "optional_import"):
                continue
            module = ast.literal_eval(node.args[0]).split(".")[0]
            extra = ast.literal_eval(node.keywords[0].value)
            wanted = {"ot": "POT", "causallearn": "causal-learn"}.get(module, module)
            assert any(entry.startswith(f"{wanted}>=") for entry in extras[extra]), (module, extra)
            found += 1
    assert found


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in `sys.modules` after a statement, in a process of its own."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["scgim", "scgim.cli"])
def test_import_is_light(module: str) -> None:
    heavy = {"torch", "pyro", "scanpy", "anndata", "pandas", "scipy", "matplotlib", "sklearn", "networkx"}
    assert not loaded_by(f"import {module}") & heavy


def test_the_mathematics_loads_without_anndata() -> None:
    loaded = loaded_by("import scgim.model, scgim.inference")
    assert "torch" in loaded
    assert not loaded & {"anndata", "scanpy", "matplotlib"}


@pytest.mark.parametrize("name", scgim.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(scgim, name) is not None
    assert name in dir(scgim)


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = scgim.nothing


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 350


def test_no_module_of_leftovers() -> None:
    assert not {path.stem for path in MODULES} & {"utils", "util", "helpers", "misc", "common"}


def texts() -> Iterator[tuple[str, str]]:
    """Every text file of the repository, without what tools leave behind."""
    skipped = {".git", "build", "dist", "out", "scgim-demo", "__pycache__", "_build", "generated"}
    kinds = {".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".txt", ".cfg", ".ipynb", ".csv", ".sh", ".rst"}
    for path in sorted(REPOSITORY.rglob("*")):
        parts = path.relative_to(REPOSITORY).parts
        if skipped & set(parts) or any(p.startswith(".venv") or p.endswith("_cache") for p in parts):
            continue
        if path.is_file() and (path.suffix in kinds or parts[0] == ".ci"):
            yield "/".join(parts), path.read_text(encoding="utf-8")


def test_no_path_of_a_machine() -> None:
    # put together here, so that this file does not hold them itself
    folders = ("work", "tmp", "root", "home", "opt", "mnt", "Users", "scratch")
    pattern = re.compile(r"(?<![\w.:/}])/(?:" + "|".join(folders) + r")/\w")
    seen = 0
    for name, text in texts():
        found = pattern.search(text)
        assert not found, f"{name} names a place on one machine: {text[found.start() : found.end() + 30]!r}"
        seen += 1
    assert seen > 50


def test_typed_marker_ships() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/scgim"]


def test_one_version() -> None:
    citation = re.search(r"^version: (.+)$", (REPOSITORY / "CITATION.cff").read_text(), flags=re.M)
    assert citation is not None
    assert citation[1].strip("\"'") == scgim.__version__
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "src/scgim/__init__.py"
    heading = re.search(r"^## (\S+) \((.+)\)$", (REPOSITORY / "CHANGELOG.md").read_text(), flags=re.M)
    assert heading is not None
    release, _, development = scgim.__version__.partition(".dev")
    assert heading[1] == release
    assert (heading[2] == "unreleased") == bool(development), "a release has a date, and no .dev in its version"


def test_the_entry_for_scverse_says_what_is_missing() -> None:
    """Fields that its schema requires, and that only people can fill in, are named where these look for them."""
    text = (REPOSITORY / ".github/scverse-ecosystem/packages/scgim/meta.yaml").read_text()
    entry = dict(re.findall(r"^(\w+): *(.*)$", text, flags=re.M))
    assert entry["name"] == PROJECT["project"]["name"]
    assert entry["license"] == PROJECT["project"]["license"]
    assert entry["version"] == scgim.__version__.partition(".dev")[0]
    required = {"name", "description", "project_home", "documentation_home", "install", "license", "tags", "version"}
    todo = (REPOSITORY / "CONTRIBUTING.md").read_text()
    missing = (required | {"contact"}) - set(entry)
    assert all(f"`{field}`" in todo for field in missing), missing
    command = entry["test_command"]
    assert any(command.removeprefix("pip install ") in line for line in readme_blocks("bash")[1].splitlines())


def readme_blocks(language: str) -> list[str]:
    text = (REPOSITORY / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def test_ci_runs_the_line_of_the_readme() -> None:
    lines = [line for block in readme_blocks("bash") for line in block.splitlines() if "pytest" in line]
    assert len(lines) == 1, "the README has one test line"
    assert lines[0] in (REPOSITORY / ".ci" / "run").read_text().splitlines()
    assert lines[0].startswith("python -m venv")


def test_ci_tests_the_lowest_version_of_everything_claimed() -> None:
    script = REPOSITORY / ".ci" / "lowest.py"
    pins = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True).stdout.split()
    extras = PROJECT["project"]["optional-dependencies"]
    brought = ("test", "chem", "metrics", "datasets", "tune", "baselines", "lazy")
    claimed = [*PROJECT["project"]["dependencies"], *(entry for extra in brought for entry in extras[extra])]
    assert sorted(pins) == sorted(entry.replace(">=", "==") for entry in claimed if not entry.startswith("scgim["))


def test_every_result_is_in_the_index() -> None:
    folder = REPOSITORY / "docs" / "results"
    index = (folder / "README.md").read_text()
    pages = {path.name for path in folder.glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\((\w+\.md)\)", index))


def test_the_workflow_runs_the_ci_script() -> None:
    assert re.search(r"run: \.ci/run here$", (REPOSITORY / ".github/workflows/ci.yml").read_text(), flags=re.M)


def dotted(node: ast.expr) -> str:
    """`scgim.pp.prepare` for that expression; empty for others."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""


def test_code_in_the_readme_fits_the_functions() -> None:
    calls = [
        (dotted(node.func), node)
        for block in readme_blocks("python")
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Call)
    ]
    calls = [(name, node) for name, node in calls if name.startswith("scgim.")]
    assert len({name for name, _ in calls}) >= 5
    for name, node in calls:
        function = scgim
        for attribute in name.split(".")[1:]:
            function = getattr(function, attribute)
        keywords = {keyword.arg: None for keyword in node.keywords}
        inspect.signature(function).bind(*[None] * len(node.args), **keywords)
