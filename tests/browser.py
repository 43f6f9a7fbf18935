"""A headless Chromium for tests, driven by the DevTools protocol over a pipe: no driver, no socket, no package.

    with Browser.start(folder) as browser:
        page = browser.open(path)
        page.run("document.title")

Messages are JSON objects ended by a NUL, written to descriptor 3 of the browser and read from its descriptor 4.
"""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars"),
    *("--disable-dev-shm-usage", "--mute-audio", "--remote-debugging-pipe", "--force-color-profile=srgb"),
)
MOVE = (
    "import os, sys; a, b = (os.dup(int(n)) for n in sys.argv[1:3]); a, b = os.dup(a), os.dup(b); "
    "os.dup2(a, 3); os.dup2(b, 4); os.execv(sys.argv[3], sys.argv[3:])"
)
"""Becomes the browser, with its pipe where it looks for it."""
PATIENCE = 60.0
"""Seconds that any answer may take on a busy machine."""


def find() -> str | None:
    """The first browser there is."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One browser process; a context manager."""

    def __init__(self, process: subprocess.Popen, to: int, come: int) -> None:
        self.process, self.to, self.come = process, to, come
        self.numbers, self.buffer = itertools.count(1), b""
        self.events: list[dict] = []

    @classmethod
    @contextlib.contextmanager
    def start(cls, folder: Path):
        """A browser with its profile in ``folder``."""
        (their_in, to), (come, their_out) = os.pipe(), os.pipe()

        ends = (str(their_in), str(their_out))
        process = subprocess.Popen(
            [sys.executable, "-c", MOVE, *ends, str(find()), *FLAGS, f"--user-data-dir={folder}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(their_in, their_out),
        )
        os.close(their_in)
        os.close(their_out)
        browser = cls(process, to, come)
        try:
            yield browser
        finally:
            with contextlib.suppress(OSError):
                browser.post("Browser.close")
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(to)
            os.close(come)

    def post(self, method: str, session: str | None = None, **parameters) -> int:
        """Send a message; returns its number."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        return number

    def ask(self, method: str, session: str | None = None, **parameters) -> dict:
        """Send a message and wait for its answer; events that come before are kept."""
        number = self.post(method, session, **parameters)
        while True:
            message = self.read()
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.events.append(message)

    def read(self) -> dict:
        """The next message."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.come], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(self.come, 1 << 20) if ready else b""
            assert piece, "the browser does not answer"
            self.buffer += piece
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, width: int = 1280, height: int = 900, scripts: bool = True, scheme: str = "light"):
        """The page at ``path`` once it is loaded; whatever it requests or complains of is in ``page.events``."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            page.ask(f"{domain}.enable")
        page.ask("Emulation.setScriptExecutionDisabled", value=not scripts)
        page.size(width, height)
        page.media(scheme)
        page.ask("Page.navigate", url=path.resolve().as_uri())
        page.wait("Page.loadEventFired")
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def ask(self, method: str, **parameters) -> dict:
        """A command of the protocol."""
        return self.browser.ask(method, self.session, **parameters)

    @property
    def events(self) -> list[dict]:
        """What this tab told so far."""
        return [event for event in self.browser.events if event.get("sessionId") == self.session]

    def wait(self, method: str) -> None:
        """Until an event of this name has come."""
        while not any(event["method"] == method for event in self.events):
            self.browser.events.append(self.browser.read())

    def run(self, expression: str):
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def size(self, width: int, height: int = 900) -> None:
        """The window's size in CSS pixels; a narrow one is a phone's."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def media(self, scheme: str = "light", medium: str = "") -> None:
        """The colour scheme, and ``print`` for paper."""
        self.ask(
            "Emulation.setEmulatedMedia", media=medium, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def move(self, x: float, y: float) -> None:
        """The pointer to a place in the window."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """A click at a place in the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path, whole: bool = False) -> None:
        """A screenshot of the window, or of the whole page."""
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path: Path) -> None:
        """The page as it prints."""
        path.write_bytes(base64.b64decode(self.ask("Page.printToPDF", printBackground=True)["data"]))

    @property
    def requests(self) -> list[str]:
        """Everything that was fetched, besides data that the page holds itself."""
        urls = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    @property
    def complaints(self) -> list[str]:
        """Errors, warnings and messages on the console, violations of the page's policy among them."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Audits.issueAdded")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in kinds]
