"""An in-memory runtime on virtual time: processes, an edge and the requests through it, all from one seed.

The control loop runs on it unchanged; nothing is started, nothing waits, and a run repeats exactly from its seed.
"""

from headway.runtimes.memory.processes import Behaviour
from headway.runtimes.memory.runtime import MemoryRuntime
from headway.runtimes.memory.traffic import Offer, Tally

__all__ = ["Behaviour", "MemoryRuntime", "Offer", "Tally"]
