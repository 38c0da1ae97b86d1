"""Chat templates from elsewhere, rendered within limits of work, time and size.

A chat template is a program: nested loops need not end in a lifetime, and ``'a' * 10**10`` takes all memory at once.
jinja's sandbox limits what a template reaches, not what it computes. Here all that makes a value is charged to a budget
before or while it is made, so a rendering ends in seconds whatever the template does, in any thread. What ordinary
templates write is what ``apply_chat_template`` writes.
"""

from __future__ import annotations

import functools
import re
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from selfsteer.errors import ModelError, PromptRefused

_LONGEST = 200_000
"""Characters of a template. Published ones have up to some 30,000."""
_WORK, _WORK_PER_CHARACTER = 1_000_000, 200
"""Units that a rendering may use: so many, and so many more for each character of its input. A unit is a character that
is made, also in between; a round of a loop is four and its text, a call ten."""
_OUTPUT, _OUTPUT_PER_CHARACTER = 100_000, 10
"""Characters that a rendering may write: so many, and so many more for each character of template and input."""
_SECONDS = 3.0
"""Processor time of a rendering; ordinary ones take some 0.0001."""
_ROUND, _CALL = 4, 10
_STRIDE = 64  # loop rounds and calls between two looks at the clock

_SHOWN = 300  # characters of a template's error in a message

_STEP, _MADE = "bounded step", "bounded made"  # names that no template can spell

_DROPPED = ("pprint", "striptags", "urlize")
"""Filters whose time grows with the square of a text, which no chat template needs."""
_WIDE = re.compile(r"\d{5}")  # in a format: a width of 10,000 characters or more


class TooMuch(Exception):
    """A template is longer, computes longer or writes more than :class:`BoundedTemplate` allows."""


class BoundedTemplate:
    """A chat template, compiled as transformers does it, whose renderings are bounded.

    A rendering makes at most 1,000,000 + 200 characters for each one of its input, also in between, writes at most
    100,000 + 10 for each one of template and input, and takes 3 seconds of processor time, or raises
    :class:`TooMuch`. It also raises what the template raises, which may be any exception.
    """

    def __init__(self, source: str) -> None:
        if not isinstance(source, str):
            raise TypeError("it is not text")
        if len(source) > _LONGEST:
            raise TooMuch(f"it has {len(source):,} characters, more than {_LONGEST:,}")
        self._source = source
        self._environment = _Bounded()
        with self._environment.budget.limited(_WORK):  # constants are computed here
            tree = _Charging().visit(self._environment.parse(source))
            self._template = self._environment.from_string(tree)

    def render(self, messages: Sequence[Mapping[str, str]], **variables: Any) -> str:
        """Return what the template writes for these messages and variables."""
        data = {"messages": [dict(message) for message in messages], "tools": None, "documents": None, **variables}
        size = sum(len(text) for message in messages for text in message.values())
        with self._environment.budget.limited(_WORK + _WORK_PER_CHARACTER * size):
            text = self._template.render(data)
        most = _OUTPUT + _OUTPUT_PER_CHARACTER * (size + len(self._source))
        if len(text) > most:
            raise TooMuch(f"it writes {len(text):,} characters, more than {most:,}")
        return text


