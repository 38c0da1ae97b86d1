"""Chat templates that never end or eat the memory, and that ordinary ones are rendered as transformers does."""

from __future__ import annotations

import resource
import time

import pytest
from jinja2 import TemplateError

from selfsteer.errors import ModelError, PromptRefused
from selfsteer.models.bounded_template import BoundedTemplate, TooMuch, apply_template
from tests.chat_templates import TEMPLATES, tokenizer_of, user

_LONG = "{% for a in range(99999) %}"
_END = "{% endfor %}"
_ACCUMULATE = "{% set ns = namespace(s=START, t=START) %}{% for i in range(99) %}BODY{% endfor %}"
_STRING = "{% set s = 'a' * 400000 %}{% set t = s ~ '' %}"


def _accumulating(body: str, start: str = "'a'", then: str = "{{ ns.s }}") -> str:
    return _ACCUMULATE.replace("START", start).replace("BODY", body) + then


HOSTILE = {
    "nested loops": _LONG * 6 + "x" + _END * 6,
    "nested loops without text": _LONG * 6 + _END * 6,
    "nested loops in a macro": "{% macro m() %}" + _LONG * 3 + "x" * 5000 + _END * 3 + "{% endmacro %}{{ m() }}",
    "nested loops in a block": "{% set s %}" + _LONG * 2 + "x" * 5000 + _END * 2 + "{% endset %}",
    "nested loops of transformers' own block": "{% generation %}" + _LONG * 4 + _END * 4 + "{% endgeneration %}",
    "a loop whose filter takes none": _LONG + "{% for b in range(99999) if b == -1 %}" + _END * 2,
    "a slow filter of a loop": _STRING + "{% for b in range(99999) if s == t and b == -1 %}" + _END,
    "compares in a loop": _STRING + _LONG + "{% if s == t %}{% endif %}" + _END,
    "compares after a length": _STRING + _LONG + "{{ loop.length }}{% if s == t %}{% endif %}" + _END,
    "searches in a loop": _STRING + _LONG + "{% if 'ab' in s %}{% endif %}" + _END,
    "slices in a loop": _STRING + _LONG + "{% set t = s[1:] %}" + _END,
    "output in a loop": "{% set s = 'a' * 90000 %}{% set q %}" + _LONG + "{{ s }}" + _END + "{% endset %}",
    "a product": "{{ 'a' * 10**10 }}",
    "a product, the number first": "{{ 10**10 * 'a' }}",
    "a product of a list": "{{ ([0] * 10**10) | length }}",
    "a product that is not constant": "{% set n = (messages | length) * 10**10 %}{{ 'a' * n }}",
    "a product in steps": "{{ ('a' * 4000) * 4000 * 4000 }}",
    "a power": "{{ 9**99999999 }}",
    "growing numbers": _accumulating("{% set ns.s = ns.s * ns.s %}", "3", "{{ ns.s > 1 }}"),
    "a wide format": "{{ '%999999999d' % 1 }}",
    "a width among the values": "{{ '%*d' % (10**9, 1) }}",
    "the filter format": "{{ '%999999999d' | format(1) }}",
    "str.format": "{{ '{:999999999}'.format(1) }}",
    "str.format, a width among the values": "{{ '{:{}}'.format(1, 10**9) }}",
    "str.format_map": "{{ '{a:999999999}'.format_map({'a': 1}) }}",
    "str.format, many fields": "{{ ('{0}' * 100000).format('a' * 100000) }}",
    "% with many fields": "{{ ('%s' * 10000) % (('a' * 10000,) * 10000) }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "zfill": "{{ 'a'.zfill(10**10) | length }}",
    "expandtabs": "{{ '\t'.expandtabs(10**9) }}",
    "to_bytes": "{{ (5).to_bytes(10**10, 'big') }}",
    "str.replace": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "str.join": "{{ ('a' * 100000).join('b' * 100000) }}",
    "str.translate": "{{ 'aaaa'.translate({97: 'a' * 1000000}) }}",
    "the filter center": "{{ 'a' | center(10**10) }}",
    "a block of the filter center": "{% filter center(10**10) %}x{% endfilter %}",
    "the filter replace": "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "the filter join": "{{ ('a' * 100000) | join('b' * 100000) }}",
    "the filter indent": "{{ ('\n' * 100000) | indent(10**6) }}",
    "the filter tojson": "{{ [[1]] | tojson(indent=10**10) }}",
    "the filter wordwrap": "{{ ('a ' * 100000) | wordwrap(1, wrapstring='b' * 100000) }}",
    "the filter batch": "{{ [1] | batch(10**10, 0) | list | length }}",
    "the filter slice": "{{ [1] | slice(10**10) | list | length }}",
    "the filter sum": "{{ ([[1]] * 100000) | sum(start=[]) | length }}",
    "the filter map": "{{ range(99999) | map('string') | map('replace', '1', 'a' * 9999) | list | length }}",
    "the filter select": _LONG + "{{ range(99999) | select('odd') | list | length }}" + _END,
    "a text that doubles": _accumulating("{% set ns.s = ns.s ~ ns.s %}"),
    "a sum that doubles": _accumulating("{% set ns.s = ns.s + ns.s %}"),
    "a list that doubles": _accumulating("{% set ns.s = [ns.s, ns.s] %}"),
    "an object that doubles": _accumulating("{% set ns.s = {'a': ns.s, 'b': ns.s} %}", then="{{ ns.s | tojson }}"),
    "an object that doubles by a call": _accumulating("{% set ns.s = dict(a=ns.s, b=ns.s) %}"),
    "a namespace that doubles": _accumulating("{% set ns.s = namespace(a=ns.s, b=ns.s) %}"),
    "lists that double, compared": _accumulating(
        "{% set ns.s = (ns.s, ns.s) %}{% set ns.t = (ns.t, ns.t) %}", then="{{ ns.s == ns.t }}"
    ),
    "a namespace in itself": "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
    "{{ m(100) }}",
    "the text of a call, twice": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call m() %}" * 15 + "x" * 999 + "{% endcall %}" * 15,
    "a cycler": "{% set c = cycler(*range(99999)) %}" + _LONG + "{{ c.next() }}" + _END,
    "more than is read": "x" * 200_001,
    "more output than input": "{{ 'x' * 150000 }}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_stopped_in_time_and_memory(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    with pytest.raises(TooMuch):
        BoundedTemplate(HOSTILE[name]).render(user("Hi"), add_generation_prompt=True)
    assert time.process_time() - began < 12  # 3 s by the limit, on a machine that may be busy
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("{{ 1 / 0 }}", ZeroDivisionError),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", RecursionError),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", RecursionError),
        ("{{ lipsum() }}", TemplateError),
        ("{{ 'a' | urlize }}", TemplateError),
        ("{{ 9.0 ** 9999 }}", OverflowError),
    ],
)
def test_what_a_template_raises_is_a_message(source: str, kind: type[Exception]) -> None:
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = source
    with pytest.raises(ModelError) as caught:
        apply_template(tokenizer, user("Hi"), cue=True)
    assert isinstance(caught.value.__cause__, kind)
    assert kind is TemplateError or kind.__name__ in caught.value.what


