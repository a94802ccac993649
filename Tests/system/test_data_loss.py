"""Redis comes back empty or older, is flushed, swapped or replaced: no lock is granted twice, and nobody loses one by it.

A witness hears what clients are told, and judges by that alone (harness/witness.py).
"""

import signal

import pytest
from harness.command import Command
from harness.service_manager import ServiceManager
from harness.waiting import boot_time, wait_until
from harness.witness import Member, Witness

EPOCH = "sidelock:epoch"
NOTICE = "Redis has other data than before"


# How Redis forgets. Each takes the site, and begins with what stands in Redis when the locks of `site.of_before` have been
# taken and those of `site.hold_locks` have not.

def flush_all(site):
    site.redis.admin.flushall()


def flush_database(site):
    site.redis.admin.flushdb()


def swap_databases(site):
    site.redis.admin.swapdb(0, 1)


def delete_the_epoch(site):
    assert site.redis.admin.delete(EPOCH) == 1


def restart_empty(site):
    site.redis.restart()


def restart_with_all_data(site):
    site.redis.restart(site.redis.snapshot())


def restart_with_older_data(site):
    site.redis.restart(site.older)


def restart_an_hour_behind(site):
    site.redis.clock_seconds = -3600
    site.redis.restart()


def restart_older_and_an_hour_behind(site):
    site.redis.clock_seconds = -3600
    site.redis.restart(site.older)


def promote_a_replica(site):
    """It was cut off from its primary when `site.older` was taken."""
    site.redis.kill()
    site.replica.admin.execute_command("REPLICAOF", "NO", "ONE")
    for proxy in site.proxies:
        proxy.server = site.replica
        proxy.cut()


UNDER_THE_CONNECTION = [flush_all, flush_database, swap_databases, delete_the_epoch]
WITH_A_CUT = [restart_empty, restart_with_all_data, restart_with_older_data, restart_an_hour_behind,
              restart_older_and_an_hour_behind, promote_a_replica]


class Site:
    """Hosts on one Redis."""

    def __init__(self, lab, lease_ms, hosts=2, with_replica=False, args=()):
        self.lab, self.lease_ms = lab, lease_ms
        self.redis = lab.redis()
        self.replica = lab.redis() if with_replica else None
        if self.replica:
            self.replica.admin.execute_command("REPLICAOF", "127.0.0.1", self.redis.port)
            wait_until(lambda: self.replica.admin.info("replication")["master_link_status"] == "up", "the replica")
        self.proxies = [lab.proxy(self.redis) for _ in range(hosts)]
        self.daemons = [lab.daemon(proxy, lease_ms=lease_ms, args=["--host", f"h{number}", *args])
                        for number, proxy in enumerate(self.proxies)]
        self.witness = Witness()
        self.older = None

    def member(self, host):
        return Member(self.witness, self.daemons[host])

    def remember(self):
        """What stands in Redis now comes back later."""
        self.older = self.redis.snapshot()
        if self.replica:
            self.redis.admin.wait(1, 60_000)
            self.replica.admin.execute_command("REPLICAOF", "127.0.0.1", 1)

    def stat(self, host, name):
        return self.member(host).client.call("stats")["redis"][name]

    def forgets(self, how):
        """Redis forgets; gives the moment before which nothing may be granted."""
        before = boot_time()
        how(self)
        return before + self.lease_ms / 1000

    def is_recovering(self, member):
        """Waits until a try is told how long to wait; none is granted anything."""
        def told():
            error = member.attempt("free")
            assert error and error.reason == "unavailable", f"a try in the grace: {error}"
            return error.data.get("retry_ms")
        retry = wait_until(told, "the grace")
        assert 0 < retry <= self.lease_ms * 1.02 + 2
        return retry

    def grows_quiet(self, *members):
        for member in members:
            member.hear()
        assert self.witness.lost == []


