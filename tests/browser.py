"""Open a page in headless Chromium and see what it drew, what it complained about and what it asked the network for.

Speaks the DevTools protocol over a pair of pipes, with nothing but the standard library.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Chromium reads commands from descriptor 3 and answers on 4; a small launcher moves the pipes there.
LAUNCH = "import os,sys; r,w=map(int,sys.argv[1:3]); os.dup2(r,3); os.dup2(w,4); os.execvp(sys.argv[3], sys.argv[3:])"


@dataclass(frozen=True)
class PageResult:
    """What one page did: its DOM after the scripts ran, its errors, and every address it asked for but its own."""

    dom: str
    console_errors: list[str]
    requests: list[str]
    warnings: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


def find_chromium() -> str:
    """Return the browser's path; skip the test where there is none, or fail if FUSIONSCOPE_REQUIRE asks for it."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    message = f"no Chromium found (looked for {', '.join(NAMES)}); install it with: apt-get install chromium"
    if "chromium" in os.environ.get("FUSIONSCOPE_REQUIRE", "").split(","):
        pytest.fail(message)
    pytest.skip(message)


class Chromium:
    """One headless browser with one tab."""

    def __init__(self, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self.events: list[dict[str, Any]] = []
        self._buffer = b""
        self._count = 0

    def __enter__(self) -> Chromium:
        path = find_chromium()
        self._profile = tempfile.mkdtemp(prefix="fusionscope-chromium-")
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Above 4, so that the launcher's dup2 does not overwrite one with the other.
        passed = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]
        command = [sys.executable, "-S", "-c", LAUNCH, *map(str, passed), path, *FLAGS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={self._profile}", "about:blank"],
            pass_fds=passed,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for fd in (theirs_in, theirs_out, *passed):
            os.close(fd)
        try:
            targets = self._call("Target.getTargets", session=False)["targetInfos"]
            page = next((t["targetId"] for t in targets if t["type"] == "page"), None)
            if page is None:
                page = self._call("Target.createTarget", {"url": "about:blank"}, session=False)["targetId"]
            attached = self._call("Target.attachToTarget", {"targetId": page, "flatten": True}, session=False)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self._call(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session: the browser and its children only
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def _message(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            chunk = os.read(self._in, 1 << 16) if ready else b""
            if not chunk:
                raise RuntimeError(f"Chromium {'ended' if ready else f'did not answer within {self.timeout} s'}")
            self._buffer += chunk
        raw, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(raw)

    def _call(self, method: str, params: dict[str, Any] | None = None, session: bool = True) -> dict[str, Any]:
        self._count += 1
        command: dict[str, Any] = {"id": self._count, "method": method, "params": params or {}}
        if session:
            command["sessionId"] = self._session
        raw = json.dumps(command).encode() + b"\0"
        while raw:
            raw = raw[os.write(self._out, raw) :]
        until = time.monotonic() + self.timeout
        while True:
            message = self._message(until)
            if message.get("id") == self._count:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            if "method" in message:
                self.events.append(message)

    def _wait_for(self, event: str) -> None:
        until = time.monotonic() + self.timeout
        while not any(e["method"] == event for e in self.events):
            message = self._message(until)
            if "method" in message:
                self.events.append(message)

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited."""
        params = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = self._call("Runtime.evaluate", params)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def hover(self, selector: str) -> None:
        """Move the mouse to the middle of the first element that ``selector`` finds."""
        x, y = self.evaluate(
            f"(() => {{const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]})()"
        )
        self._call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x - 1, "y": y})
        self._call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def open(self, path: str | Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file and wait until its scripts are done (``window.pageReady``, a promise, if the page has one)."""
        scheme = "dark" if dark else "light"
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", size)
        media = {"media": "screen", "features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self._call("Emulation.setEmulatedMedia", media)
        self.events.clear()
        self.url = Path(path).resolve().as_uri()
        answer = self._call("Page.navigate", {"url": self.url})
        if answer.get("errorText"):
            raise RuntimeError(f"{self.url}: {answer['errorText']}")
        self._wait_for("Page.loadEventFired")
        self.evaluate("Promise.resolve(window.pageReady).catch(e => console.error(String(e)))")
        self.evaluate("new Promise(r => setTimeout(r, 100))")

    def screenshot(self, png: str | Path, full: bool = False) -> None:
        """Write a picture of the window, or of the full page."""
        answer = self._call("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": full})
        Path(png).write_bytes(base64.b64decode(answer["data"]))

    def result(self, *scripts: str) -> PageResult:
        """Return what the page did so far, and the value of each script."""
        values = [self.evaluate(script) for script in scripts]
        dom = self.evaluate("document.documentElement.outerHTML")
        told = list(_messages(self.events))
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return PageResult(
            dom=dom,
            console_errors=[text for level, text in told if level == "error"],
            requests=[url for url in asked if url != self.url and not url.startswith(("data:", "blob:"))],
            warnings=[text for level, text in told if level == "warning"],
            values=values,
        )


def _messages(events: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for event in events:
        params = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            yield "error", details.get("exception", {}).get("description", details["text"])
        elif event["method"] == "Runtime.consoleAPICalled":
            level = "error" if params["type"] in ("error", "assert") else params["type"]
            yield level, " ".join(str(a.get("value", a.get("description", ""))) for a in params["args"])
        elif event["method"] == "Log.entryAdded":
            entry = params["entry"]
            yield entry["level"], f"{entry['text']} {entry.get('url', '')}".strip()


def open_page(path: str | Path, *scripts: str, width: int = 1280, height: int = 900, dark: bool = False) -> PageResult:
    """Open a file in a fresh browser, run the scripts in it and return what happened."""
    with Chromium() as browser:
        browser.open(path, width, height, dark)
        return browser.result(*scripts)


def screenshot(
    path: str | Path, png: str | Path, width: int, height: int, *, dark: bool = False, full: bool = False
) -> None:
    """Write a picture of a page, of the window or (``full``) the whole length."""
    with Chromium() as browser:
        browser.open(path, width, height, dark)
        if full:
            tall = int(browser.evaluate("document.documentElement.scrollHeight"))
            browser.open(path, width, max(height, tall), dark)
        browser.screenshot(png)
