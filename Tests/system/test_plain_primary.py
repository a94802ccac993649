"""What stands between the daemon and a plain primary is found out when it connects: exclusion would break later."""

import pytest
from harness.waiting import wait_until

# What trial.lua replies.
ALL_WELL, NOBODY_HEARS = (b"*3\r\n:%d\r\n$0\r\n\r\n$0\r\n\r\n" % heard for heard in (1, 0))
IS_NONE = "this is no plain primary of Redis, or something stands before it"


def reason(daemon):
    client = daemon.client()
    return client.error_of(client.request("acquire", name="orders", wait_ms=0)).data.get("detail", "")


def is_trial(words):
    return words[0].upper() == b"EVALSHA" and words[-1] == b"1;trial;"


def refused(lab, proxy):
    """What is told where the daemon does not take the server for one."""
    daemon = lab.daemon(proxy)
    told = reason(daemon)
    assert IS_NONE in told and "give the address of the primary itself" in told, told
    assert IS_NONE in daemon.log()
    return told


def as_standalone(said):
    return said.replace(b"$4\r\nmode\r\n$7\r\ncluster\r\n", b"$4\r\nmode\r\n$10\r\nstandalone\r\n")


@pytest.fixture
def half_of_a_cluster(lab):
    """A node that has every second slot, behind what calls it a server by itself."""
    server = lab.redis("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
    server.admin.execute_command("CLUSTER", "ADDSLOTS", *range(0, 16384, 2))
    wait_until(lambda: b"cluster_state:ok" in server.admin.execute_command("CLUSTER", "INFO"), "the cluster")
    proxy = lab.proxy(server)
    proxy.set(rewrite=as_standalone)
    return proxy


def test_a_cluster_that_calls_itself_something_else_is_found_out(lab, half_of_a_cluster):
    # By the slot of the key: one that the node has, and one that it has not. The key has a random number in it.
    for _ in range(4):
        assert "it has only some of the keys, as a node of a cluster" in refused(lab, half_of_a_cluster)


def test_a_node_of_a_cluster_is_called_that(lab):
    server = lab.redis("--cluster-enabled", "yes")
    assert "this is a node of a Redis Cluster" in reason(lab.daemon(server))


def test_messages_that_do_not_come_are_found_out(lab):
    proxy = lab.proxy(lab.redis())
    proxy.set(rewrite=lambda said: b"" if said.startswith(b">3\r\n$7\r\nmessage") else said)
    assert "did not come at once" in refused(lab, proxy)


@pytest.mark.parametrize("reply, words", [
    (NOBODY_HEARS, "was heard by nobody"),
    (b"*3\r\n:1\r\n$3\r\nGET\r\n$16\r\nit replied false\r\n", "GET did something else than in Redis: it replied false"),
], ids=["nobody hears", "no effect"])
def test_what_a_script_cannot_do_is_found_out(lab, reply, words):
    proxy = lab.proxy(lab.redis())
    proxy.set(rewrite=lambda said: reply if said == ALL_WELL else said)
    assert words in refused(lab, proxy)


def test_what_is_mended_is_connected_to(lab):
    """The daemon goes on trying; nobody has to start it anew."""
    proxy = lab.proxy(lab.redis())
    replies = iter([NOBODY_HEARS] * 2)
    proxy.set(rewrite=lambda said: next(replies, said) if said == ALL_WELL else said)
    daemon = lab.daemon(proxy)
    assert daemon.client().acquire("orders") > 0
    assert proxy.count(is_trial) == 3


def test_the_trial_leaves_nothing_behind(lab):
    server = lab.redis()
    proxy = lab.proxy(server)
    assert lab.daemon(proxy).client().acquire("orders") > 0
    assert proxy.count(is_trial) == 1
    assert [key for key in server.keys() if b"probe" in key] == []
