"""Exit code 0 when the server in this container is ready for requests.

Run as `python -I -S`: sockets only, because a health check runs every few seconds and `http.client`
would be most of its cost. A server that speaks TLS is asked over TLS; its certificate is not
checked, since the question does not leave the container.
"""

import os
import socket
import sys

_REQUEST = b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def status_line(*, over_tls: bool) -> bytes:
    """The first bytes of the answer; empty when the server hung up. Raises OSError."""
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
    """Whether the server says that every model it has to serve is ready."""
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
