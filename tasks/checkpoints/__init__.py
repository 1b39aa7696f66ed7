"""Checkpoints that are either complete or garbage, whenever whichever process is killed.

A checkpoint is a folder `step-00000100`, on a file system or an object store:

    model.safetensors                   the weights, where one process holds them whole, or
    model-00001-of-00004.safetensors    what each process holds of them; of copies the first
    optimizer[-00001-of-00004].safetensors   the optimizer's tensors by parameter name, and the random generators
    state.json                          the state, and size and SHA-256 of each file

`state.json` is written last, and makes the folder a checkpoint. A folder without it belongs to a killed process; the
next training in its place removes it. What schedule, data order and spike detector go on from is in the state. Nothing
is pickled: weights that somebody else made can be loaded.

    state.py          what a checkpoint says of itself; which folders are complete
    places.py         folders on file systems, remote_place.py on object stores
    pieces.py         tensors cut into boxes: written as they are held, read as they are needed
    tensors.py        names of all that training goes on from
    processes.py      agreement between the processes
    checkpointer.py   saving and loading by all processes
    use.py            the network alone

A save blocks training while its tensors are copied to main memory. A thread of each process writes them, the first
process commits when all are done, and an error in any of them is every process's error at the next save or at the end.

Only finite tensors are saved. A checkpoint is good when its loss is finite and its held-out text has been scored;
older ones are removed only after the new one is complete, and the last good one never is: there is always one to go
back to.
"""

from tasks.checkpoints.checkpointer import Checkpointer
from tasks.checkpoints.state import (
    CheckpointState,
    checkpoint_folder,
    checkpoint_step,
    complete_checkpoints,
    latest_checkpoint,
    read_state,
)
from tasks.checkpoints.use import copy_for_use, load_decoder

__all__ = [
    "CheckpointState",
    "Checkpointer",
    "checkpoint_folder",
    "checkpoint_step",
    "complete_checkpoints",
    "copy_for_use",
    "latest_checkpoint",
    "load_decoder",
    "read_state",
]
