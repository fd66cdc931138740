"""The worker side: what runs inside the app's own interpreter.

It imports the standard library and granian alone, and only relatively, so that it loads from a bare path into an
environment where Headway is not installed. What keeps responses is loaded by its name, where a service declares it. The
controller imports `headway.worker.telemetry` to read what workers write.
"""
