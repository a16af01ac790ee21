"""The studio in a real browser, against a real server with the shipped model."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest

from fportrait.capture.video_io import probe, read_image, read_video, write_video
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
    assert not page.errors(), page.errors()
    links = page.downloads()
    return links if links and links != before else None


def test_the_page_asks_no_other_server_for_anything(server, page):
    events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert urls and all(url.startswith((server.url, "data:", "blob:")) for url in urls)


def test_files_go_up_and_a_video_with_its_conditions_comes_down(server, page, files, wait_for, tmp_path):
    give_files(page, files, 2)
    wait_for(lambda: "0.2 s given, 0.2 s will be used" in page.one("#plan").text, "the line beside Generate")
    page.click("#generate")
    links = wait_for(lambda: finished(page, {}), "the result")
    assert set(links) == {"portrait-animated.mp4", "portrait-over-time.png", "portrait-conditions.zip"}
    video = tmp_path / "video.mp4"
    video.write_bytes(urllib.request.urlopen(links["portrait-animated.mp4"]).read())
    assert probe(video).frames == 5 and read_video(video).std() > 10
    assert read_provenance(video)["settings"]["steps"] == 2
    with zipfile.ZipFile(io.BytesIO(urllib.request.urlopen(links["portrait-conditions.zip"]).read())) as conditions:
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
    page.click("#generate")  # which takes the old sentence away
    wait_for(lambda: "no driving video" in page.toasts(), "what is missing")
    wait_for(lambda: "not a video" not in page.toasts(), "the old sentence to go", 20)
    page.dismiss_toasts()
    assert len(server.results) == 1


def test_a_video_that_browsers_do_not_play_is_used_all_the_same(page, files, wait_for):
    page.upload("driving", files["old"])
    wait_for(lambda: "used all the same" in page.toasts(), "the reassurance")
    assert page.all("#driving video") and "not a video" not in page.toasts()
    page.dismiss_toasts()


def test_cancelling_stops_the_work_and_leaves_nothing(server, page, files, wait_for, tmp_path):
    write_video(tmp_path / "long.mp4", np.concatenate([read_video(files["driving"])] * 8))  # time to cancel in
    give_files(page, files | {"driving": tmp_path / "long.mp4"}, 60)
    page.click("#generate")
    wait_for(lambda: list(server.folder.glob(".tmp-*")), "sampling")
    page.click("#cancel")
    wait_for(lambda: "Cancelled" in page.toasts(), "the word")
    assert not page.errors()  # what one asked for oneself is no error
    wait_for(lambda: not list(server.folder.glob(".tmp-*")), "an empty folder")
    page.dismiss_toasts()
    assert len(server.results) == 1


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_every_page_has_names_contrast_and_keys_and_never_scrolls_sideways(page, width, dark, wait_for):
    page.look(width, dark)
    try:
        assert page.tabs()[:2] == ["Animate", "Edit"] and page.tabs()[-1] == "Gallery"
        for name in page.tabs():
            page.tab(name)
            if name == "Gallery":
                wait_for(lambda: page.all("#gallery img"), "the results")
                page.click("#gallery .thumbnail-item")
                wait_for(lambda: page.all("#past-files a[href]"), "an opened result")
            faults = page.faults()
            assert not faults, (name, faults)
    finally:
        page.look(1280)
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.tab("Animate")


def test_generate_is_reached_and_pressed_with_the_keyboard_alone(server, page, wait_for):
    from selenium.webdriver.common.keys import Keys

    page.open(server)
    shown = []
    for _ in range(60):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        focus = page.driver.execute_script(
            "const e = document.activeElement, s = getComputedStyle(e); "
            "const shown = s.outlineStyle !== 'none' || s.boxShadow !== 'none' || ['radio', 'range'].includes(e.type); "
            "return [e.id, shown]"
        )
        shown.append(focus)
        if focus[0] == "generate":
            break
    assert shown[-1] == ["generate", True], shown
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    wait_for(lambda: "no portrait" in page.toasts(), "what is missing")
    page.dismiss_toasts()


def test_a_picture_is_edited_with_sliders_and_comes_down_with_its_provenance(server, page, files, wait_for, tmp_path):
    def shown() -> str:
        images = page.all("#edited img")
        return images[0].get_attribute("src") if images else ""

    page.open(server)
    page.tab("Edit")
    page.upload("edit-portrait", files["portrait"])
    before = wait_for(shown, "the picture as it is")
    page.set_number("adjust-lips", 1)
    after = wait_for(lambda: shown() if shown() != before else "", "the edited picture")
    assert after.endswith("/portrait-edited.png")
    page.click("#edit-shape input[value='4:3']")
    wide = wait_for(lambda: shown() if shown() not in (before, after) else "", "the wide picture")
    cookies = "; ".join(f"{one['name']}={one['value']}" for one in page.driver.get_cookies())
    for link, sides in ((after, (512, 512)), (wide, (512, 704))):
        request = urllib.request.Request(link, headers={"Cookie": cookies})
        (tmp_path / "edited.png").write_bytes(urllib.request.urlopen(request).read())
        assert read_provenance(tmp_path / "edited.png")["settings"]["adjust"] == {"lips": 1.0}
        assert read_image(tmp_path / "edited.png").shape[:2] == sides
    with pytest.raises(urllib.error.HTTPError):  # somebody else's
        urllib.request.urlopen(after)
    page.click("#edit-reset")
    wait_for(
        lambda: page.one("#adjust-lips input[type=number]").get_attribute("value") == "0", "sliders at their start"
    )
    page.open(server)


def test_two_users_at_once_each_get_their_own_video_in_the_shape_they_chose(page, other, files, wait_for, tmp_path):
    before = page.downloads()
    for user, steps, shape in ((page, 3, "square"), (other, 4, "9:16")):
        give_files(user, files, steps)
        user.click(f"#shape input[value='{shape}']")
        user.click("#generate")
    seen = {}
    for name, user in (("first", page), ("second", other)):
        links = wait_for(lambda user=user: finished(user, before), f"the {name} result")
        seen[name] = links["portrait-animated.mp4"], user.one("#facts").text
    assert seen["first"][0] != seen["second"][0]
    assert "steps 3" in seen["first"][1] and "steps 4" in seen["second"][1]
    for name, sides in (("first", (512, 512)), ("second", (512, 896))):
        video = tmp_path / f"{name}.mp4"
        video.write_bytes(urllib.request.urlopen(seen[name][0]).read())
        assert (probe(video).width, probe(video).height) == sides


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
    page.tab("Gallery")
    wait_for(lambda: len(page.all("#gallery img")) == len(before), "the gallery")
