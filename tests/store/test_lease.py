"""The lease: never two runs at once, never stuck behind a dead one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from glc_ray.protocols import UserError
from glc_ray.store.lease import Holder, LeaseLostError, LeaseTimes, holder, run_lease
from glc_ray.store.output import Output
from glc_ray.store.process import is_gone, process_start
from tests.store.bucket_server import BucketServer, denied

FOLDER = ".work/lease"
# Signs that never come by themselves.
TIMES = LeaseTimes(renew_s=600, stale_s=30, settle_s=0.05, poll_s=0.05)
ELSEWHERE = Holder("0123456789abcdef", "elsewhere", 42, "its machine", 7, 1e9, 1e9, holds=True)


def _files(output: Output) -> list[str]:
    return [stored.path for stored in output.list(FOLDER)]


def _write(output: Output, other: Holder) -> str:
    path = f"{FOLDER}/{other.token}.json"
    output.put_bytes(json.dumps(asdict(other)).encode(), path)
    return path


Aging = Callable[[str, float], None]


@pytest.fixture
def age(request: pytest.FixtureRequest, output: Output, tmp_path: Path) -> Aging:
    """Make a file as old as a number of seconds, by the storage's clock."""

    def make(path: str, seconds: float) -> None:
        root = Path(output.location)
        if not output.is_local:
            bucket = tmp_path.name.replace("_", "-").lower().strip("-")
            root = request.getfixturevalue("s3").root / bucket / "renders"
        os.utime(root / path, (time.time() - seconds,) * 2)

    return make


def test_one_run_at_a_time(output: Output) -> None:
    with run_lease(output, times=TIMES) as lease:
        lease.check()
        assert holder(output) == lease.own
        assert (lease.own.host, lease.own.pid) == (os.uname().nodename, os.getpid())
        with pytest.raises(UserError) as error, run_lease(output, times=TIMES):
            pass
        # Who was refused left nothing.
        assert _files(output) == [f"{FOLDER}/{lease.own.token}.json"]
        lease.check()
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(lease.own.started))
    assert str(error.value).startswith(
        f"{output.uri()}: another run has this output: process {os.getpid()} on "
        f"{os.uname().nodename}, since {since}, which gave its last sign "
    )
    assert str(error.value).endswith(
        " s ago; wait until it ends, stop it, or give another --output (a run that was killed "
        "elsewhere counts as dead 30 s after its last sign)"
    )
    assert holder(output) is None
    assert _files(output) == []
    with run_lease(output, times=TIMES):
        pass


def test_it_is_given_back_after_an_error(output: Output) -> None:
    with pytest.raises(ZeroDivisionError), run_lease(output, times=TIMES):
        raise ZeroDivisionError
    assert _files(output) == []


def test_waiting(output: Output) -> None:
    told: list[str] = []
    ended = threading.Event()

    def on_wait(text: str) -> None:
        told.append(text)
        ended.set()

    def hold() -> None:
        with run_lease(output, times=TIMES):
            held.set()
            ended.wait()

    held = threading.Event()
    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    with run_lease(Output(output.location), wait_s=60, on_wait=on_wait, times=TIMES) as lease:
        lease.check()
        other.join()
    (text,) = told
    assert text.startswith(f"{output.uri()}: another run has this output: process {os.getpid()} on")


def test_waiting_in_vain(output: Output) -> None:
    told: list[str] = []
    with (
        run_lease(output, times=TIMES),
        pytest.raises(UserError, match="another run has this output"),
        run_lease(output, wait_s=0.2, on_wait=told.append, times=TIMES),
    ):
        pass
    assert len(told) == 1


def test_a_run_elsewhere_is_dead_after_half_a_minute(output: Output, age: Aging) -> None:
    path = _write(output, ELSEWHERE)
    age(path, 25)
    with pytest.raises(UserError, match="process 42 on elsewhere, since 2001-09-"):
        run_lease(output, times=TIMES).__enter__()
    # Its own clock is years behind; what counts is the storage's.
    age(path, 35)
    with run_lease(output, times=TIMES) as lease:
        assert lease.own.replaces == (ELSEWHERE.token,)
        assert _files(output) == [f"{FOLDER}/{lease.own.token}.json"]


