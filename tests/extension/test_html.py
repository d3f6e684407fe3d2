"""What pages show: numbers where they belong, and texts of others as texts."""

import math
import re
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="no gradio: install the extra `ui`")

from lora_loop.core.events import CellDrawn, Finding, PhaseStarted, Planned, StepDone
from lora_loop.extension.chart import Zoom, loss_chart, smoothed
from lora_loop.extension.jobs import Job
from lora_loop.extension.live import (
    findings,
    job_strip,
    notice,
    plan_line,
    queue_list,
    training_view,
)
from lora_loop.extension.progress import Progress
from lora_loop.extension.widgets import hidden_data
from lora_loop.extension.words import Words, readable_bytes, readable_time

EN, ZH = Words("en"), Words("zh")
EVIL = '<img src=x onerror="alert(1)">'


def job_with(losses, title="momo", error=""):
    progress = Progress()
    progress(PhaseStarted(name="train", total=len(losses)))
    for number, loss in enumerate(losses, 1):
        progress(StepDone(step=number, steps=len(losses), loss=loss, lr=1e-4, images=number))
    job = Job(1, "train", title, lambda controls: None, progress=progress, error=error)
    job.state = "failed" if error else "running"
    return job


@pytest.mark.parametrize(
    "shown",
    [
        notice(EVIL),
        findings([Finding(level="warning", text=EVIL, path=Path(EVIL))], EN),
        job_strip(job_with([1.0], EVIL, EVIL), 0, EN),
        training_view(job_with([1.0, 2.0], error=EVIL), Zoom(), EN),
        queue_list([job_with([], EVIL, EVIL)], EN),
        hidden_data("x", {"a": EVIL}),
    ],
)
def test_names_and_errors_are_text_and_no_markup(shown):
    assert "<img" not in shown


def test_the_plan_in_one_line():
    planned = Planned(
        steps=3040, epochs=10, images=40, buckets=5, file_bytes=1536, memory_bytes=5 << 20,
        findings=(Finding(level="warning", text="only 3 pictures"),),
    )  # fmt: skip
    line = plan_line(planned, EN)
    for words in ("3,040", "40 pictures in 5 sizes", "1.5 KiB", "5.0 MiB", "only 3 pictures"):
        assert words in line
    assert "3,040</b> 步" in plan_line(planned, ZH)


def test_the_strip_tells_state_and_share():
    strip = job_strip(job_with([0.5] * 4), 2, EN)
    assert 'data-state="running"' in strip
    assert "4 / 4" in strip
    assert "width:100.0%" in strip
    assert "2 waiting" in strip
    assert 'data-state="idle"' in job_strip(None, 0, EN)


def test_the_strip_shows_cells_until_the_grid_is_there():
    job = job_with([])
    picture = Image.new("RGB", (8, 8))
    job.progress(CellDrawn(picture=picture, places=((0, 0, 0),)))
    assert 'src="data:image/jpeg;base64,' in job_strip(job, 0, EN)
    assert "已绘制的图片" in job_strip(job, 0, ZH)
    job.state = "done"
    assert "<img" not in job_strip(job, 0, EN)


def test_smoothing_is_a_mean_that_starts_at_the_first_value():
    assert smoothed([2.0, 2.0, 2.0]) == pytest.approx([2, 2, 2])
    # decay 0.8: (0.8 * 1 * 0.2 + 0.2 * 3) / (0.2 + 0.8 * 0.2)
    assert smoothed([1.0, 3.0])[1] == pytest.approx((0.16 + 0.6) / 0.36)
    assert math.isnan(smoothed([math.nan, 1.0])[0])


def path_of(svg, name):
    found = re.search(rf'class="{name}" d="([^"]*)"', svg)
    assert found is not None
    return [tuple(map(float, point.split())) for point in re.split("[ML]", found[1])[1:]]


def test_the_chart_goes_down_where_the_loss_does():
    svg = loss_chart(job_with([4.0, 3.0, 2.0, 1.0]).progress.snapshot(), EN)
    points = path_of(svg, "lora-loop-raw")
    xs, ys = zip(*points, strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys)  # SVG counts from the top
    assert (xs[0], xs[-1]) == (52, 708)


def test_the_chart_of_a_part_and_of_many_steps():
    progress = job_with([float(step % 7) for step in range(4000)]).progress.snapshot()
    assert len(path_of(loss_chart(progress, EN), "lora-loop-raw")) <= 2 * 360
    tenth = loss_chart(progress, EN, Zoom(0.9))
    assert ">3700<" in tenth
    assert ">1000<" not in tenth


def test_a_loss_that_is_no_number_makes_a_gap():
    svg = loss_chart(job_with([1.0, math.nan, 2.0, math.inf]).progress.snapshot(), EN)
    assert "nan" not in svg
    assert "inf" not in svg
    assert len(path_of(svg, "lora-loop-raw")) == 2
    assert loss_chart(job_with([math.nan] * 3).progress.snapshot(), EN)


def test_nothing_to_see_yet():
    assert loss_chart(job_with([1.0]).progress.snapshot(), EN) == ""


def test_readable_numbers():
    assert readable_bytes(512) == "512 bytes"
    assert readable_bytes(3 << 30) == "3.00 GiB"
    assert [readable_time(s, EN) for s in (5, 75, 7300)] == ["5 s", "1 min 15 s", "2 h 1 min"]
    assert readable_time(75, ZH) == "1 分 15 秒"
