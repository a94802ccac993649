"""`sidelock dashboard`: what it serves to whom, and the page in a real browser."""

import json
import os
import pathlib
import pty
import re
import shutil
import signal
import socket
import stat
import subprocess

import pytest

from harness.browser import PROGRAM, Browser
from harness.command import Command, terminal_output
from harness.daemon import ROOT
from harness.dashboard import Dashboard
from harness.waiting import GENEROUS_SECONDS, wait_until

RESOURCES = ROOT / "Sources/sidelock/Dashboard/Resources"
FILES = sorted(path.name for path in RESOURCES.iterdir())
HOSTILE = "<img src=x onerror=\"document.title='caught'\"><script>document.title='caught'</script>"

needs_browser = pytest.mark.skipif(not PROGRAM, reason="there is no chromium")


@pytest.fixture
def dashboard(sidelock):
    return Dashboard(sidelock)


@pytest.fixture
def browser(lab):
    browser = Browser(lab)
    yield browser
    browser.close()


@pytest.fixture
def page(browser, dashboard):
    """The dashboard in a tab, with the daemon's answer on it. It has complained of nothing at the end, and asked nobody else."""
    page = browser.page()
    page.open(dashboard.url)
    page.wait_for_text("#state", "live")
    yield page
    assert page.complaints() == []
    own = f"http://{dashboard.host}:{dashboard.port}/"
    assert page.requested() and all(url.startswith(own) for url in page.requested())


# What it serves, and to whom


def test_its_output_is_json_in_a_pipe_and_a_sentence_on_a_terminal(sidelock, dashboard):
    assert dashboard.told == {"url": f"http://127.0.0.1:{dashboard.port}/{dashboard.token}/"}
    assert len(dashboard.token) == 32 and Dashboard(sidelock).token != dashboard.token
    assert dashboard.end() == 0
    status, lines = terminal_output(sidelock, "dashboard", "--listen", "192.0.2.1:0")
    assert (status, lines) == (64, [])
    terminal, side = pty.openpty()
    process = sidelock.start("dashboard", stdout=side)
    os.close(side)
    line = os.read(terminal, 4096).decode()
    assert line.startswith("The dashboard is at http://127.0.0.1:") and "until Ctrl-C" in line
    process.terminate()
    os.close(terminal)
    assert process.wait(GENEROUS_SECONDS) == 0


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "192.0.2.1:9798", "[::]:0", "example.org:80", "[2001:db8::1]:1"])
def test_it_listens_on_nothing_but_the_loopback(sidelock, listen):
    status, out, err = sidelock.run("dashboard", "--listen", listen)
    assert (status, out) == (64, "") and ("takes 127.0.0.1" in err or "takes an address" in err)


@pytest.mark.parametrize("listen, host", [("localhost:0", "127.0.0.1"), ("127.0.0.5:0", "127.0.0.5"), ("[::1]:0", "::1"), ("0", "127.0.0.1")])
def test_it_listens_on_each_address_of_the_loopback(sidelock, listen, host):
    dashboard = Dashboard(sidelock, "--listen", listen)
    assert dashboard.host == host
    name = f"[{host}]:{dashboard.port}" if ":" in host else None
    assert dashboard.request("GET", f"/{dashboard.token}/", host=name)[0] == 200