def test_a_process_that_ended_is_dead_at_once(output: Output) -> None:
    with run_lease(output, times=TIMES) as lease:
        own = lease.own
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        start = process_start(process.pid)
        assert start
        _write(output, replace(own, pid=process.pid, process_start=start))
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            run_lease(output, times=TIMES).__enter__()
        process.kill()
        # Dead, though nobody has waited for it yet.
        while not is_gone(process.pid, start):
            time.sleep(0.001)
        with run_lease(output, times=TIMES):
            pass
    _write(output, replace(own, pid=process.pid, process_start=start))
    with run_lease(output, times=TIMES):
        pass
    # Its number was given to another process: this one.
    _write(output, replace(own, process_start=own.process_start - 1))
    with run_lease(output, times=TIMES):
        pass
    # The same number in another container says nothing.
    _write(output, replace(own, machine="another", process_start=1))
    with pytest.raises(UserError, match="another run has this output"):
        run_lease(output, times=TIMES).__enter__()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": 1}'])
def test_foreign_files_hold_nothing(tmp_path: Path, content: bytes) -> None:
    output = Output(str(tmp_path))
    output.put_bytes(content, f"{FOLDER}/0.json")
    with run_lease(output, times=TIMES) as lease:
        found = holder(output, times=TIMES)
        assert found is not None
        assert found.token == lease.own.token


def test_a_run_that_slept_finds_out(output: Output, age: Aging) -> None:
    with run_lease(output, times=TIMES) as lease:
        own = f"{FOLDER}/{lease.own.token}.json"
        age(own, 35)
        with run_lease(Output(output.location), times=TIMES) as other:
            files = {path: output.read_bytes(path) for path in _files(output)}
            lease.renew()
            assert lease.is_lost
            with pytest.raises(LeaseLostError) as error:
                lease.check()
            text = str(error.value)
            assert text.startswith(
                f"{output.uri()}: this run gave no sign for so long that another one took the "
                f"output over; process {os.getpid()} on {os.uname().nodename}, since "
            )
            assert text.endswith(
                " s ago has it now. What was rendered is kept; to go on here, stop that run and "
                "give the same command again"
            )
            # The other one's is as it was, also when it gives its next sign.
            assert {path: output.read_bytes(path) for path in _files(output)} == files
            other.renew()
            other.check()
    assert _files(output) == []


def test_a_sign_that_was_held_up_does_no_harm(output: Output, age: Aging) -> None:
    with run_lease(output, times=TIMES) as lease:
        age(f"{FOLDER}/{lease.own.token}.json", 35)
        with run_lease(Output(output.location), times=TIMES) as other:
            # It had looked before it fell asleep, and writes when it wakes.
            _write(output, lease.own)
            other.renew()
            other.check()
            with pytest.raises(UserError, match="another run has this output"):
                run_lease(output, times=TIMES).__enter__()
            lease.renew()
            assert lease.is_lost
            assert _files(output) == [f"{FOLDER}/{other.own.token}.json"]


def test_of_two_that_hold_one_gives_way(output: Output) -> None:
    with run_lease(output, times=TIMES) as lease:
        _write(output, replace(ELSEWHERE, started=lease.own.started + 1))
        lease.renew()
        lease.check()
        _write(output, ELSEWHERE)
        lease.renew()
        with pytest.raises(LeaseLostError, match="process 42 on elsewhere"):
            lease.check()


def test_many_at_once(output: Output) -> None:
    inside: list[int] = []
    most = []

    def run(number: int) -> None:
        with run_lease(Output(output.location), wait_s=60, times=TIMES) as lease:
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            lease.check()
            inside.remove(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4
    assert _files(output) == []


def test_an_outage_is_no_loss(s3: BucketServer, s3_output: Output) -> None:
    def refuse(method: str, path: str) -> None:
        raise denied()

    with run_lease(s3_output, times=TIMES) as lease:
        with s3.guarded(refuse):
            lease.renew()
            lease.check()
        lease.renew()
        lease.check()
        assert lease.own.signed > lease.own.started


# Prints what became of its lease when it wakes.
_SLEEPER = """
import sys, time
from glc_ray.store.lease import LeaseLostError, LeaseTimes, run_lease
from glc_ray.store.output import Output

with run_lease(Output(sys.argv[1]), times=LeaseTimes(renew_s=0.05, stale_s=1.0)) as lease:
    print("held", flush=True)
    try:
        while True:
            time.sleep(0.01)
            lease.check()
    except LeaseLostError as error:
        print(error, flush=True)
"""


def test_a_stopped_process_loses_it_and_a_running_one_does_not(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    output.prepare()
    times = LeaseTimes(renew_s=0.05, stale_s=1.0, poll_s=0.05)
    command = [sys.executable, "-c", _SLEEPER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError):
            # Longer than it may go without a sign.
            run_lease(output, wait_s=2.0, times=times).__enter__()
        process.send_signal(signal.SIGSTOP)
        with run_lease(output, wait_s=60, times=times) as lease:
            process.send_signal(signal.SIGCONT)
            assert f"process {os.getpid()} on" in process.stdout.readline()
            assert process.wait() == 0
            lease.renew()
            lease.check()