class Locks:
    """Locks of all kinds that both hosts hold and wait for, some of them in a state that the older data do not have."""

    def __init__(self, site):
        self.site = site
        a, b = self.a, self.b = site.member(0), site.member(1)
        self.waiters = [site.member(0), site.member(1), site.member(1)]
        # In the older data the other host has these.
        b.take("moved")
        b.take("given back")
        a.take("kept")
        a.take("shared", mode="shared")
        a.take("pool", permits=2)
        site.remember()
        b.give("moved")
        a.take("moved")
        b.give("given back")
        b.take("new")
        b.take("shared", mode="shared")
        b.take("pool", permits=2)
        c, d, e = self.waiters
        self.waits = [
            (d, d.wait("kept"), a, "kept"), (c, c.wait("new"), b, "new"), (e, e.wait("moved"), a, "moved"),
            (c, c.wait("shared"), None, "shared"), (d, d.wait("pool", permits=2), b, "pool")]

    def everybody(self):
        return [self.a, self.b, *self.waiters]

    def go_on(self):
        """Everybody gives back what he has, and everybody is served."""
        self.a.give("shared")
        self.b.give("shared")
        for waiter, request, holder, name in self.waits:
            if holder:
                holder.give(name)
            waiter.served(request)
            waiter.give(name)
        self.a.give("pool")


@pytest.mark.parametrize("how", UNDER_THE_CONNECTION + WITH_A_CUT, ids=lambda how: how.__name__)
def test_no_lock_is_granted_twice_and_none_is_lost(lab, measured, how):
    # With a cut Redis is away for a while, which a lease has to outlast on a busy machine.
    site = Site(lab, 6000 if how in WITH_A_CUT else 2000, with_replica=how is promote_a_replica)
    locks = Locks(site)
    watcher = site.member(0)
    watcher.client.call("watch", prefix="")
    tries = [site.member(0), site.member(1)]
    numbers = [site.stat(host, "epoch") for host in (0, 1)]

    not_before = site.forgets(how)
    if how in UNDER_THE_CONNECTION:
        # The very first command finds out.
        for member in tries:
            error = member.attempt("free")
            assert (error.code, error.reason) == (5, "unavailable")
            assert 0 < error.data["retry_ms"] <= site.lease_ms * 1.02 + 2
    for member in tries:
        site.is_recovering(member)
    # What its own host knows needs no Redis.
    assert tries[0].attempt("kept").reason == "busy"
    assert tries[1].attempt("new").reason == "busy"
    # Given back in the grace: whoever waits on the other host gets it afterwards.
    locks.a.give("kept")
    late = site.member(1)
    request = late.ask("free", wait_ms=60_000)
    late.served(request)
    served_at = boot_time()
    assert served_at >= not_before, "granted in the grace"
    measured(f"lease {site.lease_ms} ms, first grant after", f"{served_at - not_before + site.lease_ms / 1000:.2f} s")
    late.give("free")

    # Nobody heard of it, and all is as it was.
    waiter, request, _, name = locks.waits.pop(0)
    waiter.served(request)
    waiter.give(name)
    site.grows_quiet(*locks.everybody())
    locks.go_on()
    for member in tries:
        for name in ("free", "kept", "given back", "moved"):
            wait_until(lambda: member.attempt(name) is None, f"a try for {name}")
            member.give(name)
    site.grows_quiet(*locks.everybody(), *tries)
    assert all(at >= not_before for at, name, _ in site.witness.grants if name == "free")

    states = []
    while (message := watcher.client.poll()) is not None:
        if message.get("method") == "backend":
            states.append(message["params"]["state"])
    assert "recovering" in states and states[-1] == "connected"
    for host, daemon in enumerate(site.daemons):
        assert site.stat(host, "epoch") > numbers[host]
        assert site.stat(host, "grace_ms") == 0
        assert site.stat(host, "reclaims_total") > 0
        if how in UNDER_THE_CONNECTION:
            assert daemon.log().count(NOTICE) == 1


