-- Appends a tick once, however many beats bring it.
-- KEYS stream merge ticks | ARGV group backlog_max job mode tick tick_ms ahead_max_ms
local stream, ticks, job, tick_ms = KEYS[1], KEYS[3], ARGV[3], tonumber(ARGV[6])
local last = redis.call('HGET', ticks, job)
if last and tick_ms <= tonumber(last) then return {'old', ''} end
local now = redis.call('TIME')
if tick_ms > now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[7] then return {'ahead', ''} end
if waiting() >= tonumber(ARGV[2]) then return {'full', tostring(waiting())} end
redis.call('HSET', ticks, job, ARGV[6])
return {'new', redis.call('XADD', stream, '*', 'job', job, 'mode', ARGV[4], 'tick', ARGV[5])}
