"""Redis by TLS: what works, and in which words everything is refused that should be."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time

import pytest
from harness.certificates import P521, Authority
from harness.reasons import reason
from harness.redis_server import free_port
from harness.waiting import GENEROUS_MS, GENEROUS_SECONDS, wait_until

LEASE_MS = 60_000
NAME = "redis.sidelock.test"
EVERYWHERE = f"DNS:{NAME},DNS:localhost,IP:127.0.0.1,IP:::1"


class Site:
    """A server with TLS, an authority, and the URL."""

    def __init__(self, lab):
        self.lab = lab
        self.authority = Authority(lab.directory, "site-ca")
        self.ca = self.authority.path
        self.host = "127.0.0.1"

    def serve(self, certificate=None, clients="no", ca=None):
        self.certificate = certificate or self.authority.sign("server", EVERYWHERE)
        self.tls_port = free_port()
        self.server = self.lab.redis(
            "--port", "0", "--tls-port", str(self.tls_port), "--tls-cert-file", str(self.certificate.path),
            "--tls-key-file", str(self.certificate.key), "--tls-ca-cert-file", str(ca or self.ca),
            "--tls-auth-clients", clients)
        return self

    @property
    def url(self):
        return f"rediss://{self.host}:{self.tls_port}"

    def daemon(self, *args, ca=True, **options):
        trusted = ["--redis-tls-ca", str(self.ca)] if ca else []
        return self.lab.daemon(self, args=[*trusted, *map(str, args)], **{"lease_ms": LEASE_MS, **options})

    def cut(self):
        """Has Redis end the connections of daemons."""
        for connection in self.server.admin.client_list():
            if connection["name"].startswith("sidelockd"):
                self.server.admin.client_kill_filter(_id=connection["id"])

    def turn_over(self, daemon):
        """The same; returns when there is a new one."""
        before = connections(daemon)
        self.cut()
        wait_until(lambda: connections(daemon) > before, "a new connection")


@pytest.fixture
def site(lab):
    return Site(lab)


def connections(daemon):
    return daemon.client().call("stats")["redis"]["connections_total"]


def works(daemon):
    client = daemon.client()
    return client.ask_redis(wait_ms=GENEROUS_MS)


def identified(certificate):
    return ["--redis-tls-cert", certificate.path, "--redis-tls-key", certificate.key]


# What works


def test_two_hosts_share_locks_by_tls(site):
    site.serve()
    one, two = (site.daemon().client() for _ in range(2))
    token = one.acquire("orders")
    waiting = two.request("acquire", name="orders", wait_ms=GENEROUS_MS)
    wait_until(lambda: site.server.admin.llen("sidelock:{orders}:queue") == 1, "the wait")
    one.release("orders", token)
    assert two.reply_to(waiting)["token"] > token
    assert two.poll() is None


def test_what_is_large_comes_whole(site):
    """Many records of TLS each way, and the pages of a list."""
    site.serve()
    daemon = site.daemon()
    client = daemon.client()
    names = [f"{'x' * 400}/{number}" for number in range(300)]
    for some in (names[:100], names[100:200], names[200:]):
        # As many as may be under way.
        for request in [client.request("acquire", name=name, meta="m" * 1000) for name in some]:
            client.reply_to(request)
    found, cursor = set(), None
    while True:
        page = daemon.client().call("list", scope="all", **({"cursor": cursor} if cursor else {}))
        found |= {lock["name"] for lock in page["locks"]}
        cursor = page.get("cursor")
        if not cursor:
            break
    assert found == set(names)


def test_a_client_certificate_is_shown_to_who_wants_it(site):
    site.serve(clients="yes")
    own = site.authority.sign("client", usage="clientAuth")
    works(site.daemon(*identified(own)))
    both = site.lab.directory / "both.pem"
    both.write_bytes(own.key.read_bytes() + own.path.read_bytes())
    works(site.daemon("--redis-tls-cert", both))


@pytest.mark.parametrize("kind", [("rsa:2048",), P521, ("ed25519",)], ids=["RSA", "P-521", "Ed25519"])
def test_keys_may_be_of_several_kinds(site, kind):
    """Those that openssl makes and Redis takes."""
    site.serve(site.authority.sign("server", EVERYWHERE, kind=kind), clients="yes")
    works(site.daemon(*identified(site.authority.sign("client", kind=kind))))


@pytest.mark.parametrize("is_old_first", [True, False], ids=["old first", "new first"])
def test_an_authority_may_be_renewed_under_its_name(site, is_old_first):
    """Who adds the new certificate to a file leaves the old one there, which is over one day."""
    site.serve()
    parts = [site.authority.before_renewal().read_bytes(), site.ca.read_bytes()]
    bundle = site.lab.directory / "bundle.pem"
    bundle.write_bytes(b"".join(parts if is_old_first else reversed(parts)))
    works(site.daemon("--redis-tls-ca", bundle, ca=False))


def test_authorities_between_may_be_shown_by_the_server_or_stand_in_the_file(site):
    between = Authority(site.lab.directory, "between", above=site.authority)
    certificate = between.sign("server", EVERYWHERE)
    bundle = site.lab.directory / "bundle.pem"
    bundle.write_bytes(between.path.read_bytes() + site.ca.read_bytes())
    site.serve(certificate)
    works(site.daemon("--redis-tls-ca", bundle, ca=False))
    reason(site.daemon(), "signed by 'between', which is unknown")
    certificate.path.write_bytes(certificate.path.read_bytes() + between.path.read_bytes())
    site.serve(certificate)
    works(site.daemon())
    reason(site.daemon("--redis-tls-ca", between.path, ca=False),
           "signed by 'between', which is in .*, and was itself signed by 'site-ca': that must be there, too")


def test_the_files_may_be_credentials_of_systemd(site):
    site.serve(clients="yes")
    own = site.authority.sign("client")
    place = site.lab.directory / "credentials"
    place.mkdir()
    for name, file in (("ca", site.ca), ("cert", own.path), ("key", own.key)):
        shutil.copy(file, place / f"sidelock.redis-tls-{name}")
    works(site.daemon(ca=False, env={"CREDENTIALS_DIRECTORY": str(place)}))


def test_a_password_goes_with_tls(site):
    site.serve()
    site.server.admin.execute_command("ACL", "SETUSER", "locks", "on", ">secret", "~*", "&*", "+@all")
    password = site.lab.directory / "password"
    password.write_text("secret\n")
    works(site.daemon("--redis-user", "locks", "--redis-password-file", password))


# Names


@contextlib.contextmanager
def known_as(site, address, name=NAME):
    """A prefix for a daemon that knows a name, in a mount namespace with a file of hosts of its own."""
    hosts = site.lab.directory / "hosts"
    hosts.write_text(f"{address} {name}\n")
    lookup = site.lab.directory / "nsswitch.conf"
    lookup.write_text("hosts: files\n")
    mounts = f"mount --bind {hosts} /etc/hosts && mount --bind {lookup} /etc/nsswitch.conf"
    yield ["unshare", "-m", "--propagation", "private", "sh", "-c", mounts + ' && exec "$@"', "sh"]


class Listener:
    """Takes connections on a loopback address, and deals with each as it is told to."""

    def __init__(self, deal):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.deal, self.heard, self.open = deal, b"", []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.open.append(connection)
                self.deal(self, connection)

    @property
    def url(self):
        return f"rediss://127.0.0.1:{self.port}"

    def close(self):
        self.socket.close()
        for connection in self.open:
            connection.close()


def test_the_host_of_the_url_is_told_and_must_be_in_the_certificate(site):
    site.serve(site.authority.sign("server", f"DNS:{NAME}"))
    site.host = NAME
    with known_as(site, "127.0.0.1") as prefix:
        works(site.daemon(prefix=prefix))


def test_the_name_is_told_to_the_server(site):
    """A server of several names chooses its certificate by it."""

    def hear(listener, connection):
        listener.heard += connection.recv(4096)

    listener = Listener(hear)
    try:
        site.lab.daemon(listener, args=["--redis-tls-server-name", NAME], wait=False)
        wait_until(lambda: NAME.encode() in listener.heard, "the name in the first message")
    finally:
        listener.close()


def test_a_certificate_of_another_name_is_refused_and_its_names_are_told(site):
    site.serve(site.authority.sign("server", "DNS:other.test,IP:127.0.0.2"))
    daemon = site.daemon()
    words = reason(daemon, "certificate is not for 127.0.0.1: it has other.test, 127.0.0.2")
    assert f"127.0.0.1:{site.tls_port}" in words
    works(site.daemon("--redis-tls-server-name", "other.test"))
    works(site.daemon("--redis-tls-server-name", "127.0.0.2"))


def test_an_address_that_a_name_leads_to_does_not_stand_for_the_name(site):
    """Whoever answers for a name server decides to which address a name leads."""
    site.serve(site.authority.sign("server", "IP:127.0.0.1"))
    site.host = NAME
    with known_as(site, "127.0.0.1") as prefix:
        reason(site.daemon(prefix=prefix), f"certificate is not for {NAME}: it has 127.0.0.1")


def test_a_common_name_counts_for_nothing(site):
    site.serve(site.authority.sign("localhost"))
    site.host = "localhost"
    reason(site.daemon(), "only the common name localhost, which is not used")


# Certificates that are refused


def test_an_unknown_authority_is_named_with_the_file(site):
    site.serve()
    other = Authority(site.lab.directory, "other-ca")
    daemon = site.daemon("--redis-tls-ca", other.path, ca=False)
    reason(daemon, f"signed by 'site-ca', which is unknown: it is not in {re.escape(str(other.path))}")


def test_the_authorities_of_the_system_are_trusted_unless_told_otherwise(site):
    site.serve()
    reason(site.daemon(ca=False), r"signed by 'site-ca', which is unknown: it is not in the CAs of this system \(redis_tls_ca")


def test_an_authority_of_the_same_name_is_another_one(site):
    site.serve()
    (site.lab.directory / "deeper").mkdir()
    namesake = Authority(site.lab.directory / "deeper", "site-ca")
    reason(site.daemon("--redis-tls-ca", namesake.path, ca=False), "signed by another 'site-ca' than that in")


@pytest.mark.parametrize("times, words", [
    ({"begins": -7200, "ends": -3600}, "the server's certificate has expired on 20"),
    ({"begins": 3600, "ends": 7200}, "the server's certificate is not valid before 20"),
], ids=["expired", "not yet"])
def test_a_certificate_out_of_its_time_is_refused(site, times, words):
    site.serve(site.authority.sign("server", EVERYWHERE, **times))
    reason(site.daemon(), words)


def test_a_certificate_for_clients_is_none_of_a_server(site):
    site.serve(site.authority.sign("server", EVERYWHERE, usage="clientAuth"))
    reason(site.daemon(), "or is not for a server")


def test_without_verification_everybody_is_believed_and_the_log_says_so_each_time(site):
    site.serve(site.authority.sign("server", "DNS:other.test", begins=-7200, ends=-3600))
    daemon = site.daemon("--redis-tls-verify", "none", ca=False)
    works(daemon)
    said = "the certificate of Redis is not checked"
    assert daemon.log().count(said) == 1
    site.turn_over(daemon)
    wait_until(lambda: daemon.log().count(said) == 2, "the warning of the new connection")


def test_the_log_says_how_a_connection_was_made_and_not_what_the_settings_are_since(site):
    site.serve(site.authority.sign("server", "DNS:other.test"))
    hello, may_answer = threading.Event(), threading.Event()

    def forward(listener, connection):
        # The daemon serves when the first attempt has failed.
        if len(listener.open) == 1:
            return connection.close()
        with socket.create_connection(("127.0.0.1", site.tls_port)) as server:
            server.sendall(connection.recv(16384))
            hello.set()
            assert may_answer.wait(GENEROUS_SECONDS)
            pumps = [threading.Thread(target=pump, args=ends, daemon=True)
                     for ends in ((server, connection), (connection, server))]
            for thread in pumps:
                thread.start()
            for thread in pumps:
                thread.join()

    def pump(one, other):
        with contextlib.suppress(OSError):
            while some := one.recv(16384):
                other.sendall(some)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    listener = Listener(forward)
    file = site.lab.directory / "settings.yaml"
    file.write_text("redis_tls_verify: none\n")
    try:
        daemon = site.lab.daemon(listener, args=["--config", file, "--redis-timeout-ms", "20000"], lease_ms=LEASE_MS)
        assert hello.wait(GENEROUS_SECONDS)
        file.write_text("redis_tls_verify: full\n")
        daemon.reload()
        may_answer.set()
        wait_until(lambda: "connected to Redis" in daemon.log(), "the connection")
        wait_until(lambda: "the certificate of Redis is not checked" in daemon.log(), "the warning")
    finally:
        may_answer.set()
        listener.close()


# The server and our certificate


def test_a_server_that_wants_a_certificate_is_told_of(site):
    site.serve(clients="yes")
    reason(site.daemon(), r"wants? a client certificate.*redis_tls_cert")


def test_a_certificate_that_the_server_does_not_know_is_named(site):
    other = Authority(site.lab.directory, "other-ca")
    own = other.sign("client")
    site.serve(clients="yes")
    reason(site.daemon(*identified(own)), f"does not know the CA of our certificate {re.escape(str(own.path))}, signed by")


def test_an_own_certificate_that_is_over_is_named(site):
    own = site.authority.sign("client", begins=-7200, ends=-3600)
    site.serve(clients="yes")
    daemon = site.daemon(*identified(own))
    reason(daemon, f"our certificate {re.escape(str(own.path))} is over: it has expired on 20")
    # The settings have told it before.
    assert re.search("settings are good, but for this.*the certificate has expired on 20", daemon.log())


# One side speaks TLS, the other does not


def test_a_plain_server_is_told_of(lab):
    server = lab.redis()

    class Plain:
        url = f"rediss://127.0.0.1:{server.port}"

    reason(lab.daemon(Plain, lease_ms=LEASE_MS), "speak TLS on this port")


@pytest.mark.parametrize("answer", [b"-ERR Protocol error\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["redis", "http"])
def test_a_server_that_answers_otherwise_is_told_of(lab, answer):
    listener = Listener(lambda _, connection: connection.sendall(answer))
    try:
        reason(lab.daemon(listener, lease_ms=LEASE_MS), "the server does not speak TLS on this port: write redis://")
    finally:
        listener.close()


def test_a_silent_server_is_told_of(lab):
    listener = Listener(lambda *_: None)
    try:
        reason(lab.daemon(listener, lease_ms=LEASE_MS, args=["--redis-timeout-ms", "200"]),
               "no answer to the TLS handshake within 200 ms")
    finally:
        listener.close()


def test_a_plain_url_to_a_server_with_tls_is_told_of(site):
    site.serve()

    class Plain:
        url = f"redis://127.0.0.1:{site.tls_port}"

    reason(site.lab.daemon(Plain, lease_ms=LEASE_MS), "if the server speaks TLS here, write rediss://")


# Files


def check(site, *args, env=None):
    """What `--check` says of settings for that URL."""
    daemon = site.lab.daemon()
    command = [*daemon.command[:1], "--check", "--redis", "rediss://127.0.0.1:1", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})})


def test_files_that_cannot_be_used_are_named_at_the_start(site):
    own, other = site.authority.sign("client"), site.authority.sign("other")
    text = site.lab.directory / "text"
    text.write_text("nothing\n")
    for args, words in [
        (["--redis-tls-ca", "/missing.pem"], 'cannot use "/missing.pem": there is no such file'),
        (["--redis-tls-ca", text], f'cannot use "{text}": it is not PEM'),
        (["--redis-tls-ca", own.key], "it has no certificate, but PRIVATE KEY"),
        (["--redis-tls-cert", own.path], "it has no key beside it: give redis_tls_key"),
        (["--redis-tls-key", own.key], "it needs a certificate: give redis_tls_cert"),
        (["--redis-tls-cert", own.path, "--redis-tls-key", other.key], f'cannot use "{other.key}": the key does not fit'),
        (["--redis-tls-ca", "/dev/stdin"], "can be read only once"),
        (["--redis-tls-verify", "maybe"], "allowed: full, none"),
    ]:
        done = check(site, *args)
        assert done.returncode == 78 and words in done.stderr, (args, done.stderr)
    assert check(site, *identified(own)).returncode == 0


def test_a_key_that_everybody_can_read_is_warned_of(site):
    own = site.authority.sign("client")
    own.key.chmod(0o644)
    assert f"every user of this host can read" in check(site, *identified(own)).stdout
    own.key.chmod(0o640)
    assert f"every user of this host can read" not in check(site, *identified(own)).stdout


def test_settings_for_tls_beside_a_plain_url_are_warned_of(site):
    done = check(site, "--redis", "redis://127.0.0.1:1", "--redis-tls-ca", site.ca)
    assert done.returncode == 0 and "has no effect: only a URL with rediss://, rediss-sentinel:// or rediss-cluster:// means TLS" in done.stdout


# Rotation


class Holder:
    """Holds a lock all the time, and is told nothing about it."""

    def __init__(self, daemon):
        self.client = daemon.client()
        self.token = self.client.acquire("held")

    def has_lost_nothing(self):
        assert self.client.release("held", self.token)["token"] == self.token


@pytest.mark.parametrize("tell", [True, False], ids=["reload", "silently"])
def test_certificates_and_authorities_are_replaced_under_a_lock(site, tell):
    """Both sides go over to another authority; the connection is made anew with what the files have then."""
    trusted = site.lab.directory / "trusted.pem"
    trusted.write_bytes(site.ca.read_bytes())
    own = site.authority.sign("client")
    site.serve(clients="yes", ca=trusted)
    daemon = site.daemon("--redis-tls-ca", trusted, *identified(own), ca=False)
    holder = Holder(daemon)

    new = Authority(site.lab.directory, "new-ca")
    trusted.write_bytes(new.path.read_bytes())
    own.replace(new.sign("client"))
    site.certificate.replace(new.sign("server", EVERYWHERE))
    # Redis reads its files when it is told to.
    site.server.admin.config_set("tls-cert-file", str(site.certificate.path))
    if tell:
        daemon.reload()
        assert "settings reloaded" in daemon.log()
    site.turn_over(daemon)
    works(daemon)
    holder.has_lost_nothing()
    # What was replaced is good for nothing any more.
    assert not re.search("no connection to Redis", daemon.log())


def test_a_broken_file_changes_nothing_at_a_reload_and_ends_no_connection(site):
    own = site.authority.sign("client")
    site.serve(clients="yes")
    daemon = site.daemon(*identified(own))
    holder, before = Holder(daemon), connections(daemon)
    good = own.path.read_bytes()
    own.path.write_text("nothing\n")
    daemon.reload()
    assert re.search("settings not reloaded.*it is not PEM", daemon.log())
    works(daemon)
    assert connections(daemon) == before
    own.path.write_bytes(good)
    daemon.reload()
    site.turn_over(daemon)
    holder.has_lost_nothing()


def test_a_file_that_is_broken_at_a_connection_is_named_and_mended(site):
    site.serve()
    trusted = site.lab.directory / "trusted.pem"
    trusted.write_bytes(site.ca.read_bytes())
    daemon = site.daemon("--redis-tls-ca", trusted, ca=False)
    holder = Holder(daemon)
    trusted.unlink()
    site.cut()
    wait_until(lambda: f"cannot use {trusted}: there is no such file" in daemon.log(), "the reason")
    trusted.write_bytes(site.ca.read_bytes())
    works(daemon)
    holder.has_lost_nothing()


def test_another_file_is_used_after_a_reload(site):
    site.serve()
    file = site.lab.directory / "settings.yaml"
    other = Authority(site.lab.directory, "other-ca")
    file.write_text(f"redis_tls_ca: {other.path}\n")
    daemon = site.daemon("--config", file, ca=False)
    reason(daemon, "which is unknown")
    file.write_text(f"redis_tls_ca: {site.ca}\n")
    daemon.reload()
    works(daemon)


def test_a_connection_outlives_the_certificates_with_which_it_was_made(site):
    # A machine that is too slow for certificates of so short a life has others.
    for ends in (6, 20, 60):
        until = time.time() + ends
        own = site.authority.sign("client", ends=ends)
        site.serve(site.authority.sign("server", EVERYWHERE, ends=ends), clients="yes")
        daemon = site.daemon(*identified(own), lease_ms=2000)
        if "connected to Redis" in daemon.log():
            break
    holder, before = Holder(daemon), connections(daemon)
    wait_until(lambda: time.time() > until + 2, "the end of the certificates", seconds=2 * GENEROUS_SECONDS)
    works(daemon)
    assert connections(daemon) == before
    holder.has_lost_nothing()
    site.cut()
    wait_until(lambda: re.search("certificate has expired on|is over", daemon.log()), "the reason")


def test_a_server_that_is_not_there_is_told_of_as_without_tls(lab):
    class Nobody:
        url = f"rediss://127.0.0.1:{free_port()}"

    reason(lab.daemon(Nobody, lease_ms=LEASE_MS), "cannot connect to 127.0.0.1:[0-9]+: Connection refused")


def test_a_server_that_closes_in_the_handshake_is_told_of(lab):
    listener = Listener(lambda _, connection: connection.close())
    try:
        reason(lab.daemon(listener, lease_ms=LEASE_MS), "the connection was closed in the TLS handshake|reset by peer")
    finally:
        listener.close()
