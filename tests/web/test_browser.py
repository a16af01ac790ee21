"""The studio in a real browser, against a real server with the shipped model."""

from __future__ import annotations

import io
import json
import urllib.request
import zipfile

import pytest

from fportrait.capture.video_io import probe, read_video
from fportrait.provenance import read_provenance


@pytest.fixture(scope="module")
def other(server, page):
    """A second visitor, whose tab the last test closes."""
    return page.beside(server)


def give_files(page, files, steps: int) -> None:
    page.upload("portrait", files["portrait"])
    page.upload("driving", files["driving"])
    page.set_number("steps", steps)


def finished(page, before):
    """The links of a result that was not there before."""
    assert not page.toasts(), page.toasts()
    links = page.downloads()
    return links if links and links != before else None


def test_the_page_asks_no_other_server_for_anything(server, page):
    events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert urls and all(url.startswith((server.url, "data:", "blob:")) for url in urls)


def test_files_go_up_and_a_video_with_its_conditions_comes_down(server, page, files, wait_for, tmp_path):
    give_files(page, files, 2)
    page.click("#generate")
    links = wait_for(lambda: finished(page, {}), "the result")
    assert set(links) == {"video.mp4", "picture.png", "conditions.zip"}
    video = tmp_path / "video.mp4"
    video.write_bytes(urllib.request.urlopen(links["video.mp4"]).read())
    assert probe(video).frames == 5 and read_video(video).std() > 10
    assert read_provenance(video)["settings"]["steps"] == 2
    with zipfile.ZipFile(io.BytesIO(urllib.request.urlopen(links["conditions.zip"]).read())) as conditions:
        assert {"normals.mp4", "cameras.json", "codes.npy"} <= set(conditions.namelist())
    assert page.one("#result video").get_attribute("src")
    assert len(server.results) == 1


def test_a_file_that_is_no_video_gets_a_sentence_is_taken_away_and_the_page_goes_on(server, page, files, wait_for):
    page.upload("driving", files["playlist"])
    # The browser's own player may complain first, so wait for our words and not for any toast.
    text = wait_for(
        lambda: page.toasts() if "playlist.mp4, which is not a video" in page.toasts() else "", "the sentence"
    )
    assert "Traceback" not in text and str(server.folder) not in text
    wait_for(lambda: page.all("#driving input[type=file]"), "an empty place for a video")
    page.dismiss_toasts()
    page.click("#generate")
    wait_for(lambda: "no driving video" in page.toasts(), "what is missing")
    page.dismiss_toasts()
    assert len(server.results) == 1


def test_a_video_that_browsers_do_not_play_is_used_all_the_same(page, files, wait_for):
    page.upload("driving", files["old"])
    wait_for(lambda: "used all the same" in page.toasts(), "the reassurance")
    assert page.all("#driving video") and "not a video" not in page.toasts()
    page.dismiss_toasts()


def test_cancelling_stops_the_work_and_leaves_nothing(server, page, files, wait_for):
    give_files(page, files, 60)
    page.click("#generate")
    wait_for(lambda: list(server.folder.glob(".tmp-*")), "sampling")
    page.click("#cancel")
    wait_for(lambda: "Cancelled" in page.toasts(), "the word")
    wait_for(lambda: not list(server.folder.glob(".tmp-*")), "an empty folder")
    page.dismiss_toasts()
    assert len(server.results) == 1


def test_on_a_narrow_screen_nothing_is_cut_off(server, page):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        width = page.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390
        for name in ("portrait", "driving", "camera", "generate", "cancel", "result", "downloads"):
            place = page.one(f"#{name}").rect
            assert place["x"] >= 0 and place["x"] + place["width"] <= 390 and place["width"] > 120
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_two_users_at_once_each_get_their_own_video(page, other, files, wait_for):
    before = page.downloads()
    for user, steps in ((page, 3), (other, 4)):
        give_files(user, files, steps)
        user.click("#generate")
    seen = {}
    for name, user in (("first", page), ("second", other)):
        links = wait_for(lambda user=user: finished(user, before), f"the {name} result")
        seen[name] = links["video.mp4"], user.one("#facts").text
    assert seen["first"][0] != seen["second"][0]
    assert "steps 3" in seen["first"][1] and "steps 4" in seen["second"][1]


def test_a_closed_tab_ends_its_job_and_a_killed_server_leaves_results_and_no_ghosts(
    server, page, other, files, wait_for
):
    give_files(other, files, 60)
    other.click("#generate")
    wait_for(lambda: list(server.folder.glob(".tmp-*")), "sampling")
    other.close()
    wait_for(lambda: not list(server.folder.glob(".tmp-*")), "the end of the job", 60)

    before = [path.name for path in server.results]
    give_files(page, files, 60)
    page.click("#generate")
    wait_for(lambda: list(server.folder.glob(".tmp-*")), "sampling")
    server.kill()
    assert list(server.folder.glob(".tmp-*"))
    server.start()
    assert not list(server.folder.glob(".tmp-*")) and [path.name for path in server.results] == before
    page.open(server)
    page.click("button[role=tab]:nth-of-type(2)")
    wait_for(lambda: len(page.all("#gallery img")) == len(before), "the gallery")
