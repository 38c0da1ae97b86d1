"""Which keys of a recipe the code of each stage reads: an access log over the sections of recipes."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, get_args

import pytest
from pydantic.fields import FieldInfo

import selfsteer
from selfsteer.config import Recipe, Section
from selfsteer.loop.dry_run import DryRunStore, plan
from selfsteer.loop.guards import verdict_depends
from selfsteer.loop.run import open_stages
from selfsteer.models.single_slot import OneHeld
from selfsteer.reward.recipe import RewardRecipe
from selfsteer.runs.ledger import VERDICT, Slot
from selfsteer.runs.progress import Display
from selfsteer.runs.store import Store, stage_key
from selfsteer.stages.context import RunContext
from selfsteer.workflows.reward import planned_rewards

Carried = Mapping[tuple[type, str], Callable[[Any], Sequence[str]]]
"""Attributes that carry settings read earlier: by class and name, the keys that one of an instance stands for."""


def keys(kind: type[Section], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a recipe; ``*`` stands for the items of a list or a mapping."""
    for name, field in kind.model_fields.items():
        inner, step = section_of(field)
        if inner is None or step or type(None) in get_args(field.annotation):
            yield prefix + name
        if inner is not None:
            yield from keys(inner, f"{prefix}{name}.{step}")


def section_of(field: FieldInfo) -> tuple[type[Section] | None, str]:
    """Return the kind of section that a field holds, and "*." where it holds several."""
    found = _section_in(field.annotation, "")
    return found or (None, "")


def _section_in(annotation: Any, step: str) -> tuple[type[Section], str] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, step
    several = "*." if getattr(annotation, "__origin__", None) in (list, dict) else step
    return next(filter(None, (_section_in(one, several) for one in get_args(annotation))), None)


class Keyed(NamedTuple):
    """A stage's key, and what it is made of, as text."""

    key: str
    depends: str


def stage_keys(recipe: Recipe | RewardRecipe, folder: Path) -> dict[Slot, Keyed]:
    """Return the keys of all stages of a run that is not there, as a dry run finds them."""
    found: dict[Slot, Keyed] = {}
    settle, verdict = DryRunStore._settle, DryRunStore.verdict

    def noted_settle(store: DryRunStore, asked: Any) -> Any:
        found[asked.name, asked.round, "/heldout/" in f"{asked.folder}/"] = Keyed(asked.key, repr(asked.depends))
        return settle(store, asked)

    def noted_verdict(store: DryRunStore, number: int, stages: RunContext) -> Any:
        depends = verdict_depends(stages.recipe.guards, stages.direction, store.claims)
        found[VERDICT, number, False] = Keyed(stage_key(VERDICT, depends), repr([store.claims, depends]))
        return verdict(store, number, stages)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DryRunStore, "_settle", noted_settle)
        patch.setattr(DryRunStore, "verdict", noted_verdict)
        if isinstance(recipe, RewardRecipe):
            planned_rewards(recipe, folder)
        else:
            plan(open_stages(recipe, folder, Display(quiet=True)), measure=True)
    return found


