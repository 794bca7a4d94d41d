"""Checks the root file system that hack/image/build.py built, and runs it as a Pod does.

    python3 hack/image/check.py IMAGE TESTBED

IMAGE is the folder with the binary. TESTBED is the in-memory API server (cargo build -p testbed). The operator runs
with a read-only root, as uid 65532 without capabilities, in a separate network with only loopback and no DNS, and with
the files and variables of a Pod. This run needs root on Linux. Without root, the script prints that it skips the run.
"""

import base64
import json
import os
import pathlib
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib

NAME = "endpoint-copier-operator"
# The maximum size of the binary in bytes. A small image is quick to pull on a slow network. The binary of the Go
# operator is four times as large.
LARGEST = 10_000_000
ACCOUNT = "var/run/secrets/kubernetes.io/serviceaccount"


def check(what, holds):
    print(f"{'ok' if holds else 'FAILED'}: {what}", flush=True)
    if not holds:
        sys.exit(1)


def is_static(binary):
    """Returns whether the binary needs neither an interpreter (program header type 3) nor a library (dynamic tag 1)."""
    table, = struct.unpack_from("<Q", binary, 32)
    size, count = struct.unpack_from("<HH", binary, 54)
    headers = [struct.unpack_from("<IIQQQQ", binary, table + size * at) for at in range(count)]
    needed = False
    for kind, _, offset, _, _, length in headers:
        if kind == 2:
            entries = struct.iter_unpack("<QQ", binary[offset : offset + length])
            needed = any(tag == 1 for tag, _ in entries)
    return not needed and all(kind != 3 for kind, *_ in headers)


def crates(binary):
    """The names of the crates that cargo-auditable has listed in a section of compressed JSON."""
    table, = struct.unpack_from("<Q", binary, 40)
    size, count, names = struct.unpack_from("<HHH", binary, 58)
    sections = [struct.unpack_from("<IIQQQQ", binary, table + size * at) for at in range(count)]
    text = sections[names][4]
    for name, _, _, _, offset, length in sections:
        begin = text + name
        if binary[begin : binary.index(b"\0", begin)] == b".dep-v0":
            return {crate["name"] for crate in json.loads(zlib.decompress(binary[offset : offset + length]))["packages"]}
    return set()


def files(image):
    names = sorted(path.name for path in image.iterdir())
    check("the image contains only the binary and /manager", names == [NAME, "manager"])
    check("/manager is a link to the binary", os.readlink(image / "manager") == NAME)
    binary = (image / NAME).read_bytes()
    check(f"the binary has {len(binary):,} bytes, at most {LARGEST:,}", len(binary) <= LARGEST)
    check("the binary is static", is_static(binary))
    listed = crates(binary)
    check(f"the binary lists its {len(listed)} crates", {"kube-client", "ring"} <= listed and "testbed" not in listed)


class Api:
    def __init__(self, kubeconfig):
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self.server, self.token = cluster["server"], config["users"][0]["user"]["token"]
        self.ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=self.ca)

    def __call__(self, path, body=None):
        request = urllib.request.Request(self.server + path, data=body and json.dumps(body).encode())
        request.add_header("Authorization", f"Bearer {self.token}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, context=self.tls, timeout=5) as answer:
            return json.load(answer)


def until(what, holds):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if holds():
                return check(what, True)
        except (OSError, urllib.error.URLError, KeyError):
            pass
        time.sleep(0.05)
    check(what, False)


def pod(image, testbed, folder):
    """Runs the operator as in a Pod. main() starts this script again in separate namespaces to call this function."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    kubeconfig = folder / "kubeconfig"
    servers = subprocess.Popen([testbed, "--listen", "127.0.0.1:6443", "--kubeconfig", kubeconfig])
    until("the testbed is up", lambda: Api(kubeconfig)("/api/v1/namespaces/default/services/kubernetes"))
    api = Api(kubeconfig)

    root = folder / "root"
    shutil.copytree(image, root, symlinks=True)
    account = root / ACCOUNT
    account.mkdir(parents=True)
    for name, text in ("token", api.token), ("ca.crt", api.ca), ("namespace", "default"):
        (account / name).write_text(text)
    subprocess.run(["mount", "--bind", root, root], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
    check("the root is read-only", os.statvfs(root).f_flag & os.ST_RDONLY)

    def enter():
        os.chroot(root)
        os.chdir("/")
        os.setgroups([])
        os.setresgid(65532, 65532, 65532)
        os.setresuid(65532, 65532, 65532)

    for name in NAME, "manager":
        version = subprocess.run([f"/{name}", "--version"], preexec_fn=enter, env={}, capture_output=True, text=True)
        check(f"/{name} --version: {version.stdout.strip()}{version.stderr.strip()}", version.stdout.startswith(NAME))

    environment = {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": "6443",
        "POD_NAME": "in-a-pod",
    }
    operator = subprocess.Popen([f"/{NAME}", "--leader-elect"], preexec_fn=enter, env=environment)
    plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until("/readyz answers 200", lambda: plain.open("http://127.0.0.1:8081/readyz", timeout=5).status == 200)
    status = pathlib.Path(f"/proc/{operator.pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in status)
    check("the operator runs as uid and gid 65532", fields["Uid"].split() == fields["Gid"].split() == ["65532"] * 4)
    check("the operator has no capabilities", int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kubernetes-vip", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "ports": [{"name": "api", "port": 6443, "targetPort": 6443}]},
    }
    api("/api/v1/namespaces/default/services", service)

    def copied():
        slices = api("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices")["items"]
        ours = [item for item in slices if item["metadata"]["labels"].get("kubernetes.io/service-name") == "kubernetes-vip"]
        addresses = [address for item in ours for endpoint in item["endpoints"] for address in endpoint["addresses"]]
        return sorted(addresses) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]

    until("the endpoints of default/kubernetes are copied", copied)
    operator.send_signal(signal.SIGTERM)
    check("the operator exits with 0 when it is asked to stop", operator.wait(10) == 0)
    servers.kill()
    servers.wait()
    subprocess.run(["umount", root], check=True)


def main():
    image, testbed = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    files(image)
    missing = [tool for tool in ("unshare", "ip", "mount") if not shutil.which(tool)]
    if sys.platform != "linux" or os.geteuid() != 0 or missing:
        print(f"skipped: the run as in a Pod, which needs root on Linux{''.join(', ' + tool for tool in missing)}")
        return
    with tempfile.TemporaryDirectory(prefix="image-check-") as folder:
        os.chmod(folder, 0o755)
        unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*unshare, sys.executable, __file__, str(image), str(testbed), folder]
        sys.exit(subprocess.run(command).returncode)


if len(sys.argv) == 4:
    pod(pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]))
else:
    main()
