"""What can go wrong, as one tree. Each error knows its HTTP status and its word for `error_type`, and is a ValueError:
whoever sent the request, made the folder or started the process can mend it.

    BantamError
    ├── ArtefactError        a folder that cannot be trusted or written
    ├── InputError     422   what was asked cannot be understood
    │   ├── EmptyInput 400   there is no text to classify
    │   ├── BadJSON    400   the body is not JSON
    │   ├── NotFound   404
    │   ├── BadMethod  405
    │   ├── TooLarge   413   a body, a text or a batch over its limit
    │   └── BadType    415   the body does not claim to be JSON
    ├── BackendError   424   the runtime cannot do it (no such device, no such library)
    ├── Overloaded     429
    └── NotReady       503

Words and statuses are those of text-embeddings-inference (`router/src/http/server.rs`), so that its clients
understand them; there too a text or a batch over its limit is a 413 of type "Validation".
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


class NotFound(InputError):
    status = 404


class BadMethod(InputError):
    status = 405


class TooLarge(InputError):
    status = 413


class BadType(InputError):
    status = 415


class BackendError(BantamError):
    status = 424


class Overloaded(BantamError):
    status = 429
    error_type = "Overloaded"


class NotReady(BantamError):
    status = 503
    error_type = "Unhealthy"
