"""What of HTTP is agreed on by more than one part."""

from __future__ import annotations

# Statuses of responses that a shared cache may keep: those that RFC 9110, section 15.1, lets it keep without a word of
# the app (but for 206, a part), and redirects, which it may where the app says for how long.
STATUSES = frozenset({200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501})
