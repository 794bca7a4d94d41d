#!/usr/bin/env python3
"""Checks the operator in a whole cluster on this machine: three control-plane nodes, a worker, and a client outside.
The scenarios check the following:

    local       the source addresses in the audit logs of the API servers: with externalTrafficPolicy Local, that of the
                client outside; with Cluster, on all nodes but the announcing node, that of the announcing node
    announce    the nodes from which MetalLB and PureLB would announce the VIP: exactly those with a live API server
    faults      how long calls to the VIP fail when a node loses power, or its API server is killed or freezes
    supervisor  port 9345 of the VIP, and what happens when it fails on one node and on all nodes
    quiet       during disturbances of the network and of processes, the operator takes no endpoint out; two of the
                disturbances have other checks
    idle        the CPU time and memory of each replica while nothing happens

Each node is a network namespace with etcd, kube-apiserver, kube-proxy in nftables mode and a replica of the operator.
The rig needs root on Linux, ip, nft, openssl, unshare, and KUBEBUILDER_ASSETS, a folder with etcd, kube-apiserver and
kube-proxy. The exit code is 1 if a check fails. The rig leaves only the logs of a failed run behind, and the logs in
the folder that --logs names.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import cluster
import quiet
from network import CLIENT, FAMILIES, NODES, VIP, Failure, announce_from

FAULTS = ("kill", "freeze", "power-off")
# Faults that happen only if --faults names them.
MORE_FAULTS = ("hang", "etcd-kill")
# All limits are in seconds. After a fault, the copies must be up to date within this time.
FAULT_LIMIT = 6
# The copies must list a repaired server again within this time. Each relapse doubles the time for which the server must
# answer first, up to 60 s.
RETURN_LIMIT = 90
# Calls may fail for at most this long, depending on the node with the fault (--victim). The Lease of a dead leader
# expires after 6 s.
FAILING_LIMIT = {"other": 5.5, "leader": 9, "etcd-leader": 5.5}
# An API server without its etcd still answers /readyz with 200 for a while, because it caches its check of etcd.
# Without the leader of etcd, nothing can be written until the other members have elected one.
FAILING_LIMIT_WITHOUT_ETCD = {"other": 7, "leader": 10.5, "etcd-leader": 9}
# No call should fail when a repaired server returns. If the machine stalls, up to this many may fail on each family:
MAX_FAILED = 3
# The client makes 30 calls per second on each family. With fewer calls per second than this, the checks prove nothing.
LEAST_CALLS = 24


class Rig:
    """The cluster, and the checks made on it."""

    def __init__(self, arguments):
        self.arguments = arguments
        operator = [str(pathlib.Path(arguments.operator).resolve()), *shlex.split(arguments.operator_args)]
        self.cluster = cluster.Cluster(os.environ["KUBEBUILDER_ASSETS"], operator, arguments.logs)
        self.failed = 0

    def expect(self, what, holds, seen=""):
        """Prints the result of a check."""
        self.failed += not holds
        print(f"{'ok' if holds else 'FAILED'}: {what}{'' if holds else f': {seen}'}", flush=True)

    def expect_within(self, limit, what, holds, seen):
        """Checks that something holds within a limit, in seconds."""
        try:
            self.expect(f"{what} after {cluster.until(what, limit, holds)} s", True)
        except Failure:
            self.expect(f"{what} within {limit} s", False, seen())

    def unanswered(self, vip, port, path, count=1):
        """Makes calls from the client outside. Returns the results of calls that did not get a 200."""
        what = ("--token=client-token", f"--port={port}", f"--path={path}", f"--calls={count}")
        command = client("client", vip, *what)
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
        return [answer["seen"] for answer in map(json.loads, lines) if not answer["ok"]]

    def audited(self, path, count):
        """Waits up to 5 s for `count` requests in the audit logs. Returns the source addresses, by node."""
        with contextlib.suppress(Failure):
            cluster.until("requests are in audit logs", 5, lambda: len(self.cluster.audited(path)) == count)
        found = collections.defaultdict(set)
        for node, address in self.cluster.audited(path):
            found[node].add(address)
        return dict(found)


def client(namespace, *arguments):
    """The command that runs client.py in a namespace."""
    program = (sys.executable, str(cluster.HERE / "client.py"), f"--ca={cluster.STATE}/ca.crt")
    return ["ip", "netns", "exec", namespace, *program, *arguments]


def local(rig):
    """With Local, only the API server of the announcing node is called, and sees the address of the client. With
    Cluster, the other API servers see the address of the announcing node."""
    for policy in ("Cluster", "Local"):
        rig.cluster.set_policy(policy)
        for node in NODES:
            announce_from(node)
            for number, family in enumerate(FAMILIES):
                path = f"/api/v1/namespaces/default?call={policy}-{node}-{family}"
                failed = rig.unanswered(VIP[number], 6443, path, 10)
                what = f"{policy}, {node} announces, {family}"
                rig.expect(f"{what}: ten calls succeed", not failed, failed)
                seen = rig.audited(path, 10)
                if policy == "Local":
                    correct = seen == {node: {CLIENT[number]}}
                    rig.expect(f"{what}: only its API server is called, and sees the client", correct, seen)
                else:
                    others = [seen[name] for name in seen if name != node]
                    correct = others and all(addresses == {NODES[node][number]} for addresses in others)
                    rig.expect(f"{what}: other API servers are called, and see the node", correct, seen)


def healthy_nodes(item):
    """The nodes of the endpoints in a slice that a load balancer considers healthy."""
    return {
        endpoint.get("nodeName")
        for endpoint in item["endpoints"]
        if endpoint["conditions"].get("ready") or endpoint["conditions"].get("serving")
    }


def announcing(rig):
    """The nodes from which MetalLB and PureLB would announce the VIP: MetalLB requires a healthy endpoint in any slice,
    PureLB in each. Also returns the nodes of healthy endpoints, by family."""
    nodes = {item["addressType"]: healthy_nodes(item) for item in rig.cluster.slices()}
    return {**nodes, "MetalLB": set().union(*nodes.values()), "PureLB": set(NODES).intersection(*nodes.values())}


def expect_announcing(rig, limit, what, nodes):
    wanted = {name: set(nodes) for name in (*FAMILIES, "MetalLB", "PureLB")}
    what = f"{what}: announced by {', '.join(nodes)}"
    rig.expect_within(limit, what, lambda: announcing(rig) == wanted, lambda: announcing(rig))


def announce(rig):
    """Each fault starts after the API server has renewed its lease in etcd, so Kubernetes itself still lists the dead
    server."""
    rig.cluster.set_policy("Local")
    expect_announcing(rig, RETURN_LIMIT, "before a fault", NODES)
    for fault in FAULTS:
        victim = rig.cluster.victim("other")
        rig.cluster.until_renewed(victim)
        rig.cluster.break_node(victim, fault)
        expect_announcing(rig, FAULT_LIMIT, f"{fault} of {victim}", [node for node in NODES if node != victim])
        rig.cluster.repair_node(victim, fault)
        expect_announcing(rig, RETURN_LIMIT, f"end of the {fault} of {victim}", NODES)


class Calls:
    """Calls from a client in the cluster: 30 per second to each address of the VIP."""

    def __init__(self):
        what = ("--token=admin-token", "--port=6443", "--path=/api/v1/namespaces/default")
        command = client("worker", *VIP, *what, "--period=0.033", "--own-ports")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.all = []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.all.append(json.loads(line))

    def since(self, begin):
        """A summary of the calls since `begin`, by family."""
        return {family: summary(begin, self.of(vip, begin)) for family, vip in zip(FAMILIES, VIP)}

    def of(self, vip, begin):
        return [call for call in list(self.all) if call["host"] == vip and call["begun"] >= begin]

    def are_answered(self):
        """Whether each address got more than 30 calls in the last two seconds, and all of them succeeded."""
        recent = [self.of(vip, time.monotonic() - 2) for vip in VIP]
        return all(len(calls) > 30 and all(call["ok"] for call in calls) for calls in recent)


def summary(begin, calls):
    failed = [call for call in calls if not call["ok"]]
    return {
        "calls": len(calls),
        "calls_per_s": round(len(calls) / (time.monotonic() - begin), 1),
        "failed": len(failed),
        "failing_for_s": round(max((call["begun"] + call["took"] - begin for call in failed), default=0), 2),
        "errors": collections.Counter(call["seen"].split()[0] for call in failed),
    }


def faults(rig):
    rig.cluster.set_policy("Cluster")
    calls = Calls()
    for _ in range(rig.arguments.reps):
        for fault in rig.arguments.faults.split(","):
            cluster.until("all calls succeed", 30, calls.are_answered)
            row = one_fault(rig, fault, calls)
            print(json.dumps(row), flush=True)
            if rig.arguments.out:
                with open(rig.arguments.out, "a", encoding="utf-8") as out:
                    out.write(json.dumps(row) + "\n")
    calls.process.kill()


def one_fault(rig, fault, calls):
    """Breaks a node, repairs it, and checks what the client saw. Returns the row for --out."""
    kind = rig.arguments.victim
    victim = rig.cluster.victim(kind)
    time.sleep(5)
    row = {"version": rig.cluster.api.get("/version")["gitVersion"], "fault": fault, "kind": kind, "node": victim}
    row["leader"] = rig.cluster.leader()
    begin = time.monotonic()
    rig.cluster.break_node(victim, fault)
    row["dropped_after_s"] = {name: drop_time(rig, name, victim, begin) for name in ("kubernetes-vip", "kubernetes")}
    time.sleep(max(0, begin + 15 - time.monotonic()))
    row["calls"] = calls.since(begin)
    repaired = time.monotonic()
    rig.cluster.repair_node(victim, fault)
    row["back_after_s"] = rig.cluster.until_all_are_ready(RETURN_LIMIT)
    time.sleep(5)
    row["calls_while_it_returns"] = calls.since(repaired)
    rig.expect(f"{fault} of {victim} ({kind}): the client runs", calls.process.poll() is None)
    limit = (FAILING_LIMIT_WITHOUT_ETCD if fault == "etcd-kill" else FAILING_LIMIT)[kind]
    for family in FAMILIES:
        what = f"{fault} of {victim} ({kind}), {family}"
        seen, returning = row["calls"][family], row["calls_while_it_returns"][family]
        rig.expect(f"{what}: calls fail for at most {limit} s", seen["failing_for_s"] <= limit, seen)
        rig.expect(f"{what}: at most {MAX_FAILED} calls fail after the repair", returning["failed"] <= MAX_FAILED, returning)
        rate = min(seen["calls_per_s"], returning["calls_per_s"])
        rig.expect(f"{what}: the client makes at least {LEAST_CALLS} calls a second", rate >= LEAST_CALLS, rate)
    return row


def drop_time(rig, service, victim, begin):
    """Waits until a Service no longer lists a node as ready. Returns the seconds since the fault."""
    addresses = set(NODES[victim])

    def is_gone():
        return not any(found & addresses for found in rig.cluster.ready(service).values())

    cluster.until(f"{service} drops {victim}", 60, is_gone)
    return round(time.monotonic() - begin, 2)


def supervisor(rig):
    rig.cluster.set_policy("Cluster")
    hosts = rig.cluster.hosts
    first, *others = NODES

    def answers(port):
        for family, vip in zip(FAMILIES, VIP):
            failed = rig.unanswered(vip, port, "/ping" if port == 9345 else "/readyz", 10)
            rig.expect(f"port {port} of the VIP answers ten calls on {family}", not failed, failed)

    def expect(what, nodes):
        seen = rig.cluster.ready
        rig.expect_within(RETURN_LIMIT if nodes == NODES else FAULT_LIMIT, what, lambda: rig.cluster.lists(nodes), seen)

    answers(9345)
    hosts[first].signal(signal.SIGKILL, "supervisor")
    expect(f"the supervisor of {first} is killed: {first} is out for both ports", others)
    rig.expect(f"the source still lists {first}", NODES[first][0] in rig.cluster.ready("kubernetes")["IPv4"])
    # kube-proxy needs a moment to apply the change.
    time.sleep(2)
    answers(9345)
    answers(6443)
    for node in others:
        hosts[node].signal(signal.SIGKILL, "supervisor")
    expect("all supervisors are killed: the port is ignored, and all endpoints are ready", NODES)
    time.sleep(2)
    answers(6443)
    for node in NODES:
        rig.cluster.start_supervisor(node)
    time.sleep(FAULT_LIMIT)
    expect("all supervisors run again: all endpoints are ready", NODES)
    answers(9345)


SCENARIOS = {"local": local, "announce": announce, "faults": faults, "supervisor": supervisor}
# Scenarios that take a long time, and therefore run only if they are named.
LONG_SCENARIOS = {"quiet": quiet.quiet, "idle": quiet.idle}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="local, announce, faults, supervisor [all of these], quiet, idle")
    option = parser.add_argument
    option("--operator", default="target/release/endpoint-copier-operator", help="the binary [%(default)s]")
    option("--operator-args", default="", metavar="ARGS", help="more flags for the operator")
    option("--logs", metavar="DIR", help="the folder for the logs [a new one, removed if all checks pass]")
    option("--faults", default=",".join(FAULTS), help="the faults of the faults scenario; also hang and etcd-kill [%(default)s]")
    option("--victim", choices=FAILING_LIMIT, default="other", help="the node with the fault [%(default)s]: the node of "
           "the operator's leader, the node of the etcd leader, or a node with neither")
    option("--reps", type=int, default=1, help="how many times each fault happens [%(default)s]")
    option("--disturbances", default=",".join(quiet.DISTURBANCES), help="the disturbances of the quiet scenario [%(default)s]")
    option("--minutes", type=float, default=1, help="how long each disturbance, or idle, lasts [%(default)s]")
    option("--out", metavar="FILE", help="appends a line of JSON for each fault or disturbance")
    option("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.scenarios = arguments.scenarios or list(SCENARIOS)
    for name in arguments.scenarios:
        if name not in {**SCENARIOS, **LONG_SCENARIOS}:
            parser.error(f"unknown scenario {name}")
    for name in arguments.faults.split(","):
        if name not in FAULTS + MORE_FAULTS:
            parser.error(f"unknown fault {name}")
    for name in arguments.disturbances.split(","):
        if name not in quiet.DISTURBANCES:
            parser.error(f"unknown disturbance {name}")
    return arguments


def missing(arguments):
    """The requirements that this machine does not meet."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "root on Linux"
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        return "KUBEBUILDER_ASSETS, a folder with etcd, kube-apiserver and kube-proxy"
    programs = [f"{assets}/{name}" for name in ("etcd", "kube-apiserver", "kube-proxy")]
    programs += ["ip", "nft", "openssl", "unshare", arguments.operator]
    return ", ".join(program for program in programs if not shutil.which(program))


