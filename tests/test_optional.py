"""Optional dependencies say how to install them."""

from __future__ import annotations

import sys

import pytest

from scgim._optional import optional_import


def test_returns_the_module():
    assert optional_import("json.decoder", extra="metrics").__name__ == "json.decoder"


@pytest.mark.parametrize(("module", "package"), [("ot", "POT"), ("no_such_package", "no_such_package")])
def test_names_the_extra(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=rf'{package} is needed.*pip install "scgim\[metrics\]"'):
        optional_import(module, extra="metrics")


def test_a_broken_package_raises_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import its_missing_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="its_missing_dependency"):
        optional_import("half_installed", extra="metrics")
    assert "half_installed" not in sys.modules
