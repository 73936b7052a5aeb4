"""Signals while somebody waits."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from glc_ray.stopping import Stop, StoppedError, stop_by_signals


def test_items_come_in_order_and_errors_after_them() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise KeyError("three")

    seen = []
    with pytest.raises(KeyError, match="three"):
        for item in Stop().each(items()):
            seen.append(item)
    assert seen == [1, 2]
    assert list(Stop().each([])) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_an_item_that_does_not_come(number: signal.Signals) -> None:
    release = threading.Event()

    def items() -> Iterator[int]:
        os.kill(os.getpid(), number)
        release.wait()
        yield 1

    before = signal.getsignal(number)
    with stop_by_signals() as stop:
        with pytest.raises(StoppedError, match=number.name):
            next(stop.each(items()))
        release.set()
        stop.settle(60)
    assert signal.getsignal(number) == before


def test_what_is_there_already_comes_before_the_end() -> None:
    there, release = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        there.set()
        release.wait()
        yield 4

    stop, seen = Stop(), []
    with pytest.raises(StoppedError):
        for item in stop.each(items()):
            seen.append(item)
            assert there.wait(60)
            stop.note(signal.SIGTERM)
    assert seen == [1, 2, 3]
    release.set()
    stop.settle(60)


def test_a_second_signal_does_not_cut_short_what_the_first_began() -> None:
    with stop_by_signals() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedError):
            stop.check()


def test_elsewhere_than_in_the_main_thread_no_signal_is_waited_for() -> None:
    found = []

    def work() -> None:
        with stop_by_signals() as stop:
            found.extend(stop.each([1]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert found == [1]
