"""What can go wrong, as one tree. Each error knows its HTTP status and its word for `error_type`, and is a ValueError:
whoever sent the request, made the folder or started the process can mend it.

    BantamError
    ├── ArtefactError        a folder that cannot be trusted or written
    ├── InputError     422   what was asked cannot be understood
    │   ├── EmptyInput 400   there is no text to read
    │   ├── BadJSON    400   the body is not JSON
    │   ├── BadKey     401   no API key, or one that is not known
    │   ├── NotFound   404
    │   │   └── UnknownModel   there is one model, and it has another name
    │   ├── BadMethod  405
    │   ├── TooSlow    408   the body did not come in time
    │   ├── TooLarge   413   a body or a batch over its limit
    │   ├── BadType    415   the body does not claim to be JSON
    │   ├── BadField   422   one field is wrong; `field` is its name
    │   └── TooLong    422   a text has more tokens than the model reads, and must not be cut
    ├── BackendError   424   the runtime cannot do it (no such device, no such library)
    │   └── WrongTask        the model answers other questions: an embedding of a classifier, a class of an embedding
    ├── Overloaded     429   the queue is full, or a key asks too often; `retry_after` says when to come again
    └── NotReady       503
        └── Expired    503   the request's deadline passed before its turn came

Words are those of text-embeddings-inference (`router/src/http/server.rs`), so that its clients understand them, and
statuses where it has such an error. A protocol with other words has its own table.
"""

from typing import ClassVar


class BantamError(ValueError):
    status: ClassVar[int] = 500
    error_type: ClassVar[str] = "Backend"


class ArtefactError(BantamError):
    error_type = "Validation"


class InputError(BantamError):
    status = 422
    error_type = "Validation"


class EmptyInput(InputError):
    status = 400
    error_type = "Empty"


class BadJSON(InputError):
    status = 400


class BadKey(InputError):
    status = 401
    error_type = "Unauthorized"


class NotFound(InputError):
    status = 404


class UnknownModel(NotFound):
    pass


class BadMethod(InputError):
    status = 405


class TooSlow(InputError):
    status = 408
    error_type = "Timeout"


class TooLarge(InputError):
    status = 413


class BadType(InputError):
    status = 415


class BadField(InputError):
    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class TooLong(InputError):
    pass


class BackendError(BantamError):
    status = 424


class WrongTask(BackendError):
    pass


class Overloaded(BantamError):
    status = 429
    error_type = "Overloaded"

    def __init__(self, message: str, *, retry_after: float = 1.0, reason: str = "queue") -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds
        self.reason = reason  # what is full: "queue", or a key's "rate" or "concurrency"


class NotReady(BantamError):
    status = 503
    error_type = "Unhealthy"


class Expired(NotReady):
    error_type = "Timeout"
