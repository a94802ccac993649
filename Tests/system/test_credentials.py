"""Credentials of Redis that change while the daemon runs: nobody loses a lock or his place, and what is wrong is told."""

import os
import signal
import threading
import time

import pytest
from harness.client import RpcError
from harness.redis_server import acl_rules
from harness.waiting import GENEROUS_MS, wait_until

LEASE_MS = 6000
RIGHTS = acl_rules().split()
TAKEN = "Redis has taken other credentials"


class Site:
    """A server with users, and where a daemon has its login from."""

    def __init__(self, lab):
        self.lab = lab
        self.server = lab.redis()
        self.password = lab.directory / "password"
        self.program = lab.directory / "credentials"
        self.tokens = 0
        self.user("locks", ">pw-first")

    @property
    def url(self):
        """Without a login, whoever the daemons of other tests are."""
        return f"unix://{self.server.socket_path}"

    def user(self, name, *rules):
        self.server.admin.execute_command("ACL", "SETUSER", name, "on", *RIGHTS, *rules)

    def write(self, password):
        """As who rotates passwords does: another file takes the place."""
        new = self.lab.directory / "password.new"
        new.write_text(password + "\n")
        new.chmod(0o600)
        os.replace(new, self.password)

    def script(self, text, mode=0o700):
        new = self.lab.directory / "credentials.new"
        new.write_text("#!/bin/sh\n" + text)
        new.chmod(mode)
        os.replace(new, self.program)

    def daemon(self, *args, **options):
        return self.lab.daemon(self, args=list(map(str, args)), **{"lease_ms": LEASE_MS, **options})

    def by_file(self, password="pw-first"):
        self.write(password)
        return self.daemon("--redis-user", "locks", "--redis-password-file", self.password)

    def by_program(self, text=None, **options):
        if text is not None:
            self.script(text)
        return self.daemon("--redis-user", "locks", "--redis-credentials-command", self.program, **options)

    def logins(self):
        """The users of the daemons' connections."""
        return {connection["user"] for connection in self.server.daemon_connections()}


@pytest.fixture
def site(lab):
    return Site(lab)


class Contest:
    """Two daemons: one holds, the other waits, and a third client hands a lock to and fro all the time."""

    def __init__(self, *daemons):
        self.daemons = daemons
        self.holder, self.waiter = daemons[0].client(), daemons[-1].client()
        self.token = self.holder.acquire("orders")
        self.waiting = self.waiter.queue("orders")
        self.connections = [self.count(daemon) for daemon in daemons]

    @staticmethod
    def count(daemon):
        return daemon.client().call("stats")["redis"]["connections_total"]

    def end(self):
        """Nothing was lost, on the connections of before, and the waiter is woken."""
        assert [self.count(daemon) for daemon in self.daemons] == self.connections
        assert self.holder.poll() is None and self.waiter.poll() is None
        self.holder.release("orders", self.token)
        assert self.waiter.reply_to(self.waiting)["token"] > self.token
        assert all("lost" not in daemon.log().replace("lost the connection", "") for daemon in self.daemons)


def told(daemon, words, count=1):
    wait_until(lambda: daemon.log().count(words) >= count, words)


def without_secrets(site, daemon, *secrets):
    client = daemon.client()
    seen = daemon.log() + str(client.call("stats")) + "".join(daemon.notify.lines("STATUS="))
    for secret in secrets:
        assert secret not in seen


# Rotations


def test_a_file_is_replaced_under_a_held_lock_and_a_waiter(site):
    daemons = [site.by_file(), site.by_file()]
    contest = Contest(*daemons)
    site.user("locks", ">pw-second")
    site.write("pw-second")
    for daemon in daemons:
        told(daemon, TAKEN)
    site.server.admin.execute_command("ACL", "SETUSER", "locks", "<pw-first")
    contest.end()
    # The next connection has it, too.
    for connection in site.server.daemon_connections():
        site.server.admin.client_kill_filter(_id=connection["id"])
    client = daemons[0].client()
    client.ask_redis(wait_ms=GENEROUS_MS)
    without_secrets(site, daemons[0], "pw-first", "pw-second")


