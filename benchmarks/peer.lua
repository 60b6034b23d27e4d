-- The load of benchmarks/peer.py, for wrk: the same searches for every server, one of them after another in a shuffled
-- order. Arguments: a file of JSON bodies, one a line; with an empty one GET requests are sent.
function init(args)
   bodies, sent = {}, 0
   for line in io.lines(args[1]) do
      table.insert(bodies, line)
   end
   head = { ["content-type"] = "application/json" }
end

function request()
   if #bodies == 0 then
      return wrk.format("GET")
   end
   sent = sent + 1
   return wrk.format("POST", nil, head, bodies[sent % #bodies + 1])
end

function done(summary, latency)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.timeout + errors.status
   local us = { latency:percentile(50), latency:percentile(99), latency.mean }
   io.write("\nshoal ", summary.duration, " ", summary.requests, " ", failed, " ", table.concat(us, " "), "\n")
end
