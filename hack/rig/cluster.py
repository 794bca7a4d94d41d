"""Kubernetes on the network of the rig: etcd, API servers, kube-proxy, the operator, and a Service for the VIP."""

import base64
import contextlib
import json
import pathlib
import re
import signal
import ssl
import sys
import time
import urllib.request

from network import (
    CLUSTER_IPS, FAMILIES, NODES, PODS, SERVICES, VIP, WORKER, Failure, Host, announce_from, build, link, run,
)

HERE = pathlib.Path(__file__).resolve().parent
# The permissions of the operator, as the chart grants them to a ServiceAccount in NAMESPACE.
RIGHTS = HERE.parents[1] / "crates/testing/harness/rights/default.json"
NAMESPACE = "namespace-of-the-release"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/f668ae63.endpoint-copier-operator"
IN_POD = pathlib.Path("/run/secrets/kubernetes.io/serviceaccount")
# Keys, configurations and the data of etcd, in a file system that disappears with the rig.
STATE = pathlib.Path("/run/rig")
# The rig observes the cluster through this node, which `victim` therefore never returns.
OBSERVER = "node-3"

SERVICE = "/api/v1/namespaces/default/services/kubernetes-vip"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3D"
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "Service": "/api/v1/namespaces/default/services",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Role": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles",
    "RoleBinding": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings",
}
USERS = f"""admin-token,admin,1,system:masters
client-token,client,2,system:masters
proxy-token,system:kube-proxy,3,
operator-token,system:serviceaccount:{NAMESPACE}:endpoint-copier-operator,4,
"""
# Only requests from the client outside the cluster are logged.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": ["client"]}, {"level": "None"}],
}
# The Service that Edge Image Builder writes for two addresses.
VIP_SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "kubernetes-vip", "namespace": "default", "labels": {"serviceType": "kubernetes-vip"}},
    "spec": {
        "type": "LoadBalancer",
        "ipFamilyPolicy": "RequireDualStack",
        "ports": [
            {"name": "rke2-api", "port": 9345, "protocol": "TCP", "targetPort": 9345},
            {"name": "k8s-api", "port": 6443, "protocol": "TCP", "targetPort": 6443},
        ],
    },
}


def until(what, limit, holds):
    """Waits until `holds()` is true, and returns the elapsed seconds. Fails after the limit.

    If `holds()` fails with an OSError, for example because an API server does not answer, it is called again.
    """
    begun = time.monotonic()
    while time.monotonic() - begun < limit:
        with contextlib.suppress(OSError):
            if holds():
                return round(time.monotonic() - begun, 2)
        time.sleep(0.1)
    raise Failure(f"not within {limit} s: {what}")


class Api:
    """Requests to one server as the administrator."""

    def __init__(self, server):
        self.server = server
        tls = ssl.create_default_context(cafile=STATE / "ca.crt")
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
        )

    def request(self, method, path, body=None):
        """The response to a request, as JSON. A PATCH is a merge patch."""
        request = urllib.request.Request(self.server + path, method=method, data=body and json.dumps(body).encode())
        request.add_header("Authorization", "Bearer admin-token")
        request.add_header("Content-Type", f"application/{'merge-patch+' if method == 'PATCH' else ''}json")
        with self.opener.open(request, timeout=5) as answer:
            return json.load(answer)

    def get(self, path):
        return self.request("GET", path)

    def create(self, item):
        return self.request("POST", PATHS[item["kind"]], item)

    def is_ready(self):
        return self.opener.open(f"{self.server}/readyz", timeout=1).status == 200


