-- What wrk sends to a server of fastkv: GET or PUT, of one key or of keys that are drawn anew for each request.
--
--     wrk -s perf/load.lua http://127.0.0.1:7171 -- WORKLOAD KEYS
--
-- WORKLOAD is hot, zipf (exponent 0.99), uniform or put (uniform); the keys are k0000000000 to one below KEYS.

local EXPONENT = 0.99
local VALUE = string.rep("v", 64)
local workload, keys
local zeta, alpha, eta

-- Gray et al., Quickly Generating Billion-Record Synthetic Databases, SIGMOD 1994: a rank from 0, the lowest most often.
local function zipf()
    local u = math.random()
    if u * zeta < 1 then return 0 end
    if u * zeta < 1 + 0.5 ^ EXPONENT then return 1 end
    return math.floor(keys * (eta * u - eta + 1) ^ alpha)
end

function init(args)
    workload, keys = args[1], tonumber(args[2])
    math.randomseed(1)
    zeta = 0
    for rank = 1, keys do zeta = zeta + 1 / rank ^ EXPONENT end
    alpha = 1 / (1 - EXPONENT)
    eta = (1 - (2 / keys) ^ (1 - EXPONENT)) / (1 - (1 + 0.5 ^ EXPONENT) / zeta)
end

function request()
    local number = 0
    if workload == "zipf" then number = zipf() elseif workload ~= "hot" then number = math.random(0, keys - 1) end
    local key = string.format("k%010d", number)
    if workload ~= "put" then return wrk.format("GET", "/get?key=" .. key) end
    return wrk.format("POST", "/put", {}, '{"key":"' .. key .. '","value":"' .. VALUE .. '"}')
end
