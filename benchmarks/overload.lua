-- The load of benchmarks/overload.py, for wrk: searches whose answers are timed by status.
-- Arguments: a file of queries, whether to rerank, and the mean pause of a connection between requests in ms.
local ffi = require("ffi")
ffi.cdef("typedef struct { long s; long ns; } shoal_time; int clock_gettime(int, shoal_time *);")
local clock = ffi.new("shoal_time")

local function now()
   ffi.C.clock_gettime(1, clock)
   return tonumber(clock.s) + tonumber(clock.ns) / 1e9
end

local threads = {}

function setup(thread)
   thread:set("number", #threads)
   table.insert(threads, thread)
end

function init(args)
   queries, sent, count = {}, {}, 0
   for line in io.lines(args[1]) do
      table.insert(queries, line)
   end
   rerank, pause = args[2], tonumber(args[3])
   -- Copies of tables are keyed by strings alone.
   latencies = {}
   began = now()
   math.randomseed(os.time() + number)
   if pause == 0 then
      delay = nil
   end
   head = { ["content-type"] = "application/json" }
end

function delay()
   return math.floor(pause * (0.5 + math.random()))
end

function request()
   count = count + 1
   local id = number .. "-" .. count
   head["x-request-id"] = id
   sent[id] = now()
   -- No two are alike, so that no vector is remembered.
   local query = queries[math.random(#queries)] .. " " .. math.random(1e9)
   return wrk.format("POST", nil, head, '{"query": "' .. query .. '", "rerank": ' .. rerank .. "}")
end

function response(status, headers, body)
   local id = headers["x-request-id"]
   local kind = tostring(status)
   if status == 200 and not string.find(body, '"degraded":null', 1, true) then
      kind = "degraded"
   elseif status == 429 and not headers["retry-after"] then
      kind = "no-retry-after"
   end
   -- In tenths of a millisecond.
   local key = kind .. ":" .. math.floor((now() - sent[id]) * 1e4)
   sent[id] = nil
   latencies[key] = (latencies[key] or 0) + 1
   if status == 200 then
      local tenth = "ended:" .. math.floor((now() - began) * 10)
      latencies[tenth] = (latencies[tenth] or 0) + 1
   end
end

function done(summary)
   local lines = {}
   for _, thread in ipairs(threads) do
      for key, times in pairs(thread:get("latencies")) do
         table.insert(lines, key .. ":" .. times)
      end
   end
   local errors = summary.errors
   local lost = errors.connect + errors.read + errors.write + errors.timeout
   io.write("\nshoal ", summary.duration / 1e6, " ", lost, " ", table.concat(lines, " "), "\n")
end
