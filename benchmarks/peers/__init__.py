"""The peers, a file each: set up for throughput as its own documentation says, results kept, acknowledged late.

All speak to one Redis of theirs, that has NexusQ's settings. A task is an ``async def`` where the library is built for
those, else a function. What stands in a file is what a user of that library writes; the shared part is `common`.
"""
