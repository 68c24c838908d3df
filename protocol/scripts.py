"""The server-side scripts: each makes one rule of the bus atomic, and is safe to run twice when a reply was lost.

All keys of one call share a hash tag. Times are the server's, in milliseconds. Replies begin with a word.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

PRELUDE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function whole(n) return string.format('%.0f', n) end
local function refused(reply)
  return type(reply) == 'table' and reply.err and string.find(reply.err, 'equal or smaller', 1, true)
end
local function own(stream, id, payload)
  local found = redis.call('XRANGE', stream, id, id)
  return found[1] ~= nil and found[1][2][2] == payload
end
local function recent(counted, keep)
  local count, at = string.match(counted or '0:0', '(%d+):(%d+)')
  return tonumber(at) < now - keep and 0 or tonumber(count)
end
local function touch(ttl, ...)
  for _, key in ipairs({...}) do redis.call('PEXPIRE', key, ttl) end
end
"""


@dataclass(frozen=True)
class Script:
    """A Lua body behind the common prelude, with the SHA-1 that EVALSHA names it by."""

    body: str
    source: str = field(init=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", PRELUDE + self.body)
        object.__setattr__(self, "sha", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())


# --- session records --------------------------------------------------------------------------------------------------

# KEYS session | spec worker ttl epoch newest_ms
OPEN = Script("""
local stored = redis.call('HGET', KEYS[1], 'spec')
if stored then return {stored == ARGV[1] and 'ok' or 'taken'} end
redis.call('HSET', KEYS[1], 'spec', ARGV[1], 'worker', ARGV[2], 'state', 'open', 'epoch', ARGV[4], 'publisher', 0,
  'active', whole(now), 'in:audio', 0, 'in:video', 0, 'out:audio', 0, 'out:video', 0, 'newest:video', ARGV[5])
touch(ARGV[3], KEYS[1])
return {'ok'}
""")

# What an erased session's client said and was told: every question's record, and all outputs but the last, Closed.
PURGE = """
local function purge(output, questions, prefix)
  for _, id in ipairs(redis.call('ZRANGE', questions, 0, -1)) do redis.call('DEL', prefix .. id) end
  redis.call('DEL', questions)
  redis.call('XTRIM', output, 'MAXLEN', 1)
end
"""

# KEYS session lease control audio video unanswered output turns questions | worker epoch payload reason keep_closed
# prefix_of_question. An empty worker closes a session that nobody owns.
FINISH = Script(
    PURGE
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return {'gone'} end
local state, epoch = unpack(redis.call('HMGET', KEYS[1], 'state', 'epoch'))
if state == 'closed' then return {'ok'} end
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[1] then return {'lost'} end
if ARGV[1] ~= '' and epoch ~= ARGV[2] then return {'lost'} end
redis.call('XADD', KEYS[7], epoch .. '-*', 'm', ARGV[3], 'a', whole(now))
redis.call('HSET', KEYS[1], 'state', 'closed', 'reason', ARGV[4])
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[8])
if redis.call('HEXISTS', KEYS[1], 'erase') == 1 then purge(KEYS[7], KEYS[9], ARGV[6]) end
touch(ARGV[5], KEYS[1], KEYS[7])
return {'ok'}
"""
)

# KEYS session output questions sources states | spec_without_content prefix_of_question
ERASE = Script(
    PURGE
    + """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return {'gone'} end
redis.call('HSET', KEYS[1], 'spec', ARGV[1], 'erase', 1)
redis.call('DEL', KEYS[4], KEYS[5])
if state == 'closed' then purge(KEYS[2], KEYS[3], ARGV[2]) end
return {'ok'}
"""
)

# KEYS record | digest value ttl
ONCE = Script("""
local digest, value = unpack(redis.call('HMGET', KEYS[1], 'digest', 'value'))
if digest then return {digest == ARGV[1] and 'same' or 'conflict', value} end
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'value', ARGV[2])
touch(ARGV[3], KEYS[1])
return {'new', ARGV[2]}
""")

# KEYS token | nonce keep: a used token is remembered, so that a second use is told from an unknown one
CONSUME = Script("""
local value, expires, used = unpack(redis.call('HMGET', KEYS[1], 'value', 'expires', 'used'))
if not value then return {'unknown'} end
if used then return {used == ARGV[1] and 'ok' or 'used', value} end
if tonumber(expires) < now then return {'expired'} end
redis.call('HSET', KEYS[1], 'used', ARGV[1])
return {'ok', value}
""")

# KEYS token | value life keep
ISSUE = Script("""
redis.call('HSET', KEYS[1], 'value', ARGV[1], 'expires', whole(now + ARGV[2]))
touch(ARGV[3], KEYS[1])
return {'ok'}
""")

# --- readers ----------------------------------------------------------------------------------------------------------

# KEYS wake | oldest ttl
WAKE = Script("""
redis.call('XADD', KEYS[1], 'MINID', '~', ARGV[1], '*', 'm', '')
touch(ARGV[2], KEYS[1])
return {'ok'}
""")

# --- sources ----------------------------------------------------------------------------------------------------------

# KEYS holder | gateway ttl
HOLD_SOURCES = Script("""
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return {'held'} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'ok'}
""")

# KEYS holder | gateway
RELEASE_SOURCES = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return {'ok'}
""")

