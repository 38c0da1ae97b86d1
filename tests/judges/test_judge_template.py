"""The question put to a model: the shipped template, one of the user's own, and what neither can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfsteer.errors import ConfigError
from selfsteer.judges import Pair, PresentedPair
from selfsteer.judges.template import JudgeTemplate
from tests.chat_templates import user

PAIR = Pair("secret-id", user("What is up?"), "the sky", "not much", 1, "secret-subset")


@pytest.fixture
def template(tmp_path):
    def write(text: str, **options) -> JudgeTemplate:
        (tmp_path / "own.jinja").write_text(text, encoding="utf-8")
        return JudgeTemplate(tmp_path / "own.jinja", **options)

    return write


def text_of(template: JudgeTemplate, shown: PresentedPair, mode="logprobs") -> str:
    (message,) = template.messages(shown, mode)
    assert message["role"] == "user"
    return message["content"]


def test_the_shipped_question_shows_all_in_the_order_of_presentation():
    text = text_of(JudgeTemplate(), PresentedPair(PAIR, False))
    places = [text.index(part) for part in ("What is up?", "Answer A:\nthe sky\n", "Answer B:\nnot much\n")]
    assert places == sorted(places)
    assert "secret" not in text and "tie" not in text and "criterion" not in text
    swapped = text_of(JudgeTemplate(), PresentedPair(PAIR, True))
    assert swapped.index("Answer A:\nnot much\n") < swapped.index("Answer B:\nthe sky\n")


def test_the_shipped_question_names_the_criterion_the_mode_and_the_labels():
    pair = Pair("1", PAIR.prompt, "x", "y", criterion="It is polite.")
    assert "by this criterion: It is polite." in text_of(JudgeTemplate(), PresentedPair(pair, False))
    assert '"tie" if neither' in text_of(JudgeTemplate(), PresentedPair(pair, False), "text")
    text = text_of(JudgeTemplate(labels=("one", "two")), PresentedPair(pair, False))
    assert "Answer one:\nx\n" in text and "Reply with one or two" in text


def test_the_turns_of_a_longer_conversation_are_told_apart():
    prompt = [*user("Hi", "Be brief."), {"role": "assistant", "content": "Yes?"}, *user("Go on")]
    text = text_of(JudgeTemplate(), PresentedPair(Pair("1", prompt, "x", "y"), False))
    assert "[system]\nBe brief.\n[user]\nHi\n[assistant]\nYes?\n[user]\nGo on\n" in text


@pytest.mark.parametrize("markup", ["{{ 7 * 7 }}", "{% for i in x %}", "{# gone #}", "{% raw %}", "<b>&amp;</b>", "{{"])
def test_markup_in_what_is_judged_is_text(markup):
    pair = Pair("1", user(f"q {markup}"), f"a {markup}", f"b {markup}", criterion=f"c {markup}")
    text = text_of(JudgeTemplate(), PresentedPair(pair, False))
    assert all(f"{letter} {markup}" in text for letter in "qabc")


@pytest.mark.parametrize(
    "reach",
    [
        "{{ first.__class__ }}",
        "{{ first.__class__.__mro__[1].__subclasses__() }}",
        "{{ first['__class__'].__name__ }}",
        "{{ first | attr('__class__') }}",
        "{{ '{0.__class__}'.format(first) }}",
        "{{ conversation.append(1) }}",
        "{{ conversation[0].update(content='x') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{% include '/etc/hostname' %}",
        "{% import '/etc/hostname' as x %}",
        "{{ range(10 ** 9) }}",
    ],
)
def test_a_template_reaches_nothing_but_its_values(template, reach):
    own = template("{{ first }} {{ second }}\n\n" + reach)
    with pytest.raises(ConfigError, match="the judge's template does not work") as caught:
        own.messages(PresentedPair(PAIR, False), "text")
    assert caught.value.where.endswith("own.jinja:3")
    assert PAIR.prompt == user("What is up?")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{{ first }}\n{% if %}\n{{ second }}", 2),
        ("{{ first }}\n{{ second }}\n{{ frist", 3),
        ("{{ first }}{{ second }}\n{% endfor %}", 2),
        ("{{ first }}{{ second | shorten }}", 1),
    ],
)
def test_what_is_no_template_is_told_with_its_line_when_it_is_read(template, text, line):
    with pytest.raises(ConfigError, match="the judge's template does not work") as caught:
        template(text)
    assert caught.value.where.endswith(f"own.jinja:{line}") and caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{{ frist }}", "'frist' is undefined"),
        ("{{ labels[2] }}", "no element 2"),
        ("{{ conversation[0].name }}", "no attribute 'name'"),
        ("{{ first + 1 }}", "can only concatenate str"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ first.index('?') }}", "substring not found"),
    ],
)
def test_what_fails_on_a_pair_is_told_with_its_line(template, line, words):
    own = template("{{ first }}\n{% for message in conversation %}\n" + line + "\n{% endfor %}\n{{ second }}")
    with pytest.raises(ConfigError) as caught:
        own.messages(PresentedPair(PAIR, False), "text")
    assert words in caught.value.what and caught.value.where.endswith("own.jinja:3")


@pytest.mark.parametrize(("text", "name"), [("{{ first }}", "second"), ("{{ second }}", "first"), ("Which?", "first")])
def test_a_template_that_shows_only_one_response_is_refused(template, text, name):
    with pytest.raises(ConfigError, match=f"never shows '{name}'"):
        template(text)


def test_a_file_that_can_not_be_read_is_told(tmp_path):
    with pytest.raises(ConfigError, match="can't read the judge's template") as caught:
        JudgeTemplate(tmp_path / "none.jinja")
    assert caught.value.where.endswith("none.jinja")
    (tmp_path / "latin.jinja").write_bytes("{{ first }} é {{ second }}".encode("latin-1"))
    with pytest.raises(ConfigError, match="can't read the judge's template"):
        JudgeTemplate(Path(tmp_path / "latin.jinja"))


def test_the_fingerprint_is_that_of_the_text_and_the_labels(template):
    text = "{{ first }} or {{ second }}"
    one = template(text).fingerprint
    assert template(text).fingerprint == one
    assert template(text + "?").fingerprint != one
    assert template(text, labels=("1", "2")).fingerprint != one
    assert JudgeTemplate().fingerprint == JudgeTemplate().fingerprint != one