def test_a_reload_takes_it_at_once(site):
    daemon = site.by_file()
    contest = Contest(daemon)
    site.user("locks", ">pw-second")
    site.write("pw-second")
    daemon.reload()
    told(daemon, TAKEN)
    site.server.admin.execute_command("ACL", "SETUSER", "locks", "<pw-first")
    contest.end()


def test_the_login_of_the_url_changes_at_a_reload(site):
    config = site.lab.directory / "sidelockd.yaml"
    config.write_text(f"redis: unix://locks:pw-first@{site.server.socket_path}\n")
    daemon = site.lab.daemon(lease_ms=LEASE_MS, wait=False)
    daemon.kill()
    daemon.command = [part for part in daemon.command if part != "--local"] + ["--config", str(config)]
    daemon.start()
    contest = Contest(daemon)
    site.user("other", ">pw-second")
    config.write_text(f"redis: unix://other:pw-second@{site.server.socket_path}\n")
    daemon.reload()
    told(daemon, TAKEN)
    wait_until(lambda: site.logins() == {"other"}, "the other user")
    site.server.admin.execute_command("ACL", "DELUSER", "locks")
    contest.end()
    assert "restart" not in "".join(daemon.notify.lines("STATUS="))
    without_secrets(site, daemon, "pw-first", "pw-second")


def test_a_program_gives_a_token_for_three_seconds(site):
    """Each is good for one login, and every one before it is taken away."""
    count = site.lab.directory / "count"
    count.write_text("0\n")
    text = f"n=$(($(cat {count}) + 1)); echo $n > {count}; printf 'token-%s\\nexpires_in=3\\nuser=iam\\n' $n\n"
    for number in range(1, 200):
        site.user("iam", f">token-{number}")
    daemon = site.by_program(text)
    contest = Contest(daemon)
    gone = 0
    for seen in range(1, 4):
        told(daemon, TAKEN, seen)
        while gone + 1 < int(count.read_text() or 0):
            gone += 1
            site.server.admin.execute_command("ACL", "SETUSER", "iam", f"<token-{gone}")
    assert gone >= 3
    assert site.logins() == {"iam"}
    contest.end()
    without_secrets(site, daemon, "token-")


def test_traffic_goes_on_over_many_rotations(site):
    daemons = [site.by_file(), site.by_file()]
    contest = Contest(*daemons)
    ends, failures = threading.Event(), []

    def work(daemon):
        client = daemon.client()
        try:
            while not ends.is_set():
                client.release("busy", client.acquire("busy", wait_ms=GENEROUS_MS))
        except (RpcError, AssertionError) as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(daemon,)) for daemon in daemons for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(6):
            site.user("locks", f">turn-{number}")
            site.write(f"turn-{number}")
            for daemon in daemons:
                daemon.reload()
                told(daemon, TAKEN, number + 1)
            site.server.admin.execute_command("ACL", "SETUSER", "locks", "resetpass", f">turn-{number}")
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    assert not failures
    contest.end()


def test_another_user_takes_over(site):
    site.write("pw-first")
    config = site.lab.directory / "sidelockd.yaml"
    config.write_text("redis_user: locks\n")
    daemon = site.daemon("--redis-password-file", site.password, "--config", config)
    contest = Contest(daemon)
    site.user("other", ">pw-second")
    site.write("pw-second")
    config.write_text("redis_user: other\n")
    daemon.reload()
    told(daemon, TAKEN)
    assert site.logins() == {"other"}
    contest.end()


def test_an_outage_between_costs_no_rotation(site):
    """Redis is away while the file changes: the next connection has what is there then."""
    daemon = site.by_file()
    holder = daemon.client()
    holder.acquire("orders")
    site.server.stop()
    site.write("pw-second")
    daemon.signal(signal.SIGHUP)
    site.server.resume()
    told(daemon, "Redis has refused")
    site.user("locks", ">pw-second")
    site.server.admin.execute_command("ACL", "SETUSER", "locks", "<pw-first")
    told(daemon, TAKEN)
    assert holder.poll() is None


# What goes wrong