@pytest.mark.parametrize("how", UNDER_THE_CONNECTION[:1] + WITH_A_CUT, ids=lambda how: how.__name__)
@pytest.mark.parametrize("late", [1, 2])
def test_waiters_of_several_hosts_keep_their_order(lab, how, late):
    """One host comes back when the others stand in the queue again, and its waiter is still served in its turn."""
    # It has to be back before the grace is over. A cohort's time would let the holder's host serve its own waiter first.
    site = Site(lab, 8000, hosts=3, with_replica=how is promote_a_replica, args=["--cohort-ms", "0"])
    holder = site.member(0)
    holder.take("orders")
    first = site.member(1)
    waits = [(first, first.wait("orders"))]
    site.remember()
    for host in (2, 0):
        member = site.member(host)
        waits.append((member, member.wait("orders")))

    proxy = site.proxies[late]
    proxy.set(refusing=True)
    not_before = site.forgets(how)
    server = site.replica if how is promote_a_replica else site.redis

    def stands(host):
        entries = server.admin.lrange("sidelock:{orders}:queue", 0, -1)
        return any(entry.startswith(b"1;h%d/" % host) for entry in entries)
    # The holder's host stands there for its own waiter.
    wait_until(lambda: stands(0) and stands(3 - late), "the others in the queue")
    newcomer = site.member(0)
    waits.append((newcomer, newcomer.ask("orders")))
    proxy.set(refusing=False)
    wait_until(lambda: stands(late), "the late one in the queue")
    for member, request in waits:
        holder.give("orders")
        member.served(request)
        assert not any(other.is_answered(its) for other, its in waits if its != request and its in other.asked)
        holder = member
    assert boot_time() >= not_before
    holder.give("orders")
    site.grows_quiet(*(member for member, _ in waits))


def test_data_that_are_read_again_are_the_same(lab):
    site = Site(lab, 60_000)
    holder, waiter = site.member(0), site.member(1)
    holder.take("orders")
    request = waiter.wait("orders")
    number = site.stat(0, "epoch")
    site.redis.admin.execute_command("DEBUG", "RELOAD")
    holder.give("orders")
    waiter.served(request)
    assert site.member(0).attempt("invoices") is None
    assert site.stat(0, "epoch") == number


@pytest.mark.parametrize("kind", ["exclusive", "shared", "permit"])
def test_a_deleted_key_is_taken_again_by_who_holds_the_lock(lab, kind):
    """Nobody waits: the renewal finds it gone, and puts it there again. It is no new epoch."""
    site = Site(lab, 2000)
    member = site.member(0)
    params = {"exclusive": {}, "shared": {"mode": "shared"}, "permit": {"permits": 1}}[kind]
    token = member.take("orders", **params)
    number = site.stat(0, "epoch")
    for _ in range(3):
        assert site.redis.admin.delete("sidelock:{orders}") == 1
        wait_until(lambda: site.redis.admin.exists("sidelock:{orders}"), "the key")
    site.grows_quiet(member)
    assert member.client.call("inspect", name="orders")["holders"][0]["token"] == token
    other = site.member(1)
    if kind == "exclusive":
        assert other.attempt("orders").reason == "busy"
    member.give("orders")
    other.take("orders", **params)
    assert site.stat(0, "epoch") == number


def test_a_lock_that_somebody_else_was_given_meanwhile_is_lost(lab):
    """Its key was deleted by hand, and another host was quicker than the renewal: that one has it."""
    site = Site(lab, 6000)
    holder, other = site.member(0), site.member(1)
    token = holder.take("orders")
    site.proxies[0].set(hold_requests=True)
    site.redis.admin.delete("sidelock:{orders}")
    second = site.daemons[1].client().acquire("orders")
    site.proxies[0].set(hold_requests=False)
    lost = holder.client.notification("lost")
    assert (lost["token"], lost["reason"]) in [(token, "data_loss"), (token, "lease_expired")]
    assert second > token
    assert other.attempt("orders").reason == "busy"


