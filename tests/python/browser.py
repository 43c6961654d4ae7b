"""A headless Chromium, driven over its debugging pipe: pages in light and dark, wide and as on a phone.

As a program it takes a picture:
browser.py PAGE OUT.png [--width 1200] [--height 900] [--dark] [--element CSS]
"""

import argparse
import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

PHONE = 390  # the width of a common phone, in CSS pixels


@pytest.fixture(scope="module")
def chromium():
    """The page that the tests of a file share; conftest.py offers it to all."""
    if find_chromium() is None:
        pytest.skip("no chromium (apt-get install chromium): the page was not drawn")
    with browsing() as page:
        yield page


def find_chromium():
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One browser with one page. Messages are JSON objects ended by a zero byte, on descriptors 3 and 4."""

    def __init__(self, profile):
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()
        self.child = subprocess.Popen(
            ["bash", "-c", f'exec 3<&{commands} 4>&{answers} "$@"', "-", find_chromium(), "--headless=new",
             "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
             "--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}",
             "--remote-debugging-pipe", "about:blank"],
            pass_fds=(commands, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        os.close(commands)
        os.close(answers)
        self.received, self.number, self.session = b"", 0, None
        self.complaints = []  # errors and warnings of the console, exceptions, whatever was refused
        self.requests = []  # addresses of everything that was asked for
        target = next(t for t in self.command("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(domain + ".enable")

    def close(self):
        os.close(self.commands)
        os.close(self.answers)
        self.child.kill()
        self.child.wait()

    def read(self, patience):
        deadline = time.monotonic() + patience
        while b"\0" not in self.received:
            ready, _, _ = select.select([self.answers], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser said nothing for {patience} s")
            part = os.read(self.answers, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self.received += part
        message, self.received = self.received.split(b"\0", 1)
        message = json.loads(message)
        self.note(message)
        return message

    def note(self, message):
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def command(self, method, patience=60, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read(patience)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def evaluate(self, script):
        answer = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def scheme(self, dark):
        value = "dark" if dark else "light"
        self.command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}]
        )

    def open(self, url, *, width=1200, height=900, dark=False, scale=1, ready="true"):
        """Loads a page, as a phone does where it is narrow, and waits until the expression `ready` holds."""
        self.complaints, self.requests = [], []
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height,
                     deviceScaleFactor=scale, mobile=width < 600)  # fmt: skip
        self.scheme(dark)
        self.command("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && ({ready})")

    def wait(self, expression, patience=60):
        deadline = time.monotonic() + patience
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{expression} does not hold after {patience} s; console: {self.complaints}"
                )
            time.sleep(0.1)

    def picture(self, path, element=None):
        """A PNG of what the window shows, or of one element of the page."""
        params = {}
        if element:
            box = self.evaluate(
                f"(() => {{ const r = document.querySelector({json.dumps(element)}).getBoundingClientRect();"
                "return {x: r.x + scrollX, y: r.y + scrollY,"
                " width: r.width, height: r.height}; })()")  # fmt: skip
            params = {"clip": {**box, "scale": 1}, "captureBeyondViewport": True}
        Path(path).write_bytes(base64.b64decode(self.command("Page.captureScreenshot", **params)["data"]))


@contextlib.contextmanager
def browsing():
    """A browser with a profile of its own, closed afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        try:
            yield browser
        finally:
            browser.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--scroll-to", help="a CSS selector that is brought to the top")
    parser.add_argument("--element", help="a CSS selector of the one element to take")
    options = parser.parse_args()
    with browsing() as browser:
        browser.open(options.page.resolve().as_uri(), width=options.width, height=options.height,
                     dark=options.dark, scale=options.scale,
                     ready="document.documentElement.dataset.drawn")  # fmt: skip
        if options.scroll_to:
            browser.evaluate(f"document.querySelector({json.dumps(options.scroll_to)}).scrollIntoView()")
            time.sleep(0.3)
        browser.picture(options.out, options.element)


if __name__ == "__main__":
    main()
