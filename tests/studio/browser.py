"""A headless Chromium, spoken to over a pipe in its own protocol (CDP): no driver to install, no port to open."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
)


def found():
    """Where Chromium is, if it is."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page."""

    def __init__(self, profile: Path, size=(1400, 1000)):
        there, self._out = _pipe()
        self._in, back = _pipe()
        command = [found(), *QUIET.split(), f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        quiet = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
        moves = [quiet, (os.POSIX_SPAWN_DUP2, there, 3), (os.POSIX_SPAWN_DUP2, back, 4)]
        self._process = os.posix_spawn(command[0], command, os.environ, file_actions=moves, setpgroup=0)
        os.close(there)
        os.close(back)
        self._read, self._number, self._session, self.asked_for = b"", 0, None, []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "DOM", "Network"):
            self(f"{part}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._in)
        os.close(self._out)

    def __call__(self, method, seconds=60.0, **params):
        """Send a command and wait for its answer; addresses that the page asks for meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for answer in self._answers():
                if answer.get("method") == "Network.requestWillBeSent":
                    self.asked_for.append(answer["params"]["request"]["url"])
                if answer.get("id") == self._number:
                    assert "error" not in answer, f"{method}: {answer['error']}"
                    return answer["result"]
        raise TimeoutError(f"{method}: no answer in {seconds} seconds")

    def open(self, url):
        self("Page.navigate", url=url)

    def js(self, expression):
        """The value of an expression in the page."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression, seconds=120.0):
        """Wait until an expression is true in the page."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.js(expression):
                return
            time.sleep(0.2)
        raise TimeoutError(f"not in {seconds} seconds: {expression}\n{self.js('document.body.innerText')[-3000:]}")

    def give(self, selector, files):
        """Put files where a page asks for some."""
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def press(self, name):
        """Press the button that says so first, once there is one; tabs have a twin, which does the same."""
        every = "[...document.querySelectorAll('button')]"
        ours = f"{every}.filter(one => one.innerText.trim().split('\\n')[0] == {name!r})"
        self.wait(f"{ours}.length > 0")
        self.js(f"{ours}.forEach(one => one.click())")

    def write(self, selector, text):
        """Write into a field, as somebody would who types."""
        self.js(f"document.querySelector({selector!r}).focus(); document.querySelector({selector!r}).select()")
        self("Input.insertText", text=text)

    def picture(self, path):
        """Take a picture of the window."""
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot", format="png")["data"]))

    def _answers(self):
        if select.select([self._in], [], [], 0.2)[0]:
            self._read += os.read(self._in, 1 << 20)
        *whole, self._read = self._read.split(b"\0")
        return [json.loads(one) for one in whole]


def _pipe():
    """A pipe whose ends are out of the way of the numbers that the browser wants."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends
