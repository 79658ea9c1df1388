"""Hooks of the documentation site: files that live outside docs/ become pages, and no page may load anything from elsewhere."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent

PAGES = {
    "CHANGELOG.md": "project/changelog.md",
    "CODE_OF_CONDUCT.md": "project/code_of_conduct.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "LICENSE": "project/license.md",
    "SECURITY.md": "project/security.md",
    "examples": "project/examples.md",
    "foveate/demo/weights/README.md": "models/embedded_llava.md",
    "foveate/demo/weights_qwen2_vl/README.md": "models/embedded_qwen2_vl.md",
}
"""Files of the repository that have a page on the site, and its place there. Links to them work in the repository and on the site."""

ELSEWHERE = re.compile(r"(?:https?:)?//")
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCE = re.compile(r"(^ *```.*?^ *```[^\n]*$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each entry of `PAGES`."""
    for source, uri in PAGES.items():
        files.append(File.generated(config, uri, content=MADE.get(source, _read)(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point links at pages of the site, wherever the file lives to which they lead in the repository."""
    here = page.file.src_uri
    if here == "index.md":
        page.meta["hide"] = ["navigation"]  # it is the only page of its section
    origin = next((source for source, uri in PAGES.items() if uri == here), f"docs/{here}")

    def moved(match: re.Match[str]) -> str:
        return f"{match[1]}{_on_site(match[2], origin, here)}{match[3]}"

    parts = FENCE.split(markdown)
    return "".join(part if index % 2 else LINK.sub(moved, part) for index, part in enumerate(parts))


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Refuse a page that loads a script, a style, a font or a picture from elsewhere."""
    found = _Loads()
    found.feed(output)
    if found.addresses:
        raise PluginError(f"{page.file.src_uri}: loads {', '.join(found.addresses)}; keep whatever a page shows in docs/")
    return output


def _on_site(target: str, origin: str, here: str) -> str:
    """Where a link of the repository leads on the site.

    Raises:
        PluginError: it leads to a file that has no page.
    """
    path, mark, anchor = target.partition("#")
    if not path or ELSEWHERE.match(path) or path.startswith("mailto:"):
        return target
    source = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    if source.startswith("docs/"):
        uri = source.removeprefix("docs/")
    elif source in PAGES:
        uri = PAGES[source]
    elif source.startswith("examples/"):
        uri, mark, anchor = PAGES["examples"], "#", posixpath.basename(source).replace(".", "")
    else:
        raise PluginError(
            f"{origin}: links to {source}, which has no page on the site; add it to PAGES in docs/hooks.py, or name it in code"
        )
    return posixpath.relpath(uri, posixpath.dirname(here) or ".") + mark + anchor


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _license(path: Path) -> str:
    return f"# License\n\n```text\n{_read(path)}```\n"


def _examples(folder: Path) -> str:
    lines = ["# Examples", "", "Each of these runs offline, with the embedded model. A test runs them all."]
    for file in sorted(folder.glob("*.py")):
        lines += ["", f"## {file.name}", "", "```python", _read(file).rstrip(), "```"]
    return "\n".join(lines) + "\n"


MADE: dict[str, Callable[[Path], str]] = {"LICENSE": _license, "examples": _examples}


class _Loads(HTMLParser):
    """Collects addresses elsewhere from which a browser would load something."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Links (`a`) are followed by people; everything else is loaded."""
        wanted = {"link": "href"}.get(tag, "src")
        self.addresses += [value for name, value in attrs if name == wanted and value and ELSEWHERE.match(value)]
