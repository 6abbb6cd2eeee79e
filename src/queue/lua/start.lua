-- The job's last tick; a job that was never seen gets now, by the earlier of two clocks.
-- KEYS stream merge ticks | ARGV group job now_ms
local last = redis.call('HGET', KEYS[3], ARGV[2])
if last then return tonumber(last) end
local time = redis.call('TIME')
local now = math.min(tonumber(ARGV[3]), time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[3], ARGV[2], now)
return now
