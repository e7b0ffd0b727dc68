"""Labels with their scores, highest first, as JSON.

A call of many texts spends more here than in a small model, so that this JSON is put together from prepared pieces, in
C where it was built and there are few labels. Scores have the digits of single precision.
"""

from functools import cache

import numpy as np
import orjson

from serve.engine.scores import MOST, native
from serve.engines import Logits
from serve.question import Answer

OPEN = b'[{"score":'  # a text's list, up to its first number


def ranked(answer: Answer, labels: tuple[str, ...], *, single: bool) -> bytes:
    """Of scores [texts, labels] a list for each text; with `single` the list of the only one."""
    quick = native()
    if quick is None or len(labels) > MOST:
        return plain(answer.values, labels, single=single)
    if (shared := answer.shared) is None:
        written, starts = quick.ranked(answer.values, labels)
        return written[:-1] if single else b"[%b]" % written[:-1]
    if shared.ranked is None:
        shared.ranked = quick.ranked(shared.values, labels)
    written, starts = shared.ranked
    lists = written[starts[answer.first] : starts[answer.first + len(answer.lengths)] - 1]
    return lists if single else b"[%b]" % lists


def plain(values: Logits, labels: tuple[str, ...], *, single: bool) -> bytes:
    if len(values) == 1:  # numpy would take longer than all the rest
        scores = values[0].tolist()
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        written = _numbers(values)
        numbers = [written[at] for at in order]
        order[-1] += len(labels)
    else:
        ranks = (-values).argsort(axis=1, kind="stable")
        numbers = _numbers(np.take_along_axis(values, ranks, axis=1))
        ranks[:, -1] += len(labels)
        order = ranks.reshape(-1).tolist()
    parts = [b""] * (2 * len(numbers))
    parts[::2] = numbers
    parts[1::2] = map(pieces(labels).__getitem__, order)
    lists = OPEN + b"".join(parts).removesuffix(b"," + OPEN)
    return lists if single else b"[%b]" % lists


def _numbers(values: Logits) -> list[bytes]:
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


@cache
def pieces(labels: tuple[str, ...]) -> list[bytes]:
    """What stands behind each label's score: where another follows it, and where it is its text's last."""
    quoted = [orjson.dumps(label) for label in labels]
    return [b',"label":%b},{"score":' % one for one in quoted] + [b',"label":%b}],[{"score":' % one for one in quoted]
