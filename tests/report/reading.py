"""Reading a page the way a browser would: its elements, attributes and text."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from pathlib import Path

from selfsteer.report import write_report


class Page(HTMLParser):
    """The elements, attributes and text of a page; the text of a <style> is kept apart."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.elements: list[Element] = []
        self.text = ""
        self.style = ""
        self.comments: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.style += data
        else:
            self.text += data
        if self.elements:
            self.elements[-1].text += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def tags(self) -> set[str]:
        return {element.tag for element in self.elements}

    def find(self, tag: str, **attributes: str) -> list[Element]:
        wanted = attributes.items()
        return [found for found in self.elements if found.tag == tag and wanted <= found.attributes.items()]

    def rows(self, caption: str) -> list[list[str]]:
        """Return the cells of the table of that caption, row by row, its head first."""
        captions = [place for place, found in enumerate(self.elements) if found.tag == "caption"]
        (start,) = [place for place in captions if self.elements[place].text.strip() == caption]
        rows: list[list[str]] = []
        for found in self.elements[start + 1 :]:
            if found.tag == "caption":
                break
            if found.tag == "tr":
                rows.append([])
            elif found.tag in ("th", "td"):
                rows[-1].append(found.text.strip())
        return rows

    def unclosed(self) -> list[str]:
        return self._open


@dataclasses.dataclass
class Element:
    """A start tag; ``text`` runs to the next start tag."""

    tag: str
    attributes: dict[str, str]
    text: str = ""


def read_report(run_dir: Path) -> Page:
    """Write the report of a run directory and read it."""
    return Page(write_report(run_dir).read_text(encoding="utf-8"))
