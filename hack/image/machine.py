"""Checks the architecture of binaries in their ELF headers.

    python3 hack/image/machine.py amd64=FILE arm64=FILE
"""

import platform
import struct
import sys

# The e_machine field of the ELF header for each architecture, which has its name in images.
MACHINES = {"amd64": 62, "arm64": 183}


def this_architecture():
    """The architecture of this machine, with its name in images."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def check(architecture, path):
    """Exits with an error unless the file is an ELF binary for this architecture."""
    with open(path, "rb") as file:
        header = file.read(20)
    if header[:4] != b"\x7fELF" or len(header) < 20:
        sys.exit(f"FAILED: {path} is not an ELF file")
    machine, = struct.unpack_from("<H", header, 18)
    if machine != MACHINES.get(architecture):
        sys.exit(f"FAILED: {path} is not for {architecture}: its e_machine is {machine}")
    print(f"ok: {path} is for {architecture}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for pair in sys.argv[1:]:
        check(*pair.split("=", 1))
