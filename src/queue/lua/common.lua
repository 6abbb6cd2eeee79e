-- Put before every script of the queue. KEYS[1] is the stream, KEYS[2] the hash of merge keys, ARGV[1] the group.

-- The pending entry `id` where it is `me`'s, else nil. A missing stream or group owns nothing.
local function owned(id, me)
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)
  if pending.err or not pending[1] or pending[1][2] ~= me then return nil end
  return pending[1]
end

-- How many entries a consumer has, or had until it died.
local function running()
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1])
  return pending.err and 0 or pending[1]
end

-- How many entries no consumer was given yet.
local function waiting()
  return math.max(redis.call('XLEN', KEYS[1]) - running(), 0)
end

-- The newest entry that was given to a consumer; what comes after it waits.
local function last_delivered()
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
  for _, group in ipairs(groups) do
    local info = {}
    for i = 1, #group, 2 do info[group[i]] = group[i + 1] end
    if info['name'] == ARGV[1] then return info['last-delivered-id'] end
  end
  return '0-0'
end

-- Takes an entry off the stream, and its merge key with it.
local function remove(id)
  redis.call('XACK', KEYS[1], ARGV[1], id)
  redis.call('XDEL', KEYS[1], id)
  local key = redis.call('HGET', KEYS[2], id)
  if not key then return end
  redis.call('HDEL', KEYS[2], id)
  if redis.call('HGET', KEYS[2], key) == id then redis.call('HDEL', KEYS[2], key) end
end
