"""What holds for every test: one thread, no network, nothing read from or written to the user's own folders."""

import atexit
import os
import shutil
import tempfile

# Before anything imports torch, onnxruntime, bentoml or datasets, which read these once.
SCRATCH = tempfile.mkdtemp(prefix="bantam-tests-")
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
os.environ |= {
    "BANTAM_CACHE": f"{SCRATCH}/bantam",
    "BENTOML_DO_NOT_TRACK": "True",
    "BENTOML_HOME": f"{SCRATCH}/bentoml",
    "HF_HOME": f"{SCRATCH}/huggingface",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "agg",
    "MPLCONFIGDIR": f"{SCRATCH}/matplotlib",
    "OMP_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