class Cluster:
    """All nodes with their processes."""

    def __init__(self, assets, operator, logs):
        self.assets = pathlib.Path(assets).resolve()
        self.operator = operator
        self.hosts = {name: Host(name, addresses, logs) for name, addresses in {**NODES, **WORKER}.items()}
        self.logs = logs

    def start(self):
        """Starts everything, and waits until the copies list all API servers."""
        build()
        make_files()
        for node in NODES:
            self.start_etcd(node)
            self.start_api_server(node)
        for addresses in NODES.values():
            api = Api(f"https://{addresses[0]}:6443")
            until(f"the API server on {addresses[0]} is ready", 90, api.is_ready)
        self.api = Api(f"https://{NODES[OBSERVER][0]}:6443")
        self.create_objects()
        for node in NODES:
            self.start_proxy(node, "127.0.0.1")
            self.start_supervisor(node)
            self.start_operator(node)
        self.start_proxy("worker", NODES[OBSERVER][0])
        announce_from(OBSERVER)
        self.until_all_are_ready(60)

    def create_objects(self):
        """Creates the Nodes, the permissions of the operator, and the VIP Service."""
        for name, addresses in {**NODES, **WORKER}.items():
            labels = {"node-role.kubernetes.io/control-plane": "true"} if name in NODES else {}
            self.api.create({"kind": "Node", "apiVersion": "v1", "metadata": {"name": name, "labels": labels}})
            listed = [{"type": "InternalIP", "address": address} for address in addresses]
            self.api.request("PATCH", f"{PATHS['Node']}/{name}/status", {"status": {"addresses": listed}})
        self.api.create({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": NAMESPACE}})
        for item in json.loads(RIGHTS.read_text()):
            self.api.create(item)
        self.api.create(VIP_SERVICE)
        ingress = [{"ip": address} for address in VIP]
        self.api.request("PATCH", f"{SERVICE}/status", {"status": {"loadBalancer": {"ingress": ingress}}})

    def start_etcd(self, node):
        address = NODES[node][0]
        members = ",".join(f"{name}=http://{addresses[0]}:2380" for name, addresses in NODES.items())
        self.hosts[node].start(
            "etcd", self.assets / "etcd", f"--name={node}", f"--data-dir={STATE}/{node}",
            f"--initial-cluster={members}", f"--listen-client-urls=http://127.0.0.1:2379,http://{address}:2379",
            f"--advertise-client-urls=http://{address}:2379", f"--listen-peer-urls=http://{address}:2380",
            f"--initial-advertise-peer-urls=http://{address}:2380", "--log-level=warn", "--unsafe-no-fsync",
        )

    def start_api_server(self, node):
        self.hosts[node].start(
            "api-server", self.assets / "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--bind-address=::",
            f"--advertise-address={NODES[node][0]}", "--endpoint-reconciler-type=lease",
            f"--service-cluster-ip-range={SERVICES}", "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount", f"--tls-cert-file={STATE}/server.crt",
            f"--tls-private-key-file={STATE}/server.key", f"--client-ca-file={STATE}/ca.crt",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={STATE}/account.pub",
            f"--service-account-signing-key-file={STATE}/account.key", f"--token-auth-file={STATE}/users.csv",
            f"--cert-dir={STATE}/{node}-certificates", f"--audit-policy-file={STATE}/audit-policy.json",
            f"--audit-log-path={self.audit_log(node)}",
        )

    def start_proxy(self, node, server):
        (STATE / f"{node}.kubeconfig").write_text(kubeconfig(f"https://{server}:6443"))
        program = self.assets / "kube-proxy"
        minor = int(re.search(r"v1\.(\d+)", run(str(program), "--version"))[1])
        self.hosts[node].start(
            "proxy", program, f"--kubeconfig={STATE}/{node}.kubeconfig", "--proxy-mode=nftables",
            f"--hostname-override={node}", f"--cluster-cidr={PODS}", "--healthz-bind-address=127.0.0.1:10256",
            "--metrics-bind-address=127.0.0.1:10249",
            # These settings apply to the whole machine, and a namespace cannot change them.
            "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
            *(["--feature-gates=NFTablesProxyMode=true"] if minor < 31 else []),
        )

    def start_supervisor(self, node):
        self.hosts[node].start(
            "supervisor", sys.executable, HERE / "supervisor.py", STATE / "server.crt", STATE / "server.key", 9345
        )

    def start_operator(self, node):
        """Starts a replica with the environment of a Pod. It dials the ClusterIP."""
        self.hosts[node].start(
            "operator", *self.operator, KUBERNETES_SERVICE_HOST=CLUSTER_IPS[0], KUBERNETES_SERVICE_PORT="443",
            POD_NAME=node, POD_NAMESPACE=NAMESPACE, HOST_IPS=",".join(NODES[node]),
        )

    def break_node(self, node, fault):
        """Causes a fault. power-off: the link goes down, and all processes are killed. hang: all processes freeze.
        etcd-kill: only etcd is killed. kill, freeze: only the API server is killed or freezes."""
        host = self.hosts[node]
        if fault == "power-off":
            link(node, "down")
            host.signal(signal.SIGKILL)
        elif fault == "hang":
            host.signal(signal.SIGSTOP)
        elif fault == "etcd-kill":
            host.signal(signal.SIGKILL, "etcd")
        else:
            host.signal({"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}[fault], "api-server")

    def repair_node(self, node, fault):
        """Ends a fault."""
        if fault in ("freeze", "hang"):
            self.hosts[node].signal(signal.SIGCONT, *["api-server"] * (fault == "freeze"))
            return
        if fault == "etcd-kill":
            self.start_etcd(node)
            return
        if fault == "power-off":
            link(node, "up")
            self.start_etcd(node)
            self.start_proxy(node, "127.0.0.1")
            self.start_supervisor(node)
            self.start_operator(node)
        self.start_api_server(node)

    def set_policy(self, policy):
        """Sets externalTrafficPolicy, and waits until the operator and kube-proxy have applied it."""
        self.api.request("PATCH", SERVICE, {"spec": {"externalTrafficPolicy": policy}})
        named = policy == "Local"

        def is_applied():
            endpoints = [endpoint for item in self.slices() for endpoint in item["endpoints"]]
            return all(("nodeName" in endpoint) == named for endpoint in endpoints)

        until(f"endpoints with{'' if named else 'out'} node names", 15, is_applied)
        # kube-proxy syncs once a second.
        time.sleep(3)

    def set_family_policy(self, policy):
        """Sets ipFamilyPolicy, and waits until the operator has as many copies as the Service has families."""
        self.api.request("PATCH", SERVICE, {"spec": {"ipFamilyPolicy": policy}})
        copies = 1 if policy == "SingleStack" else 2
        until(f"{copies} copies", 15, lambda: len(self.slices()) == copies)

    def ended(self):
        """The processes that are not running, on all nodes."""
        return [name for host in self.hosts.values() for name in host.ended()]

    def slices(self, service="kubernetes-vip"):
        """The EndpointSlices of a Service."""
        items = self.api.get(SLICES + service)["items"]
        return [{**item, "endpoints": item.get("endpoints") or []} for item in items]

    def ready(self, service="kubernetes-vip"):
        """The addresses of ready endpoints, by family."""
        found = {family: set() for family in FAMILIES}
        for item in self.slices(service):
            for endpoint in item["endpoints"]:
                if endpoint["conditions"].get("ready", True):
                    found[item["addressType"]].update(endpoint["addresses"])
        return found

    def lists(self, nodes):
        """Whether the copies list exactly these nodes as ready."""
        return self.ready() == {family: {NODES[node][at] for node in nodes} for at, family in enumerate(FAMILIES)}

    def until_all_are_ready(self, limit):
        return until("the copies list all API servers", limit, lambda: self.lists(NODES))

    def audited(self, uri):
        """The node and the source addresses of each request from the client for this URI, as the audit logs show."""
        found = []
        for node in NODES:
            with open(self.audit_log(node), encoding="utf-8") as log:
                # The last line may be incomplete.
                events = [json.loads(line) for line in log if line.endswith("\n")]
            found += [(node, ",".join(event["sourceIPs"])) for event in events if event["requestURI"] == uri]
        return found

    def audit_log(self, node):
        return self.logs / f"{node}-audit.log"

    def leader(self):
        """The node of the replica that holds the Lease."""
        return (self.api.get(LEASE)["spec"].get("holderIdentity") or "").split("_")[0]

    def move_leader(self):
        """Restarts the leader after another replica has taken over."""
        node = self.leader()
        self.hosts[node].signal(signal.SIGTERM, "operator")
        self.hosts[node].processes["operator"].wait(10)
        until("another replica leads", 15, lambda: self.leader() not in ("", node))
        self.start_operator(node)

    def move_etcd_leader(self, node):
        """Makes the etcd member on a node the etcd leader."""
        members = {name: Api(f"http://{addresses[0]}:2379") for name, addresses in NODES.items()}
        status = {name: api.request("POST", "/v3/maintenance/status", {}) for name, api in members.items()}
        ids = {name: answer["header"]["member_id"] for name, answer in status.items()}
        for name, api in members.items():
            if ids[name] == status[name]["leader"] != ids[node]:
                api.request("POST", "/v3/maintenance/transfer-leadership", {"targetID": ids[node]})

    def until_renewed(self, node):
        """Waits until the API server of a node renews its lease, so that Kubernetes lists it for another 15 s."""
        etcd = Api(f"http://{NODES[OBSERVER][0]}:2379")
        key = base64.b64encode(f"/registry/masterleases/{NODES[node][0]}".encode()).decode()

        def lease():
            return etcd.request("POST", "/v3/kv/range", {"key": key}).get("kvs")

        before = lease()
        until(f"the API server on {node} renews its lease", 30, lambda: lease() not in (None, before))

    def victim(self, kind):
        """Returns the node for a fault: that of the operator's leader, that of the etcd leader, or one with neither.

        Moves leaders if necessary. The node is never OBSERVER.
        """
        if kind == "leader" and self.leader() == OBSERVER:
            self.move_leader()
        leader = self.leader()
        node = leader if kind == "leader" else next(node for node in NODES if node not in (leader, OBSERVER))
        self.move_etcd_leader(node if kind == "etcd-leader" else OBSERVER)
        return node


def kubeconfig(server):
    """A kubeconfig for kube-proxy."""
    return json.dumps({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "rig",
        "clusters": [{"name": "rig", "cluster": {"server": server, "certificate-authority": f"{STATE}/ca.crt"}}],
        "users": [{"name": "rig", "user": {"token": "proxy-token"}}],
        "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": "rig"}}],
    })


def make_files():
    """Writes the files of the servers, which share one certificate, and the files of a Pod."""
    STATE.mkdir()
    IN_POD.mkdir(parents=True)
    addresses = [*CLUSTER_IPS, *VIP, "127.0.0.1", "::1", *(address for node in NODES.values() for address in node)]
    names = ",".join([f"IP:{address}" for address in addresses] + ["DNS:kubernetes.default.svc", "DNS:kubernetes"])
    (STATE / "extensions").write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
    for command in (
        "ecparam -name prime256v1 -genkey -noout -out ca.key",
        "req -x509 -new -key ca.key -days 2 -subj /CN=rig -out ca.crt -addext keyUsage=critical,keyCertSign,cRLSign",
        "ecparam -name prime256v1 -genkey -noout -out server.key",
        "req -new -key server.key -subj /CN=kube-apiserver -out server.csr",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.crt",
        "genrsa -out account.key 2048",
        "rsa -in account.key -pubout -out account.pub",
    ):
        run("openssl", *command.split(), folder=STATE)
    (STATE / "users.csv").write_text(USERS)
    (STATE / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY))
    (IN_POD / "ca.crt").write_text((STATE / "ca.crt").read_text())
    (IN_POD / "namespace").write_text(NAMESPACE)
    (IN_POD / "token").write_text("operator-token")