def test_a_unix_socket_is_for_its_user_alone(lab, sidelock):
    path = lab.directory / "dashboard.sock"
    dashboard = Dashboard(sidelock, "--listen", f"unix:{path}")
    assert dashboard.told == {"socket": str(path), "url": f"http://localhost/{dashboard.token}/"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    out = subprocess.run(["curl", "--silent", "--unix-socket", str(path), dashboard.url], capture_output=True, text=True, check=True).stdout
    assert out == (RESOURCES / "dashboard.html").read_text()
    assert dashboard.end() == 0 and not path.exists()


def test_what_the_page_is_made_of_is_in_the_program(dashboard):
    for name in FILES:
        status, headers, data = dashboard.request("GET", f"/{dashboard.token}/{'' if name == 'dashboard.html' else name}")
        assert status == 200 and data == (RESOURCES / name).read_bytes(), name
        assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';") and "frame-ancestors 'none'" in policy
        assert "http" not in policy and "unsafe" not in policy and "*" not in policy
    assert dashboard.request("GET", f"/{dashboard.token}/other.js")[0] == 404
    assert dashboard.request("POST", f"/{dashboard.token}/")[0] == 405
    assert dashboard.request("HEAD", f"/{dashboard.token}/")[2] == b""


def test_nothing_of_the_page_names_another_address():
    for name in FILES:
        text = (RESOURCES / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "//cdn" not in text, name
        assert "innerHTML" not in text and "eval(" not in text and "document.write" not in text, name


@pytest.mark.parametrize("wrong", ["", "0" * 32, "short", "{token}0", "{TOKEN}"])
def test_without_the_token_nothing_is_served(dashboard, wrong):
    wrong = wrong.replace("{token}", dashboard.token).replace("{TOKEN}", dashboard.token.upper() + "A")
    for method, path in [("GET", f"/{wrong}/"), ("GET", f"/{wrong}/dashboard.js"), ("GET", "/"), ("GET", f"/{wrong}"), ("GET", "/favicon.ico")]:
        assert dashboard.request(method, path)[0] == 403, path
    for call in ("look", "hosts", "break", "other"):
        assert dashboard.request("POST", f"/api/{call}", {}, wrong)[0] == 403
        # The address's token does not do for what the page asks: a page of another site could have it asked.
        assert dashboard.request("POST", f"/api/{call}?token={dashboard.token}", {})[0] == 403


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "localhost.example.org:80", "evil:80@127.0.0.1", "10.0.0.1", "",
                                  "[::2]", "127.0.0.1:80:80", "127.0.0.1:port"])
