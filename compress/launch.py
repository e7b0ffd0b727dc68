"""Several processes on CPUs: what `accelerate launch` leaves out, put right."""

import os
import re
import sys

import psutil

START = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


def promised_processes() -> int:
    """How many processes `accelerate launch` was asked for, where it started only this one; else 1.

    Without a GPU and without an MPI host file, accelerate 1.15 starts a single process for any
    `--num_processes` and says nothing. It sets MASTER_ADDR when more were asked for, but no WORLD_SIZE.
    May go when it starts them itself. Raises ValueError if the number cannot be found.
    """
    environment = os.environ
    if "WORLD_SIZE" in environment or not {"ACCELERATE_DYNAMO_BACKEND", "MASTER_ADDR"} <= environment.keys():
        return 1
    command = " ".join(psutil.Process(os.getppid()).cmdline())
    found = re.search(r"--num[_-]processes[= ](\d+)", command)
    if not found:
        raise ValueError(
            "accelerate launch was asked for several processes and started one, as it does on CPUs; "
            "say how many on the command line (--num_processes N), or use torchrun --nproc_per_node N -m bantam"
        )
    return int(found[1])


def start_promised() -> None:
    """Become the launcher of as many processes as were asked for; returns where one is right."""
    processes = promised_processes()
    if processes > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            del os.environ[name]
        command = [sys.executable, *START, str(processes), "-m", "bantam", *sys.argv[1:]]
        os.execv(sys.executable, command)
