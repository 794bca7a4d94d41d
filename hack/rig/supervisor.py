"""A stand-in for the supervisor of RKE2: answers GET /ping over TLS on all addresses of its namespace.

    python3 supervisor.py CERTIFICATE KEY PORT
"""

import http.server
import socket
import socketserver
import ssl
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /ping with `pong` and other paths with 404, and keeps the connection open."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        found = self.path == "/ping"
        body = b"pong" if found else b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(socketserver.ThreadingTCPServer):
    """Listens on both IPv6 and IPv4."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main():
    certificate, key, port = sys.argv[1:]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server = Server(("::", int(port)), Handler)
    # Each connection does its handshake in its own thread, so a slow client does not delay others.
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