# --- lanes ------------------------------------------------------------------------------------------------------------

# KEYS session lease control unanswered [question questions]
# | kind payload question_id ttl question_ttl keep max_unanswered
CONTROL = Script("""
local kind, payload = ARGV[1], ARGV[2]
local state, cursor = unpack(redis.call('HMGET', KEYS[1], 'state', 'cursor:control'))
if not state then return {'gone'} end
if kind == 'ask' and redis.call('EXISTS', KEYS[5]) == 1 then
  local stored, entry = unpack(redis.call('HMGET', KEYS[5], 'ask', 'entry'))
  return {stored == payload and 'ok' or 'repeated', entry}
end
if state ~= 'open' then return {'closed'} end
if kind == 'cancel' and redis.call('EXISTS', KEYS[5]) == 0 then return {'unknown'} end
if kind == 'ask' and redis.call('HLEN', KEYS[4]) >= tonumber(ARGV[7]) then return {'busy'} end
local id = redis.call('XADD', KEYS[3], '*', 'm', payload, 'a', whole(now))
if kind == 'ask' then
  redis.call('HSET', KEYS[5], 'ask', payload, 'entry', id)
  redis.call('HSET', KEYS[4], ARGV[3], id)
  redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', whole(now - 2 * ARGV[5]))
  redis.call('ZADD', KEYS[6], whole(now), ARGV[3])
  touch(ARGV[5], KEYS[5], KEYS[6])
elseif kind == 'cancel' then redis.call('HSET', KEYS[5], 'cancelled', 1)
elseif kind == 'media_end' then redis.call('HSET', KEYS[1], 'media_end', payload)
elseif kind == 'close' then redis.call('HSET', KEYS[1], 'state', 'closing') end
local read = tonumber(string.match(cursor or '0-0', '^(%d+)'))
redis.call('XTRIM', KEYS[3], 'MINID', whole(math.min(now - ARGV[6], read)))
redis.call('HSET', KEYS[1], 'active', whole(now))
touch(ARGV[4], KEYS[1], KEYS[3], KEYS[4])
return {'ok', id, redis.call('EXISTS', KEYS[2])}
""")

# KEYS session | ttl
PUBLISHER = Script("""
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return {'gone'} end
if state ~= 'open' then return {'closed'} end
redis.call('HSET', KEYS[1], 'active', whole(now))
touch(ARGV[1], KEYS[1])
return {'ok', redis.call('HINCRBY', KEYS[1], 'publisher', 1)}
""")

