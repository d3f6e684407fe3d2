import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from lora_loop.core.events import (
    CellDrawn,
    Finding,
    PhaseProgress,
    PhaseStarted,
    Planned,
    PreviewReady,
    Saved,
    StepDone,
)
from lora_loop.extension.progress import Progress


class Clock:
    """Seconds that pass only when told."""

    now = 100.0

    def __call__(self):
        return self.now


def step(number, images):
    return StepDone(step=number, steps=10, loss=1 / number, lr=1e-4, images=images)


def test_speed_and_time_left_are_those_of_the_steps_after_the_first():
    clock = Clock()
    progress = Progress(clock)
    progress(PhaseStarted(name="train", total=10))
    clock.now += 50  # the first step warms up
    progress(step(1, 4))
    for number in (2, 3):
        clock.now += 2
        progress(step(number, 4 * number))
    now = progress.snapshot()
    assert (now.rate, now.seconds_left) == (2.0, 14.0)  # 8 pictures in 4 s; 7 steps of 2 s
    assert (now.step, now.steps, now.losses, now.first_step) == (3, 10, (1, 1 / 2, 1 / 3), 1)


def test_a_rest_does_not_count_as_slow():
    clock = Clock()
    progress = Progress(clock)
    progress(PhaseStarted(name="train", total=10))
    for number in (1, 2):
        clock.now += 1
        progress(step(number, number))
    clock.now += 1000
    progress.restart_pace()
    clock.now += 1
    progress(step(3, 3))
    assert progress.snapshot().seconds_left == 7.0


def test_a_resumed_run_begins_in_the_middle():
    progress = Progress()
    progress(step(7, 14))
    assert progress.snapshot().first_step == 7


def test_parts_of_a_phase():
    clock = Clock()
    progress = Progress(clock)
    progress(PhaseStarted(name="latents", total=8))
    clock.now += 3
    progress(PhaseProgress(name="latents", done=2, total=8))
    now = progress.snapshot()
    assert (now.phase, now.done, now.total, now.seconds_left) == ("latents", 2, 8, 9.0)


def test_files_pictures_and_findings_are_kept_but_resume_states_are_not_listed():
    progress = Progress()
    finding = Finding(level="warning", text="only 3 pictures")
    progress(
        Planned(
            steps=5, epochs=1, images=3, buckets=1, file_bytes=9, memory_bytes=9,
            findings=(finding,),
        )
    )  # fmt: skip
    progress(PreviewReady(path=Path("a.png"), step=4))
    progress(Saved(path=Path("x.resume-state"), kind="state"))
    progress(Saved(path=Path("x.safetensors"), kind="network"))
    now = progress.snapshot()
    assert now.findings == (finding,)
    assert now.pictures == ((4, Path("a.png")),)
    assert now.files == (Path("x.safetensors"),)
    assert [line.kind for line in now.log] == ["finding", "picture", "file"]


def test_the_log_keeps_its_newest_lines():
    progress = Progress()
    for number in range(500):
        progress.note(str(number))
    log = progress.snapshot().log
    assert (len(log), log[-1].text) == (200, "499")


def drawn(colour, *places):
    return CellDrawn(picture=Image.new("RGB", (144, 144), colour), places=places)


def sheet_of(progress):
    data = progress.snapshot().sheet.removeprefix("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_cells_are_shown_at_their_places_as_they_come():
    progress = Progress()
    assert progress.snapshot().sheet == ""
    progress(drawn("red", (0, 0, 0), (0, 1, 2)))
    progress(drawn("blue", (0, 1, 0)))
    sheet = sheet_of(progress)
    assert sheet.size == (3 * 74, 2 * 74)
    red = np.asarray(sheet)[[30, 100, 100], [30, 180, 30], 0] > 200
    assert red.tolist() == [True, True, False]
    progress(drawn("blue", (1, 0, 0)))
    assert sheet_of(progress).size == (74, 74)
    assert progress.snapshot().log == ()


def test_a_grid_without_end_stays_a_small_picture():
    progress = Progress()
    progress(drawn("red", *((0, row, 3 * row) for row in range(500))))
    assert max(sheet_of(progress).size) <= 16 * 74
