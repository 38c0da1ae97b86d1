"""The pages in headless Chromium: controls, keys, the policy, hostile text, and contrast as axe-core measures it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfsteer.loop import run
from selfsteer.records import Contrast, write_rows
from selfsteer.report import write_report
from selfsteer.report.several import write_runs_report
from tests.chat_templates import user
from tests.example_rows import contrast, scores
from tests.report.example import full_summary, metrics_lines, write_run
from tests.report.hostile_strings import STRINGS
from tests.run_helpers import scripted_recipe, without_reports, write_queries

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make setup)")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason="Chromium is missing: apt-get install chromium, then the pages are tried in it"
)
AXE = Path(__file__).parent / "vendor/axe.min.js"
LEAK = "As a concise assistant, I say it scatters."


def _rows() -> list[Contrast]:
    kept = [
        contrast(
            f"kept-{i}",
            prompt=user(f"Why is number {i} odd?"),
            aspects=["Brevity"] if i % 2 else ["Pace"],
            positive_response="word " * (i + 1),
            positive_token_ids=list(range(i + 1)),
            scores=scores((-1.0, -0.5, -2.0), (-1.0, -2.0, -0.5)),
            steering_margin=i / 10,
        )
        for i in range(8)
    ]
    leak = contrast("leaky", positive_response=LEAK)
    cut = contrast("cut", negative_finish="length", aspects=["Pace"])
    return [
        *kept,
        leak.drop("leak: y+ refers to its instructions: 'As a concise assistant'"),
        cut.drop("truncated: y- ran into the length limit"),
    ]


def _hostile(text: str, number: int) -> Contrast:
    texts = dict.fromkeys(("positive_response", "negative_response", "original_response", "positive_principle"), text)
    row = contrast(f"hostile-{number}", prompt=user(text), aspects=[text], provenance={text: text}, **texts)
    return row.drop(f"{text}: {text} y+ {text!r}")


def _with_rows(run_dir: Path, rows: list[Contrast], summary: dict[str, Any] | None = None) -> Path:
    """Return the report of a copied run with other rows; ``summary`` in place of its own."""
    (shard,) = (run_dir / "round-01/contrasts").glob("*.parquet")
    shard.unlink()
    write_rows(shard, Contrast, rows)
    if summary:
        write_run(run_dir, summary, metrics_lines(), None)
    return write_report(run_dir)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages by kind: of a run of data alone, of a trained run, of hostile rows, and of two runs."""
    folder = tmp_path_factory.mktemp("pages")
    hostile = full_summary() | {"name": STRINGS[0], "command": "\n".join(STRINGS)}
    made = {}
    contents = {
        "data": (_rows(), None),
        "trained": (_rows(), full_summary()),
        "hostile": ([_hostile(text, i) for i, text in enumerate(STRINGS)], hostile),
    }
    with without_reports():
        run(scripted_recipe(write_queries(folder), heldout=0), folder / "made")
    for name, (rows, summary) in contents.items():
        shutil.copytree(folder / "made", folder / name)
        made[name] = _with_rows(folder / name, rows, summary)
    both = [made[name].parent for name in ("data", "trained")]
    return made | {"several": write_runs_report(both, folder / "comparison.html", "selfsteer report a b")}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    """Open a page; at the end, nothing may have been written to its console or asked of the network."""
    contexts, said, asked = [], [], []

    def opens(kind: str, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[kind].as_uri())
        return page

    yield opens
    for context in contexts:
        context.close()
    assert said == []
    assert len(asked) == len(contexts) and all(url.startswith("file:") for url in asked)


def _of_each_row(page: Any, selector: str) -> list[str]:
    """Choose each listed row and return the text of what is then the last element of a selector."""
    return page.evaluate(
        """(selector) => [...document.querySelectorAll("#rows [role=option]")].map((option) => {
             option.click();
             return [...document.querySelectorAll(selector)].at(-1).textContent;
           })""",
        selector,
    )


KEPT = [f"kept-{i}" for i in range(8)]
FILTERED: list[tuple[dict[str, str], list[str]]] = [
    ({"find": "number 3"}, ["kept-3"]),
    ({"find": "LEAKY"}, ["leaky"]),
    ({"outcome": "kept"}, KEPT),
    ({"outcome": "dropped"}, ["cut", "leaky"]),
    ({"reason": "truncated"}, ["cut"]),
    ({"aspect": "Brevity"}, ["kept-1", "kept-3", "kept-5", "kept-7"]),
    ({"round": "1", "aspect": "Pace", "outcome": "dropped"}, ["cut"]),
    ({"length-from": "7"}, ["kept-6", "kept-7", "leaky"]),
    ({"length-from": "2", "length-to": "3", "outcome": "kept"}, ["kept-1", "kept-2"]),
    ({"length-of": "original", "length-to": "2"}, []),
    ({"margin-from": "0.55"}, ["kept-6", "kept-7"]),
    ({"margin-to": "0.1"}, ["kept-0", "kept-1"]),
]


