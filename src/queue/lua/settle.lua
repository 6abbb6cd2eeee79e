-- Ends a delivery: its request is gone, or on the dead list where there is a reason; its report is in the ledger.
-- KEYS stream merge dead reports success | ARGV group me id reason dead_max report reports_max job success_at next
-- An empty reason, report or success_at means none. With next 1 the consumer is given the entry that waits longest, too.
-- Answers whether the delivery was the consumer's, and the entry.
local FIELDS_MAX, BYTES_MAX = 64, 256
local id, reason, report = ARGV[3], ARGV[4], ARGV[6]
local mine = owned(id, ARGV[2])
if not mine then
  -- The same settling sent twice, because the first answer got lost, is still a success.
  if report ~= '' and redis.call('LPOS', KEYS[4], report, 'MAXLEN', 100) then return {1, false} end
  return {0, false}
end
if reason ~= '' then
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  local written, fields = entry and entry[2] or {}, {}
  -- Any program can append: an entry may have more fields than Lua can pass on, and longer ones than a request's, which are
  -- 200 bytes at most.
  for i = 1, math.min(#written, FIELDS_MAX) do fields[i] = string.sub(written[i], 1, BYTES_MAX) end
  redis.call('XADD', KEYS[3], 'MAXLEN', ARGV[5], '*', 'id', id, 'reason', reason, 'deliveries', mine[4],
    unpack(fields))
end
if report ~= '' then
  redis.call('LPUSH', KEYS[4], report)
  redis.call('LTRIM', KEYS[4], 0, ARGV[7] - 1)
  if ARGV[9] ~= '' then redis.call('HSET', KEYS[5], ARGV[8], ARGV[9]) end
end
remove(id)
if ARGV[10] ~= '1' then return {1, false} end
local streams = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1], '>')
if not streams or streams.err then return {1, false} end
return {1, streams[1][2][1]}
