"""What MkDocs needs to show pages that link to files outside docs/: the README, committed results, pictures."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
HOME = {"README.md": "index.md"}
BEYOND = [*HOME, "CONTRIBUTING.md", "CHANGELOG.md"]
"""Pages of the site that lie outside docs/ and that its navigation names."""
JOINED = {
    "benchmarks/results": "benchmarks.md",
    "experiments/data/reproduction": "reproduction-tables.md",
    "experiments/data/reproduction/full": "reproduction-full.md",
}
"""Folders whose reports stand on one page, each under an anchor of its name (`generate.py`)."""
# What a browser fetches by itself; where a link leads is the reader's business.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc="?https?:[^>]*>|<link[^>]*\shref="?https?:[^>]*>"""
)
_RECORDED = re.compile(r"^<!-- recorded: ([^\n]+?) -->\n+(?=```)", re.M)
# A browser breaks a line behind any hyphen, and half an option's name is none.
_OPTION = re.compile(r"(?<=<code>)--?[a-z][a-z-]*")
_LINK = re.compile(r"\]\(((?!https?:|mailto:|#)[^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside docs/, and what that links to in turn, by its place in the repository."""
    waiting = [*BEYOND, *(_in_repository(file.src_uri) for file in files if file.src_uri.endswith(".md"))]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        uri = _in_site(path)
        if path in seen or "#" in uri or not (REPOSITORY / path).is_file():
            continue
        seen.add(path)
        if uri not in files.src_uris:
            files.append(File.generated(config, uri, abs_src_path=str(REPOSITORY / path)))
        if path.endswith(".md"):
            text = (REPOSITORY / path).read_text(encoding="utf-8")
            waiting += [_target(path, link) for link in _LINK.finditer(text)]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site, and show what is not run."""
    del config, files
    path = _in_repository(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri) or "."

    def moved(link: re.Match[str]) -> str:
        return f"]({posixpath.relpath(_in_site(_target(path, link)), folder)}{link[2] or ''})"

    return _LINK.sub(moved, _RECORDED.sub(r"*Not run by the tests: \1.*\n{ .recorded }\n\n", markdown))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Give the search a name for those who hear the page, which the theme does not, and keep options on one line.

    Raises:
        PluginError: the page would ask another host.
    """
    del config
    if (asked := _FETCHED.search(output)) is not None:
        raise PluginError(f"{page.file.src_uri}: asks another host: {asked[0]}")
    search = '<div class="md-search" '
    output = _OPTION.sub(r'<span class="option">\g<0></span>', output)
    return output.replace(search, f'{search}aria-label="Search" ')


def _target(path: str, link: re.Match[str]) -> str:
    """Where in the repository a link in a file of it leads."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link[1]))


def _in_repository(uri: str) -> str:
    """Where a page of the site lies in the repository."""
    home = {page: path for path, page in HOME.items()}
    return home.get(uri) or (uri if uri in BEYOND or not (REPOSITORY / "docs" / uri).exists() else f"docs/{uri}")


def _in_site(path: str) -> str:
    """Where a file of the repository lies in the site; a report on a joined page has an anchor there."""
    folder, name = posixpath.split(path)
    if path in JOINED:
        return JOINED[path]
    if folder in JOINED and name.endswith(".md"):
        return f"{JOINED[folder]}#{name.removesuffix('.md')}"
    return HOME.get(path) or path.removeprefix("docs/")
