"""What the principles stage computes for each query of a batch: aspects, principle pair, steered prompts."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from selfsteer.backends import Backend, Completion, Failure, Prompt, Sampling, may_think, shared_prefix
from selfsteer.chat import Chat, SystemRole
from selfsteer.config import Recipe
from selfsteer.contrast import check_prompts_differ
from selfsteer.errors import ConfigError, PromptRefused
from selfsteer.principles import write
from selfsteer.principles.choose import Choice, choice_without_model, chooser_messages, parse_choice, with_extra
from selfsteer.principles.pair import PrinciplePair, pair_for, steering_message
from selfsteer.principles.principle_set import PrincipleSet
from selfsteer.principles.steer import fold_system, steer
from selfsteer.quality import answer_of
from selfsteer.records import Query, SteeredQuery
from selfsteer.runs.executor import BatchResult
from selfsteer.seeding import batch_seed

_LONGEST_SOURCE = 200  # characters

_TEMPLATES = {"fixed": (), "per_aspect": ("write_pairs",), "guideline": ("write_guideline",)}
"""What each strategy uses besides the templates of choosing and steering."""


class WrittenPrinciples(NamedTuple):
    """The principle pair of a query, how its aspects were chosen, and how it was written."""

    pair: PrinciplePair
    choice: str
    writing: str


def templates_of(recipe: Recipe) -> Sequence[str]:
    """Return the names of the templates that a recipe's principles come from."""
    return "choose_aspects", "steer", *_TEMPLATES[recipe.principles.strategy]


def needs_model(recipe: Recipe, principle_set: PrincipleSet) -> bool:
    """Return whether a model has to be asked for the principles of a query."""
    written = recipe.principles.strategy != "fixed"
    return written or choice_without_model(principle_set, aspects_wanted(recipe, principle_set)) is None


def acting_settings(recipe: Recipe, principle_set: PrincipleSet) -> dict[str, Any]:
    """Return the settings of ``principles`` that act on what every query is given.

    Those about the writer, the room for thoughts and what differs between rounds are not among them.
    """
    idle = {"below_chance", "model", "per_round", "thinking_max_tokens"}
    if recipe.principles.strategy == "fixed":
        idle.add("writing_max_tokens")
    if choice_without_model(principle_set, aspects_wanted(recipe, principle_set)):
        idle |= {"choice", "choice_temperature", "choice_max_tokens"}
    return recipe.principles.model_dump(exclude=idle)


def check_draws(recipe: Recipe, principle_set: PrincipleSet) -> None:
    """Raise :class:`ConfigError` where a setting of what is drawn for a query has nothing to draw from this set."""
    settings, count = recipe.principles, len(principle_set.choosable)
    draws = [key for key in ("choice", "choice_temperature") if getattr(settings, key) not in ("first", 0)]
    if draws and choice_without_model(principle_set, aspects_wanted(recipe, principle_set)):
        raise ConfigError(
            f"the set {principle_set.name!r} leaves nothing to choose: every query gets all {count} aspects",
            where=f"principles.{draws[0]}",
            do=f"leave {' and '.join(draws)} out"
            + f", or set principles.aspects_per_query below {count}" * (count > 1),
        )
    extras = principle_set.extras and 0 < settings.extra_rate < 1
    if settings.per_round == "redrawn" and not draws and not extras:
        raise ConfigError(
            "nothing about a query is drawn at random: no extra aspect is added to some queries, and the choice is "
            "neither sampled nor shuffled",
            where="principles.per_round",
            do="leave it out, or set principles.choice, principles.choice_temperature or principles.extra_rate",
        )


def principled(
    recipe: Recipe,
    principle_set: PrincipleSet,
    writer: Backend,
    chats: Sequence[Chat],
    queries: Sequence[Query],
    seed: int | None = None,
) -> BatchResult[SteeredQuery]:
    """Give each query its aspects, principle pair and two prompts that ``chats`` take; failures by query id."""
    seed = recipe.seed if seed is None else seed
    made = _STRATEGIES[recipe.principles.strategy](_Writing(recipe, principle_set, writer, seed), queries)
    rows: list[SteeredQuery] = []
    failures: dict[Hashable, Failure] = {}
    for query, found in zip(queries, made, strict=True):
        if isinstance(found, Failure):
            failures[query.id] = found
            continue
        try:
            rows.append(steered(query, found, chats))
        except PromptRefused as error:
            failures[query.id] = Failure(error, refused=True)
    return BatchResult(rows, failures)