# KEYS session lane | lane generation sequence payload t_ms keep max_bytes ttl lossless [track end_ms]
# Old entries leave by age and bytes; where nothing may be lost, never one that the reader has not passed. Each entry
# holds the bytes appended up to it, so that the lane's size is known whoever else trims it. How far each track's sound
# has come is in the record, so that the next publisher knows what its client sends again.
MEDIA = Script("""
local lane, generation, payload = ARGV[1], ARGV[2], ARGV[4]
local state, publisher, total, cursor = unpack(redis.call('HMGET', KEYS[1],
  'state', 'publisher', 'total:' .. lane, 'cursor:' .. lane))
if not state then return {'gone'} end
if state ~= 'open' then return {'closed'} end
if publisher ~= generation then return {'replaced', publisher} end
local function backlog()
  local counts = redis.call('HMGET', KEYS[1], 'in:' .. lane, 'out:' .. lane)
  return math.max(0, (tonumber(counts[1]) or 0) - (tonumber(counts[2]) or 0))
end
local id = generation .. '-' .. ARGV[3]
if own(KEYS[2], id, payload) then return {'ok', id, backlog()} end
local room, bytes = tonumber(ARGV[7]) - #payload, 0
local function passed(entry)
  if ARGV[9] == '0' then return true end
  local a, b = string.match(entry, '(%d+)-(%d+)')
  local c, d = string.match(cursor or '0-0', '(%d+)-(%d+)')
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  return a < c or (a == c and b <= d)
end
for _ = 1, 256 do
  local head = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  bytes = head and total - head[2][6] + #head[2][2] or 0
  if not head then break end
  local old = tonumber(head[2][4]) < now - ARGV[6]
  if not (old or bytes > room) or not passed(head[1]) then break end
  redis.call('XDEL', KEYS[2], head[1])
end
redis.call('HSET', KEYS[1], 'active', whole(now))
if ARGV[9] ~= '0' and bytes > room and bytes > 0 then return {'full', backlog()} end
total = whole((total or 0) + #payload)
local reply = redis.pcall('XADD', KEYS[2], id, 'm', payload, 'a', whole(now), 'c', total)
if refused(reply) then return {'refused'} end
if type(reply) == 'table' and reply.err then return reply end
redis.call('HSET', KEYS[1], 'total:' .. lane, total)
redis.call('HINCRBY', KEYS[1], 'in:' .. lane, 1)
redis.call('HSET', KEYS[1], 'newest:' .. lane, ARGV[5], 'last:' .. lane, id)
if ARGV[10] then redis.call('HSET', KEYS[1], 'heard:' .. ARGV[10], ARGV[11]) end
touch(ARGV[8], KEYS[1], KEYS[2])
return {'ok', id, backlog()}
""")

# KEYS session video
# Makes room in a server that is full, which still trims: the older half of a live session's pictures, or all that were
# read where nothing may be lost.
SHED = Script("""
local spec, cursor = unpack(redis.call('HMGET', KEYS[1], 'spec', 'cursor:video'))
if not spec then return {'gone', 0} end
if cmsgpack.unpack(spec).ingest == 'live' then
  return {'ok', redis.call('XTRIM', KEYS[2], 'MAXLEN', math.floor(redis.call('XLEN', KEYS[2]) / 2))}
end
local major, minor = string.match(cursor or '0-0', '(%d+)-(%d+)')
return {'ok', redis.call('XTRIM', KEYS[2], 'MINID', major .. '-' .. whole(minor + 1))}
""")

# --- leases -----------------------------------------------------------------------------------------------------------

# KEYS session lease control audio video unanswered | worker ttl keep_crashes
ACQUIRE = Script("""
local spec, state, epoch, cursor, ended, crashes = unpack(redis.call('HMGET', KEYS[1],
  'spec', 'state', 'epoch', 'cursor:control', 'media_end', 'crashes'))
if not spec then return {'gone'} end
if state == 'closed' then return {'closed'} end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then return {'held', holder} end
if not holder then
  epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  redis.call('HSET', KEYS[1], 'worker', ARGV[1], 'cursor:audio', '0-0', 'cursor:video', '0-0')
  for i, lane in ipairs({'audio', 'video'}) do
    local put = tonumber(redis.call('HGET', KEYS[1], 'in:' .. lane)) or 0
    redis.call('HSET', KEYS[1], 'out:' .. lane, put - redis.call('XLEN', KEYS[3 + i]))
  end
end
local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
local counts = redis.call('HMGET', KEYS[1], 'out:audio', 'out:video', 'newest:video')
return {'ok', epoch, spec, state, cursor or '0-0', last and last[1] or '0-0', ended or '',
  counts[1], counts[2], counts[3] or '-1', redis.call('HGETALL', KEYS[6]), recent(crashes, ARGV[3])}
""")

# KEYS session lease control audio video unanswered output turns | worker epoch lease_ttl ttl stats
# A lease that ran out but was taken by nobody is the old owner's still: the epoch says so.
RENEW = Script("""
local epoch, active, state = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'active', 'state'))
if epoch ~= ARGV[2] or state == 'closed' then return {'lost'} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'stats', ARGV[5]) end
touch(ARGV[4], KEYS[1], unpack(KEYS, 3))
return {'ok', now - active, state}
""")

