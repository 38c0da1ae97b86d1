"""Whatever a model, a query file or a recipe holds, the page shows it as text and does nothing with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfsteer.report import write_report
from tests.report.example import full_summary, metrics_lines, write_full_run, write_run
from tests.report.reading import Page, read_report

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} {% raw %} {# gone #} "
    '</textarea></title></style></svg>--> <!-- " \' onmouseover=alert(3) x=" javascript:alert(4) '
    "$\\frac{1}{0}$ &lt;b&gt; \x00\x01\x08\x1b[31m\x7f\x85\ud800\ufffe "
    "\u202eright-to-left\u202c שלום مرحبا \U0001f469\u200d\U0001f52c end"
)


def _poison(value: Any) -> Any:
    """Return ``value`` with every text, and every key that comes from data, made hostile."""
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, list):
        return [_poison(item) for item in value]
    if isinstance(value, dict):
        return {key: _poison_keys(item) if key in _NAMED else _poison(item) for key, item in value.items()}
    return value


_NAMED = {"aspects", "choices", "writings", "dropped", "thresholds"}  # objects whose keys are names from data


def _poison_keys(value: Any) -> Any:
    return {key + HOSTILE: item for key, item in value.items()} if isinstance(value, dict) else _poison(value)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Page]:
    folder = tmp_path_factory.mktemp("hostile")
    lines = [{**line, f"rewards/{HOSTILE}/margin": 1.0, "rewards/view_of_mine/margin": 0.5} for line in metrics_lines()]
    harmless = read_report(write_full_run(folder / "harmless"))
    return harmless, read_report(write_run(folder / "hostile", _poison(full_summary()), lines, None))


def test_no_element_comes_from_the_data(pages: tuple[Page, Page]) -> None:
    harmless, hostile = pages
    assert hostile.tags() <= harmless.tags()
    assert hostile.tags().isdisjoint({"script", "img", "textarea", "b"})
    assert hostile.comments == harmless.comments == []
    assert hostile.style == harmless.style
    assert hostile.unclosed() == []


def test_no_event_handler_and_no_foreign_link(pages: tuple[Page, Page]) -> None:
    for element in pages[1].elements:
        assert not [name for name in element.attributes if name.startswith("on")], element
        assert element.attributes.get("href", "#").startswith("#")
        assert "src" not in element.attributes


def test_text_arrives_whole(pages: tuple[Page, Page]) -> None:
    text = pages[1].text
    for part in (
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(2)>",
        "{{ 7 * 7 }} {% raw %} {# gone #}",
    ):
        assert text.count(part) > 30, part
    for part in ("שלום مرحبا", "\U0001f469\u200d\U0001f52c", "$\\frac{1}{0}$", "&lt;b&gt;"):
        assert part in text, part


def test_control_characters_become_visible(pages: tuple[Page, Page]) -> None:
    source = pages[1].source
    assert "␀␁␈␛[31m␡\ufffd\ufffd\ufffd" in source
    assert not [character for character in source if ord(character) < 32 and character not in "\n\t"]


def test_page_is_utf8_and_survives_a_second_reading(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path, _poison(full_summary()), metrics_lines(), None)
    (run_dir / "recipe.yaml").write_bytes(b"name: \xff\xfe</pre><script>\x00\r\n")
    first = write_report(run_dir).read_bytes()
    assert first.decode("utf-8") and first == write_report(run_dir).read_bytes()
    assert "name: \ufffd\ufffd&lt;/pre&gt;&lt;script&gt;␀\n".encode() in first


def test_model_text_finds_its_own_direction(pages: tuple[Page, Page]) -> None:
    texts = [element for element in pages[1].find("p") if "text" in element.attributes.get("class", "").split()]
    assert len(texts) == 3 * (1 + 2 * 3)  # a principle, then two sides of three answers
    assert all(element.attributes["dir"] == "auto" for element in texts)
    assert ".text { white-space: pre-wrap;" in pages[1].style


@pytest.mark.parametrize("key", ["rounds", "policies", "verdict", "samples", "stages", "name", "created", "seed"])
@pytest.mark.parametrize("value", ["text", 7, {"a": [1]}, [1, None, "x"], None])
def test_a_part_of_the_wrong_kind_breaks_nothing(tmp_path: Path, key: str, value: Any) -> None:
    summary = {"schema_version": 1, "name": "small", "rounds": [], "policies": [], key: value}
    page = read_report(write_run(tmp_path, summary, None, None))
    assert page.unclosed() == []
