"""The page of a report in Chromium: narrow and wide, light and dark."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess

import numpy as np
import pytest

from prompt_tuning_files.run_files import Logged

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
STATE = """
[document.documentElement.scrollWidth, matchMedia('(prefers-color-scheme: dark)').matches,
 getComputedStyle(document.body).backgroundColor]
"""


class Browser:
    """A headless browser, driven by the DevTools protocol over two pipes.

    Attributes:
      events: The events that came, by arrival.
    """

    def __init__(self, folder):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # The browser reads from descriptor 3 and writes to 4.
        script = f'exec {CHROMIUM} "$@" 3<&{theirs_in} 4>&{theirs_out}'
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
                 f"--user-data-dir={folder}")  # fmt: skip
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", script, "browser", *flags, "about:blank"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._reader, self._writer = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb")
        self._buffer, self._number, self.events = b"", 0, []
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)

    def call(self, method, **params):
        """Calls a method of the protocol, and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if method.split(".")[0] != "Target":
            message |= self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        self._writer.flush()
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def wait_for(self, method):
        """Waits for an event."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._receive())

    def close(self):
        """Ends the browser."""
        with contextlib.suppress(OSError):
            self._writer.close()
            self._reader.close()
        self._process.kill()
        self._process.wait()

    def _receive(self):
        while b"\0" not in self._buffer:
            part = os.read(self._reader.fileno(), 2**16)
            assert part, "the browser has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which is not installed")
def test_nothing_overflows_and_nothing_is_fetched(site, make_run, answer, main, tmp_path):
    lines = [
        Logged(step, {"eval/a_metric_with_a_long_name": step / 9, "train/loss": 1e-9 * step})
        for step in range(40)
    ]
    for seed in range(3):
        array = np.random.default_rng(seed).standard_normal((20, 4)).astype(np.float32)
        run = make_run(
            site.cwd / ("a_long_name_of_a_directory_" * 4) / str(seed), lines,
            {0: array, 39: 2 * array}, seed=seed, batch_size=seed,
        )  # fmt: skip
        texts = {"inputs": "word" * 99, "targets": "yes", "prediction": "a long answer " * 9}
        answer(run, [texts, texts])
    assert main("report", ".")[0] == 0
    page = site.cwd / "report.html"
    # Unfolded, to see all of it.
    page.write_text(page.read_text().replace("<details>", '<details open="">'))
    with contextlib.closing(Browser(tmp_path / "profile")) as browser:
        for domain in ("Page", "Network", "Log", "Runtime"):
            browser.call(f"{domain}.enable")
        browser.call("Page.navigate", url=page.as_uri())
        browser.wait_for("Page.loadEventFired")
        backgrounds = set()
        for width in (390, 1280):
            browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800,
                         deviceScaleFactor=1, mobile=width < 500)  # fmt: skip
            for scheme in ("light", "dark"):
                feature = {"name": "prefers-color-scheme", "value": scheme}
                browser.call("Emulation.setEmulatedMedia", features=[feature])
                found = browser.call("Runtime.evaluate", expression=STATE, returnByValue=True)
                needed, is_dark, background = found["result"]["value"]
                assert needed <= width, scheme
                assert is_dark == (scheme == "dark")
                backgrounds.add(background)
    assert len(backgrounds) == 2
    methods = [event.get("method") for event in browser.events]
    requested = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert set(requested) == {page.as_uri()}
    assert not {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"} & {
        *methods
    }
