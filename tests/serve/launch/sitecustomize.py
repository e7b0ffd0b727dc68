"""Python imports this at its start where this folder is on its path: so does a worker process that is started anew."""

import os

if os.environ.get("STUB_THREAD") and os.environ.get("BANTAM_WORKER"):
    import stub  # noqa: F401
