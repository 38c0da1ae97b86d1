"""One model in memory at a time."""

from __future__ import annotations

import platform
import sys
import weakref
from pathlib import Path

import pytest
import torch

from selfsteer.models.single_slot import OneHeld


class Model:
    closed = 0

    def close(self) -> None:
        Model.closed += 1


def test_another_is_loaded_after_the_first_is_gone_and_the_same_not_again() -> None:
    held, first = OneHeld(), list[weakref.ref[Model]]()
    assert held.name is None

    def load() -> Model:
        assert all(ref() is None for ref in first)
        model = Model()
        first.append(weakref.ref(model))
        return model

    Model.closed = 0
    assert held.hold("a", load) is held.hold("a", load) and len(first) == 1 and held.name == "a"
    held.hold("b", load)
    assert len(first) == 2 and Model.closed == 1
    held.free()
    assert held.name is None and Model.closed == 2 and first[1]() is None


def test_one_that_is_given_away_is_not_closed_and_a_failed_load_holds_nothing() -> None:
    held = OneHeld()
    Model.closed = 0
    held.hold("a", Model)
    held.give_away()
    with pytest.raises(ZeroDivisionError):
        held.hold("b", lambda: 1 / 0)
    assert Model.closed == 0 and held.name is None


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc, which keeps memory"
)
def test_small_blocks_that_were_freed_go_back_to_the_system() -> None:
    held = OneHeld()
    blocks = [torch.ones(16_000) for _ in range(3000)]  # 192 MB
    last = torch.ones(16_000)  # above them, so that the heap can't shrink from its end
    before = _resident()
    blocks.clear()
    held.free()
    assert before - _resident() > 150e6 and last.sum() == 16_000


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096.0