def refusal(query: Query, chats: Sequence[Chat]) -> str:
    """Return why a chat template refuses a query, "" where all take it."""
    try:
        for chat in chats:
            chat.encode(fold_system(query.prompt) if chat.system_role == "folded" else query.prompt)
    except PromptRefused as error:
        return error.what
    return ""


def steered(query: Query, made: WrittenPrinciples, chats: Sequence[Chat]) -> SteeredQuery:
    """Return a query with its principle pair and its two steered prompts.

    One model that reads them without a system role is enough for the principle to go into the user turn.
    """
    pair = made.pair
    role: SystemRole = "folded" if any(chat.system_role == "folded" for chat in chats) else "native"
    row = SteeredQuery(
        id=query.id,
        prompt=fold_system(query.prompt) if role == "folded" else query.prompt,
        split=query.split,
        aspects=pair.aspects,
        choice=made.choice,
        positive_principle=pair.positive_principle,
        negative_principle=pair.negative_principle,
        positive_prompt=steer(query.prompt, steering_message(pair, "positive"), role),
        negative_prompt=steer(query.prompt, steering_message(pair, "negative"), role),
        writing=made.writing,
        # A source's column may hold whole texts.
        provenance=({"source": query.source[:_LONGEST_SOURCE]} if query.source else {})
        | {f"query_{name}": text for name, text in query.provenance.items()},
    )
    for chat in chats or (None,):
        check_prompts_differ(row, chat)
    return row


@dataclass(frozen=True)
class _Writing:
    """The writer that the strategies ask, and what about."""

    recipe: Recipe
    principle_set: PrincipleSet
    writer: Backend
    seed: int

    def choose(self, queries: Sequence[Query]) -> list[Choice | Failure]:
        """Return the aspects of each query, the set's extra ones included."""
        count = aspects_wanted(self.recipe, self.principle_set)
        settled = choice_without_model(self.principle_set, count)
        settings = self.recipe.principles
        choices: list[Choice | Failure] = [settled] * len(queries) if settled else self._chosen(queries, count)
        return [
            choice
            if isinstance(choice, Failure)
            else dataclasses.replace(
                choice,
                aspects=with_extra(choice.aspects, self.principle_set, query.id, settings.extra_rate, self.seed),
            )
            for query, choice in zip(queries, choices, strict=True)
        ]

    def _chosen(self, queries: Sequence[Query], count: int) -> list[Choice | Failure]:
        outcomes = self.ask(
            [chooser_messages(self.principle_set, text_of(query), count, self._role) for query in queries],
            # Two made-up queries differ from their first letter on, so what they share is exactly the few-shot part.
            [chooser_messages(self.principle_set, text, count, self._role) for text in ("A", "Z")],
            self.recipe.principles.choice_max_tokens,
            temperature=self.recipe.principles.choice_temperature,
            seed=batch_seed(self.seed, "choice", queries[0].id) if queries else 0,
        )
        shuffles = self.recipe.principles.choice == "shuffled"
        return [
            outcome
            if isinstance(outcome, Failure)
            else parse_choice(
                outcome.text,
                self.principle_set,
                count,
                cut=outcome.finish == "length",
                shuffle=random.Random(f"{self.seed}\n{query.id}") if shuffles else None,
            )
            for query, outcome in zip(queries, outcomes, strict=True)
        ]

    def write_pairs(self, queries: Sequence[Query], aspects: Sequence[Sequence[str]]) -> list[Completion | Failure]:
        """Return what the writer answers when it is asked for a pair for each aspect of each query."""
        known = self.principle_set
        asked = [
            write.pair_messages(known, names, text_of(query), self._role)
            for query, names in zip(queries, aspects, strict=True)
        ]
        like = [write.pair_messages(known, [known.aspects[0].name], text, self._role) for text in ("A", "Z")]
        tokens = self.recipe.principles.writing_max_tokens * (aspects_wanted(self.recipe, known) + len(known.extras))
        return self.ask(asked, like, tokens, write.pairs_schema(known))

    def write_guidelines(self, queries: Sequence[Query]) -> list[Completion | Failure]:
        """Return what the writer answers when it is asked for a good and a bad guideline for each query."""
        asked = [write.guideline_messages(text_of(query), self._role) for query in queries]
        like = [write.guideline_messages(text, self._role) for text in ("A", "Z")]
        return self.ask(asked, like, self.recipe.principles.writing_max_tokens, write.guideline_schema())

    def ask(
        self,
        prompts: Sequence[Prompt],
        like: Sequence[Prompt],
        tokens: int,
        json_schema: Mapping[str, Any] | None = None,
        *,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Completion | Failure]:
        """Ask the writer; a reasoning model gets room to think, and its thoughts are left out.

        Args:
            like: Two prompts that have in common with each other what all of them have.
            json_schema: What an answer shall be; a model that thinks is not held to it, as it could not think then.
            temperature: 0 is greedy; else ``generation.top_p`` acts too.
        """
        if not prompts:
            return []
        chat, context = self.writer.chat, self.writer.context
        if chat is not None and chat.thinking is not None:
            json_schema = None
        room = tokens + (self.recipe.thinking_tokens if may_think(self.writer.name, chat) else 0)
        if context is not None:
            room = max(tokens, min(room, context - max(map(self.writer.length, prompts))))
        outcomes = self.writer.generate(
            prompts,
            Sampling(room, temperature, self.recipe.generation.top_p if temperature else 1.0, json_schema),
            seed=seed,
            shared_prefix=shared_prefix(chat, like[0], like[1]),
        )
        return [outcome if isinstance(outcome, Failure) else answer_of(outcome, chat) for outcome in outcomes]

    @property
    def _role(self) -> SystemRole:
        return self.writer.chat.system_role if self.writer.chat else "native"


