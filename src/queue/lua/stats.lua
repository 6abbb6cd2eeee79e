-- How many entries wait, run and are dead. KEYS stream merge dead | ARGV group
return {waiting(), running(), redis.call('XLEN', KEYS[3])}
