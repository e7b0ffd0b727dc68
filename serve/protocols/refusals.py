"""Statuses of errors where text-embeddings-inference's are not the protocol's own."""

from serve.errors import BackendError, BantamError, WrongTask


def status(error: BantamError) -> int:
    """400 for whatever is wrong with a question, 500 where the model fails, and otherwise the error's own."""
    if error.status == 422 or isinstance(error, WrongTask):
        return 400
    return 500 if isinstance(error, BackendError) else error.status
