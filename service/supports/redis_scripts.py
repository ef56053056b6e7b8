"""Lua scripts of the Redis registry. Each runs completely or not at all, and may be repeated without harm.

Keys, below `capeserve:1:`:

| key | type | content |
|---|---|---|
| `support:{owner}/{name}` | hash | `outline`, `support`, `create_time`, `expire_time` (ns since 1970; 0: never) |
| `order:{owner}` | sorted set | names by number, the order of creation |
| `number:{owner}` | integer | last number |
| `bytes:{owner}` | integer | size of the owner's outlines and supports |
| `expiry` | sorted set | `{owner}/{name}` by the second in which it expires |
| `deleted:{owner}/{name}` | string | the attempt that deleted it, for one minute |

Sizes and numbers are written after the first other write of a script: Redis lets a script that has written go on even
if memory is full, so that deletions always work.
"""

from __future__ import annotations

CREATE = """
local hash, order, number_key, bytes_key, expiry = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local outline, support, name, expire = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local max_bytes, member, prefix, created = tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8]
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

local known = redis.call('HMGET', hash, 'outline', 'create_time', 'expire_time')
local known_expire = known[3] or '0'
if known[1] and (known_expire == '0' or tonumber(known_expire) / 1e9 > now) then
  local later = '0'
  if known_expire ~= '0' and expire ~= '0' then
    later = tonumber(known_expire) >= tonumber(expire) and known_expire or expire
  end
  if later ~= known_expire then
    redis.call('HSET', hash, 'expire_time', later)
    if later == '0' then redis.call('ZREM', expiry, member)
    else redis.call('ZADD', expiry, tonumber(later) / 1e9, member) end
  end
  return {known[1], known[2], later, 1}
end

local size = #outline + #support
local used = tonumber(redis.call('GET', bytes_key) or '-1')
if used < 0 then
  used = 0
  for _, other in ipairs(redis.call('ZRANGE', order, 0, -1)) do
    used = used + redis.call('HSTRLEN', prefix .. other, 'outline') + redis.call('HSTRLEN', prefix .. other, 'support')
  end
end
if known[1] then used = used - redis.call('HSTRLEN', hash, 'outline') - redis.call('HSTRLEN', hash, 'support') end
if max_bytes > 0 and used + size > max_bytes then return {'', '', '', 2, used} end

if created == '' then created = time[1] .. string.format('%06d', time[2]) .. '000' end
redis.call('HSET', hash, 'outline', outline, 'support', support, 'create_time', created, 'expire_time', expire)
local number = tonumber(redis.call('GET', number_key) or '0') + 1
local last = redis.call('ZREVRANGE', order, 0, 0, 'WITHSCORES')
if last[2] and tonumber(last[2]) >= number then number = tonumber(last[2]) + 1 end
redis.call('SET', number_key, string.format('%.0f', number))
redis.call('ZADD', order, number, name)
redis.call('SET', bytes_key, string.format('%.0f', used + size))
if expire == '0' then redis.call('ZREM', expiry, member)
else redis.call('ZADD', expiry, tonumber(expire) / 1e9, member) end
return {outline, created, expire, 0}
"""
"""Creates a support. Returns outline, create_time, expire_time, and 0: created, 1: existed already, or 2: over the
quota, followed by the bytes in use."""

_REMOVE = """
local function remove(hash, order, bytes_key, expiry, name, member, channel)
  local size = redis.call('HSTRLEN', hash, 'outline') + redis.call('HSTRLEN', hash, 'support')
  if redis.call('DEL', hash) == 0 then return 0 end
  redis.call('ZREM', order, name)
  redis.call('ZREM', expiry, member)
  if redis.call('EXISTS', bytes_key) == 1 then redis.call('DECRBY', bytes_key, size) end
  redis.call('PUBLISH', channel, member)
  return 1
end
"""

DELETE = (
    _REMOVE
    + """
if redis.call('GET', KEYS[5]) == ARGV[4] then return 1 end
local deleted = remove(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2], ARGV[3])
if deleted == 1 then redis.call('SET', KEYS[5], ARGV[4], 'EX', 60) end
return deleted
"""
)
"""Deletes a support. Returns 1 if it existed; also when the same attempt has deleted it and its answer was lost."""

SWEEP = (
    _REMOVE
    + """
local prefix, channel = ARGV[1], ARGV[2]
local now = redis.call('TIME')
local until_now = now[1] .. '.' .. string.format('%06d', now[2])
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', until_now, 'LIMIT', 0, 100)
for _, member in ipairs(expired) do
  local owner, name = string.match(member, '^([^/]*)/(.*)$')
  local hash, order = prefix .. 'support:' .. member, prefix .. 'order:' .. owner
  remove(hash, order, prefix .. 'bytes:' .. owner, KEYS[1], name, member, channel)
  redis.call('ZREM', KEYS[1], member)
end
return expired
"""
)
"""Deletes up to 100 expired supports and returns their `{owner}/{name}`."""
