-- Shared by the scripts that encode protobuf messages.

-- Encodes a number as a protobuf varint.
local function varint(number)
  local encoded = {}
  while number > 127 do
    encoded[#encoded + 1] = string.char(number % 128 + 128)
    number = math.floor(number / 128)
  end
  encoded[#encoded + 1] = string.char(number)
  return table.concat(encoded)
end
