"""Who keeps its connection over a restart when the service manager has not room for all."""

import os
import socket

import pytest

from harness.client import Ended
from harness.process_client import ProcessClient
from harness.service_manager import STORE_MAX, ServiceManager
from harness.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")

OTHER = 61_001
# The daemon keeps some descriptors for itself.
PLACES = STORE_MAX - 16


@pytest.fixture
def service(lab):
    service = ServiceManager(lab, "--local", "--socket-mode", "0666")
    service.start()
    os.chmod(service.path, 0o666)
    for directory in (lab.directory, service.directory):
        os.chmod(directory, 0o755)
    yield service
    service.stop()


class Seen:
    """What a process of another user needs to know of a daemon."""

    def __init__(self, service):
        self.socket_path, self.directory = service.path, service.directory


def test_who_comes_late_has_a_place_if_another_user_has_more(lab, service):
    greedy = [service.client() for _ in range(PLACES + 5)]
    for number, client in enumerate(greedy):
        client.acquire(f"greedy {number}")
    late = ProcessClient(lab, Seen(service), user=OTHER)
    token = late.call("acquire", name="late")["token"]
    wait_until(lambda: sum(name.startswith("client-") for name, _ in service.store) == PLACES, "as many places as there are to be taken")
    service.restart()
    assert late.call("release", name="late")["token"] == token
    # The others have all but that one.
    kept = 0
    for number, client in enumerate(greedy):
        try:
            client.release(f"greedy {number}")
            kept += 1
        except (Ended, OSError):
            pass
    assert kept == PLACES - 1


def test_who_has_most_takes_no_place_from_others(lab, service):
    others = [ProcessClient(lab, Seen(service), user=OTHER) for _ in range(3)]
    for number, client in enumerate(others):
        client.call("acquire", name=f"other {number}")
    greedy = [service.client() for _ in range(PLACES + 5)]
    for number, client in enumerate(greedy):
        client.acquire(f"greedy {number}")
    service.restart()
    for number, client in enumerate(others):
        client.call("release", name=f"other {number}")
    for client in greedy:
        client.socket.shutdown(socket.SHUT_RDWR)