def apply_template(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    *,
    cue: bool,
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Return what a tokenizer's ``apply_chat_template`` writes, within the limits of :class:`BoundedTemplate`.

    Raises:
        PromptRefused: The template refuses these messages, or fails with them.
        ModelError: None is the default, it can't be compiled, or it is stopped by a limit.
    """
    name = str(getattr(tokenizer, "name_or_path", ""))
    if _renders_itself(tokenizer.__class__):
        # Python of its own, which the user chose to trust.
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=cue, **kwargs)
        return text
    do = f"fix chat_template in the tokenizer of {name} (tokenizer_config.json, chat_template.jinja), or copy it again"
    try:
        template = _compiled(tokenizer.get_chat_template())
    except Exception as error:  # a hostile template may raise anything
        raise ModelError(f"the chat template can't be used: {_reason(error)}", where=name, do=do) from error
    try:
        return template.render(messages, **{**tokenizer.special_tokens_map, "add_generation_prompt": cue, **kwargs})
    except TooMuch as error:
        raise ModelError(f"the chat template is stopped: {error}", where=name, do=do) from error
    except Exception as error:
        roles = ", ".join(message["role"] for message in messages)
        what = f"the chat template refuses a prompt with the roles {roles}: {_reason(error)}"
        raise PromptRefused(what, where=name, do="give prompts in the form that this model's template takes") from error


@functools.cache
def _renders_itself(kind: Any) -> bool:
    """Return whether a class of tokenizers has an ``apply_chat_template`` of its own."""
    from transformers import PreTrainedTokenizerBase

    return kind.apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template


def _reason(error: Exception) -> str:
    """Return an error's text, cut; with its kind where the template did not choose the words."""
    from jinja2 import TemplateError

    text = str(error)[:_SHOWN]
    return text if isinstance(error, TemplateError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> BoundedTemplate:
    """Return a compiled template; raises as :class:`BoundedTemplate`, and what jinja raises for a wrong one."""
    return BoundedTemplate(source)


class _Budget(threading.local):
    """What the rendering of this thread may still use."""

    left: float = 0
    until: float = 0
    ticks: int = 0

    @contextmanager
    def limited(self, work: float) -> Iterator[None]:
        """Allow this thread so much work and :data:`_SECONDS` of processor time."""
        self.left, self.until = work, time.thread_time() + _SECONDS
        try:
            yield
        finally:
            self.left = 0

    def spend(self, units: float) -> None:
        self.left -= units
        if self.left < 0:
            raise TooMuch("it computes more than is allowed for a text of this length")

    def tick(self) -> None:
        """Look at the clock, now and then."""
        self.ticks += 1
        if not self.ticks % _STRIDE and time.thread_time() > self.until:
            raise TooMuch(f"it computes for more than {_SECONDS:g} seconds")

    def check(self, units: float) -> None:
        """Refuse an operation that may make so much, before it does."""
        if units > self.left:
            raise TooMuch("it makes a value that is larger than is allowed for a text of this length")

    def made(self, value: Any) -> Any:
        """Charge a value that was made, and return it."""
        if type(value) is str and len(value) < self.left:
            self.left -= len(value)
        elif value is not None and type(value) is not bool:
            self.spend(_size(value, self.left))
        return value


class _Bounded(ImmutableSandboxedEnvironment):
    """The environment that transformers compiles a chat template in, in which values and calls are charged."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        theirs = _compile_jinja_template("").environment
        self.budget = _Budget()
        super().__init__(
            trim_blocks=theirs.trim_blocks, lstrip_blocks=theirs.lstrip_blocks,
            extensions=[type(extension) for extension in theirs.extensions.values()], finalize=self.budget.made,
        )  # fmt: skip
        self.globals.update(theirs.globals)
        del self.globals["lipsum"]  # writes text of any length
        self.filters = {
            name: self._charged(name, function) for name, function in theirs.filters.items() if name not in _DROPPED
        }
        budget = self.budget

        @pass_context  # else it would be computed once, while the template is compiled
        def step(_: Any, weight: int) -> bool:
            budget.tick()
            budget.spend(weight)
            return True

        self.filters[_STEP] = step
        self.filters[_MADE] = pass_context(lambda _, value: budget.made(value))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute ``left operator right`` if the result is not too large."""
        if operator == "+":
            return self.budget.made(left + right)
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, int) and not isinstance(other, (int, float)):
                    self.budget.check(abs(one) * _size(other, self.budget.left))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            self.budget.check(left.bit_length() * abs(right) * 100)
        elif operator == "%" and isinstance(left, str):
            self._check_format(left, right)
        return self.budget.made(self.binop_table[operator](left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # as in jinja
        """Call what a template calls, if its result can't be too large."""
        budget = __self.budget
        budget.tick()
        budget.spend(_CALL)
        if not isinstance(__obj, Macro):  # whose body is charged by itself
            inner = getattr(__obj, "__wrapped__", __obj) if isinstance(__obj, types.FunctionType) else __obj
            receiver = getattr(inner, "__self__", None) if isinstance(inner, types.BuiltinMethodType) else None
            if isinstance(receiver, str) and inner.__name__ in ("format", "format_map"):
                __self._check_format(receiver, [*args, *kwargs.values()])
            elif args or kwargs:
                budget.check(_size(receiver, budget.left) * _reach([*args, *kwargs.values()], budget.left))
        return budget.made(super().call(__context, __obj, *args, **kwargs))

    def _check_format(self, text: str, values: Any) -> None:
        if _WIDE.search(text):
            raise TooMuch("it formats a value to 10,000 characters or more")
        self.budget.check(_size(text, self.budget.left) * _reach(values, self.budget.left))

    def _charged(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        budget = self.budget
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            budget.tick()
            budget.spend(_CALL)
            given = [*args[first + 1 :], *kwargs.values()]
            value = args[first] if len(args) > first else None
            if name == "format":
                self._check_format(str(value), given)
            elif name == "sum":  # of lists, which are joined one by one
                budget.check(_size(value, budget.left) ** 2)
            elif given:
                budget.check(_size(value, budget.left) * _reach(given, budget.left))
            return budget.made(function(*args, **kwargs))

        return charged


class _Charging(NodeTransformer):
    """Puts charges into a template: for each round of a loop, and for values that are made without a call."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # as jinja names it
        self.generic_visit(node)
        text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        node.body.insert(0, nodes.ExprStmt(_filtered(nodes.Const(_ROUND + text), _STEP)))
        if node.test is not None:  # it runs for each item, whether the body does or not
            node.test = nodes.And(_filtered(nodes.Const(_ROUND), _STEP), node.test)
        return node

    def _made(self, node: nodes.Expr) -> nodes.Node:
        changing = any(node.find(kind) for kind in (nodes.Name, nodes.BinExpr, nodes.Call, nodes.Filter))
        self.generic_visit(node)
        return _filtered(node, _MADE) if changing else node

    visit_Concat = visit_List = visit_Dict = _made

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._made(node) if node.ctx == "load" else self.generic_visit(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        return self._made(node) if isinstance(node.arg, nodes.Slice) else self.generic_visit(node)


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno or 1)


def _size(value: Any, most: float) -> float:
    """Return the characters and values in ``value``; it stops counting above ``most``."""
    found: float = 0
    rest = [value]
    while rest and found <= most:
        one = rest.pop()
        kind = type(one)  # a namespace answers isinstance() slowly
        found += 1
        if issubclass(kind, (str, bytes)):
            found += len(one)
        elif issubclass(kind, int):
            found += one.bit_length() >> 1
        elif issubclass(kind, dict):
            rest += [*one, *one.values()]
        elif issubclass(kind, (list, tuple, set, frozenset)):
            rest += one
        elif issubclass(kind, Namespace):
            rest += object.__getattribute__(one, "_Namespace__attrs").values()
        elif hasattr(kind, "__len__"):
            found += len(one)
    return found


def _reach(values: Any, most: float) -> float:
    """Return by how much an operation with these arguments may multiply a text: their sizes, and numbers."""
    rest = list(values) if isinstance(values, (list, tuple)) else [values]
    numbers = sum(abs(one) for one in rest if isinstance(one, int))
    return 1 + numbers + _size(rest, most)
