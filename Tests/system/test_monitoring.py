"""The dashboard and the alerts of the package, held against what a running exporter serves to a running Prometheus."""

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import pytest
from harness.cluster import CELLS, RedisCluster
from harness.command import Command
from harness.daemon import ROOT
from harness.exporter import Exporter
from harness.redis_server import free_port
from harness.waiting import GENEROUS_SECONDS, wait_until
from prometheus_client.openmetrics.parser import text_string_to_metric_families

MONITORING = ROOT / "packaging/monitoring"
RULES = MONITORING / "alerts.yaml"


def dashboard():
    return json.loads((MONITORING / "dashboard.json").read_text())


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def panel_expressions():
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def rule_expressions():
    found = re.findall(r"^ +expr: (.+)$", RULES.read_text(), re.MULTILINE)
    assert len(found) == RULES.read_text().count("- alert:")
    return found


@pytest.fixture
def exporter(lab):
    daemon = lab.daemon(lab.redis())
    daemon.client().acquire("nightly")
    return Exporter(Command(lab, daemon), "--lock", "nightly")


def test_promtool_takes_the_rules():
    done = subprocess.run(["promtool", "check", "rules", "--lint-fatal", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_name_is_one_that_is_served(lab, exporter):
    of_cluster = Exporter(Command(lab, lab.daemon(RedisCluster(lab, replicas=0, by_hand=True))))
    served = {
        sample.name for one in (exporter, of_cluster) for family in text_string_to_metric_families(one.get("/metrics")[2])
        for sample in family.samples}
    for expression in panel_expressions() + rule_expressions():
        names = set(re.findall(r"\bsidelock_\w+", expression))
        assert names <= served, (expression, names - served)
        assert names or expression.startswith("up{"), expression
    # What is served by class, and is looked at, is looked at as that.
    for name in sorted(served):
        if name.endswith("_bucket"):
            assert name.removesuffix("_bucket") + "_count" in served and name.removesuffix("_bucket") + "_sum" in served


def test_the_dashboard_is_sound():
    assert len(panels()) > 20
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
    cells = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not own & cells, panel["title"]
        cells |= own
    for variable in dashboard()["templating"]["list"]:
        assert variable["name"] in {"source", "job", "instance"}


class Prometheus:
    """A server with the rules of the package that scrapes one exporter each half second."""

    def __init__(self, lab, exporter):
        self.port = free_port()
        config = lab.directory / "prometheus.yaml"
        config.write_text(json.dumps({
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "sidelock", "static_configs": [{"targets": [exporter.address]}]}]}))
        with open(lab.directory / "prometheus.log", "wb") as log:
            lab.track(subprocess.Popen(
                ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={lab.directory / 'prometheus'}",
                 f"--web.listen-address=127.0.0.1:{self.port}"], stdout=log, stderr=log))

    def ask(self, path, **parameters):
        """The data of an answer; None while there is none."""
        address = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=GENEROUS_SECONDS) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return None
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        except (ConnectionError, urllib.error.URLError):
            return None

    def query(self, expression):
        data = self.ask("query", query=expression)
        return data and data["result"]


def test_prometheus_scrapes_it_and_each_panel_shows_something(lab, exporter):
    prometheus = Prometheus(lab, exporter)
    wait_until(lambda: prometheus.query("count_over_time(sidelock_up[1m]) >= 4"), "some scrapes", pause=0.1)
    assert prometheus.query('sidelock_up{job="sidelock"} == 1') and prometheus.query('up{job="sidelock"} == 1')
    for expression in panel_expressions():
        for variable, text in (("$job", "sidelock"), ("$instance", ".*"), ("$__rate_interval", "1m")):
            expression = expression.replace(variable, text)
        assert "$" not in expression and prometheus.query(expression), expression
    groups = wait_until(lambda: (prometheus.ask("rules") or {}).get("groups"), "the rules", pause=0.1)
    rules = [rule for group in groups for rule in group["rules"]]
    assert [rule["query"] for rule in rules]
    wait_until(
        lambda: all(rule["health"] == "ok" for group in prometheus.ask("rules")["groups"] for rule in group["rules"]),
        "the evaluation of all rules", pause=0.1)


def test_an_alert_is_there_when_the_daemon_is_not(lab):
    daemon = lab.daemon()
    exporter = Exporter(Command(lab, daemon))
    prometheus = Prometheus(lab, exporter)
    [panel] = [panel for panel in panels() if panel["title"] == "Daemon answers"]
    [target] = panel["targets"]
    expression = target["expr"].replace("$job", "sidelock").replace("$instance", ".*")

    def shown():
        return [sample["value"][1] for sample in prometheus.query(expression) or []]

    def down():
        groups = (prometheus.ask("rules") or {}).get("groups") or []
        return [rule for group in groups for rule in group["rules"] if rule["name"] == "SidelockDown" and rule["alerts"]]

    wait_until(lambda: prometheus.query('up{job="sidelock"} == 1'), "a scrape", pause=0.1)
    assert not down() and shown() == ["1"]
    assert daemon.terminate() == 0
    wait_until(lambda: shown() == ["0"], "the panel's no", pause=0.1)
    wait_until(down, "the alert", pause=0.1)
    assert prometheus.query('sidelock_up{job="sidelock"} == 0') and prometheus.query('up{job="sidelock"} == 1')
    # The exporter is away, too.
    assert exporter.end() == 0
    wait_until(lambda: prometheus.query('up{job="sidelock"} == 0'), "a scrape that fails", pause=0.1)
    assert shown() == ["0"] and down()


def test_parts_of_a_cluster_that_nobody_serves_are_an_alert(lab):
    """The daemon is connected to the other primaries, so that no other alert tells of it."""
    cluster = RedisCluster(lab, primaries=2, replicas=0, by_hand=True, args=["--cluster-require-full-coverage", "no"])
    daemon = lab.daemon(cluster)
    client = daemon.client()

    def unserved():
        return client.call("stats")["redis"]["cluster"]["parts_unserved"]

    wait_until(lambda: unserved() == 0, "all parts")
    prometheus = Prometheus(lab, Exporter(Command(lab, daemon)))

    def alerts():
        groups = (prometheus.ask("rules") or {}).get("groups") or []
        return {rule["name"] for group in groups for rule in group["rules"] if rule["alerts"]}

    wait_until(lambda: prometheus.query("sidelock_redis_cluster_parts_unserved == 0"), "a scrape", pause=0.1)
    assert "SidelockPartsUnserved" not in alerts()
    cluster.nodes[0].end()
    wait_until(lambda: unserved() == CELLS // 2, "the loss of a primary")
    wait_until(lambda: "SidelockPartsUnserved" in alerts(), "the alert", pause=0.1)
    assert "SidelockRedisLost" not in alerts()