def test_it_forgets_again_and_again(lab):
    """Each time before the grace is over: it begins anew, and what is held is held."""
    site = Site(lab, 2000)
    locks = Locks(site)
    member = site.member(1)
    site.forgets(flush_all)
    not_before = 0
    for how in (flush_all, swap_databases, delete_the_epoch, flush_all, swap_databases):
        site.is_recovering(member)
        # Nothing is asked for a try while it lasts: the looks of those who wait find out.
        not_before = site.forgets(how)
        wait_until(lambda: site.redis.admin.exists(EPOCH), "another epoch")
    request = member.ask("free")
    member.served(request)
    assert boot_time() >= not_before
    site.grows_quiet(*locks.everybody())
    locks.go_on()
    site.grows_quiet(*locks.everybody())


def test_an_epoch_that_goes_again_and_again_keeps_nobody_busy(lab):
    """It is deleted all the time: the daemons look now and then, say so once, and lose nothing."""
    site = Site(lab, 20_000)
    holder, waiter = site.member(0), site.member(1)
    holder.take("orders")
    request = waiter.wait("orders")
    before = [site.stat(host, "epochs_total") for host in (0, 1)]
    began = boot_time()
    while boot_time() < began + 4:
        site.redis.admin.delete(EPOCH)
    for host, daemon in enumerate(site.daemons):
        # Three at once, then pauses of 100, 200, 400, 800 and 1000 ms. Each daemon joins those of the other, too.
        assert 2 < site.stat(host, "epochs_total") - before[host] < 40
        assert daemon.log().count(NOTICE) <= 10
        assert daemon.log().count("other data again and again") <= 1
    site.is_recovering(site.member(0))
    site.grows_quiet(holder, waiter)
    holder.give("orders")
    waiter.served(request)
    site.grows_quiet(holder, waiter)


def test_the_leases_of_a_host_that_is_gone_are_outwaited(lab):
    """Redis has forgotten them and nobody reclaims them, but whoever was told of one may still believe it."""
    site = Site(lab, 3000)
    token = site.daemons[0].client().acquire("orders")
    other = site.member(1)
    request = other.wait("orders")
    site.daemons[0].stop()
    not_before = site.forgets(flush_all)
    # The waiter's look finds out.
    assert other.served(request) > token
    assert boot_time() >= not_before
    # The other wakes up when it is over.
    site.daemons[0].resume()
    lost = site.daemons[0].clients[0].notification("lost")
    assert (lost["token"], lost["reason"]) == (token, "lease_expired")
    site.grows_quiet(other)


@pytest.mark.parametrize("how", [flush_all, restart_with_older_data], ids=lambda how: how.__name__)
def test_a_host_that_was_cut_off_all_the_time_gets_nothing_back(lab, how):
    site = Site(lab, 3000)
    holder, other = site.member(0), site.member(1)
    holder.take("orders")
    site.remember()
    site.proxies[0].set(hold_replies=True, hold_requests=True)
    not_before = site.forgets(how)
    request = other.ask("orders", wait_ms=60_000)
    wait_until(lambda: other.is_answered(request), "the grant")
    assert boot_time() >= not_before
    # Told before the other had it.
    holder.hear()
    assert site.witness.lost == [("orders", "lease_expired")]
    other.served(request)
    site.proxies[0].set(hold_replies=False, hold_requests=False)
    site.proxies[0].cut()
    third = site.member(0)
    wait_until(lambda: (error := third.attempt("orders")) and error.reason == "busy", "the link")
    other.hear()
    assert other.client.call("inspect", name="orders")["holders"][0]["host"] == "h1"


def test_a_wait_that_ends_in_the_grace_is_told_why(lab):
    site = Site(lab, 3000)
    waiter, short = site.member(0), site.member(0)
    site.member(1).take("orders")
    site.forgets(flush_all)
    site.is_recovering(short)
    error = short.client.error_of(short.ask("free", wait_ms=100))
    assert (error.reason, "retry_ms" in error.data) == ("unavailable", True)
    assert "Redis has other data than before" in str(error)
    request = waiter.ask("free", progress=True)
    waiting = waiter.client.notification("waiting")
    assert waiting["id"] == request and "other data than before" in waiting["detail"]
    assert 0 < waiting["retry_ms"] <= 3000 * 1.02 + 2
    waiter.served(request)