def test_under_another_name_nothing_is_served(dashboard, host):
    """The name of another site may lead here; its pages would be of this origin."""
    headers = [] if host else [("Host", "localhost")]
    assert dashboard.request("GET", f"/{dashboard.token}/", host=host or "localhost", headers=headers)[0] == 403
    assert dashboard.request("POST", "/api/look", {}, dashboard.token, host=host or "localhost", headers=headers)[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:65535", "[::1]:80"])
def test_a_port_that_was_led_elsewhere_is_served(dashboard, host):
    assert dashboard.request("GET", f"/{dashboard.token}/", host=host)[0] == 200


def test_no_other_method_does_anything(daemon, dashboard):
    holder = daemon.client()
    holder.acquire("orders")
    for method in ("GET", "HEAD", "PUT", "OPTIONS"):
        status, headers, _ = dashboard.request(method, "/api/break", {"name": "orders"}, dashboard.token)
        assert status == 405 and "Access-Control-Allow-Origin" not in headers
    assert dashboard.request("POST", "/api/break", ["orders"], dashboard.token)[0] == 400
    assert dashboard.ask("break", name="orders", force=True)[0] == 400
    assert daemon.client().call("inspect", name="orders")["holders"]


def test_a_look_tells_what_the_commands_tell(lab):
    daemon = lab.daemon(lab.redis(), args=["--host", "one"])
    dashboard = Dashboard(Command(lab, daemon))
    holder, waiter = daemon.client(), daemon.client()
    token = holder.acquire("orders", meta="nightly")
    holder.acquire("other")
    waiter.queue("orders")
    status, told = dashboard.ask("look", inspect="orders")
    assert status == 200 and told["host"] == "one" and told["state"] == "OK" and told["stats"]["held"] == 2 and told["trouble"] is None
    assert {lock["name"] for lock in told["locks"]} == {"orders", "other"} and (told["matching"], told["known"], told["isCut"]) == (2, 2, False)
    assert [lock["name"] for lock in told["waits"]] == ["orders"]
    assert told["inspected"]["holders"][0]["token"] == token and told["inspected"]["waiters"][0]["user"]
    status, told = dashboard.ask("look", filter="oth", sort="name", count=1, all=True)
    assert [lock["name"] for lock in told["locks"]] == ["other"] and (told["matching"], told["known"]) == (1, 2)
    assert dashboard.ask("look", sort="size")[0] == 400
    status, told = dashboard.ask("hosts")
    assert status == 200 and [host["host"] for host in told["hosts"]] == ["one"]
    daemon.stop()
    try:
        status, told = dashboard.ask("look")
        assert status == 503 and told["error"]["reason"] == "no_answer"
    finally:
        daemon.resume()


def test_redis_that_is_away_is_told_beside_the_figures(lab):
    redis = lab.redis()
    dashboard = Dashboard(Command(lab, lab.daemon(redis)))
    assert dashboard.ask("look", all=True)[1]["trouble"] is None
    redis.kill()
    wait_until(lambda: dashboard.ask("look")[1]["state"] == "CRITICAL", "what the daemon says")
    status, told = dashboard.ask("look", all=True)
    assert status == 200 and "Redis" in told["trouble"] and "uptime_ms" in told["stats"]


def test_open_gives_the_browser_a_file_and_no_address(lab, sidelock):
    """Every user of the host can read a command line."""
    desk = lab.directory / "desk"
    desk.mkdir()
    opener = desk / "xdg-open"
    opener.write_text(f'#!/bin/sh\necho "$#:$1" > {desk}/part && cp "$1" {desk}/file && mv {desk}/part {desk}/opened\n'
                      f"echo $$ > {desk}/pid && exec sleep 60\n")
    opener.chmod(0o755)

    class Desk(Command):
        @property
        def environment(self):
            return {**super().environment, "PATH": f"{desk}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(desk)}

    command = Desk(lab, sidelock.daemon)
    dashboard = Dashboard(command, "--open")
    wait_until(lambda: (desk / "pid").exists() and (desk / "pid").read_text().endswith("\n"), "the browser")
    count, _, path = (desk / "opened").read_text().strip().partition(":")
    assert count == "1" and path.startswith(f"{desk}/sidelock-dashboard-") and dashboard.token not in path
    assert f"url={dashboard.url}\"" in (desk / "file").read_text() and stat.S_IMODE(os.stat(path).st_mode) == 0o600
    # The browser outlives the command, and has nothing of it.
    pid = int((desk / "pid").read_text())
    # The shell still reads its script until then.
    wait_until(lambda: os.readlink(f"/proc/{pid}/exe").endswith("/sleep"), "the browser's program")
    held = [os.readlink(f"/proc/{pid}/fd/{one}") for one in os.listdir(f"/proc/{pid}/fd")]
    assert set(held) == {"/dev/null"}
    ignored = int(re.search(r"SigIgn:\t(\w+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1], 16)
    assert not ignored >> (signal.SIGCHLD - 1) & 1
    assert dashboard.end() == 0 and not os.path.exists(path)
    again = Dashboard(command, "--listen", str(dashboard.port))
    assert again.ask("look")[0] == 200
    os.kill(pid, signal.SIGKILL)
    status, _, err = command.run("dashboard", "--open", "--listen", f"unix:{desk}/s")
    assert status == 64 and "--open needs a port" in err


def test_without_a_browser_the_address_is_served(lab, sidelock, tmp_path):
    class Bare(Command):
        @property
        def environment(self):
            return {**super().environment, "PATH": str(tmp_path), "XDG_RUNTIME_DIR": ""}

    dashboard = Dashboard(Bare(lab, sidelock.daemon), "--open", stderr=subprocess.PIPE)
    assert "there is no xdg-open" in dashboard.process.stderr.readline()
    assert dashboard.ask("look")[0] == 200


def test_a_page_breaks_locks_when_nobody_reads_the_output(daemon, dashboard):
    dashboard.process.stdout.close()
    holder = daemon.client()
    holder.acquire("orders")
    status, told = dashboard.ask("break", name="orders")
    assert status == 200 and len(told["broken"]) == 1
    assert holder.notification("lost")["reason"] == "broken"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_it_leaves_nothing_behind_when_its_terminal_is_closed(lab, sidelock, number):
    path = lab.directory / "dashboard.sock"
    dashboard = Dashboard(sidelock, "--listen", f"unix:{path}")
    dashboard.process.send_signal(number)
    assert dashboard.process.wait(GENEROUS_SECONDS) == 0 and not path.exists()
    ignoring = Dashboard(sidelock, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))
    ignoring.process.send_signal(number)
    assert ignoring.ask("look")[0] == 200


def test_who_has_no_token_keeps_no_connection(dashboard):
    with socket.create_connection((dashboard.host, dashboard.port)) as other:
        other.settimeout(GENEROUS_SECONDS)
        other.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        told = b"".join(iter(lambda: other.recv(4096), b""))
        assert told.startswith(b"HTTP/1.1 403 ") and b"Connection: close" in told


# The page


@needs_browser
def test_the_page_shows_locks_holders_and_waiters_live(daemon, page):
    page.wait_for_text("#none", "No locks")
    holder, waiter = daemon.client(), daemon.client()
    holder.acquire("orders")
    page.wait_for_text("#locks tbody tr", "orders", "exclusive", f"pid {os.getpid()}")
    page.wait("document.querySelector('#locks tbody tr').children[5].textContent === '0'")
    wait = waiter.queue("orders")
    page.wait("document.querySelector('#locks tbody tr').children[5].textContent === '1'")
    page.wait_for_text("#graph .node.lock", "orders")
    assert len(page.texts("#graph .node.agent")) == 2
    told = page.text("#graph .edge.waits title")
    assert " waits for orders for " in told and "orders is held by " in page.text("#graph .edge.held title")
    wait_until(lambda: page.text("#graph .edge.waits title") != told, "the time of the wait")
    holder.release("orders")
    waiter.reply_to(wait)
    page.wait("document.querySelector('#locks tbody tr').children[5].textContent === '0'")
    page.wait_for_text("#graph", "Nobody waits.")
    waiter.release("orders")
    page.wait_for_text("#none", "No locks")
    assert [text.split()[0] for text in page.texts("#tiles dt")] == ["Held", "Waiting", "Grants", "99", "Lost", "Clients", "Redis"]
    page.wait("document.querySelectorAll('#rates polyline').length === 3 && document.querySelectorAll('#waits .bar').length > 0")


@needs_browser
def test_the_page_marks_a_cycle(daemon, page):
    """The two name no owner: they may be threads of which another one gives way, so that the daemon refuses neither."""
    one, two, third = daemon.client(), daemon.client(), daemon.client()
    one.acquire("a")
    two.acquire("b")
    one.queue("b")
    third.queue("a")
    page.wait_for_text("#graph .node.lock", "b")
    assert page.texts("#graph :is(.node, .edge).cycle") == [] and page.run("document.getElementById('cycles').hidden")
    two.queue("a")
    page.wait("document.querySelectorAll('#graph .node.cycle').length === 4 && document.querySelectorAll('#graph .edge.cycle').length === 4")
    assert len(page.texts("#graph .node:not(.cycle)")) == 1
    [words] = page.texts("#cycles li")
    assert words.count("waits for") == 2 and words.count("is held by") == 2
    two.close()
    page.wait("document.querySelectorAll('#graph :is(.node, .edge).cycle').length === 0 && document.getElementById('cycles').hidden")


@needs_browser
def test_names_of_others_are_text(daemon, page):
    holder, waiter = daemon.client(), daemon.client()
    turned = "abc\u202edef\nnext"
    for name in (HOSTILE, turned):
        holder.acquire(name, meta=HOSTILE, owner=HOSTILE[:100])
        waiter.queue(name)
    page.wait_for_text("#graph .node.lock title", HOSTILE)
    assert sorted(page.texts("#locks .name")) == sorted([HOSTILE, r"abc\u{202e}def\u{a}next"])
    page.click("#locks .name", HOSTILE)
    page.wait_for_text("#inspected .facts", HOSTILE)
    page.click("#inspected .danger")
    page.wait_for_text("#ask-title", HOSTILE)
    page.click("#keep")
    assert page.run("document.querySelectorAll('#locks img, #graph img, #inspector img, main script').length") == 0
    assert page.run("document.title") != "caught" and page.run("document.querySelectorAll('script').length") == 1


@needs_browser
def test_the_policy_lets_nothing_in(browser, dashboard):
    """What a mistake of the page might let through is stopped by the browser."""
    page = browser.page()
    page.open(dashboard.url)
    refused = page.run("""(async () => {
        const result = [];
        try { document.body.innerHTML = "<p>x"; result.push("markup"); } catch { }
        try { eval("1"); result.push("eval"); } catch { }
        try { await fetch("http://127.0.0.1:9/"); result.push("fetch"); } catch { }
        const image = new Image();
        image.src = "http://127.0.0.1:9/x.png";
        await image.decode().then(() => result.push("image"), () => { });
        return result;
    })()""")
    assert refused == []
    assert any("Content Security Policy" in text for text in page.complaints())
    assert not [event for event in page.told("Network.responseReceived") if ":9/" in event["response"]["url"]]


@needs_browser
def test_the_filter_the_order_and_more_of_many_locks(daemon, page):
    client = daemon.client()
    for number in range(1200):
        client.acquire(f"shards/{number:04}", mode="shared")
    client.acquire("needle")
    page.wait_for_text("#count", "1,201, the first 100 are shown")
    assert len(page.texts("#locks tbody tr")) == 100
    page.click("#more")
    page.wait("document.querySelectorAll('#locks tbody tr').length === 200")
    page.click("#locks thead button", "Lock")
    page.wait("document.querySelector('#locks tbody .name').textContent === 'needle'")
    assert page.run("document.querySelector('#locks [aria-sort]').dataset.sort") == "name"
    page.press("/")
    page.type("rds/119")
    page.wait_for_text("#count", "10 of 1,201")
    assert page.texts("#locks .name") == [f"shards/{number}" for number in range(1190, 1200)]
    page.run("document.getElementById('filter').value = ''; document.getElementById('filter').dispatchEvent(new Event('input'))")
    page.wait_for_text("#count", "1,201")


@needs_browser
def test_a_lock_is_inspected_and_broken_by_keyboard(daemon, page):
    holder, waiter = daemon.client(), daemon.client()
    holder.acquire("orders", meta="nightly")
    wait = waiter.queue("orders")
    page.wait_for_text("#locks .name", "orders")
    page.run("document.querySelector('#locks .name').focus()")
    page.press("Enter")
    page.wait_for_text("#inspected", "nightly", "Waiting here: 1")
    assert page.run("document.activeElement.id") == "inspected-name"
    page.run("document.querySelector('#inspected .danger').focus()")
    page.press("Enter")
    page.wait("document.getElementById('ask').open && document.activeElement.id === 'reason'")
    page.type("stuck since noon")
    page.press("Enter")
    assert holder.notification("lost")["reason"] == "broken"
    assert waiter.reply_to(wait)["token"]
    page.wait_for_text("#notice", "orders is taken from 1 holder")
    wait_until(lambda: "stuck since noon" in daemon.log(), "the reason in the log")
    page.wait_for_text("#inspected", "Waiting here: 0")
    page.press("Escape")
    page.wait("document.getElementById('inspector').hidden")
    assert page.run("document.activeElement.textContent") == "orders"


@needs_browser
def test_a_break_without_the_right_is_told(lab, browser):
    daemon = lab.daemon(args=["--rule", "deny break * to everyone"])
    dashboard = Dashboard(Command(lab, daemon))
    daemon.client().acquire("orders")
    page = browser.page()
    page.open(dashboard.url)
    page.wait_for_text("#locks .name", "orders")
    page.click("#locks .name")
    page.wait_for_text("#inspected", "Held by")
    page.click("#inspected .danger")
    page.wait("document.getElementById('ask').open")
    page.click("#break")
    page.wait_for_text("#notice.bad", "denied", "right to break")
    assert daemon.client().call("inspect", name="orders")["holders"]


@needs_browser
def test_the_focus_stays_with_a_lock_whose_row_moves(daemon, page):
    client, waiter = daemon.client(), daemon.client()
    for name in "abcd":
        client.acquire(name)
    page.click("#locks thead button", "Lock")
    page.wait("[...document.querySelectorAll('#locks .name')].map(one => one.textContent).join('') === 'abcd'")
    page.run("document.querySelectorAll('#locks .name')[2].focus()")
    client.release("a")
    page.wait("document.querySelectorAll('#locks .name').length === 3")
    assert page.run("document.activeElement.textContent") == "c"
    page.run("document.querySelectorAll('#locks thead button')[2].click()")
    page.run("document.querySelectorAll('#locks .name')[1].focus()")
    waiter.queue("d")
    waiter.queue("c")
    page.wait("[...document.querySelectorAll('#locks .name')].map(one => one.textContent).join('') === 'cdb'")
    assert page.run("document.activeElement.textContent") == "c"


@needs_browser
def test_what_is_inspected_stays_below_the_pointer(daemon, page):
    """It is told anew each second, in the middle of a click and of a selection, too."""
    holders = [daemon.client(), daemon.client()]
    tokens = [holder.acquire("orders", mode="shared", meta=f"note {number}") for number, holder in enumerate(holders)]
    page.wait_for_text("#locks .name", "orders")
    page.click("#locks .name")
    page.wait_for_text("#inspected", "note 0", "note 1", "Break all holds")
    page.run("getSelection().selectAllChildren([...document.querySelectorAll('#inspected dd')].find(one => one.textContent === 'note 1'))")
    where = page.run(f"""(() => {{
        const button = document.querySelector("#inspected [data-token='{tokens[1]}']");
        button.scrollIntoView({{block: "center"}});
        const box = button.getBoundingClientRect();
        return [box.x + 5, box.y + 5];
    }})()""")
    assert page.run("getSelection().toString()") == "note 1"
    told = page.texts("#inspected dd")[-1]
    wait_until(lambda: page.texts("#inspected dd")[-1] != told, "another look")
    assert page.run("getSelection().toString()") == "note 1"
    mouse = {"x": where[0], "y": where[1], "button": "left", "clickCount": 1}
    page.call("Input.dispatchMouseEvent", type="mousePressed", **mouse)
    told = page.texts("#inspected dd")[-1]
    wait_until(lambda: page.texts("#inspected dd")[-1] != told, "another look")
    page.call("Input.dispatchMouseEvent", type="mouseReleased", **mouse)
    page.wait("document.getElementById('ask').open")
    holders[0].release("orders")
    page.click("#break")
    assert holders[1].notification("lost")["reason"] == "broken"


@needs_browser
def test_a_command_that_is_stopped_is_not_shown_as_live(browser, dashboard):
    page = browser.page()
    page.open(dashboard.url)
    page.wait_for_text("#state", "live")
    dashboard.process.send_signal(signal.SIGSTOP)
    try:
        page.wait_for_text("#banner", "has not answered within 10.0 s")
        page.wait_for_text("#state", "not live")
    finally:
        dashboard.process.send_signal(signal.SIGCONT)
    page.wait_for_text("#state", "live")
    page.wait("document.getElementById('banner').hidden")


@needs_browser
def test_names_that_differ_by_spaces_look_different(daemon, page):
    client = daemon.client()
    for name in ("deploy", " deploy", "deploy ", "a b", "a  b", "a\u00a0b", "\u3164", "\u2800"):
        client.acquire(name)
    page.wait("document.querySelectorAll('#locks .name').length === 8")
    assert sorted(page.texts("#locks .name")) == sorted(
        ["deploy", r"\u{20}deploy", r"deploy\u{20}", "a b", r"a\u{20}\u{20}b", r"a\u{a0}b", r"\u{3164}", r"\u{2800}"])
    page.run("document.getElementById('filter').focus()")
    page.type("x" * 9000)
    page.wait_for_text("#none", "No lock has that")
    assert page.run("document.getElementById('filter').value.length") == 512


@needs_browser
def test_the_page_goes_on_with_the_next_daemon(daemon, sidelock, browser, dashboard):
    page = browser.page()
    page.open(dashboard.url)
    page.wait_for_text("#state", "live")
    daemon.client().acquire("before")
    assert daemon.terminate() == 0
    page.wait_for_text("#banner", str(daemon.socket_path))
    page.wait_for_text("#state", "not live")
    assert not page.run("document.getElementById('banner').hidden")
    daemon.start()
    client = daemon.client()
    client.acquire("after")
    page.wait_for_text("#state", "live")
    page.wait_for_text("#locks .name", "after")
    assert page.run("document.getElementById('banner').hidden") and page.texts("#locks .name") == ["after"]
    # The command behind the page ends, and another one takes its place.
    assert dashboard.end() == 0
    page.wait_for_text("#banner", "does not answer any more")
    Dashboard(sidelock, "--listen", str(dashboard.port))
    page.wait_for_text("#banner", "not valid any more")


@needs_browser
def test_a_pause_stands_still_and_both_themes_differ(daemon, page):
    colours = []
    for theme in ("light", "dark"):
        page.theme(theme)
        colours.append(page.run("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] != colours[1]
    page.click("#pause")
    page.wait_for_text("#state", "paused")
    count = len(page.requested())
    daemon.client().acquire("later")
    page.run("new Promise(done => setTimeout(done, 2500))")
    assert [url for url in page.requested()[count:] if url.endswith("/look")] == []
    page.click("#pause")
    page.wait_for_text("#locks .name", "later")


# What the page computes

SNAPSHOT = [
    {"name": "a", "mode": "exclusive", "waiting": 9, "holding": 1, "holders": [{"host": "h", "session": "1", "pid": 1}],
     "waiters": [{"host": "h", "session": str(number)} for number in range(20, 26)] + [{"host": "h", "session": "2"}]},
    {"name": "b", "mode": "exclusive", "waiting": 1, "holding": 1, "holders": [{"host": "h", "session": "2", "owner": "x"}, {"host": "h", "session": "2"}],
     "waiters": [{"host": "h", "session": "3"}]},
    {"name": "c", "mode": "exclusive", "waiting": 1, "holding": 1, "holders": [{"host": "h", "session": "3"}],
     "waiters": [{"host": "h", "session": "1", "pid": 1}]},
    {"name": "semaphore", "permits": 2, "waiting": 1, "holding": 1, "holders": [{"host": "h", "session": "9"}],
     "waiters": [{"host": "h", "session": "9"}]},
    {"name": "far", "mode": "exclusive", "waiting": 1, "holding": 0, "holders": [{"host": "web2"}], "waiters": [{"host": "h", "session": "3", "owner": "t"}]},
    {"name": "own", "mode": "exclusive", "waiting": 1, "holding": 1, "holders": [{"host": "h", "session": "7"}], "waiters": [{"host": "h", "session": "7"}]},
]

CHECK_GRAPH = """
const graph = waitsFor(locks), size = layout(graph, 1200), name = node => node.kind === "lock" ? node.name : node.agent.session;
const overlap = graph.nodes.some((a, i) => graph.nodes.slice(i + 1).some(b =>
  Math.abs(a.x - b.x) < NODE.width && Math.abs(a.y - b.y) < NODE.height));
const outside = graph.nodes.some(one => !(one.x >= 0 && one.y >= 0 && one.x + NODE.width <= size.width + 0.01 && one.y + NODE.height <= size.height + 0.01));
({ cycles: graph.cycles.map(cycle => cycle.map(name).sort()), overlap, outside,
   more: graph.nodes.filter(node => node.kind === "more").map(node => node.count),
   words: cycleInWords(graph.cycles.find(cycle => cycle.length === 2), name), width: size.width });
"""


def check(told):
    assert sorted(told["cycles"], key=len) == [["7", "own"], ["1", "2", "3", "a", "b", "c"]]
    assert not told["overlap"] and not told["outside"] and told["width"] <= 1200
    # Whoever is part of a cycle is drawn among those who wait; of nine others six less one are.
    assert told["more"] == [3]
    assert told["words"] == "7 waits for own, which is held by 7"


def test_cycles_are_found_and_laid_out(tmp_path):
    """Without a browser, by the interpreter that the clients' tests use."""
    assert shutil.which("node")
    body = CHECK_GRAPH.strip().removesuffix(";")
    *statements, last = body.rsplit("\n({", 1)
    copy = tmp_path / "graph.mjs"
    copy.write_text((RESOURCES / "graph.js").read_text())
    script = (f'import {{ cycleInWords, layout, NODE, waitsFor }} from "{copy}";\nconst locks = {json.dumps(SNAPSHOT)};\n'
              + statements[0] + "\nconsole.log(JSON.stringify({" + last + ");\n")
    done = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, timeout=GENEROUS_SECONDS)
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout))


def test_a_ring_of_very_many_is_drawn_in_part(tmp_path):
    count = 60
    ring = [{"name": f"l{i}", "mode": "exclusive", "waiting": 1, "holding": 1, "holders": [{"host": "h", "session": f"{i}"}],
             "waiters": [{"host": "h", "session": f"{(i + 1) % count}"}]} for i in range(count)]
    copy = tmp_path / "graph.mjs"
    copy.write_text((RESOURCES / "graph.js").read_text())
    script = (f'import {{ cycleInWords, layout, NODE, RING_MAX, waitsFor }} from "{copy}";\nconst locks = {json.dumps(ring)};\n'
              "const graph = waitsFor(locks), size = layout(graph, 1200);\n"
              "const ids = new Set(graph.nodes.map(node => node.id));\n"
              "console.log(JSON.stringify({ nodes: graph.nodes.length, max: RING_MAX, left: graph.leftOut, cycles: graph.cycles.map(one => one.length),\n"
              "  dangling: graph.edges.filter(edge => !ids.has(edge.from) || !ids.has(edge.to)).length, width: size.width,\n"
              "  more: graph.nodes.filter(node => node.kind === 'more').map(node => node.count),\n"
              "  words: cycleInWords(graph.cycles[0], node => node.kind === 'lock' ? node.name : node.kind === 'more' ? `${node.count} more` : node.agent.session) }));\n")
    done = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, timeout=GENEROUS_SECONDS)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    left = 2 * count - (told["max"] - 1)
    assert told["nodes"] == told["max"] == told["cycles"][0] and told["left"] == left and told["more"] == [left]
    assert told["dangling"] == 0 and told["width"] < 3000 and f"{left} more" in told["words"]


def test_who_waits_for_what_is_left_out_of_a_ring_is_left_out_too(tmp_path):
    count = 40
    ring = [{"name": f"l{i}", "mode": "exclusive", "waiting": 2, "holding": 1, "holders": [{"host": "h", "session": f"{i}"}],
             "waiters": [{"host": "h", "session": f"{(i + 1) % count}"}, {"host": "h", "session": f"{1000 + i}"}]} for i in range(count)]
    copy = tmp_path / "graph.mjs"
    copy.write_text((RESOURCES / "graph.js").read_text())
    script = (f'import {{ waitsFor }} from "{copy}";\nconst graph = waitsFor({json.dumps(ring)});\n'
              "const joined = new Set(graph.edges.flatMap(edge => [edge.from, edge.to]));\n"
              "console.log(JSON.stringify({ alone: graph.nodes.filter(node => !joined.has(node.id)).length,\n"
              "  all: graph.nodes.filter(node => node.kind !== 'more').length + graph.leftOut }));\n")
    done = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, timeout=GENEROUS_SECONDS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"alone": 0, "all": 3 * count}


