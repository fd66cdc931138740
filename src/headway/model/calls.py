"""What a service's processes are told of the services they call, and the headers that travel with a call."""

from __future__ import annotations

# A JSON object by service: {"inventory": {"socket": PATH, "deadline_s": 30.0, "calls_max": 64}}, the last key where it
# is not CALLS_MAX. A service that is not in it has not been declared, or is not in `uses`.
SERVICES_VARIABLE = "HEADWAY_SERVICES"
CALLS_MAX = 256  # calls to one service that a process may have under way, where the declaration says nothing

# Of a call. From outside none of them counts: the public edge takes them out.
DEADLINE = "x-envoy-expected-rq-timeout-ms"  # how much longer somebody waits for the answer, in milliseconds
CRITICALITY = "x-headway-criticality"  # index into model.overload.CRITICALITIES
ATTEMPT = "x-headway-attempt"  # 1 for the first
CALLER = "x-headway-caller"  # the service that calls
REQUEST_ID = "x-request-id"  # of the request from outside that all of this is for
CARRIED = (REQUEST_ID, "traceparent", "tracestate", "baggage", CRITICALITY)  # from a request to the calls made for it

# Of an answer that no app gave: why. On the way out the public edge takes it out.
ANSWERED = "x-headway-answered"
REFUSED = "refused"  # for want of room: come again
SPENT = "deadline"  # nobody waits any more
UNAVAILABLE = "unavailable"  # nobody is there, or it broke off
# Of an answer of an app: a retry has no point, for the budget of some service behind it is used up.
NO_RETRY = "no-retry"
