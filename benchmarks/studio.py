"""How long a person waits: `fportrait --help`, and the studio's first page once its server is up.

Needs Chromium with its driver for the page (Debian: apt install chromium chromium-driver).
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from _result import write_result

from fportrait.bundle import SHIPPED_BASE

HELP_BOUND, PAGE_BOUND = 0.5, 2.0  # seconds


def help_seconds() -> float:
    """A fresh process each time, as a shell starts it."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "fportrait", "--help"], check=True, capture_output=True)
    return time.perf_counter() - start


def cpu_seconds(process: int) -> float:
    """Of a process and its children, system's included: what other work on the machine does not lengthen much."""
    import psutil

    parent = psutil.Process(process)
    return sum(sum(one.cpu_times()[:2]) for one in (parent, *parent.children(recursive=True)))


def first_page_seconds(address: str) -> float:
    """From asking for the page to the button Generate, with a browser that has seen nothing before."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    driver: Any = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get("about:blank")
        start = time.perf_counter()
        driver.get(address)
        while not driver.find_elements("css selector", "#generate"):
            time.sleep(0.02)
        return time.perf_counter() - start
    finally:
        driver.quit()


def main() -> None:
    times = [help_seconds() for _ in range(11)]
    what = "fportrait --help in a fresh process, median"
    result = write_result("help", what, round(statistics.median(times), 3), "s", HELP_BOUND, len(times))
    print(f"{what}: {result['ours']} s (bound {HELP_BOUND} s)")
    if shutil.which("chromedriver") is None:
        print("no Chromium with its driver: the page was not measured")
        return
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "fportrait", "web", "--port", str(port), "--results", str(Path(folder) / "r")]
        start = time.perf_counter()
        server = subprocess.Popen([*command, "--model", str(SHIPPED_BASE)], env=os.environ, stdout=subprocess.DEVNULL)
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
                    break
                except OSError:
                    time.sleep(0.05)
            up, up_cpu = time.perf_counter() - start, cpu_seconds(server.pid)
            pages = [first_page_seconds(f"http://127.0.0.1:{port}/") for _ in range(5)]
            page_cpu = (cpu_seconds(server.pid) - up_cpu) / len(pages)
        finally:
            server.kill()
            server.wait()
    what = "the studio's first page in a fresh headless Chromium, median"
    seconds: dict[str, Any] = {"server_up_seconds": round(up, 1), "pages": [round(page, 2) for page in pages]}
    seconds |= {"server_up_cpu_seconds": round(up_cpu, 1), "page_server_cpu_seconds": round(page_cpu, 2)}
    seconds["load_average"] = round(os.getloadavg()[0], 1)  # of other work: the other times are a wall clock's
    result = write_result("studio", what, round(statistics.median(pages), 2), "s", PAGE_BOUND, len(pages), **seconds)
    print(f"{what}: {result['ours']} s (bound {PAGE_BOUND} s); the server was up after {up:.1f} s")
    print(f"processor seconds of the server: {up_cpu:.1f} until it was up, {page_cpu:.2f} a page")


if __name__ == "__main__":
    main()