def outside(arguments):
    """Runs the rig in its own namespaces. When their first process ends, so do all others and the network."""
    if lacking := missing(arguments):
        sys.exit(f"rig: needs {lacking}")
    logs = arguments.logs or tempfile.mkdtemp(prefix="rig-")
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    process = subprocess.Popen([*unshare, sys.executable, *sys.argv, "--logs", logs, "--inside"])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    code = None
    try:
        code = process.wait()
        sys.exit(code)
    finally:
        process.kill()
        if code != 0:
            print(f"rig: the logs are in {logs}", file=sys.stderr)
        elif not arguments.logs:
            shutil.rmtree(logs)


def inside(arguments):
    """Starts the cluster and runs the scenarios."""
    # The process outside gets the signal too, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arguments.logs = pathlib.Path(arguments.logs).resolve()
    arguments.logs.mkdir(parents=True, exist_ok=True)
    arguments.out = arguments.out and pathlib.Path(arguments.out).resolve()
    rig = Rig(arguments)
    try:
        rig.cluster.start()
        for name in arguments.scenarios:
            print(f"== {name}", flush=True)
            {**SCENARIOS, **LONG_SCENARIOS}[name](rig)
            rig.expect("no process has ended unexpectedly", not rig.cluster.ended(), rig.cluster.ended())
    except (Failure, OSError, subprocess.CalledProcessError) as error:
        rig.expect("the rig works", False, f"{error}; processes that ended: {rig.cluster.ended()}")
    sys.exit(1 if rig.failed else 0)


if __name__ == "__main__":
    chosen = parse()
    inside(chosen) if chosen.inside else outside(chosen)
