"""Health check of the container image: exit code 0 if the server is ready for requests.

Run as `python -I -S`, with sockets only: a health check runs every few seconds, and importing
`http.client` would be most of its cost. The certificate of a TLS server is not checked, because the
request never leaves the container.
"""

import os
import socket
import sys

_REQUEST = b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def status_line(*, over_tls: bool) -> bytes:
    """Return the first bytes of the answer, empty if the server hung up. Raises OSError."""
    port = int(os.environ.get("REST_API_PORT", "8501"))
    with socket.create_connection(("127.0.0.1", port), 2) as plain:
        connection = _in_tls(plain) if over_tls else plain
        connection.sendall(_REQUEST)
        return connection.recv(64)


def _in_tls(plain: socket.socket) -> socket.socket:
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain)


def is_ready() -> bool:
    """Return whether the server reports every model it has to serve as ready."""
    try:
        line = status_line(over_tls=False)
    except ConnectionResetError:
        line = b""
    if not line.startswith(b"HTTP/"):
        line = status_line(over_tls=True)
    return line.split(b" ")[1:2] == [b"200"]


if __name__ == "__main__":
    try:
        sys.exit(0 if is_ready() else "not ready")
    except OSError as error:
        sys.exit(f"no answer: {error}")
