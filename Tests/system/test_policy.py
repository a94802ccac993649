"""Who may do what with which names, as real processes of several users, groups and units see it."""

import contextlib
import json
import os
import pathlib
import subprocess

import pytest

from harness.daemon import binary, clean_environment
from harness.process_client import ProcessClient
from harness.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")

# Numbers that are no accounts of this host.
ANNA, BERT = 61_001, 61_002
SHOP = 61_100


def rules(*texts):
    return [argument for text in texts for argument in ("--rule", text)]


def denied(error, right, name):
    assert error["code"] == 6 and error["data"]["reason"] == "denied"
    assert (error["data"]["right"], error["data"]["name"]) == (right, name)
    return error["message"]


def test_without_rules_everybody_uses_and_inspects_and_root_breaks(lab):
    daemon = lab.daemon()
    anna, root = ProcessClient(lab, daemon, user=ANNA), daemon.client()
    anna.call("acquire", name="a")
    assert len(root.call("inspect", name="a")["holders"]) == 1
    assert anna.call("inspect", name="a")["holders"]
    message = denied(anna.error("break", name="a"), "break", "a")
    assert "right to break" in message and "sidelock-admin" in message
    assert root.call("break", name="a")["broken"]


def test_members_of_the_administrators_group_break(lab, tmp_path):
    """The group is looked up when the settings are read; a supplementary group counts."""
    group = pathlib.Path("/etc/group").read_text()
    found = [line for line in group.splitlines() if line.startswith("sidelock-admin:")]
    daemon = lab.daemon(args=[] if found else rules(f"allow break * to group:{SHOP}"))
    number = int(found[0].split(":")[2]) if found else SHOP
    member = ProcessClient(lab, daemon, user=ANNA, groups=[5, number])
    daemon.client().acquire("a")
    assert member.call("break", name="a")["broken"]


def test_rules_by_user_name_and_prefix(lab):
    daemon = lab.daemon(args=rules(
        f"allow use,inspect orders/* to user:{ANNA}", "deny use,inspect orders/* to everyone",
        f'deny use "night run" to user:{BERT}'))
    anna, bert = (ProcessClient(lab, daemon, user=user) for user in (ANNA, BERT))
    anna.call("acquire", name="orders/1")
    message = denied(bert.error("acquire", name="orders/1", wait_ms=0), "use", "orders/1")
    assert "right to use" in message and "allow use NAME to user:NAME" in message
    denied(bert.error("inspect", name="orders/1"), "inspect", "orders/1")
    bert.call("acquire", name="orders")
    denied(bert.error("acquire", name="night run"), "use", "night run")
    bert.call("acquire", name="night runs")
    anna.call("acquire", name="night run")
    # Of several names one is enough.
    denied(bert.error("acquire", names=["x", "orders/2"]), "use", "orders/2")
    assert daemon.client().call("inspect", name="x")["holders"] == []
    bert.call("ping")
    bert.call("stats")


def test_rules_by_group(lab):
    daemon = lab.daemon(args=rules(f"allow use a to group:{SHOP}", "deny use a to everyone"))
    own = ProcessClient(lab, daemon, user=ANNA, group=SHOP)
    many = ProcessClient(lab, daemon, user=ANNA, groups=[*range(62_000, 62_200), SHOP])
    neither = ProcessClient(lab, daemon, user=ANNA, groups=[SHOP + 1])
    for client in (own, many):
        token = client.call("acquire", name="a")["token"]
        client.call("release", name="a", token=token)
    denied(neither.error("acquire", name="a"), "use", "a")


def test_list_and_watch_show_what_may_be_inspected(lab):
    daemon = lab.daemon(args=rules(f"deny inspect secret/* to user:{ANNA}"))
    root, anna = daemon.client(), ProcessClient(lab, daemon, user=ANNA)
    anna.call("watch", prefix="")
    for name in ("b", "secret/1", "secret/2", "z"):
        root.acquire(name)
    assert [anna.next()["params"]["name"] for _ in range(2)] == ["b", "z"]
    assert [lock["name"] for lock in anna.call("list")["locks"]] == ["b", "z"]
    # A page is not the end because it is thin.
    page, names = anna.call("list", limit=1), []
    while True:
        names += [lock["name"] for lock in page["locks"]]
        if page["cursor"] is None:
            break
        page = anna.call("list", limit=1, cursor=page["cursor"])
    assert names == ["b", "z"]
    denied(anna.error("watch", name="secret/1"), "inspect", "secret/1")
    # Who may use it without being allowed to look is told whether it got it, and no more.
    assert anna.error("acquire", name="secret/1", wait_ms=0)["code"] == 1


