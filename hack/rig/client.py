"""Calls servers over TLS, on a new connection each time, and prints one line of JSON per call.

    python3 client.py --ca FILE --token TOKEN --port 6443 --path / [--calls N] [--period S] [--own-ports] HOST...

Each line is {"host", "begun", "took", "ok", "seen"}; `begun` is a monotonic time. The rig runs this in the network
namespaces of its clients.
"""

import argparse
import asyncio
import itertools
import json
import ssl
import time

NAME = "kubernetes.default.svc"
# The time limit of a call, in seconds.
LIMIT = 1.0
# Source ports: below those that the kernel assigns, and outside those on which kube-proxy listens.
PORTS = range(11000, 30000)


async def get(host, arguments, tls, local):
    """Returns the status line of the response to one GET."""
    reader, writer = await asyncio.open_connection(
        host, arguments.port, ssl=tls, server_hostname=NAME, local_addr=local
    )
    try:
        head = f"GET {arguments.path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n"
        if arguments.token:
            head += f"Authorization: Bearer {arguments.token}\r\n"
        writer.write(f"{head}\r\n".encode())
        await writer.drain()
        return (await reader.readline()).decode().strip()
    finally:
        writer.close()


async def call(host, arguments, tls, local):
    """Makes one call and prints its result."""
    begun = time.monotonic()
    try:
        seen = await asyncio.wait_for(get(host, arguments, tls, local), LIMIT)
    except (OSError, asyncio.TimeoutError, ValueError) as error:
        seen = f"{type(error).__name__} {error}".strip()
    took = round(time.monotonic() - begun, 3)
    line = {"host": host, "begun": begun, "took": took, "ok": " 200 " in f"{seen} ", "seen": seen[:80]}
    print(json.dumps(line), flush=True)


def own_ports(host, number, hosts):
    """Yields local addresses with ports that are reused only after several minutes.

    A call that a dead server never answered stays in the connection tracking of the client's kernel for up to two
    minutes. In this time, the kernel sends later calls from the same port to the dead server too, even after kube-proxy
    has removed the server. These failures say nothing about the copy.
    """
    wildcard = "::" if ":" in host else "0.0.0.0"
    for port in itertools.cycle(PORTS[number::hosts]):
        yield wildcard, port


async def main(arguments):
    tls = ssl.create_default_context(cafile=arguments.ca)
    hosts = arguments.host
    local = [
        own_ports(host, number, len(hosts)) if arguments.own_ports else itertools.repeat(None)
        for number, host in enumerate(hosts)
    ]
    running = set()
    due = time.monotonic()
    for _ in range(arguments.calls) if arguments.calls else itertools.count():
        for host, addresses in zip(hosts, local):
            task = asyncio.create_task(call(host, arguments, tls, next(addresses)))
            running.add(task)
            task.add_done_callback(running.discard)
        due += arguments.period
        await asyncio.sleep(max(0, due - time.monotonic()))
    await asyncio.gather(*running)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--token", default="")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--calls", type=int, default=0, help="calls to each host; 0 means no limit")
    parser.add_argument("--period", type=float, default=0.0, help="seconds between the starts of two calls")
    parser.add_argument("--own-ports", action="store_true", help="do not reuse a source port for several minutes")
    parser.add_argument("host", nargs="+")
    asyncio.run(main(parser.parse_args()))
