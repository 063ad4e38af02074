"""The words that SDK and server share: statuses, ids, the wire's types, the names of Redis keys.

The lowest layer of the project: imports nothing but the standard library and msgspec, touches no network.
"""
