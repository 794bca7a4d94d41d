"""Runs the build stage of the Dockerfile without a container engine: its commands run in a folder.

    python3 hack/image/build.py Dockerfile FOLDER [NAME=VALUE ...]

The pairs are build arguments. Without a pair for TARGETARCH, which a container engine would set, the build is for the
architecture of this machine. A COPY of a file that .dockerignore excludes is an error. The Debian packages of the
build stage are installed if apt-get exists and this script runs as root. Otherwise, they must be installed already.
"""

import fnmatch
import os
import pathlib
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True  # Keeps the source tree clean.
import machine


def instructions(text):
    """The instructions of a Dockerfile as (word, rest)."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            word, rest = line.strip().split(None, 1)
            yield word.upper(), rest.strip()


def allowed(context):
    """Returns a function that reports whether .dockerignore allows a path. The last matching pattern decides."""
    lines = (context / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]

    def decide(path):
        parts = pathlib.PurePath(path).parts
        names = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        ignored = False
        for pattern in patterns:
            if any(fnmatch.fnmatch(name, pattern.lstrip("!")) for name in names):
                ignored = not pattern.startswith("!")
        return not ignored

    return decide


def copy(context, work, rest):
    *sources, target = rest.split()
    is_allowed = allowed(context)
    for source in sources:
        files = [context / source] if (context / source).is_file() else sorted((context / source).rglob("*"))
        files = [file for file in files if file.is_file()]
        if not files:
            sys.exit(f"COPY {rest}: there is no {source}")
        for file in files:
            name = file.relative_to(context)
            if not is_allowed(name):
                sys.exit(f"COPY {rest}: .dockerignore excludes {name}")
            inner = file.relative_to(context / source) if (context / source).is_dir() else file.name
            to = work / target / inner
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, to)


def main():
    dockerfile, work = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    given = {"TARGETARCH": machine.this_architecture(), **dict(pair.split("=", 1) for pair in sys.argv[3:])}
    context = dockerfile.resolve().parent
    # The compiler output and cargo-auditable are kept between runs. Everything else is built again.
    work.mkdir(parents=True, exist_ok=True)
    for entry in work.iterdir():
        if entry.name in ("target", "tools"):
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    environment = {key: value for key, value in os.environ.items() if key != "CARGO_TARGET_DIR"}
    for word, rest in instructions(dockerfile.read_text()):
        if word == "FROM" and rest == "scratch":
            break
        if word == "ARG":
            name, _, default = rest.partition("=")
            environment[name] = given.get(name, default)
        elif word == "ENV":
            for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|(\S+))', rest):
                environment[name] = quoted or plain
        elif word == "COPY":
            copy(context, work, rest)
        elif word == "RUN":
            if rest.startswith("apt-get") and (os.geteuid() != 0 or not shutil.which("apt-get")):
                print("skipped: RUN apt-get: needs Debian and root")
                continue
            # Outside an image, the package lists must not be removed.
            rest = rest.replace("&& rm -rf /var/lib/apt/lists/*", "")
            print(f"RUN {rest}", flush=True)
            subprocess.run(["/bin/sh", "-c", rest], cwd=work, env=environment, check=True)
        elif word not in ("FROM", "WORKDIR"):
            sys.exit(f"{dockerfile}: this script does not support {word}")
    machine.check(given["TARGETARCH"], work / "image" / "endpoint-copier-operator")


main()