def test_list_of_all_hosts_shows_what_may_be_inspected(lab):
    redis = lab.redis()
    daemon, elsewhere = lab.daemon(redis, args=rules(f"deny inspect secret/* to user:{ANNA}")), lab.daemon(redis)
    anna, other = ProcessClient(lab, daemon, user=ANNA), elsewhere.client()
    for name in ("b", "secret/1"):
        other.acquire(name)
    page = anna.call("list", scope="all")
    assert [lock["name"] for lock in page["locks"]] == ["b"]
    denied(anna.error("inspect", name="secret/1"), "inspect", "secret/1")


def test_transfer_is_only_to_who_may_use_it(lab):
    daemon = lab.daemon(args=rules(f"deny use a to user:{BERT}"))
    root = daemon.client()
    anna, bert = (ProcessClient(lab, daemon, user=user) for user in (ANNA, BERT))
    token = root.acquire("a")
    error = root.error_of(root.request("transfer", name="a", session=bert.call("initialize")["session"]))
    assert error.code == 6 and error.data["right"] == "use"
    session = anna.call("initialize", accept_transfers=True)["session"]
    assert root.call("transfer", name="a", session=session)["token"] > token


def test_rights_may_be_given_and_taken_for_breaking(lab):
    daemon = lab.daemon(args=rules("deny break vault to everyone", f"allow break * to user:{ANNA}"))
    root, anna = daemon.client(), ProcessClient(lab, daemon, user=ANNA)
    for name in ("a", "vault"):
        root.acquire(name)
    assert len(anna.call("break", name="a")["broken"]) == 1
    denied(anna.error("break", name="vault"), "break", "vault")
    error = root.error_of(root.request("break", name="vault"))
    assert error.code == 6


def test_rules_change_while_the_daemon_runs(lab):
    """What is held stays held, and may be given back; what is asked from then on is another matter."""
    config = lab.directory / "settings.yaml"
    config.write_text("rules:\n  - deny use b to everyone\n")
    daemon = lab.daemon(args=["--config", str(config)])
    client = daemon.client()
    token = client.acquire("a")
    config.write_text("rules:\n  - deny use,inspect a to everyone\n")
    daemon.reload()
    assert client.error_of(client.request("acquire", name="a")).code == 6
    assert client.error_of(client.request("inspect", name="a")).code == 6
    client.call("extend", name="a", max_hold_ms=60_000)
    assert client.release("a", token)["remaining"] == 0
    client.acquire("b")
    # Rules with a mistake change nothing.
    config.write_text("rules:\n  - deny use b to nobody-in-particular\n")
    daemon.reload()
    assert client.error_of(client.request("acquire", name="a")).code == 6
    wait_until(lambda: "at character 15" in daemon.log(), "the log entry")


def test_check_reports_every_bad_rule(lab):
    config = lab.directory / "settings.yaml"
    config.write_text(
        "local: true\nrules:\n- deny use a to user:no-such-user\n- allow use a to everyone\n- allow eat a to everyone\n")
    result = subprocess.run(
        [binary("sidelockd", "SIDELOCKD"), "--config", str(config), "--check"], capture_output=True, text=True,
        env=clean_environment())
    assert result.returncode == 78
    problems = json.loads(result.stdout)["problems"]
    assert [problem["source"] for problem in problems] == [f"{config}:3", f"{config}:5"]
    assert "at character 15" in problems[0]["message"] and "no-such-user" in problems[0]["message"]
    assert "at character 7" in problems[1]["message"] and "use, inspect and break" in problems[1]["message"]


# Where units may be: systemd's own hierarchy of the first version, and the unified one.
HIERARCHIES = [place for place in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup")
               if (pathlib.Path(place) / "cgroup.procs").exists()]


class Cgroups:
    """Control groups of the test's own, in a hierarchy that may be systemd's."""

    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.made = []

    def make(self, path):
        place = self.root
        for part in path.split("/"):
            place = place / part
            if not place.exists():
                place.mkdir()
                self.made.append(place)
        return place

    def close(self):
        for place in reversed(self.made):
            wait_until(lambda: self._removed(place), f"{place} to be empty")

    def _removed(self, place):
        try:
            place.rmdir()
        except OSError:
            return False
        return True