def test_each_control_filters_and_reset_shows_all_again(open_page):
    page = open_page("trained")
    ids = page.locator(".filters input, .filters select").evaluate_all("all => all.map((one) => one.id)")
    assert set(ids) == {name for settings, _ in FILTERED for name in settings}
    for settings, found in FILTERED:
        for name, value in settings.items():
            if name in ("find", *(f"{kind}-{end}" for kind in ("length", "margin") for end in ("from", "to"))):
                page.locator(f"#{name}").fill(value)
            else:
                page.locator(f"#{name}").select_option(value)
        assert _of_each_row(page, "#row dl:first-child div:first-child dd") == found, settings
        assert page.locator("#shown").inner_text() == f"{len(found)} of 10 rows"
        assert bool(found) or "No row matches." in page.locator("#row").inner_text()
        page.locator("#reset").click()
        assert page.locator("#shown").inner_text() == "10 of 10 rows"


def test_the_keys_find_choose_and_leave(open_page):
    page = open_page("data")
    chosen = page.locator("#rows [aria-selected=true]")
    page.keyboard.press("/")
    page.keyboard.type("number")
    assert page.locator("#find").input_value() == "number" and chosen.count() == 1
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "rows"
    seen = []
    for key in ("ArrowDown", "ArrowDown", "ArrowUp", "End", "ArrowDown", "Home", "PageDown"):
        page.keyboard.press(key)
        seen.append(page.locator("#row dd").first.inner_text()[-1])
        assert page.locator("#rows").get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    assert seen == list("1217707")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "row"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "rows"


def test_a_row_is_shown_whole_with_its_leak_highlighted(open_page):
    page = open_page("data")
    page.locator("#find").fill("leaky")
    row = page.locator("#row")
    assert row.locator("mark").all_inner_texts() == ["As a concise assistant"]
    assert row.locator(".response.positive .text").all_inner_texts() == ["Answer in one sentence.", LEAK]
    assert row.locator(".named").count() == 1
    assert "leak: y+ refers to its instructions" in row.locator(".dropped").inner_text()
    page.locator("#find").fill("kept-7")
    assert row.locator(".scores tbody tr").first.inner_text().split("\t") == ["y⁺", "−1.000", "−0.500", "−2.000"]
    assert "0.700" in row.inner_text()


def test_hostile_text_is_shown_and_does_nothing(open_page):
    page = open_page("hostile")
    rows = json.loads(page.locator("#inspector-rows").text_content())
    assert len(rows) == len(STRINGS) == 50
    shown = _of_each_row(page, "#row .response.positive .text")
    by_id = {row["id"]: "".join(row["responses"][0]["parts"]) for row in rows}
    assert sorted(shown) == sorted(by_id.values())
    plain = [text for text in STRINGS if text.isprintable() and "\u202e" not in text]
    assert len(plain) > 40 and set(plain) <= set(shown)
    assert page.locator("#row").locator("img, script, svg, iframe, style, a, input").count() == 0
    assert page.evaluate("window.broken === undefined && ({}).broken === undefined")
    page.locator("#find").fill("</script>")
    assert page.locator("#rows [role=option]").count() == sum("</script>" in text.lower() for text in STRINGS)
    assert all(text in page.locator("#reproduce").text_content() for text in plain)


def test_the_policy_lets_no_other_script_run(browser, pages):
    page = browser.new_page()
    page.goto(pages["data"].as_uri())
    failed = page.evaluate(
        """() => new Promise((resolve) => {
             document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
             const script = document.createElement("script");
             script.textContent = "window.broken = 1";
             document.body.append(script);
           })"""
    )
    assert failed == "script-src-elem" and page.evaluate("window.broken === undefined")
    page.close()


@pytest.mark.parametrize("kind", ["data", "trained", "several"])
def test_axe_finds_nothing_and_a_phone_has_no_sideways_scroll(open_page, kind):
    page = open_page(kind, viewport={"width": 390, "height": 844})
    if kind != "several":
        page.locator("#find").fill("leaky")
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    for scheme, rules in {"light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "dark": ["color-contrast"]}.items():
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate("rules => axe.run({ runOnly: rules, resultTypes: ['violations', 'passes'] })", rules)
        nodes = [
            (one["id"], node["html"], node["failureSummary"]) for one in found["violations"] for node in one["nodes"]
        ]
        assert nodes == [], scheme
        assert any(one["id"] == "color-contrast" for one in found["passes"])
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_run_of_data_alone_has_a_page_of_its_own_kind(open_page):
    text = open_page("data").locator("body").inner_text()
    assert "This run made the data only" in text
    for absent in (
        "Nothing was trained",
        "No policy was measured",
        "This run has no verdict",
        "This run kept no samples",
    ):
        assert absent not in text


def test_several_runs_are_lines_with_intervals_of_one_chart(open_page):
    page = open_page("several")
    kept = page.locator(".chart", has_text="Kept")
    assert kept.locator("li").count() == 2
    assert kept.locator("line.interval").count() == 2 and kept.locator("circle").count() == 2
    assert page.locator("#reports a").count() == 2


def test_print_shows_the_chosen_row_without_controls(open_page):
    page = open_page("data")
    page.emulate_media(media="print")
    assert page.locator("#row").is_visible() and not page.locator(".filters").is_visible()