def test_the_command_says_so(lab):
    site = Site(lab, 4000)
    holder = site.member(0)
    holder.take("orders")
    command = Command(lab, site.daemons[0])
    site.forgets(flush_all)
    site.is_recovering(site.member(0))
    status, _, err = command.run("run", "-n", "free", "--", "true")
    assert status == 68
    assert "Redis has other data than before; held locks are kept" in err and "try again" in err
    wait_until(lambda: "recovering" in site.daemons[0].notify.lines("STATUS=")[-1], "the status line")
    status, _, err = command.run("run", "free", "--", "true")
    assert status == 0, err
    wait_until(lambda: "Redis connected" in site.daemons[0].notify.lines("STATUS=")[-1], "the status line")
    site.grows_quiet(holder)


def test_a_first_start_has_no_grace(lab):
    """Nobody can have anything in a Redis that has never been used, and whoever comes later has forgotten nothing."""
    redis = lab.redis()
    started = boot_time()
    first = lab.daemon(redis, lease_ms=600_000)
    first.client().acquire("orders")
    second = lab.daemon(redis, lease_ms=600_000)
    second.client().acquire("invoices")
    assert second.client().try_acquire("orders") is None
    assert boot_time() - started < 600
    assert NOTICE not in first.log() + second.log()


@pytest.mark.parametrize("how", [flush_all, restart_empty, restart_with_older_data], ids=lambda how: how.__name__)
@pytest.mark.parametrize("end", ["restart", "crash"])
def test_a_daemon_that_goes_on_after_a_restart_reclaims_what_its_clients_hold(lab, end, how):
    """It learns of the loss at its start, from what the daemon before it knew."""
    site = Site(lab, 6000, hosts=1)
    service = ServiceManager(lab, "--redis", site.redis.url, "--lease-ms", 6000, "--host", "kept")
    service.start()
    site.daemons.append(service)
    service.socket_path = service.path
    holder, waiter, other = site.member(1), site.member(1), site.member(0)
    holder.take("orders")
    site.remember()
    holder.take("invoices")
    request = waiter.wait("orders")
    if end == "crash":
        service.crash()
    else:
        service.stop(hand_over=True)
    not_before = site.forgets(how)
    service.start()
    # Neither of the two is there for the other host.
    queued = other.ask("invoices", wait_ms=60_000)
    site.is_recovering(other)
    site.grows_quiet(holder, waiter)
    wait_until(lambda: other.attempt("free") is None, "the end of the grace")
    assert boot_time() >= not_before
    assert not other.is_answered(queued)
    site.grows_quiet(holder, waiter, other)
    holder.give("orders")
    waiter.served(request)
    holder.give("invoices")
    other.served(queued)
    site.grows_quiet(holder, waiter, other)
    assert service.stop() == 0


def test_a_daemon_without_memory_waits_for_the_others(lab):
    """It finds nothing in Redis, but others listen there: it does not take that for a first start."""
    site = Site(lab, 3000)
    holder = site.member(0)
    holder.take("orders")
    not_before = site.forgets(flush_all)
    newcomer = Member(site.witness, lab.daemon(site.redis, lease_ms=3000, args=["--host", "new"]))
    request = newcomer.ask("free", wait_ms=60_000)
    newcomer.served(request)
    assert boot_time() >= not_before
    assert newcomer.attempt("orders").reason == "busy"
    site.grows_quiet(holder, newcomer)


def test_the_longest_lease_counts_whoever_finds_out(lab):
    """A host with long leases is stopped. The others, whose leases are short, wait for as long as its own may last."""
    redis = lab.redis()
    witness = Witness()
    long = lab.daemon(redis, lease_ms=6000)
    short = lab.daemon(redis, lease_ms=1000)
    token = long.client().acquire("orders")
    member = Member(witness, short)
    member.take("other")
    long.stop()
    before = boot_time()
    redis.admin.flushall()
    member.served(member.ask("free", wait_ms=60_000))
    assert boot_time() >= before + 6
    assert member.take("orders") > token
    long.signal(signal.SIGCONT)
    assert long.clients[0].notification("lost")["token"] == token
    member.hear()
    assert witness.lost == []
