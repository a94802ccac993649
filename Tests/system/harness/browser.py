"""Debian's chromium without a window, driven by the DevTools protocol over a pair of pipes: no port is open meanwhile."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time

from .daemon import clean_environment
from .waiting import GENEROUS_SECONDS, wait_until

PROGRAM = shutil.which("chromium")


class Browser:
    """One browser with a profile of its own. `pages` are its tabs."""

    def __init__(self, lab):
        directory = lab.directory / "browser"
        (to_read, self._out), (self._in, to_write) = os.pipe(), os.pipe()
        # It reads descriptor 3 and writes 4. Nothing but a page's own requests is to be made.
        self.process = lab.track(subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "chromium", PROGRAM, "--headless=new", "--no-sandbox",
             "--remote-debugging-pipe", f"--user-data-dir={directory}", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions", "--disable-gpu",
             "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb", "about:blank"],
            pass_fds=(to_read, to_write), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=clean_environment(HOME=str(lab.directory), XDG_RUNTIME_DIR="")))
        os.close(to_read)
        os.close(to_write)
        self._rest, self._ids = b"", itertools.count(1)
        self._replies, self.pages = {}, {}

    def page(self, width=1280, height=900):
        """A new tab that is empty."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.size(width, height)
        return page

    def call(self, method, session=None, **params):
        """The result of a command."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + GENEROUS_SECONDS
        while number not in self._replies:
            assert time.monotonic() < deadline, f"no answer to {method}"
            self.listen(1)
        reply = self._replies.pop(number)
        assert "error" not in reply, (method, params, reply)
        return reply["result"]

    def listen(self, seconds=0):
        """Takes what the browser tells."""
        while select.select([self._in], [], [], seconds)[0]:
            seconds = 0
            more = os.read(self._in, 1 << 20)
            assert more, "the browser has ended"
            *lines, self._rest = (self._rest + more).split(b"\0")
            for message in map(json.loads, lines):
                if "id" in message:
                    self._replies[message["id"]] = message
                elif message.get("sessionId") in self.pages:
                    self.pages[message["sessionId"]].events.append(message)

    def close(self):
        self.process.terminate()
        self.process.wait(GENEROUS_SECONDS)
        os.close(self._in)
        os.close(self._out)


class Page:
    """A tab, and all that the browser told of it."""

    def __init__(self, browser, session):
        self.browser, self.session, self.events = browser, session, []

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def size(self, width, height, scale=1):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def theme(self, name):
        """`light` or `dark`, as the user's system says."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def open(self, url):
        self.call("Page.navigate", url=url)
        wait_until(lambda: self.run("document.readyState") == "complete" and self.run("location.href") != "about:blank", "the page")

    def run(self, expression):
        """The value of an expression in JavaScript; a promise is waited for."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True,
                         allowUnsafeEvalBlockedByCSP=False)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, expression, what=None):
        """The first true value of an expression."""
        return wait_until(lambda: self.run(expression), what or expression, pause=0.02)

    def texts(self, selector):
        """The texts of all elements that a selector finds."""
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(one => one.textContent)")

    def text(self, selector):
        [text] = self.texts(selector)
        return text

    def wait_for_text(self, selector, *words):
        """Waits until an element that the selector finds has all of these words."""
        wait_until(lambda: any(all(word in text for word in words) for text in self.texts(selector)),
                   f"{words} in {selector}", pause=0.02)

    def click(self, selector, text=None):
        """A click of the mouse into the middle of the first element that the selector finds, and that has the text."""
        where = self.run(f"""(() => {{
            const one = [...document.querySelectorAll({json.dumps(selector)})].find(one => {json.dumps(text)} === null || one.textContent === {json.dumps(text)});
            if (!one) return null;
            one.scrollIntoView({{block: "center", inline: "center", behavior: "instant"}});
            const box = one.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()""")
        assert where, f"there is no {selector} with {text}"
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def press(self, key):
        extra = {"Enter": {"text": "\r", "windowsVirtualKeyCode": 13}, "Tab": {"windowsVirtualKeyCode": 9},
                 "Escape": {"windowsVirtualKeyCode": 27}}.get(key, {"text": key})
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **(extra if kind == "keyDown" else {}))

    def told(self, method):
        """The events of a kind."""
        self.browser.listen()
        return [event["params"] for event in self.events if event["method"] == method]

    def requested(self):
        """Every address that was asked for something."""
        return [event["request"]["url"] for event in self.told("Network.requestWillBeSent")]

    def complaints(self):
        """Errors of scripts, and what the browser logged as one: what the page's policy forbids, too."""
        errors = [event["exceptionDetails"].get("exception", {}).get("description") for event in self.told("Runtime.exceptionThrown")]
        return errors + [event["entry"]["text"] for event in self.told("Log.entryAdded") if event["entry"]["level"] == "error"]

    def picture(self, path, height=None):
        """The whole page, or its upper part, as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height or size["height"]), "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))