@contextlib.contextmanager
def made_groups(lab, *roots):
    groups = [Cgroups(root) for root in roots]
    try:
        yield groups
    finally:
        for process in lab.processes:
            process.kill()
            process.wait()
        for group in groups:
            group.close()


@pytest.fixture(params=HIERARCHIES)
def cgroups(request, lab):
    """Whichever hierarchy names the unit; of the other one, if there is one, the process stands in the root."""
    with made_groups(lab, request.param) as groups:
        yield groups[0]


def test_rules_by_unit(lab, cgroups):
    daemon = lab.daemon(args=rules(
        "allow use a to unit:sltest.service", "deny use a to everyone", "deny use b to unit:sltest.service"))
    inside = ProcessClient(lab, daemon, command=in_group(cgroups, "system.slice/sltest.service"))
    below = ProcessClient(lab, daemon, command=in_group(cgroups, "system.slice/sltest.service/sub"))
    # Whoever a group was delegated to can name what is below it as they like.
    pretender = ProcessClient(lab, daemon, command=in_group(cgroups, "user.slice/user@9.service/sltest.service"))
    for client in (inside, below):
        token = client.call("acquire", name="a")["token"]
        client.call("release", name="a", token=token)
        denied(client.error("acquire", name="b"), "use", "b")
    denied(pretender.error("acquire", name="a"), "use", "a")
    pretender.call("acquire", name="b")


def in_group(cgroups, path):
    """A command that moves itself into a group and goes on as another."""
    place = cgroups.make(path) / "cgroup.procs"
    return ["sh", "-c", f'echo $$ > {place} && exec "$@"', "sh"]


def test_what_is_in_no_unit_or_in_two_counts_against_the_client(lab):
    """Also when somebody mounts a second hierarchy, as managers of containers do."""
    daemon = lab.daemon(args=rules(
        "allow use a to unit:sltest.service", "deny use a to everyone", "deny use b to unit:sltest.service"))
    with made_groups(lab, *HIERARCHIES) as groups:
        places = [in_group(groups[-1], "sltest-of-nobody"), in_group(groups[-1], "system.slice")]
        if len(groups) > 1:
            names = ("sltest", "slother")
            places.append(sum([in_group(group, f"system.slice/{name}.service")
                               for group, name in zip(groups, names)], []))
        for place in places:
            client = ProcessClient(lab, daemon, command=place)
            denied(client.error("acquire", name="a"), "use", "a")
            denied(client.error("acquire", name="b"), "use", "b")
            client.call("acquire", name=f"c{client.pid}")
    assert "the unit of a client is not known" in daemon.log()


def test_what_comes_before_the_unit_is_known_is_kept_in_its_order(lab, cgroups):
    daemon = lab.daemon(args=rules("deny use b to unit:sltest.service"))
    clients = [daemon.client() for _ in range(100)]
    for client in clients:
        lines = [{"id": number, "method": "ping"} for number in range(20)] + [{"id": "last", "method": "acquire",
                 "params": {"name": "c", "wait_ms": 0}}]
        for line in lines:
            client.methods[("int", line["id"]) if isinstance(line["id"], int) else ("str", line["id"])] = line["method"]
        client.send_raw(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        client.half_close()
    for client in clients:
        ids = [message["id"] for message in (client.next() for _ in range(21))]
        assert ids == [*range(20), "last"]


def test_a_unit_that_cannot_be_read_counts_against_the_client(lab):
    """As in the packaged service without show-programs.conf: no process but its own is visible."""
    daemon = lab.daemon(
        args=rules("allow use a to unit:sltest.service", "deny use a to everyone", "deny use b to unit:sltest.service"),
        # What systemd does for ProtectProc=invisible, and what it takes away from root.
        prefix=["unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=invisible proc /proc && exec "$@"', "sh",
                "setpriv", "--bounding-set", "-sys_ptrace", "--regid", str(ANNA), "--clear-groups"])
    client = daemon.client()
    for name in "ab":
        error = client.error_of(client.request("acquire", name=name))
        assert error.code == 6 and error.data["name"] == name
    client.acquire("c")
    wait_until(lambda: "show-programs.conf" in daemon.log(), "the warning")
