"""The site shows the same links as the repository, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")
from mkdocs.exceptions import PluginError

pytestmark = pytest.mark.project

ROOT = Path(__file__).parent.parent


def loaded() -> Any:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = loaded()


def page(uri: str) -> Any:
    return SimpleNamespace(file=SimpleNamespace(src_uri=uri), meta={})


@pytest.mark.parametrize(
    ("uri", "link", "found"),
    [
        ("benchmarks.md", "../foveate/demo/weights/README.md", "models/embedded_llava.md"),
        ("project/contributing.md", "docs/style.md#names", "../style.md#names"),
        ("project/contributing.md", "SECURITY.md", "security.md"),
        ("tutorials/first_steps.md", "../images/kept.png", "../images/kept.png"),
        ("how_it_works.md", "../examples/explain.py", "project/examples.md#explainpy"),
        ("how_it_works.md", "#signals", "#signals"),
        ("how_it_works.md", "https://arxiv.org/abs/2503.10501", "https://arxiv.org/abs/2503.10501"),
    ],
)
def test_links_of_the_repository_lead_to_pages_of_the_site(uri: str, link: str, found: str) -> None:
    assert HOOKS.on_page_markdown(f"a [name]({link})", page(uri)) == f"a [name]({found})"


def test_links_in_code_stay_as_they_are() -> None:
    text = "```markdown\n[x](../README.md)\n```\n"
    assert HOOKS.on_page_markdown(text, page("style.md")) == text


def test_a_link_to_a_file_without_a_page_is_refused() -> None:
    with pytest.raises(PluginError, match=r"docs/style\.md: links to pyproject\.toml, which has no page"):
        HOOKS.on_page_markdown("[x](../pyproject.toml)", page("style.md"))


@pytest.mark.parametrize(
    ("html", "refused"),
    [
        ('<a href="https://arxiv.org">paper</a> <script src="assets/a.js"></script>', False),
        ('<img src="https://img.shields.io/badge/x.svg">', True),
        ('<link rel="stylesheet" href="//fonts.example/css">', True),
    ],
)
def test_a_page_that_loads_something_from_elsewhere_is_refused(html: str, refused: bool) -> None:
    if not refused:
        assert HOOKS.on_post_page(html, page("index.md")) == html
        return
    with pytest.raises(PluginError, match="loads"):
        HOOKS.on_post_page(html, page("index.md"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("[x](other.md)", "other.md"), ("[x](#nowhere)", "nowhere"), ("::: foveate.view.nothing", "foveate.view.nothing"), ("fine", None)],
)
def test_the_build_is_strict(text: str, complaint: str | None, tmp_path: Path) -> None:
    """With the settings of the site, a page is refused for a broken link, a missing anchor and an unknown name."""
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "foveate").symlink_to(ROOT / "foveate")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n{text}\n", encoding="utf-8")
    settings = (tmp_path / "mkdocs.yml").read_text(encoding="utf-8")
    kept = settings[: settings.index("\nnav:")].replace("hooks:\n  - docs/hooks.py\n", "")
    (tmp_path / "mkdocs.yml").write_text(kept, encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (complaint is None), done.stderr
    assert complaint is None or complaint in done.stderr
