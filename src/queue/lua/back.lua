-- Gives a delivery back inside the pending list: it is stale, and so can be claimed, after visibility - idle.
-- KEYS stream merge | ARGV group me id idle_ms uncount; uncount 1: as if the delivery had not been made.
local mine = owned(ARGV[3], ARGV[2])
if not mine then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], 'given-back', 0, ARGV[3], 'IDLE', ARGV[4], 'RETRYCOUNT', mine[4] - ARGV[5],
  'JUSTID')
return 1
