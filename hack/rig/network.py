"""The network of the rig: three control-plane nodes, a worker, and a client outside the cluster.

Each of them is a network namespace with an IPv4 and an IPv6 address. The namespace of the rig itself contains the
nodes' switch, and forwards packets between the nodes and the client. The rig has its own mount, network and PID
namespaces, so the network and all of its processes disappear when the rig ends.
"""

import os
import subprocess

FAMILIES = ("IPv4", "IPv6")
NODES = {f"node-{n}": (f"192.168.77.1{n}", f"fd00:77::1{n}") for n in (1, 2, 3)}
WORKER = {"worker": ("192.168.77.20", "fd00:77::20")}
CLIENT = ("192.168.99.2", "fd00:99::2")
VIP = ("192.168.77.100", "fd00:77::100")
# The ClusterIPs of default/kubernetes, and the ranges of Services and Pods.
CLUSTER_IPS = ("10.96.0.1", "fd00:96::1")
SERVICES = "10.96.0.0/16,fd00:96::/112"
PODS = "10.244.0.0/16,fd00:244::/64"

PREFIX_LENGTHS = (24, 64)
ROUTER = ("192.168.77.1", "fd00:77::1")
ROUTER_OF_CLIENT = ("192.168.99.1", "fd00:99::1")


class Failure(Exception):
    """An error that stops the rig."""


def run(*command, folder=None):
    """Runs a command to completion, and returns its output."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        raise Failure(f"{' '.join(command)}: {result.stderr.strip() or result.returncode}")
    return result.stdout


def ip(words, namespace=None):
    run("ip", *(["-n", namespace] if namespace else []), *words.split())


def build():
    """Creates the namespaces and connects them."""
    # Each namespace has a file in /run/netns, which must disappear with the rig.
    run("mount", "-t", "tmpfs", "none", "/run")
    ip("link set lo up")
    forward("sh")
    ip("link add switch type bridge mcast_snooping 0")
    connect("switch", ROUTER, None)
    for name, addresses in {**NODES, **WORKER}.items():
        plug(name, addresses, ROUTER)
        ip(f"link set {name} master switch")
        forward("ip", "netns", "exec", name, "sh")
    plug("client", CLIENT, ROUTER_OF_CLIENT)
    connect("client", ROUTER_OF_CLIENT, None)


def plug(name, addresses, router):
    """Creates a namespace with the device `uplink`, whose other end has the name of the namespace."""
    ip(f"netns add {name}")
    ip("link set lo up", name)
    ip(f"link add uplink netns {name} type veth peer name {name}")
    connect("uplink", addresses, name)
    for gateway in router:
        ip(f"route add default via {gateway}", name)
    ip(f"link set {name} up")


def connect(device, addresses, namespace):
    """Brings up a device with these addresses."""
    ip(f"link set {device} up", namespace)
    for address, length in zip(addresses, PREFIX_LENGTHS):
        ip(f"address add {address}/{length} dev {device}{' nodad' if ':' in address else ''}", namespace)


def forward(*shell):
    run(*shell, "-c", "for file in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 > /proc/sys/net/$file; done")


def link(name, state):
    """Brings the link of a node `up` or `down`."""
    ip(f"link set {name} {state}")


def announce_from(node):
    """Routes the client's traffic for the VIP to one node, as if that node announced the addresses."""
    for vip, address in zip(VIP, NODES[node]):
        ip(f"route replace {vip} via {address}")


class Host:
    """The processes of one namespace. Each writes its output to a file in the folder `logs`."""

    def __init__(self, name, addresses, logs):
        self.name = name
        self.addresses = addresses
        self.logs = logs
        self.processes = {}

    def start(self, name, *command, **environment):
        """Starts a process with only PATH and the given environment variables."""
        with open(self.logs / f"{self.name}-{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *map(str, command)],
                env={"PATH": os.environ["PATH"], **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def signal(self, number, *names):
        """Sends a signal to some of the processes, or to all."""
        for name in names or self.processes:
            self.processes[name].send_signal(number)

    def ended(self):
        """The processes that are not running."""
        return [f"{self.name} {name}" for name, process in self.processes.items() if process.poll() is not None]