def _fixed(writing: _Writing, queries: Sequence[Query]) -> list[WrittenPrinciples | Failure]:
    return [
        choice
        if isinstance(choice, Failure)
        else WrittenPrinciples(pair_for(writing.principle_set, choice.aspects), choice.outcome, "fixed")
        for choice in writing.choose(queries)
    ]


def _per_aspect(writing: _Writing, queries: Sequence[Query]) -> list[WrittenPrinciples | Failure]:
    """Choose, then have a pair written for each aspect that was chosen."""
    choices = writing.choose(queries)
    chosen = [(query, one) for query, one in zip(queries, choices, strict=True) if isinstance(one, Choice)]
    answers = iter(writing.write_pairs([query for query, _ in chosen], [choice.aspects for _, choice in chosen]))
    made: list[WrittenPrinciples | Failure] = []
    for choice in choices:
        answer = choice if isinstance(choice, Failure) else next(answers)
        if isinstance(choice, Failure) or isinstance(answer, Failure):
            made.append(answer)  # type: ignore[arg-type]
            continue
        cut = answer.finish == "length"
        written = write.parse_pairs(answer.text, writing.principle_set, choice.aspects, cut=cut)
        made.append(WrittenPrinciples(written.pair, choice.outcome, written.outcome))
    return made


def _guideline(writing: _Writing, queries: Sequence[Query]) -> list[WrittenPrinciples | Failure]:
    """Have two guidelines written; a query that got none is given aspects and their pairs as with "fixed"."""
    steering = writing.principle_set.steering
    answers = writing.write_guidelines(queries)
    found = [
        answer
        if isinstance(answer, Failure)
        else write.parse_guideline(answer.text, steering, cut=answer.finish == "length")
        for answer in answers
    ]
    without = iter(_fixed(writing, [query for query, one in zip(queries, found, strict=True) if one is None]))
    made: list[WrittenPrinciples | Failure] = []
    for one, answer in zip(found, answers, strict=True):
        if one is None:
            fixed = next(without)
            outcome = "cut" if isinstance(answer, Completion) and answer.finish == "length" else "fallback"
            made.append(fixed if isinstance(fixed, Failure) else fixed._replace(writing=outcome))
        else:
            made.append(one if isinstance(one, Failure) else WrittenPrinciples(one.pair, "none", one.outcome))
    return made


Strategy = Callable[[_Writing, Sequence[Query]], list[WrittenPrinciples | Failure]]
_STRATEGIES: dict[str, Strategy] = {"fixed": _fixed, "per_aspect": _per_aspect, "guideline": _guideline}


def text_of(query: Query) -> str:
    """Return what a query asks: its last turn."""
    return query.prompt[-1]["content"]


def aspects_wanted(recipe: Recipe, principle_set: PrincipleSet) -> int:
    """Return how many aspects a query gets, besides the set's extra ones."""
    return recipe.principles.aspects_per_query or principle_set.aspects_per_query