def test_a_graph_is_drawn_anew_when_its_edges_are_others(tmp_path):
    def locks(first, second, waited):
        return [{"name": name, "mode": "exclusive", "waiting": 1, "holding": 1, "holders": [{"host": "h", "session": name}],
                 "waiters": [{"host": "h", "session": who, "waited_ms": waited}]} for name, who in [("a", first), ("b", second)]]

    copy = tmp_path / "graph.mjs"
    copy.write_text((RESOURCES / "graph.js").read_text())
    shots = [locks("x", "y", 1), locks("x", "y", 2), locks("y", "x", 2)]
    script = (f'import {{ likeness, waitsFor }} from "{copy}";\nconst order = graph => graph.nodes.sort((a, b) => a.id < b.id ? -1 : 1);\n'
              f"const texts = {json.dumps(shots)}.map(locks => {{ const graph = waitsFor(locks); order(graph); return likeness(graph, node => node.kind); }});\n"
              "console.log(JSON.stringify([texts[0] === texts[1], texts[1] === texts[2]]));")
    done = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, timeout=GENEROUS_SECONDS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, False]


@needs_browser
def test_a_snapshot_is_drawn_with_its_cycles(page):
    told = page.run(f"""(async () => {{
        const {{ cycleInWords, layout, NODE, waitsFor }} = await import(new URL("graph.js", location.href));
        const {{ drawGraph }} = await import(new URL("charts.js", location.href));
        const locks = {json.dumps(SNAPSHOT)};
        const place = document.createElement("div");
        document.querySelector("main").append(place);
        let chosen;
        drawGraph(place, waitsFor(locks), name => {{ chosen = name; }});
        place.querySelector(".node.lock").dispatchEvent(new KeyboardEvent("keydown", {{key: "Enter"}}));
        const result = [place.querySelectorAll(".node.cycle").length, place.querySelectorAll(".edge.cycle").length, chosen,
                        place.querySelector("svg").getAttribute("aria-label")];
        place.remove();
        return result;
    }})()""")
    assert told == [8, 8, "a", "6 locks that somebody waits for, 2 cycles"]