# KEYS session lease | worker epoch, then lane id count of each lane
COMMIT = Script("""
if redis.call('GET', KEYS[2]) ~= ARGV[1] or redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2] then return {'lost'} end
for i = 3, #ARGV, 3 do
  redis.call('HSET', KEYS[1], 'cursor:' .. ARGV[i], ARGV[i + 1], 'out:' .. ARGV[i], ARGV[i + 2])
end
return {'ok'}
""")

# KEYS session lease | worker epoch accused keep_crashes
# The epoch moves on, so that a renewal still on its way does not take the lease back. An accused session's work was
# under way when its worker's engine ended.
RELEASE = Script("""
if redis.call('GET', KEYS[2]) ~= ARGV[1] or redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2] then return {'lost'} end
redis.call('DEL', KEYS[2])
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
if ARGV[3] == '1' then
  local crashes = recent(redis.call('HGET', KEYS[1], 'crashes'), ARGV[4])
  redis.call('HSET', KEYS[1], 'crashes', whole(crashes + 1) .. ':' .. whole(now))
end
return {'ok'}
""")

# --- outputs ----------------------------------------------------------------------------------------------------------

# KEYS session output unanswered turns [question...] | epoch keep ttl answer_ttl keep_turns, then id payload kind
# question_id turn of each entry; an entry whose kind is not empty uses up the next question key
# Old entries leave, save those that may be of a question that is still open: the next owner goes on from them.
OUTPUT = Script("""
if redis.call('EXISTS', KEYS[1]) == 0 then return {'gone'} end
local at = 5
for i = 6, #ARGV, 5 do
  local id, payload, kind, question, turn = unpack(ARGV, i, i + 4)
  local outcome, answered = nil, false
  if kind ~= '' then
    outcome = redis.call('HGET', KEYS[at], 'outcome')
    answered = outcome and outcome ~= payload
  end
  if not answered then
    local reply = redis.pcall('XADD', KEYS[2], id, 'm', payload, 'a', whole(now))
    if refused(reply) then
      if not own(KEYS[2], id, payload) then
        redis.call('HINCRBY', KEYS[1], 'fenced', 1)
        return {'fenced', id}
      end
    elseif type(reply) == 'table' and reply.err then return reply end
    if kind == 'started' then redis.call('HSET', KEYS[at], 'started', 1) end
    if kind == 'final' then
      if turn ~= '' and not outcome then redis.call('XADD', KEYS[4], 'MAXLEN', ARGV[5], '*', 'm', turn) end
      redis.call('HSET', KEYS[at], 'outcome', payload)
      redis.call('HDEL', KEYS[3], question)
      touch(ARGV[4], KEYS[at])
    end
  end
  if kind ~= '' then at = at + 1 end
end
local function kept_from()
  local from = now - ARGV[2]
  for _, asked in ipairs(redis.call('HVALS', KEYS[3])) do
    from = math.min(from, tonumber(string.match(asked, '^%d+')))
  end
  return math.max(from, now - ARGV[4])
end
local from
for _ = 1, 64 do
  local head = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  if not head or tonumber(head[2][4]) >= now - ARGV[2] then break end
  from = from or kept_from()
  if tonumber(head[2][4]) >= from then break end
  redis.call('XDEL', KEYS[2], head[1])
end
touch(ARGV[3], KEYS[2], KEYS[4])
return {'ok'}
""")

# KEYS session lease output question unanswered | payload question_id answer_ttl ttl
# Ends a question of a session that nobody owns, in that epoch's name.
FAIL = Script("""
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch or redis.call('EXISTS', KEYS[4]) == 0 then return {'gone'} end
if redis.call('EXISTS', KEYS[2]) == 1 then return {'owned'} end
if redis.call('HEXISTS', KEYS[4], 'outcome') == 1 then return {'answered'} end
redis.call('XADD', KEYS[3], epoch .. '-*', 'm', ARGV[1], 'a', whole(now))
redis.call('HSET', KEYS[4], 'outcome', ARGV[1])
redis.call('HDEL', KEYS[5], ARGV[2])
touch(ARGV[3], KEYS[4])
touch(ARGV[4], KEYS[3])
return {'ok'}
""")

# --- placement --------------------------------------------------------------------------------------------------------

