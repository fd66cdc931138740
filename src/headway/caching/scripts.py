"""What must happen at once on the server, as Lua that it runs by itself. Any Valkey, and Redis from 6.2.

A lease is the right to load one key: `TOKEN GENERATIONS`, with the generations of the cache and of the key's tags at
the moment it was given. One whose generations have passed is no longer worth waiting for, and is given anew.

Generations that make a tag void come from one counter, so that it can be said whether a tag was made void since a
lease was given: some values name tags only once they are loaded. The counter begins at the clock of who needs it first,
in milliseconds, for it may be evicted and must not give a number twice. Generations that were made because there were
none are below all of its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name under which the server keeps it."""

    text: bytes
    sha: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", sha1(self.text, usedforsecurity=False).hexdigest().encode())


# KEYS: value, lease, counter, generation of the cache, generations of tags …
# ARGV: token, milliseconds, "1" when a value was seen that does not hold, what it began with, a new generation, the
# clock → {"value", value, generations …} | {"lease", counter, generations …} | {"held", milliseconds left}
TAKE = Script(b"""
local value = redis.call('GET', KEYS[1])
local count = redis.call('GET', KEYS[3])
if not count then
  count = ARGV[6]
  redis.call('SET', KEYS[3], count)
end
local fresh = {}
for at = 4, #KEYS do
  local now = redis.call('GET', KEYS[at])
  if not now then
    now = ARGV[5]
    redis.call('SET', KEYS[at], now)
  end
  fresh[#fresh + 1] = now
end
if value and (ARGV[3] == '0' or string.sub(value, 1, 27) ~= ARGV[4]) then
  return {'value', value, unpack(fresh)}
end
local all = table.concat(fresh)
local lease = redis.call('GET', KEYS[2])
if lease and string.sub(lease, 17) == all then
  return {'held', redis.call('PTTL', KEYS[2])}
end
redis.call('SET', KEYS[2], ARGV[1] .. all, 'PX', ARGV[2])
return {'lease', count, unpack(fresh)}
""")

# KEYS: value, lease, generation of the cache, generations of tags …, and then of those that the value names itself …
# ARGV: token, head of the value, milliseconds, how many tags the lease is of, the counter at the lease, a new
# generation, the rest of the value → 1 when it was stored, 0 when the lease or a generation has passed
FILL = Script(b"""
local lease = redis.call('GET', KEYS[2])
if not lease or string.sub(lease, 1, 16) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[2])
local last = 3 + ARGV[4]
local now = {}
for at = 3, last do
  now[#now + 1] = redis.call('GET', KEYS[at]) or ''
end
if table.concat(now) ~= string.sub(lease, 17) then
  return 0
end
local own = {}
for at = last + 1, #KEYS do
  local found = redis.call('GET', KEYS[at])
  if not found then
    found = ARGV[6]
    redis.call('SET', KEYS[at], found)
  elseif struct.unpack('>I8', found) > tonumber(ARGV[5]) then
    return 0
  end
  own[#own + 1] = found
end
redis.call('SET', KEYS[1], ARGV[2] .. table.concat(own) .. ARGV[7], 'PX', ARGV[3])
return 1
""")

# KEYS: lease; ARGV: token, milliseconds (0: give it back)
KEEP = Script(b"""
local lease = redis.call('GET', KEYS[1])
if not lease or string.sub(lease, 1, 16) ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  return redis.call('DEL', KEYS[1])
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")

# KEYS: counter, generation of a tag; ARGV: the clock → makes all void that has the tag
VOID = Script(b"""
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SET', KEYS[1], ARGV[1])
end
redis.call('SET', KEYS[2], struct.pack('>I8', redis.call('INCR', KEYS[1])))
return 1
""")

COUNTER = b"n"  # the key of the counter, behind the prefix
ALL = (TAKE, FILL, KEEP, VOID)
TOKEN_BYTES = 16


def void_tag(counter: bytes, tag: bytes, now_ms: int) -> tuple[bytes, ...]:
    """The command that makes all void that has the tag; the keys of the counter and of the tag's generation."""
    return (b"EVAL", VOID.text, b"2", counter, tag, b"%d" % now_ms)
