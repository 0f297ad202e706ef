"""Batches in memory that processes share.

1. `share` and `attach`: one batch, of which a small handle travels.
2. `serve_batches` and `consume`: one process gathers, into a ring of batches, and others take them from there.

Nothing is copied between processes, and nothing can be left behind: the memory has no name, and is gone with the last process that
has it (`memory`). Nothing waits for a process that has ended (`channel`).
"""

from swath.sharing.consumer import Consumer, consume
from swath.sharing.server import BatchServer, ServerHandle, serve_batches
from swath.sharing.shared import BatchHandle, SharedBatch, attach, share

__all__ = [
    "BatchHandle",
    "BatchServer",
    "Consumer",
    "ServerHandle",
    "SharedBatch",
    "attach",
    "consume",
    "serve_batches",
    "share",
]