def test_a_password_that_redis_does_not_know_yet_is_tried_again(site):
    daemon = site.by_file()
    contest = Contest(daemon)
    site.write("pw-second")
    daemon.reload()
    told(daemon, "Redis has refused other credentials; the connection goes on with those of before")
    assert "Redis refused the password of user 'locks'" in daemon.log()
    site.user("locks", ">pw-second")
    told(daemon, TAKEN)
    site.server.admin.execute_command("ACL", "SETUSER", "locks", "<pw-first")
    contest.end()
    without_secrets(site, daemon, "pw-first", "pw-second")


def test_a_user_who_lacks_rights_is_told_and_the_one_of_before_goes_on(site):
    site.script("printf 'pw-first\\nuser=locks\\n'\n")
    daemon = site.by_program()
    contest = Contest(daemon)
    site.server.admin.execute_command("ACL", "SETUSER", "narrow", "on", ">pw-second", *RIGHTS, "-publish", "-set")
    site.script("printf 'pw-second\\nuser=narrow\\n'\n")
    daemon.reload()
    told(daemon, "other credentials lack rights; the connection goes back to those of before")
    assert "the Redis user 'narrow' may not use SET, PUBLISH: allow it with ACL SETUSER narrow +set +publish" in daemon.log()
    wait_until(lambda: site.logins() == {"locks"}, "the user of before")
    assert daemon.client().acquire("meanwhile") > 0
    site.server.admin.execute_command("ACL", "SETUSER", "narrow", "+set", "+publish")
    told(daemon, TAKEN)
    assert site.logins() == {"narrow"}
    contest.end()


@pytest.mark.parametrize("rule, words", [
    ("-set", "may not use SET: allow it with ACL SETUSER locks +set"),
    ("-evalsha", "may not use EVALSHA: allow it with ACL SETUSER locks ~sidelock:* "),
    ("resetkeys", "may not use keys that begin with sidelock: (to read and write each of them): allow it with ACL SETUSER locks ~"),
])
def test_a_right_that_is_taken_away_is_named(site, rule, words):
    daemon = site.by_file()
    client = daemon.client()
    client.acquire("orders")
    site.server.admin.execute_command("ACL", "SETUSER", "locks", rule)
    told(daemon, f"the Redis user 'locks' {words}")
    site.user("locks")
    assert client.acquire("invoices", wait_ms=GENEROUS_MS) > 0


@pytest.mark.parametrize("text, words", [
    ("exit 3\n", "has ended with exit status 3"),
    ("echo 'no network' >&2; exit 1\n", "has ended with exit status 1; it says: no network"),
    ("echo hunter2; echo hunter2 >&2; exit 1\n", "has ended with exit status 1; it says: (words withheld)"),
    ("kill -9 $$\n", "was ended by signal 9"),
    ("yes hunter2\n", "has written more than 4096 bytes"),
    ("", "has written nothing"),
    ("printf 'hunter2\\nhunter2\\n'\n", "has written a line 2 that is neither expires_in=SECONDS nor user=NAME"),
    ("printf 'hunter2\\nexpires_in=soon\\n'\n", "has written an expires_in that is no number of seconds"),
])
def test_a_program_that_fails_is_told_and_the_login_of_before_goes_on(site, text, words):
    daemon = site.by_program("echo pw-first\n")
    contest = Contest(daemon)
    site.script(text)
    daemon.reload()
    told(daemon, "the credentials of Redis could not be read anew; those of before are used")
    told(daemon, f"{site.program} (redis_credentials_command) {words}")
    # It is run again and again, and told once.
    site.script("echo pw-first\n")
    contest.end()
    without_secrets(site, daemon, "hunter2", "pw-first")


def test_a_program_that_hangs_is_ended(site):
    daemon = site.by_program("echo pw-first\n")
    contest = Contest(daemon)
    pid = site.lab.directory / "pid"
    site.script(f"echo $$ > {pid}; exec sleep 1000\n")
    daemon.reload()
    told(daemon, "(redis_credentials_command) has not ended within 10 s")
    first = pid.read_text().strip()
    wait_until(lambda: not os.path.exists(f"/proc/{first}"), "the end of the program")
    site.script("echo pw-first\n")
    contest.end()