def test_figures_are_computed(tmp_path):
    copy = tmp_path / "figures.mjs"
    copy.write_text((RESOURCES / "figures.js").read_text())
    script = f"""
        import * as f from "{copy}";
        const sample = (at, grants, instance = "i") => ({{ at, instance, stats: {{ grants_total: grants, waits: {{ by: 1 }} }} }});
        let samples = [];
        for (const one of [sample(0, 5), sample(1000, 25), sample(3000, 26)]) samples = f.sampled(samples, one);
        const histogram = {{ "100": 2, "30": 1, "1000000": 6, "more": 1, "sum": 77 }};
        const now = f.classes(histogram);
        console.log(JSON.stringify([
          f.rates(samples, "grants_total").map(one => one.value), f.sampled(samples, sample(4000, 0, "next")).length,
          f.sampled(samples, sample(302_000, 30)).length, now.map(one => one.count), f.quantile(now, 0.5), f.quantile(now, 0.99) === Infinity,
          f.quantile([], 0.5), f.since(histogram, {{ "30": 1, "1000000": 4 }}).map(one => one.count), f.summary(now),
          [999, 1000, 61_000, 3_700_000, 90_000_000].map(f.age), f.ticks(0), f.ticks(7), f.ticks(1234).at(-1) >= 1234,
          [30, 3000, 1_000_000, 3_000_000_000].map(f.endInWords), [0.5, 3, 1234.5].map(f.number),
        ]));"""
    done = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, timeout=GENEROUS_SECONDS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        [20, 0.5], 1, 2, [1, 2, 6, 1], 1_000_000, True, None, [0, 2, 2, 1], "10: half within 1 s, 99 % longer than all classes",
        ["999 ms", "1.0 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"], [0, 1], [0, 2, 4, 6, 8], True, ["30 µs", "3 ms", "1 s", "50 min"],
        ["0.5", "3", "1,235"]]
