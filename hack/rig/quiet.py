"""Disturbances during which the operator must not take any API server out, except for CUT_OFF and RESTARTS."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request

import cluster
from network import FAMILIES, NODES, link, run

# The maximum CPU usage of an idle replica in % of a core, by the number of addresses on which it probes two ports.
IDLE_CPU = {6: 0.34, 3: 0.15}
# The maximum memory of an idle replica in MiB.
IDLE_MEMORY = 11
# A replica whose own node is cut off must take nothing out. The other replicas rightly take out the API server of that
# node.
CUT_OFF = "own-node"
# An API server that stops removes itself from the source. Until then, the operator may rightly take it out.
RESTARTS = "rolling-restart"


def metric(node, name):
    """The value of a metric that has no labels, from the replica on a node."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{NODES[node][0]}:8080/metrics", timeout=5) as page:
        return float(re.search(rf"^{name} (\S+)", page.read().decode(), re.MULTILINE)[1])


def removals(node):
    """How many times the replica on a node has taken an endpoint out."""
    return int(metric(node, "endpoint_copier_probe_removals_total"))


def versions(rig):
    """The resourceVersion of each copy and of the source."""
    found = rig.cluster.slices() + rig.cluster.slices("kubernetes")
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in found}


def stop_all(rig, name, seconds):
    """Freezes this process on each node for this many seconds."""
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for node in NODES:
            rig.cluster.hosts[node].signal(number, name)
        time.sleep(seconds if number == signal.SIGSTOP else 0)


def loss(_rig, begin):
    """Each node loses 5 % of the packets that it receives, until `without_loss` is called."""
    if begin:
        rules = "add table inet loss; add chain inet loss in { type filter hook input priority 0; }; "
        rules += 'add rule inet loss in iifname "uplink" numgen random mod 100 < 5 drop'
        for node in NODES:
            run("ip", "netns", "exec", node, "nft", rules)
    time.sleep(5)


def without_loss():
    for node in NODES:
        run("ip", "netns", "exec", node, "nft", "delete table inet loss")


def no_etcd(rig, _begin):
    """All etcd members are frozen for 3 s."""
    stop_all(rig, "etcd", 3)
    time.sleep(9)


def stopped(rig, _begin):
    """All API servers are frozen for 2.5 s."""
    stop_all(rig, "api-server", 2.5)
    time.sleep(9.5)


def leader(rig, _begin):
    """The leader is frozen for 2, 3 and 5 s. After 5 s, another replica may lead."""
    for seconds in (2, 3, 5):
        host = rig.cluster.hosts[rig.cluster.leader()]
        host.signal(signal.SIGSTOP, "operator")
        time.sleep(seconds)
        host.signal(signal.SIGCONT, "operator")
        time.sleep(10)


def busy(_rig, _begin):
    """Four processes keep the processors busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    time.sleep(30)
    for loop in loops:
        loop.kill()
        loop.wait()


def partial_cut(rig, _begin):
    """The leader's node has no route to another node for 30 s. The other node does not host the etcd leader."""
    victim, node = rig.cluster.victim("other"), rig.cluster.leader()
    routes = [("-4", f"{NODES[victim][0]}/32"), ("-6", f"{NODES[victim][1]}/128")]
    for family, address in routes:
        run("ip", "-n", node, family, "route", "add", "blackhole", address)
    time.sleep(30)
    for family, address in routes:
        run("ip", "-n", node, family, "route", "delete", "blackhole", address)
    time.sleep(10)


def own_node(rig, _begin):
    """The leader's node is cut off for 15 s. This node is never the one through which the rig observes the cluster."""
    node = rig.cluster.victim("leader")
    rig.cluster.move_etcd_leader(cluster.OBSERVER)
    before = removals(node)
    link(node, "down")
    time.sleep(15)
    link(node, "up")
    rig.cluster.until_all_are_ready(90)
    seen = removals(node)
    rig.expect(f"{node} is cut off: its replica takes nothing out", seen == before, seen)
    time.sleep(10)


