-- For wrk: requests another step every time.
--
--   wrk -s steps.lua URL -- PREFIX                PREFIX1, PREFIX2, ...
--   wrk -s steps.lua URL -- PREFIX COUNT SEED     PREFIX1 to PREFIXCOUNT, at random
--
-- PREFIX is a path without the number at its end.

local prefix, count
local n = 0

function init(args)
  prefix = args[1]
  count = tonumber(args[2])
  math.randomseed(tonumber(args[3]) or 0)
end

function request()
  if count then
    n = math.random(count)
  else
    n = n + 1
  end
  return wrk.format("GET", prefix .. n)
end
