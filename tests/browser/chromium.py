"""Headless Chromium, for the tests of pages."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """Chromium over its DevTools pipe: messages end with a zero byte."""

    def __init__(self, folder):
        to_browser, self._send = os.pipe()
        self._receive, from_browser = os.pipe()

        def ends():
            apart = [fcntl.fcntl(end, fcntl.F_DUPFD, 64) for end in (to_browser, from_browser)]  # either may be 3 or 4
            for place, end in zip((3, 4), apart, strict=True):
                os.dup2(end, place)

        flags = [
            *(
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--remote-debugging-pipe",
            ),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
        ]
        self._process = subprocess.Popen(
            [CHROMIUM, *flags, f"--user-data-dir={folder}", "about:blank"], close_fds=False,
            preexec_fn=ends,  # noqa: PLW1509 - only calls of dup
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self.events = b"", 0, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            self.events.append(found)

    def _next(self):
        while b"\0" not in self._buffer:
            piece = os.read(self._receive, 1 << 16)
            assert piece, "the browser is gone"
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)

    def open(self, url, width, scheme, look):
        """Load a page, and what a JavaScript expression that gives JSON says of it."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())
        return self.look(look)

    def look(self, expression):
        """The value of an expression that gives JSON, or a promise of it."""
        return json.loads(self.call("Runtime.evaluate", expression=expression, awaitPromise=True)["result"]["value"])

    def picture(self):
        """The whole page as it is, PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def complaints(self, *own):
        """What the console said, and which addresses were asked besides files and those that begin with `own`."""
        said = [
            e
            for e in self.events
            if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        ]
        asked = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return said, [url for url in asked if not url.startswith((*own, "file:"))]

    def close(self):
        self._process.kill()
        self._process.wait()
        for end in (self._send, self._receive):
            with contextlib.suppress(OSError):
                os.close(end)
