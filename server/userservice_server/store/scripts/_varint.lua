-- Shared by the scripts that encode protobuf messages.

-- Encodes a number as a protobuf varint.
local function varint(number)
  if number < 128 then
    return string.char(number)
  end
  local rest = math.floor(number / 128)
  if rest < 128 then
    return string.char(number % 128 + 128, rest)
  end
  return string.char(number % 128 + 128) .. varint(rest)
end