def test_a_stopped_template_names_itself_and_is_no_refusal_of_one_prompt() -> None:
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template, tokenizer.name_or_path = HOSTILE["a product"], "a/model"
    with pytest.raises(ModelError, match="the chat template is stopped: it makes a value that is larger") as caught:
        apply_template(tokenizer, user("Hi"), cue=True)
    assert not isinstance(caught.value, PromptRefused)
    assert caught.value.where == "a/model" and "chat_template" in caught.value.do


@pytest.mark.parametrize("family", TEMPLATES)
def test_ordinary_templates_write_what_transformers_writes(family: str) -> None:
    tokenizer = tokenizer_of(family)
    answered = [*user("How?"), {"role": "assistant", "content": "<think>\nso\n</think>\n\nSo."}, *user("Why?")]
    for messages in (user("Hi"), user("Hi", "Be brief."), answered, [*user("x" * 100_000), *answered[1:]]):
        for cue in (True, False):
            try:
                expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=cue)
            except TemplateError as error:
                with pytest.raises(PromptRefused, match=str(error)[:20]):
                    apply_template(tokenizer, messages, cue=cue)
            else:
                assert apply_template(tokenizer, messages, cue=cue) == expected


def test_constructs_of_templates_keep_their_meaning() -> None:
    source = (
        "{% for a, b in [(1, 2), (3, 4)] if b > 2 %}{{ loop.length }}{{ a }}{{ loop.last }}{% else %}none{% endfor %}"
        "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        "{% for i in [] %}{% else %}empty{% endfor %}"
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content | length %}{% endfor %}"
        "{{ ns.n }} {{ messages[::-1][0]['role'] }} {{ ['a', 'b'] | join('-') }} {{ {'a': 1} | tojson }}"
        " {{ '%s-%05d' % ('a', 7) }} {{ 2 ** 10 }} {{ 'ab' * 3 }} {{ '{:>3}'.format(1) }} {{ None }} {{ nothing }}"
        "{% macro m(x) %}[{{ x }}{{ caller() if caller }}]{% endmacro %}{{ m(1) }}{% call m(2) %}c{% endcall %}"
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}"
        "{{ messages[0].items() | list }}{% generation %}g{% endgeneration %}{{ bos_token }}"
    )
    tokenizer = tokenizer_of("chatml")
    tokenizer.chat_template = source
    expected = tokenizer.apply_chat_template(user("Hi", "Be."), tokenize=False, add_generation_prompt=False)
    assert apply_template(tokenizer, user("Hi", "Be."), cue=False) == expected


def test_long_dialogues_are_within_the_limits() -> None:
    turn = [{"role": "user", "content": "x" * 20_000}, {"role": "assistant", "content": "y" * 20_000}]
    joining = (
        "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.content %}{% endfor %}{{ ns.t }}"
    )
    assert len(BoundedTemplate(joining).render(turn * 50, add_generation_prompt=False)) == 2_000_000
    assert BoundedTemplate(TEMPLATES["qwen3"]).render(turn * 50, add_generation_prompt=True)


def test_code_of_a_tokenizer_that_renders_by_itself_is_used() -> None:
    tokenizer = tokenizer_of("chatml")

    class Own(type(tokenizer)):
        def apply_chat_template(self, *arguments, **options):
            return "its own"

    tokenizer.__class__ = Own
    assert apply_template(tokenizer, user("Hi"), cue=True) == "its own"
