"""HTTP/1.1 on a connection: what comes as requests, in turn, within limits; and ASGI's way to answer them.

An app that answers without ASGI (`App.direct`) is asked straight from the event loop's callback: without a task, a
scope or messages. Any other gets what ASGI 3 says.
"""
