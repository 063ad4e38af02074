-- Reads fields of many tasks in one call, by columns of JSON: what reads them only puts the columns together.
-- KEYS: none: the keys are made from what ARGV names, as everywhere with one primary
-- ARGV[1] msgpack [task id, ...]   ARGV[2] msgpack [field, ...]   ARGV[3] msgpack [1 where the field is JSON as it is, else 0, ...]
-- ARGV[4] when so many bytes were read, the rest of the tasks is left
-- ARGV[5] msgpack {status, taskType, sinceUs, rows}: only tasks that are there and fit, so many at the most;
--   "" for all, those that are gone as nulls
-- returns [tasks looked at, [the places of those that fit, from 1; empty without ARGV[5]], elements of each field's column, ...]
local fields, plain, most = cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3]), tonumber(ARGV[4])
local wanted = ARGV[5] ~= '' and cmsgpack.unpack(ARGV[5])
local looked, bytes, fit, columns, quoted = 0, 0, {}, {}, {}
for c = 1, #fields do columns[c] = {} end

local function fits(key)
  local state = redis.call('HMGET', key, 'status', 'taskType', 'submittedUs')
  return state[1]
    and (not wanted.status or state[1] == wanted.status)
    and (not wanted.taskType or state[2] == wanted.taskType)
    and (not wanted.sinceUs or tonumber(state[3] or 0) >= wanted.sinceUs)
end

local n = 0
for at, id in ipairs(cmsgpack.unpack(ARGV[1])) do
  if bytes >= most or (wanted and n >= (wanted.rows or n + 1)) then break end
  looked = at
  local key = 'nexusq:task:' .. id
  if not wanted or fits(key) then
    n = n + 1
    if wanted then fit[n] = at end
    local row = redis.call('HMGET', key, unpack(fields))
    for c = 1, #fields do
      local value = row[c]
      if not value then
        value = 'null'
      elseif plain[c] == 0 then
        if not quoted[value] then quoted[value] = cjson.encode(value) end
        value = quoted[value]
      end
      bytes = bytes + #value
      columns[c][n] = value
    end
  end
end
local answer = { looked, fit }
for c = 1, #fields do answer[c + 2] = table.concat(columns[c], ',') end
return answer
