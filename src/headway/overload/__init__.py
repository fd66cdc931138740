"""Holding under overload: concurrency limits, queue bounds and numbers of replicas, decided purely.

Nothing here knows a clock, a process or HAProxy: what was measured and the time come in, decisions with reasons go
out. The control loop carries them round (`headway.control.admission`), the edge and the workers enforce them.
"""
