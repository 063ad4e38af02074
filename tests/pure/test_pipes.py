"""Messages over a pipe arrive whole and in order, however they are cut on their way."""

from __future__ import annotations

import os
import threading

from hypothesis import given
from hypothesis import strategies as st

from nexusq_server.pipes import Inbox, write

messages_of_any_size = st.lists(st.one_of(st.binary(max_size=20), st.integers(60_000, 200_000).map(bytes)), max_size=5)


@given(messages_of_any_size)
def test_messages_arrive_whole_and_in_order(messages: list[bytes]) -> None:
    reader, writer = os.pipe()

    def send() -> None:
        for message in messages:
            write(writer, message)
        os.close(writer)

    sender = threading.Thread(target=send)
    sender.start()
    inbox = Inbox(reader)
    received = list(iter(inbox.next, None))
    sender.join()
    os.close(reader)

    assert messages == received


@given(messages_of_any_size.filter(bool), st.data())
def test_a_message_is_given_once_its_last_byte_has_come(messages: list[bytes], data: st.DataObject) -> None:
    # given what is sent, cut anywhere
    reader, writer = os.pipe()
    sent = b"".join(len(message).to_bytes(4, "big") + message for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=10)))
    inbox = Inbox(reader)
    received: list[bytes] = []

    # when it comes piece by piece
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        for at in range(start, end, 60_000):
            os.write(writer, sent[at : min(end, at + 60_000)])
            assert inbox.read()
        while (message := inbox.take()) is not None:
            received.append(message)

        # then all that has come whole is given, and nothing else
        whole = 0
        for count in range(len(messages) + 1):
            if sum(4 + len(message) for message in messages[:count]) <= end:
                whole = count
        assert messages[:whole] == received

    os.close(writer)
    assert inbox.next() is None
    os.close(reader)
