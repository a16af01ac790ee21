"""A real server in a process of its own, and a headless Chromium that looks at it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from fportrait.bundle import SHIPPED_BASE

SOURCES = Path(__file__).parents[2] / "src"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHECKS = (Path(__file__).parent / "page_checks.js").read_text()
PATIENCE = 600  # seconds; a busy machine is no failure


class Server:
    """`fportrait web` on a free port; `kill` ends it as a crash would, `start` runs it again in the same folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.start()

    def start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.log = self.folder.with_suffix(".log")
        command = [sys.executable, "-m", "fportrait", "web", "--model", str(SHIPPED_BASE)]
        command += ["--no-browser"]
        environment = os.environ | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [*command, "--results", str(self.folder), "--port", str(self.port)],
                env=environment,
                stdout=log,
                stderr=log,
            )
        wait(self.answers, "the server")

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return urllib.request.urlopen(self.url, timeout=5).status == 200
        except OSError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def results(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))


def wait(condition, what: str, seconds: float = PATIENCE):
    """Poll until `condition()` is true; its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s for {what}")


@pytest.fixture(scope="session")  # the test that kills it starts it again
def server(tmp_path_factory) -> Iterator[Server]:
    pytest.importorskip("gradio", reason="the extra 'web' is not installed")
    running = Server(tmp_path_factory.mktemp("studio") / "results")
    yield running
    running.kill()


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, Path]:
    """A portrait and a driving video of rendered people, and files that are neither."""
    from fportrait.body.model import load_body
    from fportrait.capture.people import sample_person
    from fportrait.capture.video_io import write_image, write_video
    from fportrait.capture.world import sample_training_clip

    folder, body = tmp_path_factory.mktemp("uploads"), load_body()
    clip = sample_training_clip(np.random.default_rng(4), body, "phone", 5, 160, person=sample_person(12, body))
    write_image(folder / "portrait.png", clip["video"][0])
    write_video(folder / "driving.mp4", clip["video"])
    with av.open(str(folder / "old.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 160
        for image in clip["video"]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())
    with open(
        folder / "camera.y4m", "wb"
    ) as camera:  # what browsers play as a camera: 640x480, eight pictures a second
        camera.write(b"YUV4MPEG2 W640 H480 F8:1 Ip A1:1 C420jpeg\n")
        for image in clip["video"]:
            wide = np.pad(cv2.resize(image, (480, 480)), ((0, 0), (80, 80), (0, 0)))
            camera.write(b"FRAME\n" + cv2.cvtColor(wide, cv2.COLOR_RGB2YUV_I420).tobytes())
    (folder / "text.png").write_text("not a picture")
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    return {path.stem: path for path in folder.iterdir()}


def browser(camera: Path, width: int = 1280, height: int = 1400):
    """A browser whose camera plays a file, and is allowed to every page."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or shutil.which("chromedriver") is None:
        pytest.skip("no Chromium with its driver: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--use-fake-device-for-media-stream")
    options.add_argument("--use-fake-ui-for-media-stream")
    options.add_argument(f"--use-file-for-fake-video-capture={camera}")
    options.add_argument(f"--window-size={width},{height}")
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


class Page:
    """The studio as a user sees it, in a window of the browser."""

    def __init__(self, driver, server: Server):
        self._driver, self.window = driver, driver.current_window_handle
        self.open(server)

    @property
    def driver(self):
        self._driver.switch_to.window(self.window)
        return self._driver

    def open(self, server: Server) -> None:
        """The first page, as it is before anything was done."""
        self.driver.get("about:blank")
        self.driver.get(server.url)
        wait(lambda: self.all("#portrait input[type=file]") and self.all("#generate"), "the first page")

    def beside(self, server: Server) -> Page:
        """Another visitor: a window of its own, which is a session of its own."""
        self._driver.switch_to.new_window("window")
        return Page(self._driver, server)

    def all(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str):
        return wait(lambda: self.all(selector), selector)[0]

    def click(self, selector: str) -> None:
        self.driver.execute_script("arguments[0].click()", self.one(selector))

    def upload(self, element: str, path: Path) -> None:
        self.empty(element)
        self.one(f"#{element} input[type=file]").send_keys(str(path))
        uploaded = f"#{element} img, #{element} video, #{element} .file-preview, #{element} a"
        wait(lambda: self.all(uploaded) or self.toasts(), f"the upload of {path.name}")

    def empty(self, element: str) -> None:
        if not self.all(f"#{element} input[type=file]"):
            self.click(f"#{element} button[aria-label='Clear'], #{element} button[aria-label='Remove']")

    def set_number(self, element: str, value: int) -> None:
        if not self.all(f"#{element}"):  # a closed accordion holds nothing yet
            self.click("#sampling button")
        field = self.one(f"#{element} input[type=number]")
        self.driver.execute_script(
            "const f = arguments[0]; Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(f, "
            "arguments[1]); f.dispatchEvent(new Event('input', {bubbles: true})); "
            "f.dispatchEvent(new Event('change', {bubbles: true})); f.dispatchEvent(new Event('blur'))",
            field,
            str(value),
        )

    def tab(self, name: str) -> None:
        script = "[...document.querySelectorAll('button[role=tab]')].find(b => b.innerText == arguments[0]).click()"
        self.driver.execute_script(script, name)

    def tabs(self) -> list[str]:
        script = "return [...document.querySelectorAll('button[role=tab]')].map(b => b.innerText).filter(t => t)"
        return list(dict.fromkeys(self.driver.execute_script(script)))

    def look(self, width: int, dark: bool = False) -> None:
        """As on a screen so wide, in light or dark colours."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def faults(self, seconds: float = 10) -> list[str]:
        """What `page_checks.js` finds on the page and does not go by itself: colours change slowly."""
        end = time.monotonic() + seconds
        while (found := self.driver.execute_script(CHECKS)) and time.monotonic() < end:
            time.sleep(0.5)
        return found

    def toasts(self) -> str:
        """What all toasts say, read at one moment: they come and go by themselves."""
        script = "return [...document.querySelectorAll('.toast-body')].map(t => t.innerText).join(' ')"
        return self.driver.execute_script(script)

    def errors(self) -> str:
        """What red toasts say; others tell how a clip was filmed."""
        script = "return [...document.querySelectorAll('.toast-body.error')].map(t => t.innerText).join(' ')"
        return self.driver.execute_script(script)

    def downloads(self) -> dict[str, str]:
        script = "return [...document.querySelectorAll('#downloads a[href]')].map(a => a.href)"
        return {link.rsplit("/", 1)[1]: link for link in self.driver.execute_script(script)}

    def dismiss_toasts(self) -> None:
        """Close what there is, and what still comes: how a clip was filmed is told a moment after its upload."""
        close = "document.querySelectorAll('.toast-close').forEach(b => b.click())"
        wait(lambda: self.driver.execute_script(close) or not self.toasts(), "no toast")

    def close(self) -> None:
        """Close the tab, and leave the browser to the others."""
        self.driver.close()


@pytest.fixture(scope="session")
def wait_for():
    """`wait_for(condition, what)`: poll until the condition is true; its value."""
    return wait


@pytest.fixture(scope="session")
def page(server, files) -> Iterator[Page]:
    driver = browser(files["camera"])
    yield Page(driver, server)
    driver.quit()