def rolling_restart(rig, _begin):
    """Each API server in turn gets SIGTERM, as from the kubelet, and is started again."""
    for node in NODES:
        host = rig.cluster.hosts[node]
        host.signal(signal.SIGTERM, "api-server")
        try:
            host.processes["api-server"].wait(30)
        except subprocess.TimeoutExpired:
            host.signal(signal.SIGKILL, "api-server")
        rig.cluster.start_api_server(node)
        api = cluster.Api(f"https://{NODES[node][0]}:6443")
        most = 0
        begun = time.monotonic()
        while time.monotonic() - begun < 20 or not is_ready(api):
            with contextlib.suppress(OSError):
                ready = rig.cluster.ready()
                most = max(most, *(len(NODES) - len(ready[family]) for family in FAMILIES))
            time.sleep(0.2)
        rig.expect(f"restart of {node}: at most one endpoint of a family is not ready", most <= 1, most)
        rig.cluster.until_all_are_ready(90)


def is_ready(api):
    with contextlib.suppress(OSError):
        return api.is_ready()
    return False


def idle(rig):
    """The CPU time and memory of each replica while nothing happens. The replicas probe two ports, first on the
    addresses of both families, and then on the addresses of one family."""
    rig.cluster.set_policy("Cluster")
    rig.cluster.until_all_are_ready(90)
    idle_with(rig, 6)
    rig.cluster.set_family_policy("SingleStack")
    idle_with(rig, 3)
    rig.cluster.set_family_policy("RequireDualStack")
    rig.cluster.until_all_are_ready(90)


def idle_with(rig, addresses):
    time.sleep(30)
    leader_of, seconds = rig.cluster.leader(), 60 * rig.arguments.minutes
    before = {node: metric(node, "process_cpu_seconds_total") for node in NODES}
    started = {node: metric(node, "process_start_time_seconds") for node in NODES}
    time.sleep(seconds)
    for node in NODES:
        cpu = (metric(node, "process_cpu_seconds_total") - before[node]) / seconds * 100
        memory = metric(node, "process_resident_memory_bytes") / 1024**2
        kind = "leader" if node == leader_of else "standby"
        seen = f"{cpu:.3f} % of a core, {memory:.1f} MiB"
        name = f"{addresses} addresses, {node} ({kind})"
        print(f"{name}: {seen}", flush=True)
        rig.expect(f"{name}: the replica has not restarted", metric(node, "process_start_time_seconds") == started[node])
        within = cpu <= IDLE_CPU[addresses] and memory <= IDLE_MEMORY
        rig.expect(f"{name}: at most {IDLE_CPU[addresses]} % of a core and {IDLE_MEMORY} MiB", within, seen)


DISTURBANCES = {
    "loss": loss, "no-etcd": no_etcd, "stopped": stopped, "leader": leader, "busy": busy, "partial-cut": partial_cut,
    CUT_OFF: own_node, RESTARTS: rolling_restart,
}


def quiet(rig):
    """Repeats each disturbance for `--minutes`. Checks that nothing was taken out, except for CUT_OFF and RESTARTS,
    which have their own checks."""
    rig.cluster.set_policy("Cluster")
    for name in rig.arguments.disturbances.split(","):
        rig.cluster.until_all_are_ready(90)
        # Until a server has returned on a replica, a single failure is enough for the replica to find it down again.
        time.sleep(10)
        before, versions_before = {node: removals(node) for node in NODES}, versions(rig)
        end, times = time.monotonic() + 60 * rig.arguments.minutes, 0
        while time.monotonic() < end:
            DISTURBANCES[name](rig, times == 0)
            times += 1
        if name == "loss":
            without_loss()
        cluster.until("the API servers answer", 60, rig.cluster.api.is_ready)
        rig.cluster.until_all_are_ready(90)
        taken = {node: removals(node) - before[node] for node in NODES}
        changed = [slice_name for slice_name, version in versions(rig).items() if versions_before.get(slice_name) != version]
        row = {"disturbance": name, "minutes": rig.arguments.minutes, "times": times, "removals": taken, "changed": changed}
        print(json.dumps(row), flush=True)
        if rig.arguments.out:
            with open(rig.arguments.out, "a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
        if name in (CUT_OFF, RESTARTS):
            continue
        rig.expect(f"{name}: nothing is taken out", not any(taken.values()), taken)
        # The API servers themselves may change the source.
        if "kubernetes" not in changed:
            rig.expect(f"{name}: no copy changes", not changed, changed)
