"""A restart with a mistake in the settings: nothing is lost, and it is said. A start with one: nobody waits in vain."""

import pytest
from harness.client import connect
from harness.service_manager import ServiceManager
from harness.waiting import GENEROUS_SECONDS, wait_until

GOOD = "local: true\nconnections_max: 100\nrules: [deny use secret to user:65534]\n"
MISTAKES = {
    "a value": "local: true\nlease_ms: soon\n",
    "a name": "local: true\nlinger_mss: 5\n",
    "no backend": "linger_ms: 5\n",
    "no YAML": "local: [\n",
    "an account": "local: true\nrules: [deny use a to user:no-such-user]\n",
}


@pytest.fixture(params=["redis", "local"])
def service(request, lab):
    config = lab.directory / "sidelockd.yaml"
    good = GOOD if request.param == "local" else GOOD.replace("local: true", f"redis: {lab.redis().url}")
    config.write_text(good)
    manager = ServiceManager(lab, "--config", config)
    manager.config, manager.good = config, good
    manager.start()
    return manager


@pytest.mark.parametrize("how", ["restart", "crash"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_nothing_is_lost_and_it_is_said(service, mistake, how):
    holder, waiter = service.client(), service.client()
    token = holder.acquire("orders")
    waiting = waiter.queue("orders")
    service.config.write_text(MISTAKES[mistake])
    for _ in range(2):
        if how == "crash":
            service.crash()
            service.start()
        else:
            service.restart()
        assert "settings are wrong" in service.status()
    assert "settings are wrong, and those of before stay in force" in service.log()
    assert holder.release("orders", token)["token"] == token
    assert waiter.reply_to(waiting)["token"] > token
    service.reload()
    assert "settings not reloaded" in service.status()
    service.config.write_text(service.good)
    service.reload()
    assert "settings" not in service.status()
    waiter.release("orders")
    assert service.stop() == 0


def test_what_was_reloaded_is_what_goes_on(service):
    service.config.write_text(service.good.replace("100", "3"))
    service.reload()
    service.config.write_text("nonsense: 1\n")
    service.restart()
    clients = [service.client() for _ in range(3)]
    for client in clients:
        client.ping()
    assert service.client().next()["error"]["data"]["limit"] == "connections"
    assert service.stop() == 0


@pytest.mark.parametrize("mistake", ["limit", "flag"])
def test_a_mistake_that_keeps_it_from_beginning_costs_nothing_when_it_is_mended(service, mistake):
    """A limit of open files that is too low, and a command line that cannot be read: the next attempts fail, too, until
    somebody has mended it."""
    holder, waiter = service.client(), service.client()
    token = holder.acquire("orders")
    waiting = waiter.queue("orders")
    assert service.stop(hand_over=True) == 0
    args = service.args
    if mistake == "limit":
        service.prefix = ["/usr/bin/prlimit", "--nofile=24:24"]
    else:
        service.args = [*args, "--lease-ms"]
    for _ in range(3):
        service.spawn()
        assert service.process.wait(GENEROUS_SECONDS) == 75, service.log()
        assert "left to the next attempt" in service.log()
    service.prefix, service.args = [], args
    service.start()
    assert holder.release("orders", token)["token"] == token
    assert waiter.reply_to(waiting)["token"] > token
    waiter.release("orders")
    assert service.stop() == 0


def test_a_mistake_that_is_not_mended_within_the_lease_is_told_to_clients(lab):
    service = ServiceManager(lab, "--redis", lab.redis().url, "--lease-ms", "1000")
    service.start()
    holder = service.client()
    holder.acquire("orders")
    service.crash()
    service.prefix = ["/usr/bin/prlimit", "--nofile=24:24"]

    def ends():
        service.spawn()
        return service.process.wait(GENEROUS_SECONDS)

    wait_until(lambda: ends() == 78, "the attempt after the end of the lease")
    assert [message for message in holder.wait_for_end() if "method" in message] == []


def test_with_nothing_to_lose_it_is_not_tried_again_and_again(lab):
    service = ServiceManager(lab, "--local")
    service.start()
    service.client().ping()
    assert service.stop(hand_over=True) == 0
    service.args.append("--lease-ms")
    waiting = connect(service.path)
    service.spawn()
    assert service.process.wait(GENEROUS_SECONDS) == 78
    line = waiting.makefile().readline()
    assert '"reason":"shutting_down"' in line and "command line" in line


def test_a_file_that_is_gone_is_a_mistake_too(service):
    client = service.client()
    token = client.acquire("orders")
    service.config.unlink()
    service.restart()
    assert client.release("orders", token)["token"] == token
    assert service.stop() == 0


def test_a_stop_leaves_no_settings_behind(service):
    """Whoever stops and starts it, rather than restarting it, gets what the file says."""
    service.config.write_text("nonsense: 1\n")
    assert service.stop() == 0
    service.spawn()
    assert service.process.wait(GENEROUS_SECONDS) == 78


def test_a_first_start_fails_and_tells_who_waits(lab):
    config = lab.directory / "sidelockd.yaml"
    config.write_text("nonsense: 1\n")
    service = ServiceManager(lab, "--config", config)
    waiting = [connect(service.path) for _ in range(3)]
    service.spawn()
    assert service.process.wait(GENEROUS_SECONDS) == 78
    for client in waiting:
        line = client.makefile().readline()
        assert '"reason":"shutting_down"' in line and "settings" in line
        assert client.recv(1) == b""
    # Whoever comes later is not refused on behalf of those.
    config.write_text("local: true\n")
    late = service.client()
    late.request("ping")
    service.start()
    assert late.next()["result"] == {}
    late.close()
    wait_until(lambda: "0 clients" in service.status(), "the client to be gone")
    assert service.stop() == 0
