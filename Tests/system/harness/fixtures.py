"""Fixtures and reports, for every directory of tests that has this in its conftest.py."""

import resource
import signal

import pytest

from .command import Command
from .lab import Lab
from .network import PrivateNetwork

_measured = []


def pytest_configure(config):
    # Whoever runs the tests in the background may have them ignored, and no program can trap a signal that is ignored
    # when it starts.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    # Ten thousand connections need a descriptor each, here and in the daemon, which inherits this limit.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture
def network():
    """A private network. Ask for it before whatever starts a process."""
    network = PrivateNetwork()
    yield network
    network.close()


@pytest.fixture
def lab():
    """Starts servers and daemons, and ends them; a daemon that crashed, or does not exit with 0, fails the test."""
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture
def daemon(lab):
    """A daemon without a store; a test file may have another one."""
    return lab.daemon()


@pytest.fixture
def redis(lab):
    """A store; a test file may have another one."""
    return lab.redis()


@pytest.fixture
def sidelock(lab, daemon):
    """The command, for that daemon."""
    return Command(lab, daemon)


@pytest.fixture
def measured(request):
    """Notes a figure for the report at the end: measured(what, value)."""
    return lambda what, value: _measured.append(f"{request.node.name}: {what}: {value}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.when == "call" and report.failed and lab:
        report.sections += lab.logs()


def pytest_terminal_summary(terminalreporter):
    if _measured:
        terminalreporter.section("measured")
        for line in _measured:
            terminalreporter.line(line)
