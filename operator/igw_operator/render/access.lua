-- Lets a request pass that has one of its route's tokens, and takes the token away. Run by Envoy; `access.py` has the
-- rest. The route's context holds SHA-256 digests in hexadecimal by client, and what is answered to everybody else.
--
-- Digests are compared whole, and all of them, whatever is found: the time tells nothing of any token.

local band, bnot, bor, bxor = bit.band, bit.bnot, bit.bor, bit.bxor
local rol, ror, rshift, tobit, tohex = bit.rol, bit.ror, bit.rshift, bit.tobit, bit.tohex
local byte, char, rep, sub = string.byte, string.char, string.rep, string.sub

-- Longer ones are nobody's: hashing what a client sends must stay cheap.
local LONGEST = 1024

-- FIPS 180-4: the first 32 bits of the fractional parts of the cube roots, and square roots, of the first primes.
local function constants()
  local cubes, squares, found, number = {}, {}, 0, 2
  local function fraction(root)
    return tobit(math.floor((root % 1) * 4294967296))
  end
  while found < 64 do
    local prime = true
    for divisor = 2, math.floor(math.sqrt(number)) do
      prime = prime and number % divisor ~= 0
    end
    if prime then
      found = found + 1
      cubes[found] = fraction(number ^ (1 / 3))
      squares[found] = fraction(math.sqrt(number))
    end
    number = number + 1
  end
  return cubes, squares
end

local K, H = constants()

local function padded(text)
  local length = #text
  local bits = length * 8
  local tail = char(rshift(bits, 24) % 256, rshift(bits, 16) % 256, rshift(bits, 8) % 256, bits % 256)
  return text .. "\128" .. rep("\0", (55 - length) % 64) .. "\0\0\0\0" .. tail
end

local function schedule(block, at, w)
  for i = 1, 16 do
    local a, b, c, d = byte(block, at + i * 4 - 4, at + i * 4 - 1)
    w[i] = tobit(a * 16777216 + b * 65536 + c * 256 + d)
  end
  for i = 17, 64 do
    local x, y = w[i - 15], w[i - 2]
    local s0 = bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
    local s1 = bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
    w[i] = tobit(w[i - 16] + s0 + w[i - 7] + s1)
  end
end

local function sha256(text)
  local message, w = padded(text), {}
  local h1, h2, h3, h4, h5, h6, h7, h8 = H[1], H[2], H[3], H[4], H[5], H[6], H[7], H[8]
  for at = 1, #message, 64 do
    schedule(message, at, w)
    local a, b, c, d, e, f, g, h = h1, h2, h3, h4, h5, h6, h7, h8
    for i = 1, 64 do
      local s1 = bxor(ror(e, 6), ror(e, 11), ror(e, 25))
      local t1 = tobit(h + s1 + bxor(band(e, f), band(bnot(e), g)) + K[i] + w[i])
      local s0 = bxor(ror(a, 2), ror(a, 13), ror(a, 22))
      local t2 = tobit(s0 + bxor(band(a, b), band(a, c), band(b, c)))
      h, g, f, e, d, c, b, a = g, f, e, tobit(d + t1), c, b, a, tobit(t1 + t2)
    end
    h1, h2, h3, h4 = tobit(h1 + a), tobit(h2 + b), tobit(h3 + c), tobit(h4 + d)
    h5, h6, h7, h8 = tobit(h5 + e), tobit(h6 + f), tobit(h7 + g), tobit(h8 + h)
  end
  return tohex(h1) .. tohex(h2) .. tohex(h3) .. tohex(h4) .. tohex(h5) .. tohex(h6) .. tohex(h7) .. tohex(h8)
end

local function same(one, other)
  if #one ~= #other then
    return false
  end
  local difference = 0
  for i = 1, #one do
    difference = bor(difference, bxor(byte(one, i), byte(other, i)))
  end
  return difference == 0
end

local function given(headers)
  local value = headers:get("authorization") or headers:get("x-api-key") or ""
  if sub(value, 1, 7) == "Bearer " then
    value = sub(value, 8)
  end
  return value
end

local function client_of(token, clients)
  if #token == 0 or #token > LONGEST then
    return nil
  end
  local digest, found = sha256(token), nil
  for client, known in pairs(clients) do
    if same(digest, known) then
      found = client
    end
  end
  return found
end

function envoy_on_request(handle)
  local context, headers = handle:filterContext(), handle:headers()
  local client = client_of(given(headers), context:get("clients") or {})
  if client == nil then
    local answer = { [":status"] = "401", ["content-type"] = "application/json" }
    answer["www-authenticate"] = context:get("challenge")
    handle:respond(answer, context:get("refusal"))
    return
  end
  headers:remove("authorization")
  headers:remove("x-api-key")
  headers:replace(context:get("header"), client)
end
