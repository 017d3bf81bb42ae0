"""Hooks of mkdocs for the static site."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

# Sections of the navigation: the title, and what their pages match.
_SECTIONS = {
    "Tutorial": "docs/tutorial/*.md",
    "How to": "docs/howto/*.md",
    "Reference": "docs/reference/*.md",
    "Operations": "runbooks/operations/*.md",
    "Alerts": "runbooks/alerts/*.md",
    "Measurements": "benchmarks/*.md",
    "Decisions": "docs/decisions/*.md",
}
_FIRST = ("index.md", "docs/architecture.md", "docs/glossary.md")
_LAST = ("runbooks/README.md", "ansible/README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_SCHEME = re.compile(r"[a-z]+:")


def on_config(config: Any) -> Any:
    """Put the collected pages into sections."""
    pages = Path(config["docs_dir"])
    sections = {
        title: sorted(page.relative_to(pages).as_posix() for page in pages.glob(pattern))
        for title, pattern in _SECTIONS.items()
    }
    config["nav"] = [*_FIRST, *({title: found} for title, found in sections.items() if found), *_LAST]
    return config


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Turn links to files of the repository that are not pages into plain text.

    A file that is not in the repository either stays a link, so that the build fails for it.
    """
    pages = Path(config["docs_dir"])
    repository = Path(config["config_file_path"]).parent
    here = PurePosixPath(page.file.src_uri).parent

    def kept(link: re.Match[str]) -> str:
        text, target = link[1], link[2]
        if _SCHEME.match(target):
            return link[0]
        path = normpath(here / target)
        if path == "README.md":
            return f"[{text}]({'../' * len(here.parts)}index.md{link[3] or ''})"
        is_page = (pages / path).is_file()
        return text if not is_page and (repository / path).exists() else link[0]

    return _LINK.sub(kept, markdown)
