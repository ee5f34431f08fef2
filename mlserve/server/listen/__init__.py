"""The two ports of a server: connections, TLS, tokens, bodies, limits, routing, and their drain.

`ports` opens them. Each request, or call, that gets through is handed to a protocol, which this
package does not know by name. A protocol is

- over REST, a `http.RestProtocol`: it answers the requests whose paths are its own, and returns
  None for all others. `http.RestApp` asks one after the other, and writes the errors they raise.
- over gRPC, what `grpc.service.service` makes of functions from the bytes of a message to the bytes
  of an answer, by the full names of their methods; the errors that they raise become status codes.

`server.app` lists the protocols; each names what of it needs no token (`access`).
"""
