"""The segments' ledger: whatever is interleaved and whoever dies, only the owner's entry counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glc_ray.store.ledger import Ledger, SegmentEntry
from glc_ray.store.output import Output
from glc_ray.store.storage import StoredFile

VIDEO = "0123456789abcdef"
SETTINGS = "fedcba9876543210" * 4


@pytest.fixture
def ledger(output: Output) -> Ledger:
    return Ledger(output, VIDEO, SETTINGS)


def _store(output: Output, ledger: Ledger, segment: int, attempt: int) -> SegmentEntry:
    """What an attempt does before it commits."""
    path = ledger.segment_path(segment, attempt)
    content = f"segment {segment} of attempt {attempt}".encode()
    output.put_bytes(content, path)
    local = output.local_copy(path, _folder)
    return SegmentEntry.of_file(
        local, path, first_frame=8 * segment, num_frames=8, settings_hash=SETTINGS
    )


_folder = Path()


@pytest.fixture(autouse=True)
def _copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "_folder", tmp_path)


def _names(output: Output) -> list[str]:
    return [stored.path.rpartition("/")[2] for stored in output.list(f".work/{VIDEO}")]


def test_a_segment_is_claimed_and_committed(output: Output, ledger: Ledger) -> None:
    assert ledger.next_attempt(3) == 1
    assert ledger.claim(3, 1)
    assert ledger.done() == {}
    entry = _store(output, ledger, 3, 1)
    assert ledger.commit(3, 1, entry)
    # Another process reads the same.
    assert Ledger(output, VIDEO, SETTINGS).done() == {3: entry}
    assert entry.path == f".work/{VIDEO}/segments/{SETTINGS[:16]}/00003.0001.mp4"
    assert (entry.first_frame, entry.num_frames, entry.size) == (24, 8, 22)


def test_what_an_attempt_could_not_enter_is_withdrawn(output: Output, ledger: Ledger) -> None:
    ledger.claim(0, 1)
    stored = _store(output, ledger, 0, 1)
    output.put_bytes(b"{}", ledger.segment_path(0, 1, ".pictures"))
    ledger.withdraw(0, 1)
    assert [name.rpartition(".")[2] for name in _names(output)] == ["claim"]
    assert ledger.next_attempt(0) == 2
    # What was entered is done, whatever happened after that.
    ledger.claim(0, 2)
    stored = _store(output, ledger, 0, 2)
    assert ledger.commit(0, 2, stored)
    ledger.withdraw(0, 2)
    assert ledger.done() == {0: stored}
    assert ledger.valid(stored)
    assert stored.is_of(output.local_copy(stored.path, _folder))


def test_a_late_commit_is_dropped_and_its_file_removed(output: Output, ledger: Ledger) -> None:
    ledger.claim(0, 1)
    late = _store(output, ledger, 0, 1)
    assert ledger.claim(0, 2)
    assert not ledger.commit(0, 1, late)
    assert ledger.done() == {}
    assert output.size(late.path) is None
    entry = _store(output, ledger, 0, 2)
    assert ledger.commit(0, 2, entry)
    assert not ledger.commit(0, 1, _store(output, ledger, 0, 1))
    assert ledger.done() == {0: entry}
    assert [name.split(".")[1] for name in _names(output)] == ["0002"] * 3


def test_a_commit_removes_what_older_attempts_left(output: Output, ledger: Ledger) -> None:
    ledger.claim(0, 1)
    _store(output, ledger, 0, 1)
    ledger.claim(0, 2)
    ledger.claim(1, 1)
    ledger.commit(0, 2, _store(output, ledger, 0, 2))
    assert [name[:10] for name in _names(output)] == ["00000.0002"] * 3 + ["00001.0001"]


def test_numbers_only_rise(output: Output, ledger: Ledger) -> None:
    assert ledger.claim(0, 3)
    assert not ledger.claim(0, 3)
    assert not ledger.claim(0, 2)
    assert ledger.next_attempt(0) == 4
    # A file without a claim, of an attempt that was cut off, is not met again either.
    output.put_bytes(b"torn", ledger.segment_path(0, 7))
    assert ledger.next_attempt(0) == 8


def test_a_commit_without_a_claim_is_dropped(output: Output, ledger: Ledger) -> None:
    ledger.claim(0, 1)
    entry = _store(output, ledger, 0, 1)
    ledger.clear()
    assert not ledger.commit(0, 1, entry)
    assert _names(output) == []


def test_another_settings_segments_are_not_seen(output: Output, ledger: Ledger) -> None:
    other = Ledger(output, VIDEO, "0" * 64)
    ledger.claim(0, 1)
    entry = _store(output, ledger, 0, 1)
    ledger.commit(0, 1, entry)
    assert other.done() == {}
    with pytest.raises(ValueError, match="of another decode or encode setting"):
        other.commit(0, 1, entry)
    other.forget_other_settings()
    assert ledger.done() == {}
    assert _names(output) == []


def test_forgetting_leaves_the_own(output: Output, ledger: Ledger) -> None:
    ledger.claim(0, 1)
    ledger.commit(0, 1, _store(output, ledger, 0, 1))
    ledger.forget_other_settings()
    assert list(ledger.done()) == [0]
    ledger.clear()
    assert ledger.done() == {}


def test_valid(output: Output, ledger: Ledger) -> None:
    ledger.claim(0, 1)
    entry = _store(output, ledger, 0, 1)
    assert ledger.valid(entry)
    assert entry.is_of(output.local_copy(entry.path, _folder))
    output.put_bytes(b"x" * entry.size, entry.path)
    assert ledger.valid(entry)
    assert not entry.is_of(output.local_copy(entry.path, _folder))
    output.put_bytes(b"short", entry.path)
    assert not ledger.valid(entry)
    assert not entry.is_of(output.local_copy(entry.path, _folder))
    output.delete(entry.path)
    assert not ledger.valid(entry)


def test_segments_are_claimed_together(output: Output, ledger: Ledger) -> None:
    ledger.claim(1, 1)
    assert ledger.claim_next([0, 1, 2]) == [1, 2, 1]
    assert ledger.claim_next([1]) == [3]
    assert ledger.commit(0, 1, _store(output, ledger, 0, 1))
    assert not ledger.commit(1, 2, _store(output, ledger, 1, 2))
    assert list(ledger.done()) == [0]


class _Counting(Output):
    """Knows how often a folder was listed."""

    listings = 0

    def list(self, folder: str, *, recursive: bool = True) -> list[StoredFile]:
        self.listings += 1
        return super().list(folder, recursive=recursive)


def test_the_folder_is_listed_once_for_all_claims_and_twice_for_a_commit(tmp_path: Path) -> None:
    output = _Counting(str(tmp_path / "out"))
    ledger = Ledger(output, VIDEO, SETTINGS)
    ledger.claim_next(range(9))
    assert output.listings == 1
    assert ledger.commit(0, 1, _store(output, ledger, 0, 1))
    assert output.listings == 3


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"colour": "red"}'])
def test_an_entry_that_is_none_is_not_done(output: Output, ledger: Ledger, text: bytes) -> None:
    ledger.claim(0, 1)
    ledger.commit(0, 1, _store(output, ledger, 0, 1))
    (path,) = (s.path for s in output.list(f".work/{VIDEO}") if s.path.endswith(".json"))
    output.put_bytes(text, path)
    assert ledger.done() == {}


class _Dead(BaseException):
    """A process was killed."""


class _Process(Output):
    """An output whose user stops before each access to storage, until it is told to go on.

    A listing is one access, as S3's is.
    """

    def __init__(self, location: str, work: Callable[[_Process], None]) -> None:
        super().__init__(location)
        self._turn, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._killed = self.ended = False
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def step(self) -> None:
        self._turn.release()
        self._stopped.acquire()

    def kill(self) -> None:
        self._killed = True
        while not self.ended:
            self.step()

    def _run(self, work: Callable[[_Process], None]) -> None:
        with suppress(_Dead):
            work(self)
        self.ended = True
        self._stopped.release()

    def _access(self) -> None:
        self._stopped.release()
        self._turn.acquire()
        if self._killed:
            raise _Dead

    def put_bytes(self, data: bytes, path: str) -> None:
        self._access()
        super().put_bytes(data, path)

    def list(self, folder: str) -> list[StoredFile]:
        self._access()
        return super().list(folder)

    def delete(self, path: str) -> None:
        self._access()
        super().delete(path)


_SEGMENTS = 2

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("attempt"), st.integers(0, _SEGMENTS - 1)),
        # Which process, and how far.
        st.tuples(st.just("step"), st.integers(0, 7 * 6 - 1)),
        st.tuples(st.just("kill"), st.integers(0, 9)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    min_size=8,
    max_size=40,
)


@given(steps=_STEPS)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_interleaving_ends_with_one_owner(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    output = Output(str(tmp_path_factory.mktemp("out")))
    ledger = Ledger(output, VIDEO, SETTINGS)
    processes: list[_Process] = []
    # The entries that attempts of the newest claim made, by segment: nothing else may count.
    current: dict[int, SegmentEntry] = {}
    made = 0

    def attempt(segment: int) -> None:
        nonlocal made
        number = ledger.next_attempt(segment)
        assert ledger.claim(segment, number)
        made += 1
        entry = SegmentEntry(
            path=ledger.segment_path(segment, number),
            sha256=f"{made}",
            size=1,
            first_frame=0,
            num_frames=8,
            settings_hash=SETTINGS,
        )
        current[segment] = entry

        def work(process: _Process) -> None:
            process.put_bytes(b"x", entry.path)
            Ledger(process, VIDEO, SETTINGS).commit(segment, number, entry)

        processes.append(_Process(output.location, work))

    def only_the_owners_count() -> None:
        for segment, entry in ledger.done().items():
            assert entry == current[segment]
            assert ledger.valid(entry)

    for action, which in steps:
        alive = [process for process in processes if not process.ended]
        if action == "attempt":
            attempt(which)
        elif action == "clear":
            ledger.clear()
            current.clear()
            # A video is cleared when it is done, so that nobody claims before the dead are dead.
            for process in alive:
                process.kill()
        elif alive and action == "step":
            process, times = alive[which // 7 % len(alive)], which % 7 + 1
            for _ in range(times):
                if not process.ended:
                    process.step()
                    only_the_owners_count()
        elif alive:
            alive[which % len(alive)].kill()
        only_the_owners_count()

    # What was given up comes back late, while all that is missing is made again.
    late = [process for process in processes if not process.ended]
    for segment in set(range(_SEGMENTS)) - set(ledger.done()):
        attempt(segment)
    for process in (*processes[len(processes) - _SEGMENTS :], *late):
        while not process.ended:
            process.step()
            only_the_owners_count()
    for process in processes:
        while not process.ended:
            process.step()
    assert sorted(ledger.done()) == list(range(_SEGMENTS))
    only_the_owners_count()
