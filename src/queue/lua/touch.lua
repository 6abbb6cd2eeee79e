-- Extends deliveries; answers those that are not the consumer's any more. KEYS stream merge | ARGV group me id...
local lost = {}
for i = 3, #ARGV do
  if owned(ARGV[i], ARGV[2]) then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
