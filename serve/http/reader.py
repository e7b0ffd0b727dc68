"""What a connection's parser has found: requests in the order in which they came."""

from collections import deque

import httptools

from serve.http.request import Head, Pairs, Request
from serve.http.watch import Watch

SILENT, READING, ANSWERING = range(3)
KNOWN = 512  # heads that are remembered, for all connections of a worker
LONGEST = 2048  # bytes of these

_known: dict[bytes, Head] = {}


class Reader:
    """Notes only; whoever feeds it answers afterwards, so that no error of an app is taken for one of the client's."""

    def __init__(self, watch: Watch, max_head: int) -> None:
        self.line: deque[Request] = deque()  # those that are not answered, or not whole
        self.in_head = True
        self.held = 0  # bytes of bodies that nobody has taken
        self.phase = SILENT  # of the request that came last
        self.since = watch.now
        self._watch, self._max_head = watch, max_head
        self._head = 0  # bytes of the head so far; of one that began behind another request, from its second packet on
        self._target, self._headers = b"", Pairs()  # of a head that is not whole
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # of requests behind the last one

    def feed(self, data: bytes) -> int:
        """0, or the status for a client that sends such: 400 or 431."""
        between = self.phase != READING
        if between and self._again(data):
            return 0
        before = len(self.line)
        if self.in_head:
            self._head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # to nothing: it is answered as any other
        except httptools.HttpParserError:
            return 431 if self._over() else 400
        else:
            if between and len(self.line) == before + 1:
                _remember(data, self.line[-1])
        return 431 if self.in_head and self._head > self._max_head else 0

    def _again(self, data: bytes) -> bool:
        """Whether it is one whole request whose head came before, byte for byte: the parser would say the same again.

        Most packets are: a client's requests differ in their bodies. It saves 4 us a request.
        """
        end = data.find(b"\r\n\r\n")
        head = _known.get(data[:end]) if end > 0 else None
        if head is None or len(data) != end + 4 + head.length:
            return False
        self.line.append(Request(head, keep_alive=not self._watch.ending, body=data[end + 4 :], whole=True))
        self.held += head.length
        self.phase, self.since = ANSWERING, self._watch.now
        return True

    def answered(self, request: Request) -> None:
        """All of its answer is on its way; what still comes of it is for nobody."""
        request.started = request.answered = True
        self.held -= len(request.body)
        request.body = b""
        self.since = self._watch.now
        if self.phase == ANSWERING and self.line[-1] is request:
            self.phase = SILENT

    def take(self, request: Request) -> bytes:
        """What has come of its body."""
        body, request.body = request.body, b""
        self.held -= len(body)
        return body

    def busy(self) -> bool:
        """A request that is whole is still to be answered."""
        line = self.line
        return len(line) > 1 or (bool(line) and line[0].whole and not line[0].answered)

    # --- the parser's calls

    def on_message_begin(self) -> None:
        self.phase, self.since = READING, self._watch.now

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._over():
            raise ValueError("the parser stops at any error")
        parser, version = self._parser, self._parser.get_http_version()
        head = Head(self._target, self._headers, parser.get_method(), version)
        keep_alive = version != "1.0" and parser.should_keep_alive() and not self._watch.ending
        self.line.append(Request(head, keep_alive=keep_alive))
        self._target, self._headers = b"", []
        self.in_head, self.since = False, self._watch.now

    def on_body(self, body: bytes) -> None:
        request = self.line[-1]
        if not request.answered:
            request.body = request.body + body if request.body else body
            self.held += len(body)

    def on_message_complete(self) -> None:
        request = self.line[-1]
        request.whole, self.in_head, self._head = True, True, 0
        self.phase, self.since = SILENT if request.answered else ANSWERING, self._watch.now

    def _over(self) -> bool:
        if self._head <= self._max_head or not self.in_head:
            return False
        size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._headers)
        return size > self._max_head


def _remember(data: bytes, request: Request) -> None:
    """The head of a packet that was one whole request, if its length says where such a packet ends."""
    end = data.find(b"\r\n\r\n")
    head = request.head
    named, length = head.named, len(data) - end - 4
    plain = request.whole and request.keep_alive and not named.keys() & {b"transfer-encoding", b"upgrade", b"expect"}
    if (
        plain
        and end <= LONGEST
        and request.body == data[end + 4 :]
        and named.get(b"content-length", b"0") == b"%d" % length
    ):
        if len(_known) >= KNOWN:
            _known.clear()
        head.length = length
        _known[data[:end]] = head
