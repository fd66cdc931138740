"""What a worker answers by itself, with 503 and Retry-After: the app is not run, or was refused what it needs."""

STREAMS_FULL = b"as many event streams are open as may be\n"
CAP_REACHED = b"this worker has as many requests as it may hold\n"
NOBODY_WAITS = b"nobody waits for this any more\n"
COME_AGAIN = b"what this needs has no room now; try again shortly\n"

# Told to whoever calls from another service; the edge takes it out of what goes outside.
ANSWERED = "x-headway-answered"
UNAVAILABLE = "unavailable"
REASONS = {STREAMS_FULL: "refused", CAP_REACHED: "refused", NOBODY_WAITS: "deadline"}
