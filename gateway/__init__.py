"""Browser and JSON side of capeserve: playground page, REST/JSON, and back ends for labelling tools.

An ASGI application that calls a capeserve server over gRPC. It knows `cape.client` and `cape.v1`, and nothing of how
the server works; it needs the extra `gateway`.
"""