class AccessLog:
    """Notes reads of registered recipes by the stage in whose function they happen; use it as a context.

    Reads of cached values, and of a model that is still in memory, count again wherever the value is used.

    Args:
        functions: Each asks the store for one stage; a read belongs to the innermost one that is running.
        carried: See :data:`Carried`.

    Attributes:
        asked: By slot, the keys read anywhere in the stage's function.
        worked: By slot, the keys read while the stage worked.
        keys: By slot, the stage's own key.
    """

    def __init__(self, functions: Iterable[Callable[..., Any]], carried: Carried) -> None:
        self.asked: dict[Slot, set[str]] = {}
        self.worked: dict[Slot, set[str]] = {}
        self.keys: dict[Slot, str] = {}
        self._codes = {function.__code__ for function in functions}
        self._carried = carried
        self._places: dict[int, tuple[Section, str, frozenset[str]]] = {}
        self._frames: dict[FrameType, tuple[set[str], set[str]]] = {}
        self._slots: dict[FrameType, Slot] = {}
        self._collecting: list[set[str]] = []

    def register(self, section: Section, place: str = "", without: Iterable[str] = ()) -> None:
        """Note reads of a section and of those in it; ``without`` names fields whose values are not the recipe's."""
        self._places[id(section)] = section, place, frozenset(without)
        for name in type(section).model_fields:
            value = section.__dict__[name]
            if isinstance(value, Section):
                self.register(value, f"{place}{name}.")
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            for one in inner:
                if isinstance(one, Section):
                    self.register(one, f"{place}{name}.*.")

    @contextmanager
    def recording(self) -> Iterator[AccessLog]:
        """Record until the context ends."""
        with pytest.MonkeyPatch.context() as patch:
            _import_all()
            self._watch_sections(patch)
            self._watch_store(patch)
            self._watch_caches(patch)
            for (kind, name), stands_for in self._carried.items():
                patch.setattr(kind, name, _Attribute(name, self, stands_for), raising=False)
            yield self
        for frame, slot in self._slots.items():
            for found, reads in zip((self.asked, self.worked), self._frames.get(frame, (set(), set())), strict=True):
                found.setdefault(slot, set()).update(reads)
        self._frames.clear()
        self._slots.clear()

    def note(self, read: Iterable[str], *, at_work: bool = False) -> None:
        """Note keys as read; ``at_work``: only where a stage works."""
        read = set(read)
        frame, working = self._running()
        if frame is not None and (working or not at_work):
            for found in self._frames.setdefault(frame, (set(), set()))[: 2 if working else 1]:
                found |= read
        for collected in self._collecting:
            collected |= read

    @contextmanager
    def collected(self) -> Iterator[set[str]]:
        """Yield the set of what is read inside."""
        reads: set[str] = set()
        self._collecting.append(reads)
        try:
            yield reads
        finally:
            self._collecting.remove(reads)

    def asks(self, slot: Slot, key: str) -> None:
        """Note that the running function asks for a stage."""
        frame, _ = self._running()
        assert frame is not None, f"{slot[0]}: name the function that asks for this stage among those that are watched"
        self._slots[frame], self.keys[slot] = slot, key

    def _running(self) -> tuple[FrameType | None, bool]:
        """Return the innermost frame of a stage's function, and whether its stage is at work."""
        frame: FrameType | None = sys._getframe(1)
        working = False
        while frame is not None and frame.f_code not in self._codes:
            working = working or frame.f_code is _DO
            frame = frame.f_back
        return frame, working

    def _watch_sections(self, patch: pytest.MonkeyPatch) -> None:
        dump, copy = Section.model_dump, Section.model_copy

        def getattribute(section: Section, name: str) -> Any:
            value = object.__getattribute__(section, name)
            _, place, without = self._places.get(id(section), (None, "", _ALL))
            if without is not _ALL and name in type(section).model_fields and name not in without:
                self.note([place + name])
            return value

        def model_dump(section: Section, **options: Any) -> dict[str, Any]:
            values = dump(section, **options)
            if id(section) in self._places:
                self.note(_dumped(values, self._places[id(section)][1]), at_work=True)
            return values

        def model_copy(section: Section, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Any:
            copied = copy(section, update=update, deep=deep)
            if id(section) in self._places:
                _, place, without = self._places[id(section)]
                self._places[id(copied)] = copied, place, without | set(update or ())
            return copied

        patch.setattr(Section, "__getattribute__", getattribute, raising=False)
        patch.setattr(Section, "model_dump", model_dump)
        patch.setattr(Section, "model_copy", model_copy)

    def _watch_store(self, patch: pytest.MonkeyPatch) -> None:
        settle, note = Store._settle, Store.note

        def noted_settle(store: Store, asked: Any) -> Any:
            self.asks((asked.name, asked.round, "/heldout/" in f"{asked.folder}/"), asked.key)
            return settle(store, asked)

        def noted_note(store: Store, name: str, round: int, depends: dict[str, Any], info: dict[str, Any]) -> None:
            self.asks((name, round, False), stage_key(name, depends))
            note(store, name, round, depends, info)

        patch.setattr(Store, "_settle", noted_settle)
        patch.setattr(Store, "note", noted_note)

    def _watch_caches(self, patch: pytest.MonkeyPatch) -> None:
        for kind in _classes():
            for name, attribute in list(vars(kind).items()):
                if isinstance(attribute, functools.cached_property):
                    patch.setattr(kind, name, _Cached(attribute.func, self))
        hold, behind = OneHeld.hold, dict[int, tuple[OneHeld, set[str]]]()

        def noted_hold(held: OneHeld, wanted: Any, load: Callable[[], Any]) -> Any:
            with self.collected() as reads:
                before = held._held
                found = hold(held, wanted, load)
            if held._held is not before:
                behind[id(held)] = held, reads
            self.note(behind[id(held)][1])
            return found

        patch.setattr(OneHeld, "hold", noted_hold)


class _Cached:
    """In place of a cached property: what was read to compute the value is read again by whoever uses it."""

    def __init__(self, compute: Callable[[Any], Any], log: AccessLog) -> None:
        self._compute, self._log = compute, log
        self._known: dict[int, tuple[Any, Any, set[str]]] = {}

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if id(instance) not in self._known:
            with self._log.collected() as reads:
                value = self._compute(instance)
            self._known[id(instance)] = instance, value, reads
        _, value, reads = self._known[id(instance)]
        self._log.note(reads)
        return value


class _Attribute:
    """In place of an attribute that carries settings: reading it reads them."""

    def __init__(self, name: str, log: AccessLog, stands_for: Callable[[Any], Sequence[str]]) -> None:
        self._name, self._log, self._stands_for = name, log, stands_for

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        self._log.note(self._stands_for(instance))
        return instance.__dict__[self._name]

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._name] = value


_DO = Store._do.__code__
_ALL = frozenset({"*"})


def _dumped(values: Mapping[str, Any], place: str) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _dumped(value, f"{place}{name}.")
        else:
            yield place + name


def _import_all() -> None:
    for module in pkgutil.walk_packages(selfsteer.__path__, "selfsteer."):
        if not module.name.endswith(("__main__", ".ray_pipeline")):  # the latter needs Ray, and reads no setting
            importlib.import_module(module.name)


def _classes() -> Iterator[type]:
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "selfsteer"]
    found = {id(one): one for module in modules for one in vars(module).values() if isinstance(one, type)}
    return (one for one in found.values() if one.__module__.partition(".")[0] == "selfsteer")
