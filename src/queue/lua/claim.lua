-- Takes over one entry whose consumer is gone, or whose retry is due.
-- KEYS stream merge | ARGV group me visibility_ms max_deliveries busy
-- A last delivery is given only to a consumer that runs nothing else: a job that kills its process must not use up the
-- deliveries of its neighbours.
local stream, group, me, visibility, max = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
-- Redis may have lost the group: a restart without persistence, a flush. Where it is there, this does nothing.
redis.pcall('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
for _ = 1, 100 do
  local stale = redis.call('XPENDING', stream, group, 'IDLE', visibility, '-', '+', 1)[1]
  if not stale then return {'none', '', 0, '', {}} end
  local id, last, deliveries = stale[1], stale[2], stale[4]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not entry then
    remove(id)
  elseif deliveries >= max then
    redis.call('XCLAIM', stream, group, me, visibility, id, 'JUSTID')
    return {'exhausted', id, deliveries, last, entry[2]}
  elseif deliveries > 0 and deliveries == max - 1 and ARGV[5] == '1' then
    return {'later', '', 0, '', {}}
  else
    redis.call('XCLAIM', stream, group, me, visibility, id)
    return {'run', id, deliveries + 1, last, entry[2]}
  end
end
return {'none', '', 0, '', {}}
