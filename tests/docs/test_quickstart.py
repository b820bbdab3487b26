"""The script that puts outputs below the code of the quick start."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest
from docs_pages import DOCS

PAGE = """Text.

```python
x = 1
x + 1
```

More text.

```python
import matplotlib.pyplot as plt
plt.plot([0, x]);
```

<!-- not run: a reason -->
```python
x + missing
```
"""


@pytest.fixture
def make_quickstart() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_quickstart", DOCS / "make_quickstart.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_outputs_stand_below_the_code_and_are_replaced(make_quickstart: ModuleType, tmp_path: Path) -> None:
    matplotlib.use("agg")
    once = make_quickstart.with_outputs(PAGE, tmp_path)
    assert f"x + 1\n```\n\n{make_quickstart.BEGIN}\n```text\n2\n```\n{make_quickstart.END}\n\nMore text." in once
    assert "](quickstart_1.png)" in once and (tmp_path / "quickstart_1.png").stat().st_size > 0
    assert "missing\n```\n" in once and "[<matplotlib" not in once
    assert make_quickstart.with_outputs(once, tmp_path) == once


def test_a_block_whose_package_is_not_there_stays_as_it_is(make_quickstart: ModuleType, tmp_path: Path) -> None:
    matplotlib.use("agg")
    old = "<!-- needs: no_such_package -->\n```python\n1 + 1\n```\n"
    old += f"\n{make_quickstart.BEGIN}\nold\n{make_quickstart.END}\n"
    new = "\n<!-- needs: json -->\n```python\n1 + 2\n```\n"
    page = make_quickstart.with_outputs(old + new, tmp_path, "page")
    assert page.startswith(old)
    assert page.endswith(f"{new}\n{make_quickstart.BEGIN}\n```text\n3\n```\n{make_quickstart.END}\n")


@pytest.mark.parametrize(("name", "least"), [("quickstart", 8), ("recipes", 14)])
def test_every_block_has_been_run(make_quickstart: ModuleType, name: str, least: int) -> None:
    blocks = list(make_quickstart.BLOCK.finditer((DOCS / f"{name}.md").read_text(encoding="utf-8")))
    shown = [block for block in blocks if make_quickstart.BEGIN in block[0]]
    assert len(shown) >= least
    assert all("not run" not in (block["note"] or "") for block in shown)
    needed = [block for block in blocks if "needs: " in (block["note"] or "")]
    assert all(block in shown for block in needed)
