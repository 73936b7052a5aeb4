"""The report page as a person has it: seen, played, searched, and used with keys alone."""

from __future__ import annotations

import functools
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glc_ray.evaluation.evaluation_file import EvaluationFile, StoredCurve
from glc_ray.report_page.report import Report
from glc_ray.store.output import Output
from glc_ray.store.paths import evaluation_path
from glc_ray.store.run_status import RunStatus, VideoProgress
from tests.media.clips import moving_texture
from tests.report_page.outputs import BEGAN, job, many, record, store_rows, store_video

HOSTILE = (
    "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>&amp;\"'`${1}\u2028",
    "\u202eevil txt.exe\u2066 a ball \u0000",
    "https://example.com/ javascript:window.hit=1 " + "unbroken" * 500,
)
NAME = "a ball % 100% #1 ü 球 'q' +&=;@,?".replace("?", "")

OpenPage = Callable[..., Any]


def made(folder: Path, *records: Any, run: RunStatus | None = None) -> Path:
    """An output with these rows and its report."""
    place = Output(str(folder))
    store_rows(place, *records)
    report = Report(place)
    report.sync()
    report.write(run)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos that play, one that failed, one that was cancelled, and a run that goes on."""
    folder = tmp_path_factory.mktemp("small")
    place = Output(str(folder))
    place.prepare()
    texture = moving_texture(49)
    darker = (texture * np.linspace(1, 0.5, 49)[:, None, None, None]).astype(np.uint8)
    queued = {"denoised_at": 0.0, "decoding_at": 0.0, "decoded_at": 0.0}
    rows = [
        store_video(place, "purple-ball", job("a purple ball rolls over the sea at dusk")),
        store_video(place, NAME, job("ein gelbes Dreieck", seed=2**62 + 1), darker, at=900),
        record(
            "green-box",
            job("a green box", 3),
            950,
            status="failed",
            error="out of memory",
            **queued,
        ),
        record(
            "pink-box", job("a pink box", 4), 960, status="cancelled", error="cancelled", **queued
        ),
    ]
    in_work = (
        VideoProgress("blue-box", "denoising", 3, 25, 4, 18, preview="previews/blue-box.png"),
    )
    run = RunStatus(
        "node7", 42, BEGAN, BEGAN + 970, num_videos=9, ended={"done": 4}, in_work=in_work
    )
    return made(folder, *rows, run=run)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("large"), *many(10_000))


def titles(page: Any) -> list[str]:
    return page.locator(".card-title").all_inner_texts()


def shows(page: Any, selector: str, text: str | re.Pattern[str]) -> None:
    """Wait until an element says ``text``; the page's own policy forbids to ask it with a script
    again and again."""
    page.locator(selector).filter(has_text=text).wait_for()


def shot(page: Any, tmp_path: Path, name: str) -> None:
    page.screenshot(path=tmp_path / f"{name}.png")


def test_the_list_shows_videos_pictures_states_and_the_run(
    small: Path, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page(small)
    assert page.title() == f"{small.name} · glc-ray"
    assert page.locator("#found").inner_text() == "4 videos"
    assert titles(page) == [
        "a pink box",
        "a green box",
        "ein gelbes Dreieck",
        "a purple ball rolls over the sea at dusk",
    ]
    assert "denoising, step 4 of 25" in page.locator("#run").inner_text()
    link = page.locator("#run a", has_text="preview").get_attribute("href")
    assert link == "../previews/blue-box.png"
    assert "4 queued" in page.locator("#run").inner_text()
    assert (
        page.locator(".card", has_text="a green box").locator(".error").inner_text()
        == "out of memory"
    )
    images = page.locator(".card img")
    assert images.count() == 2
    for image in images.all():
        image.scroll_into_view_if_needed()
        image.evaluate("image => image.decode()")
        assert image.get_attribute("alt").startswith("Six frames of ")
    label = page.locator(".card", has_text="purple").locator(".strip").get_attribute("aria-label")
    assert label == "Time: denoise 52 s, decode 4 s, encode 1 s, join 1.5 s"
    assert "queued 15 min" in page.locator(".card", has_text="Dreieck").locator(
        ".strip"
    ).get_attribute("aria-label")
    shot(page, tmp_path, "list")


@pytest.mark.parametrize("name", ["purple-ball", NAME])
def test_a_video_plays_and_its_scores_follow(
    name: str, small: Path, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page(small)
    words = "purple" if name == "purple-ball" else "Dreieck"
    page.locator(".card-link", has_text=words).click()
    page.wait_for_selector(".plot")
    video = page.locator("video")
    video.evaluate("video => { video.muted = true; return video.play(); }")
    video.evaluate(
        "video => new Promise((done) => {"
        " video.ontimeupdate = () => video.currentTime > 0.3 && done(); })"
    )
    video.evaluate("video => video.pause()")
    seeked = (
        "video => new Promise((done) => {"
        " video.onseeked = () => done(video.currentTime); video.currentTime = 2.05; })"
    )
    assert video.evaluate(seeked) == pytest.approx(2.05)
    shows(page, ".readout >> nth=0", re.compile("^frame 16 "))
    file = json.loads((small / "scores" / f"{name}.json").read_text())
    shown = page.locator(".readout").all_inner_texts()
    assert shown[0] == f"frame 16 · {round(file['change'][15], 2):g}"
    assert shown[1] == f"frame 16 · {round(file['drift'][16], 4):g}"
    sheet = page.locator(".sheet img")
    sheet.scroll_into_view_if_needed()
    sheet.evaluate("image => image.decode()")
    shot(page, tmp_path, "video")


def test_a_video_shows_what_an_evaluation_found(open_page: OpenPage, tmp_path: Path) -> None:
    place = Output(str(tmp_path))
    place.prepare()
    row = store_video(place, "ball", job("a ball"))
    curve = StoredCurve(tuple(float(t % 7) for t in range(16)), 1, 2)
    name = "motion_smoothness_blend"
    file = EvaluationFile(row.finished_at, 33, 8.0, (name,), {name: 0.987654321}, {name: curve})
    place.put_bytes(file.to_json(), evaluation_path("ball"))
    page = open_page(made(tmp_path, row))
    page.locator(".card-link").click()
    section = page.locator("section", has=page.locator("h3", has_text="Evaluation"))
    section.wait_for()
    assert section.locator("dt").inner_text() == "motion smoothness blend"
    assert section.locator("dd").inner_text() == "0.98765"
    section.locator("summary").click()
    # The highest is the seventh value, of every second frame from 1 on.
    assert "highest 6 at frame 13" in section.locator(".readout").inner_text()


def test_a_video_says_what_it_was_made_of(small: Path, open_page: OpenPage) -> None:
    page = open_page(small)
    page.locator(".card-link", has_text="Dreieck").click()
    link = page.locator("text=Download as JSON")
    link.wait_for()
    with page.expect_download() as download:
        link.click()
    specification = json.loads(Path(download.value.path()).read_text())
    own = job("ein gelbes Dreieck", seed=2**62 + 1)
    assert specification == {k: v for k, v in json.loads(own.model_dump_json()).items() if v}
    assert page.locator(".fact-list", has_text=str(2**62 + 1)).count() == 1


def test_search_filter_sort_and_the_address(small: Path, open_page: OpenPage) -> None:
    page = open_page(small)
    page.get_by_label("Search").fill("BOX memory")
    shows(page, "#found", re.compile("^1 video$"))
    assert titles(page) == ["a green box"]
    page.get_by_label("Search").fill("nothing like it")
    shows(page, "#found", re.compile("^No video"))
    page.get_by_label("Search").fill("")
    page.get_by_role("button", name="done").click()
    shows(page, "#found", re.compile("^2 videos$"))
    page.get_by_label("Sort by").select_option("Most drift")
    shows(page, ".card-title >> nth=0", "Dreieck")
    assert page.get_by_role("button", name="done").get_attribute("aria-pressed") == "true"
    again = open_page(small, page.evaluate("location.hash"))
    assert (
        titles(again)
        == titles(page)
        == ["ein gelbes Dreieck", "a purple ball rolls over the sea at dusk"]
    )
    page.go_back()
    page.wait_for_url("**/index.html#state=done")
    assert page.get_by_label("Sort by").input_value() == "newest"


def test_keys_alone(small: Path, open_page: OpenPage) -> None:
    page = open_page(small)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "videos"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.locator(".card-link").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    heading = page.locator("#video-title")
    assert heading.inner_text() == "a green box"
    page.keyboard.press("ArrowRight")
    shows(page, "#video-title", "Dreieck")
    page.keyboard.press("ArrowLeft")
    shows(page, "#video-title", "green")
    page.keyboard.press("Escape")
    page.wait_for_selector("#video", state="hidden")
    assert page.evaluate("document.activeElement.textContent") == "a green box"
    assert "video=" not in page.evaluate("location.hash")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_readable_at_any_width_by_day_and_night(
    width: int, scheme: str, small: Path, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page(small, width=width, color_scheme=scheme, reduced_motion="reduce")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in background.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (sum(levels) > 384) == (scheme == "light")
    assert page.evaluate("document.getAnimations().length") == 0
    shot(page, tmp_path, "list")
    page.locator(".card-link", has_text="Dreieck").click()
    page.wait_for_selector(".plot")
    assert page.evaluate("document.querySelector('#video').scrollWidth") <= width
    shot(page, tmp_path, "video")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(scheme: str, small: Path, open_page: OpenPage) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # The rules are injected as a script, which the page's own policy forbids.
    page = open_page(small, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)
    found = [axe.run(page)]
    page.locator(".card-link", has_text="Dreieck").click()
    page.wait_for_selector(".plot")
    found.append(axe.run(page))
    assert [one.response["violations"] for one in found] == [[], []], found[0].generate_report()


def test_hostile_prompts_are_text(open_page: OpenPage, tmp_path: Path) -> None:
    first = job()
    rows = [
        record(
            f"n{at}",
            first.model_copy(update={"prompt": text}),
            id=f"{at:016x}",
            error=text,
            status="failed",
            specification=json.dumps(
                {"prompt": text, "seed": 0, "pipeline": {"name": text, "method": text}}
            ),
        )
        for at, text in enumerate(HOSTILE)
    ]
    rows.append(record("../../x", first, id="../../../../etc/passwd", path="videos/../../x.mp4"))
    page = open_page(made(tmp_path / "<b>&\"' #%", *rows), width=390)
    page.get_by_label("Sort by").select_option("Name")
    shows(page, ".card-title >> nth=0", re.compile("^a red ball"))
    shown = page.evaluate(
        "[...document.querySelectorAll('.card-title')].map((title) => title.textContent)"
    )
    for text, title in zip(HOSTILE, shown[-3:], strict=True):
        assert title == text[:1000]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for at in range(3):
        page.locator(".card-link").nth(1 + at).click()
        page.wait_for_selector("#video pre", state="attached")
        # All of it, when its own file was read.
        shows(page, "#video-title", re.compile(re.escape(HOSTILE[at].strip()[-20:])))
        page.keyboard.press("Escape")
    assert page.evaluate("window.hit") is None
    assert page.locator("script").count() == 1, "each is removed when it has run"


def test_ten_thousand_videos_are_read_and_drawn_in_pieces(large: Path, open_page: OpenPage) -> None:
    asked: list[str] = []
    page = open_page(large)
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.wait_for_selector(".card")
    assert len([url for url in asked if "/rows-" in url]) == 1
    assert page.locator("#found").inner_text() == "1 to 24 of 10,000 videos"
    nodes = page.evaluate("document.querySelectorAll('*').length")
    assert nodes < 1200
    page.get_by_role("button", name="Last").click()
    shows(page, "#found", re.compile("^9,985 to 10,000"))
    assert titles(page)[-1].endswith("take 0")
    page.get_by_role("button", name="invalid").click()
    shows(page, "#found", "1 to 24 of 100 videos")
    assert len([url for url in asked if "/rows-" in url]) < 15
    page.get_by_role("button", name="invalid").click()
    page.get_by_label("Search").fill("take-0777")
    shows(page, "#found", re.compile("^10 videos$"))
    page.get_by_label("Search").fill("")
    page.get_by_label("Sort by").select_option("Longest time")
    shows(page, "#found", re.compile("10,000 videos$"))
    assert page.evaluate("document.querySelectorAll('*').length") < 1200


def test_a_picture_or_a_file_that_is_gone_is_said(open_page: OpenPage, tmp_path: Path) -> None:
    gone = record(
        "gone", job(), path="videos/gone.mp4", preview="previews/gone.jpg", width=96, height=64
    )
    lossless = record("lossless", job(seed=1), path="videos/lossless.mkv")
    page = open_page(made(tmp_path / "out", gone, lossless))
    page.locator("text=no picture").wait_for()
    page.locator(".card-link").nth(1).click()
    page.locator("text=This browser cannot play the video: gone.mp4").wait_for()
    page.keyboard.press("ArrowLeft")
    page.locator("text=Browsers do not play this format: lossless.mkv").wait_for()
    (tmp_path / "out" / "report" / "data" / "index.js").unlink()
    page.reload()
    page.locator("text=data/index.js cannot be read.").wait_for()
    assert all("ERR_FILE_NOT_FOUND" in fault for fault in page.faults), page.faults
    page.faults.clear()


def test_what_could_not_be_read_is_shown_by_the_next_refresh(
    open_page: OpenPage, tmp_path: Path
) -> None:
    run = RunStatus("node7", 42, BEGAN, BEGAN + 1060, num_videos=2, ended={"done": 1})
    folder = made(tmp_path / "out", record("first", job()), run=run)
    page = open_page(folder)
    page.clock.install()
    page.reload()
    shows(page, "#found", re.compile("^1 video$"))
    report = Report(Output(str(folder)))
    report.sync()
    report.add(record("second", job(seed=1), 100))
    report.write(run)
    rows = folder / "report" / "data" / "rows-00000.js"
    away = rows.rename(rows.with_suffix(".away"))
    page.clock.run_for(16_000)
    shows(page, "#found", "rows-00000.js cannot be read.")
    away.rename(rows)
    page.clock.run_for(16_000)
    shows(page, "#found", re.compile("^2 videos$"))
    assert all("ERR_FILE_NOT_FOUND" in fault for fault in page.faults), page.faults
    page.faults.clear()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(small: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(small))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_from_a_server_and_renewed_while_the_run_goes_on(
    small: Path, served: str, open_page: OpenPage
) -> None:
    page = open_page(small, url=served)
    page.locator(".card-link", has_text="Dreieck").click()
    page.wait_for_selector(".plot")
    page.locator("video").evaluate(
        "video => video.readyState > 0 || new Promise((done) => { video.onloadedmetadata = done; })"
    )
    duration = page.locator("video").evaluate("video => video.duration")
    assert duration == pytest.approx(49 / 8, abs=0.01)
    page.keyboard.press("Escape")
    # Reloaded before that has come to its end, the page opens the video again.
    page.wait_for_url(lambda url: "video=" not in url)
    page.clock.install()
    page.reload()
    shows(page, "#found", re.compile("^4 videos$"))
    page.locator(".card-link").nth(1).focus()
    report = Report(Output(str(small)))
    report.sync()
    report.add(record("newcomer", job("a newcomer", 5), 2000))
    report.write(RunStatus("node7", 42, BEGAN, BEGAN + 2060, num_videos=9, ended={"done": 5}))
    page.clock.run_for(16_000)
    shows(page, "#found", re.compile("^5 videos$"))
    assert titles(page)[0] == "a newcomer"
    # Who was at a video is there still.
    assert page.evaluate("document.activeElement.textContent") == "a green box"
