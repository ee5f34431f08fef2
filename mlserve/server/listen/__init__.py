"""The two ports of a server: connections, TLS, tokens, bodies, limits, routing, and draining.

`ports` opens them. Each accepted request or call is handed to a protocol, which this package does
not know by name. A protocol is

- over REST, a `routes.RestProtocol`: it answers requests for its own paths and returns None for all
  others. `routes.RestApp` tries them in order and turns the errors they raise into responses.
- over gRPC, a list of `grpc.service.Service`: functions from request bytes to response bytes.
  `unary_methods` maps them to full method names and turns their errors into status codes.

`server.parts` lists the protocols; each declares which of its parts need no token (`access`).
"""
