import errno
import gc
import threading
import weakref
from contextlib import contextmanager

import pytest

from lora_loop.core.errors import DatasetError
from lora_loop.core.events import PhaseStarted, StepDone
from lora_loop.extension.jobs import Board, Tools, explain

WAIT = 20  # seconds; only a broken board needs them


def step(number, steps=3):
    return StepDone(step=number, steps=steps, loss=0.5, lr=1e-4, images=number)


def over(job):
    assert job.over.wait(WAIT)
    return job


def test_jobs_are_done_one_after_another():
    board, order = Board(), []
    gate = threading.Event()
    first = board.submit("train", "first", lambda controls: (gate.wait(WAIT), order.append(1)))
    second = board.submit("train", "second", lambda controls: order.append(2) or "made")
    assert [job.title for job in board.jobs()] == ["first", "second"]
    gate.set()
    assert over(second).state == "done"
    assert (order, second.result, first.state) == ([1, 2], "made", "done")
    assert [job.title for job in board.jobs()] == ["second", "first"]
    assert board.current() is None


def test_what_a_job_holds_is_let_go_with_its_result():
    class Heavy:
        pass

    heavy = Heavy()
    seen = weakref.ref(heavy)
    board = Board()
    job = over(board.submit("redraw", "x", lambda controls, held=heavy: held))
    del heavy
    assert job.take() is seen()
    assert board.jobs() == [job]
    gc.collect()
    assert seen() is None
    assert job.take() is None


def test_a_part_that_fails_is_a_warning_of_its_job():
    def fail():
        raise DatasetError("no such thing")

    board = Board()
    job = over(
        board.submit(
            "train",
            "x",
            lambda controls: (controls.attempt(fail, "the rest: "), controls.attempt(int, "")),
        )
    )
    assert (job.state, job.result) == ("done", (None, 0))
    assert [one.text for one in job.progress.snapshot().findings] == ["the rest: no such thing"]


def test_an_error_is_the_jobs_alone():
    def fail(controls):
        raise DatasetError("no pictures in /x; choose another folder")

    board = Board()
    failed = over(board.submit("train", "first", fail))
    assert (failed.state, failed.error) == ("failed", "no pictures in /x; choose another folder")
    assert failed.progress.snapshot().log[-1].kind == "error"
    assert over(board.submit("train", "second", lambda controls: 7)).result == 7


def test_stopping_a_running_job_asks_its_work():
    board, started = Board(), threading.Event()

    def work(controls):
        taken = 0
        while not controls.stop():
            taken += 1
            controls.on_event(step(taken))
            started.set()
        return taken

    job = board.submit("train", "long", work)
    assert started.wait(WAIT)
    board.stop(job.number)
    assert over(job).state == "stopped"
    assert job.result >= 1


def test_the_hosts_stop_button_counts_too():
    board = Board(Tools(wants_stop=lambda: True))
    assert over(board.submit("train", "x", lambda controls: controls.stop())).state == "stopped"


def test_a_waiting_job_can_be_taken_out():
    board, gate = Board(), threading.Event()
    first = board.submit("train", "first", lambda controls: gate.wait(WAIT))
    second = board.submit("train", "second", lambda controls: pytest.fail("it was taken out"))
    board.stop(second.number)
    assert over(second).state == "stopped"
    gate.set()
    assert over(first).state == "done"


@pytest.mark.parametrize("ending", ["go_on", "stop"])
def test_a_pause_rests_between_steps_and_lets_the_host_work(ending):
    log = []
    taken, resting, gate = threading.Event(), threading.Event(), threading.Event()

    @contextmanager
    def rest():
        log.append("host")
        resting.set()
        yield
        log.append("ours")

    def work(controls):
        taken.set()
        gate.wait(WAIT)
        for number in range(1, 4):
            controls.on_event(step(number))
            log.append(number)
            if controls.stop():
                break

    board = Board(Tools(rest=rest))
    job = board.submit("train", "x", work)
    assert taken.wait(WAIT)
    board.pause(job.number)
    gate.set()
    assert resting.wait(WAIT)
    assert job.state == "paused"
    getattr(board, ending)(job.number)
    assert over(job).state == ("done" if ending == "go_on" else "stopped")
    assert log == ["host", "ours", 1, *([2, 3] if ending == "go_on" else [])]


def test_events_reach_the_host_and_the_progress():
    seen = []
    board = Board(Tools(show=seen.append))
    events = [PhaseStarted(name="train", total=3), step(1), step(2)]
    job = over(board.submit("train", "x", lambda controls: [*map(controls.on_event, events)]))
    assert seen == events
    assert job.progress.snapshot().step == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "lower training.batch_size"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "lower training.batch_size"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (KeyError("x"), "unexpected: KeyError"),
    ],
)
def test_errors_in_the_users_words(error, words):
    assert words in explain(error)
