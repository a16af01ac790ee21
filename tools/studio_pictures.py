"""Draw what a new base changes in the studio: the example on its first page, and the pages' pictures in the docs.

    python tools/studio_pictures.py DRIVING.mp4           # the example alone
    python tools/studio_pictures.py DRIVING.mp4 --pages   # and docs/images/studio*.webp, in headless Chromium

The portrait is scikit-image's astronaut (NASA, public domain). DRIVING.mp4 must be a video that may be shown: the
`statement` of `benchmarks/real_people.yaml`. Needs scikit-image; the pages need Chromium with its driver.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from fportrait.animate import Animator, Request
from fportrait.animate.edit import Edit, edit_picture
from fportrait.animate.pictures import shown_frames
from fportrait.bundle import SHIPPED_BASE
from fportrait.dataset.crops import crop_picture
from fportrait.web.pages import EXAMPLE

IMAGES = Path(__file__).parent.parent / "docs/images"
EDITS: list[tuple[str, dict[str, Any]]] = [
    ("as it is", {}),
    ("smile 1", {"adjust": {"smile": 1.0}}),
    ("lips 1", {"adjust": {"lips": 1.0}}),
    ("eyes -1", {"adjust": {"eyes": -1.0}}),
    ("brows 1.5", {"adjust": {"brows": 1.5}}),
    ("head 20,0,0", {"head": (20.0, 0.0, 0.0)}),
    ("camera 30,0", {"camera": "30,0"}),
]

SET_NUMBER = """const [field, value] = arguments;
Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, value);
for (const name of ['input', 'change', 'blur']) field.dispatchEvent(new Event(name, {bubbles: true}))"""


def astronaut(folder: Path) -> Path:
    from skimage import data

    Image.fromarray(data.astronaut()).save(folder / "astronaut.png")
    return folder / "astronaut.png"


def example(animator: Animator, portrait: Path, driving: Path, cell: int = 128) -> None:
    """Portrait, six frames of the driver, and under them what was made of them."""
    prepared = animator.prepare(Request(portrait, driving, max_frames=49))
    numbers = shown_frames(len(prepared), 6)
    made = [frame for number, frame in enumerate(animator.sample(prepared, scale=2)) if number in numbers]
    size = animator.settings.size
    own = cv2.resize(crop_picture(prepared.image, prepared.person.crop, 2 * cell), (2 * cell, 2 * cell))
    rows = [
        np.hstack([cv2.resize(image, (cell, cell), interpolation=cv2.INTER_CUBIC) for image in images])
        for images in (prepared.drive.crops(numbers, size * 2), made)
    ]
    Image.fromarray(np.hstack([own, np.vstack(rows)])).save(EXAMPLE, quality=85, method=6)
    print(f"{EXAMPLE}: {EXAMPLE.stat().st_size / 1024:.0f} KiB")


def edits(animator: Animator, portrait: Path) -> None:
    """One portrait under each of `EDITS`."""
    cells = []
    for words, change in EDITS:
        image, _ = edit_picture(animator, Edit(portrait, scale=max(1, 160 // animator.settings.size), **change))
        image = cv2.resize(image, (160, 160), interpolation=cv2.INTER_CUBIC)
        label = np.full((24, 160, 3), 255, np.uint8)
        cv2.putText(label, words, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (20, 20, 20), 1, cv2.LINE_AA)
        cells.append(np.vstack([image, label]))
    Image.fromarray(np.hstack(cells)).save(IMAGES / "studio-edits.webp", quality=88, method=6)


def browser(width: int, height: int) -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader"):
        options.add_argument(argument)
    options.add_argument("--enable-unsafe-swiftshader")
    options.add_argument(f"--window-size={width},{height}")
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


class Pages:
    """The studio in a browser, which is photographed."""

    def __init__(self, address: str):
        self.address, self.driver = address, browser(1280, 900)

    def show(self, width: int, dark: bool = False) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(self.address)
        self.wait("#generate")

    def wait(self, selector: str, seconds: float = 900) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.driver.find_elements("css selector", selector)
            if found:
                return found[0]
            time.sleep(0.2)
        raise TimeoutError(selector)

    def tab(self, name: str) -> None:
        script = "[...document.querySelectorAll('button[role=tab]')].find(b => b.innerText == arguments[0]).click()"
        self.driver.execute_script(script, name)
        time.sleep(3)

    def upload(self, element: str, path: Path) -> None:
        self.wait(f"#{element} input[type=file]").send_keys(str(path))
        self.wait(f"#{element} img, #{element} video")

    def picture(self, name: str, width: int, cut: int | None = None) -> None:
        height = self.driver.execute_script("return document.documentElement.scrollHeight")
        metrics = {"width": width, "height": min(height, 3200), "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        time.sleep(2)
        image = Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        image.crop((0, 0, image.width, cut or image.height)).save(IMAGES / f"{name}.webp", quality=80, method=6)


def photograph(address: str, portrait: Path, driving: Path) -> None:
    """`docs/images/studio*.webp`: every tab on a desktop, some in the dark and on a phone."""
    pages = Pages(address)
    try:
        pages.show(1280)
        pages.upload("portrait", portrait)
        pages.upload("driving", driving)
        time.sleep(3)
        pages.driver.execute_script("document.querySelector('#generate').click()")
        pages.wait("#downloads a[href]")
        time.sleep(4)
        pages.picture("studio", 1280)
        pages.show(1280)
        pages.tab("Edit")
        pages.upload("edit-portrait", portrait)
        pages.wait("#edited img")
        pages.driver.execute_script(SET_NUMBER, pages.wait("#adjust-smile input[type=number]"), 1)
        time.sleep(20)
        pages.picture("studio-edit", 1280)
        pages.show(1280, dark=True)
        time.sleep(3)
        pages.picture("studio-dark", 1280)
        pages.show(390)
        time.sleep(3)
        pages.picture("studio-phone", 390)
        pages.show(390)
        pages.tab("Gallery")
        pages.driver.execute_script("document.querySelector('#gallery img').closest('button').click()")
        time.sleep(5)
        pages.picture("studio-phone-gallery", 390)
    finally:
        pages.driver.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("driving", type=Path)
    parser.add_argument("--pages", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        portrait, animator = astronaut(folder), Animator(SHIPPED_BASE, remember=2)
        example(animator, portrait, given.driving)
        edits(animator, portrait)
        if not given.pages:
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "fportrait", "web", "--model", str(SHIPPED_BASE), "--port", str(port)]
        server = subprocess.Popen([*command, "--results", str(folder / "results"), "--no-browser"])
        address = f"http://127.0.0.1:{port}/"
        try:
            while True:
                try:
                    urllib.request.urlopen(address, timeout=5)
                    break
                except OSError:
                    time.sleep(0.5)
            photograph(address, portrait, given.driving)
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
