"""A host that is gone is known to be gone by its own sign of life, long before its leases end."""

import signal

import pytest
from harness.waiting import boot_time, wait_until

# So long that no test waits for one to end.
LEASE_MS = 600_000
DEAD_MS = 2000
# Where nobody dies, also on a machine that is busy.
LIVES_MS = 6000
KEY = "sidelock:{orders}"


@pytest.fixture
def redis(lab):
    return lab.redis()


def host(lab, store, name, dead_ms=DEAD_MS, **options):
    return lab.daemon(store, lease_ms=LEASE_MS, args=["--host", name, "--dead-host-ms", str(dead_ms)], **options)


def signs(redis):
    """What stands in the keys of the hosts, by their names."""
    return {key.decode().split(":")[2].split("/")[0]: redis.admin.get(key).decode()
            for key in redis.admin.scan_iter("sidelock:epoch:*")}


@pytest.mark.parametrize("how", ["killed", "stopped", "cut off"])
@pytest.mark.parametrize("mode", ["exclusive", "shared", "permit"])
def test_what_a_host_has_that_is_gone_passes_on_before_its_lease_ends(lab, redis, measured, how, mode):
    proxy = lab.proxy(redis)
    gone, other = host(lab, proxy, "gone"), host(lab, redis, "other").client()
    theirs = {"exclusive": {}, "shared": {"mode": "shared"}, "permit": {"permits": 1}}[mode]
    ours = {"permits": 1} if mode == "permit" else {}
    holder = gone.client()
    token = holder.acquire("orders", **theirs)
    request = other.queue("orders", **ours)
    since = boot_time()
    if how == "killed":
        gone.kill()
    elif how == "stopped":
        gone.stop()
    else:
        proxy.set(hold_requests=True, hold_replies=True)
    assert other.reply_to(request)["token"] > token
    taken = boot_time() - since
    # Its lease had most of its ten minutes left.
    assert taken < LEASE_MS / 1000 / 2
    measured(f"{how}, {mode}, with dead_host_ms {DEAD_MS}: granted elsewhere after", f"{taken:.2f} s")
    if how == "killed":
        return
    gone.resume()
    lost = holder.notification("lost")
    assert (lost["token"], lost["reason"]) == (token, "lease_expired")
    proxy.set(hold_requests=False, hold_replies=False)
    # It goes on as before.
    queued = holder.queue("orders", **theirs)
    other.release("orders")
    assert holder.reply_to(queued)["token"] > token


def test_a_daemon_that_was_stopped_tells_of_the_loss_first(lab, redis):
    gone, other = host(lab, redis, "gone"), host(lab, redis, "other").client()
    holder = gone.client()
    names = [f"n{number}" for number in range(300)]
    tokens = {name: holder.acquire(name) for name in names}
    gone.stop()
    requests = {name: other.queue(name) for name in names[:20]}
    for name, request in requests.items():
        assert other.reply_to(request)["token"] > tokens[name]
    release = holder.request("release", name=names[-1], token=tokens[names[-1]])
    gone.resume()
    assert {holder.notification("lost")["token"] for _ in names} == set(tokens.values())
    assert holder.error_of(release).reason == "lost"
    wait_until(lambda: not redis.admin.exists("sidelock:{n299}"), "what was lost to be given back")


def test_inspect_tells_that_a_host_is_dead(lab, redis):
    """Nobody wants the lock, so that what the host had stays where it is."""
    gone, other = host(lab, redis, "gone"), host(lab, redis, "other").client()
    gone.client().acquire("orders", mode="shared")
    other.acquire("invoices")
    gone.kill()

    def holders():
        return other.call("inspect", name="orders")["holders"]
    wait_until(lambda: holders() == [{"host": "gone", "dead": True}], "the host to be dead")
    assert other.call("list", scope="all", prefix="orders")["locks"][0]["holders"] == [{"host": "gone", "dead": True}]
    assert "dead" not in other.call("inspect", name="invoices")["holders"][0]


def test_a_try_gets_what_a_dead_host_had(lab, redis):
    gone, other = host(lab, redis, "gone"), host(lab, redis, "other").client()
    token = gone.client().acquire("orders")
    assert other.try_acquire("orders") is None
    gone.kill()
    granted = []
    wait_until(lambda: granted.append(other.try_acquire("orders")) or granted[-1], "a try to be granted")
    assert granted[-1] > token
    assert redis.admin.pttl(KEY) > LEASE_MS / 2


def test_a_host_that_lives_keeps_what_it_has_however_long_others_wait(lab, redis):
    """Hosts without a dead-host time among them: each says it of itself alone."""
    one, two = host(lab, redis, "one", LIVES_MS), host(lab, redis, "two", dead_ms=0)
    first, second = one.client(), two.client()
    first.acquire("orders")
    second.acquire("jobs")
    requests = {second: second.queue("orders"), first: first.queue("jobs")}
    assert set(signs(redis)) == {"one"}
    begun = redis.admin.time()[0]
    wait_until(lambda: int(signs(redis)["one"].split(";")[1]) / 1000 > begun + 2.5 * LIVES_MS / 1000,
               "signs for longer than that time")
    assert first.poll() is None and second.poll() is None
    first.release("orders")
    assert second.reply_to(requests[second])["token"] > 0


def test_a_sign_that_is_deleted_harms_nobody(lab, redis):
    one, other = host(lab, redis, "one", LIVES_MS), host(lab, redis, "other", LIVES_MS).client()
    holder = one.client()
    holder.acquire("orders")
    request = other.queue("orders")
    for _ in range(3):
        redis.admin.delete(*redis.admin.scan_iter("sidelock:epoch:*"))
        wait_until(lambda: set(signs(redis)) == {"one", "other"}, "the next signs")
    assert holder.poll() is None and other.poll() is None
    holder.release("orders")
    assert other.reply_to(request)["token"] > 0


def test_it_changes_with_a_reload(lab, redis, tmp_path):
    path = tmp_path / "sidelockd.yaml"
    path.write_text(f"dead_host_ms: {LIVES_MS}\nhost: one\n")
    one = lab.daemon(redis, lease_ms=LEASE_MS, args=["--config", str(path)])
    other = host(lab, redis, "other").client()
    holder = one.client()
    assert holder.call("initialize")["lease_ms"] == LIVES_MS
    token = holder.acquire("orders")
    path.write_text("dead_host_ms: 0\nhost: one\n")
    one.signal(signal.SIGHUP)
    never = str(2 ** 53 - 1)
    wait_until(lambda: signs(redis)["one"].split(";")[1] == never, "the daemon to say that it is never dead")
    # Who asks again is told.
    assert holder.call("initialize")["lease_ms"] == LEASE_MS
    wait_until(lambda: holder.call("ping")["valid_ms"] > LIVES_MS, "what is held to last longer")
    # Nobody takes it for dead now, and it does not give up by itself.
    request = other.queue("orders")
    one.stop()
    begun = redis.admin.time()[0]
    wait_until(lambda: int(signs(redis)["other"].split(";")[1]) / 1000 > begun + 1.5 * LIVES_MS / 1000, "more than that time")
    assert other.poll() is None
    one.resume()
    assert holder.call("ping")["valid_ms"] > LEASE_MS / 2
    path.write_text(f"dead_host_ms: {DEAD_MS}\nhost: one\n")
    one.signal(signal.SIGHUP)
    wait_until(lambda: signs(redis)["one"].split(";")[1] != never, "the daemon to send signs again")
    one.kill()
    assert other.reply_to(request)["token"] > token
