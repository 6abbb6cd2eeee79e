-- Appends a request, or finds the one that waits already.
-- KEYS stream merge | ARGV group backlog_max job mode key merge_ttl_ms; an empty key merges by job and mode.
local stream, merge = KEYS[1], KEYS[2]
local job, mode, key = ARGV[3], ARGV[4], ARGV[5]
local PAGE = 500
-- How many of the newest entries that wait are looked through for the same request: nobody else is served meanwhile.
local SEARCH_MAX = 10000

local function same(fields)
  local entry = {}
  for i = 1, #fields, 2 do entry[fields[i]] = fields[i + 1] end
  return entry.job == job and entry.mode == mode and not entry.tick
end

local function waiting_by_request()
  local after, before = '(' .. last_delivered(), '+'
  for _ = 1, SEARCH_MAX / PAGE do
    local page = redis.call('XREVRANGE', stream, before, after, 'COUNT', PAGE)
    for _, entry in ipairs(page) do
      if same(entry[2]) then return entry[1] end
    end
    if #page < PAGE then return nil end
    before = '(' .. page[#page][1]
  end
  return nil
end

local function waiting_by_key()
  local id = redis.call('HGET', merge, key)
  if not id then return nil end
  local newest = redis.call('XREVRANGE', stream, id, '(' .. last_delivered(), 'COUNT', 1)[1]
  if newest and newest[1] == id then return id end
  -- It was delivered, or deleted by hand: its key goes with it.
  redis.call('HDEL', merge, id, key)
  return nil
end

local found
if key == '' then found = waiting_by_request() else found = waiting_by_key() end
if found then return {'merged', found} end
if waiting() >= tonumber(ARGV[2]) then return {'full', tostring(waiting())} end
local id = redis.call('XADD', stream, '*', 'job', job, 'mode', mode)
if key ~= '' then
  redis.call('HSET', merge, key, id, id, key)
  -- Settling an entry removes its key; this is for what was deleted by hand.
  redis.call('PEXPIRE', merge, ARGV[6])
end
return {'new', id}