def test_a_program_that_goes_missing_is_told(site):
    daemon = site.by_program("echo pw-first\n")
    contest = Contest(daemon)
    site.program.unlink()
    # At a reload it is looked at first, and nothing changes.
    daemon.reload()
    assert f'cannot run \\"{site.program}\\", which is not there' in daemon.log()
    contest.end()
    for connection in site.server.daemon_connections():
        site.server.admin.client_kill_filter(_id=connection["id"])
    # The next connection has the login of before.
    client = daemon.client()
    assert client.acquire("after", wait_ms=GENEROUS_MS) > 0


def test_without_any_login_the_status_says_why_and_it_is_tried_again(site):
    daemon = site.by_program("echo 'no network' >&2; exit 1\n")
    client = daemon.client()
    with pytest.raises(RpcError) as refused:
        client.acquire("orders", wait_ms=0)
    assert refused.value.reason == "unavailable"
    assert "has ended with exit status 1; it says: no network" in daemon.log()
    waiting = client.request("acquire", name="orders")
    site.script("echo pw-first\n")
    assert client.reply_to(waiting)["token"] > 0


def test_a_program_is_run_again_while_redis_refuses_what_it_gave(site):
    """The user is taken away, and has another password when he comes back."""
    daemon = site.by_program("echo pw-first\n")
    waiting = daemon.client()
    site.server.admin.execute_command("ACL", "DELUSER", "locks")
    told(daemon, "Redis refused the password of user 'locks'")
    request = waiting.request("acquire", name="orders")
    site.user("locks", ">pw-second")
    site.script("echo pw-second\n")
    assert waiting.reply_to(request)["token"] > 0
    without_secrets(site, daemon, "pw-first", "pw-second")


def test_the_daemon_stops_while_a_program_hangs(site):
    daemon = site.by_program("echo pw-first\n")
    pid = site.lab.directory / "pid"
    site.script(f"echo $$ > {pid}; exec sleep 1000\n")
    daemon.reload()
    program = wait_until(lambda: pid.exists() and pid.read_text().strip(), "the program")
    began = time.monotonic()
    assert daemon.terminate() == 0
    assert time.monotonic() - began < 8
    wait_until(lambda: not os.path.exists(f"/proc/{program}"), "the end of the program")


def test_a_program_that_hangs_ends_with_a_daemon_that_is_killed(site):
    daemon = site.by_program("echo pw-first\n")
    pid = site.lab.directory / "pid"
    site.script(f"echo $$ > {pid}; exec sleep 1000\n")
    daemon.signal(signal.SIGHUP)
    program = wait_until(lambda: pid.exists() and pid.read_text().strip(), "the program")
    daemon.kill()
    wait_until(lambda: not os.path.exists(f"/proc/{program}"), "the end of the program")


@pytest.mark.parametrize("mode, path, words", [
    (0o600, "{program}", "cannot be executed by the daemon's user"),
    (0o722, "{program}", "can be changed by every user"),
    (0o720, "{program}", "can be changed by the group"),
    (0o700, "{program} --now", "arguments are not taken"),
    (0o700, "credentials", "absolute path"),
    (0o700, "/missing", "is not there"),
    (0o700, "/tmp", "is no regular file"),
])
def test_what_is_no_fit_program_is_refused_at_the_start(site, mode, path, words):
    site.script("echo pw-first\n", mode)
    daemon = site.lab.daemon(site, wait=False, args=[
        "--redis-credentials-command", path.format(program=site.program)])
    daemon.may_fail = True
    assert daemon.process.wait(60) == 78
    assert words in daemon.log() and "redis-credentials-command" in daemon.log()


def test_a_credential_of_systemd_is_taken(site):
    place = site.lab.directory / "credentials-directory"
    place.mkdir()
    (place / "sidelock.redis-password").write_text("pw-first\n")
    daemon = site.daemon("--redis-user", "locks", env={"CREDENTIALS_DIRECTORY": str(place)})
    assert daemon.client().acquire("orders") > 0
    assert site.logins() == {"locks"}