# KEYS beats cards limits loads held owned calls models | worker card limit life lease model model_card, then session
# tokens of each
# A session counts as owned for as long as its lease, and its room is held for twice as long.
ADVERTISE = Script("""
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', whole(now - 60000))
for _, worker in ipairs(gone) do
  redis.call('ZREM', KEYS[1], worker)
  redis.call('ZREM', KEYS[4], worker)
  redis.call('HDEL', KEYS[2], worker)
  redis.call('HDEL', KEYS[3], worker)
end
redis.call('ZADD', KEYS[1], whole(now + ARGV[4]), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
if ARGV[3] == '' then redis.call('HDEL', KEYS[3], ARGV[1]) else redis.call('HSET', KEYS[3], ARGV[1], ARGV[3]) end
redis.call('HSET', KEYS[8], ARGV[6], ARGV[7])
for i = 8, #ARGV, 2 do
  redis.call('HSET', KEYS[5], ARGV[i], ARGV[i + 1] .. ':' .. whole(now + 2 * ARGV[5]))
  redis.call('ZADD', KEYS[6], whole(now + ARGV[5]), ARGV[i])
end
local total, entries = 0, redis.call('HGETALL', KEYS[5])
for i = 1, #entries, 2 do
  local tokens, expiry = string.match(entries[i + 1], '(%d+):(%d+)')
  if tonumber(expiry) < now then redis.call('HDEL', KEYS[5], entries[i]) else total = total + tokens end
end
redis.call('ZADD', KEYS[4], total, ARGV[1])
touch(3600000, unpack(KEYS))
return {'ok', total}
""")

# KEYS beats limits loads owned | session tokens life prefix_of_held only_worker owned_life
# Least reserved first; the sum is taken under the script, so that two gateways cannot both have the last room. Workers
# whose load leaves no room are passed over without a look at their sessions, or a full fleet would cost everybody a
# walk through all of them at each attempt. Reservations that lapsed there count until the worker's next beat, save in
# the few that are looked at after all.
RESERVE = Script("""
local function reserve(worker, capacity, sessions)
  local held, total, count = ARGV[4] .. worker, 0, 0
  local entries = redis.call('HGETALL', held)
  for i = 1, #entries, 2 do
    local tokens, expiry = string.match(entries[i + 1], '(%d+):(%d+)')
    if tonumber(expiry) < now then redis.call('HDEL', held, entries[i])
    elseif entries[i] ~= ARGV[1] then total, count = total + tokens, count + 1 end
  end
  if total + ARGV[2] > tonumber(capacity) or count >= tonumber(sessions) then return end
  redis.call('HSET', held, ARGV[1], ARGV[2] .. ':' .. whole(now + ARGV[3]))
  redis.call('ZADD', KEYS[3], total + ARGV[2], worker)
  redis.call('ZADD', KEYS[4], whole(now + ARGV[6]), ARGV[1])
  touch(3600000, held, KEYS[3], KEYS[4])
  return {'ok', worker}
end
local loads
if ARGV[5] == '' then loads = redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES')
else loads = {ARGV[5], redis.call('ZSCORE', KEYS[3], ARGV[5]) or '0'} end
local full, passed_over = 0, {}
for i = 1, #loads, 2 do
  local worker = loads[i]
  if tonumber(redis.call('ZSCORE', KEYS[1], worker) or '0') > now then
    full = full + 1
    local limit = redis.call('HGET', KEYS[2], worker)
    if limit then
      local capacity, sessions = string.match(limit, '(%d+):(%d+)')
      if loads[i + 1] + ARGV[2] <= tonumber(capacity) then
        local reply = reserve(worker, capacity, sessions)
        if reply then return reply end
      elseif #passed_over < 4 then table.insert(passed_over, {worker, capacity, sessions}) end
    end
  end
end
for _, worker in ipairs(passed_over) do
  local reply = reserve(unpack(worker))
  if reply then return reply end
end
return {'none', full, redis.call('ZCOUNT', KEYS[1], whole(now), '+inf')}
""")

# KEYS loads held owned | worker session fate: gives the room back
VACATE = Script("""
local entry = redis.call('HGET', KEYS[2], ARGV[2])
if entry then
  redis.call('HDEL', KEYS[2], ARGV[2])
  redis.call('ZINCRBY', KEYS[1], -tonumber(string.match(entry, '^(%d+)')), ARGV[1])
  touch(3600000, KEYS[1])
end
if ARGV[3] == 'orphan' then redis.call('ZADD', KEYS[3], 0, ARGV[2]) touch(3600000, KEYS[3])
elseif ARGV[3] == 'closed' then redis.call('ZREM', KEYS[3], ARGV[2]) end
return {'ok'}
""")
