"""A hook of MkDocs: the pages of the repository's root join those of docs/ on the site.

The pages stay where GitHub shows them, with links that work there. On the site they are beside the
pages of docs/, so links that cross the border of that folder are rewritten; strict mode checks the
result.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

# By their places in the repository: their places on the site.
ROOT_PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "bench/results.md": "results.md",
}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")
_IN_REPOSITORY = {site: path for path, site in ROOT_PAGES.items()}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root."""
    from mkdocs.structure.files import File

    root = Path(config.config_file_path).parent
    for path, site in ROOT_PAGES.items():
        files.append(File.generated(config, site, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Give a page the links of the site."""
    return relinked(markdown, page.file.src_uri)


def relinked(markdown: str, page: str) -> str:
    """Rewrite links between files of the repository to links between pages; `page` is this one."""
    place = _IN_REPOSITORY.get(page, f"docs/{page}")

    def linked(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), found[1]))
        site = ROOT_PAGES.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(site, posixpath.dirname(page) or ".")

    return LINK.sub(linked, markdown)
