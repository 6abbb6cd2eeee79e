-- Takes an entry off the dead list; with `again` it goes back on the queue, as if asked for by hand.
-- KEYS stream merge dead | ARGV group id again
local PAGE = 500
local before = '+'
while true do
  local page = redis.call('XREVRANGE', KEYS[3], before, '-', 'COUNT', PAGE)
  for _, entry in ipairs(page) do
    local fields = entry[2]
    if fields[2] == ARGV[2] then
      local again = {}
      -- The first six are the dead list's own. Without its tick no newer tick can take the request's place.
      for i = 7, #fields, 2 do
        if fields[i] ~= 'tick' then
          again[#again + 1] = fields[i]
          again[#again + 1] = fields[i + 1]
        end
      end
      if ARGV[3] == '1' then
        if #again == 0 then return 0 end
        redis.call('XADD', KEYS[1], '*', unpack(again))
      end
      redis.call('XDEL', KEYS[3], entry[1])
      return 1
    end
  end
  if #page < PAGE then return 0 end
  before = '(' .. page[#page][1]
end
