"""Reads a batch's rows page after page: the next pages are on their way while a page is being made use of.

The pages are read in threads, which do nothing but wait for bytes; they are decoded by whoever asks for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from nexusq_sdk.protocol.wire import TaskPage

#: Pages that are on their way at once: two are being made ready, one waits.
AHEAD = 3

#: Gives the JSON of a page: from row `first` on, at most `count` rows.
ReadPage = Callable[[int, int], bytes]


def batch_pages(
    read: ReadPage, decode: Callable[[bytes], TaskPage], first: int, size: int, rows: int
) -> Iterator[TaskPage]:
    """Give rows `first` to `size`, in pages of `rows`, or of less where they are large."""
    if first >= size:
        return
    # The first one alone: many ask for no more.
    at = first + min(rows, size - first)
    yield from _whole(read, decode, read(first, at - first), first, at)
    if at >= size:
        return
    pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="nexusq-read")
    asked: deque[tuple[int, int, Future[bytes]]] = deque()
    try:
        starts = iter(range(at, size, rows))
        while True:
            for start in starts:
                count = min(rows, size - start)
                asked.append((start, start + count, pool.submit(read, start, count)))
                if len(asked) >= AHEAD:
                    break
            if not asked:
                return
            start, end, page = asked.popleft()
            raw = page.result()
            del page
            yield from _whole(read, decode, raw, start, end)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _whole(read: ReadPage, decode: Callable[[bytes], TaskPage], raw: bytes, start: int, end: int) -> Iterator[TaskPage]:
    """Give a page, and what it left out since that was very large."""
    while True:
        page = decode(raw)
        yield page
        start += len(page.columns["taskId"])
        if start >= end:
            return
        raw = read(start, end - start)
