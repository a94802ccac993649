import CLua51
import Foundation
import Synchronization

/// Runs scripts as Redis does: Lua 5.1, `redis.call` and its conversions, `KEYS` and `ARGV`, no other globals.
///
/// `redis.call` raises its errors from Lua code, not from Swift: `lua_error` is a `longjmp`, which must not pass over
/// frames of Swift.
final class LuaRuntime {
  /// A script that was compiled here: a reference in the interpreter's registry.
  struct Script {
    fileprivate var reference: Int32
    fileprivate var digest: String
  }

  struct CompileError: Error, CustomStringConvertible {
    var description: String
  }

  fileprivate let callback: ([Bytes]) -> ServerReply
  private let state: OpaquePointer
  private var runner: Int32 = 0
  private var compiled: [String: Script] = [:]

  private static let prelude = """
    local raw = ...
    local pcall, error, type, rawset = pcall, error, type, rawset
    local globals = _G
    redis = {
      pcall = function(...) return raw(...) end,
      call = function(...)
        local reply = raw(...)
        if type(reply) == 'table' and reply.err then error(reply, 0) end
        return reply
      end,
      error_reply = function(text)
        if type(text) ~= 'string' then return {err = 'ERR wrong number or type of arguments'} end
        if string.sub(text, 1, 1) == '-' then text = string.sub(text, 2) end
        if not string.find(text, ' ', 1, true) then return {err = 'ERR ' .. text} end
        return {err = text}
      end,
      status_reply = function(text)
        if type(text) ~= 'string' then return {err = 'ERR wrong number or type of arguments'} end
        return {ok = text}
      end,
    }
    for _, name in ipairs({'dofile', 'loadfile', 'print', 'newproxy', 'require', 'module', 'package', 'io', 'os'}) do
      globals[name] = nil
    end
    setmetatable(globals, {
      __index = function(_, name)
        error('Script attempted to access nonexistent global variable \\'' .. tostring(name) .. '\\'', 2)
      end,
      __newindex = function(_, name) error('Attempt to modify a readonly table', 2) end,
    })
    rawset(globals, 'KEYS', false)
    rawset(globals, 'ARGV', false)
    return function(script, keys, arguments)
      rawset(globals, 'KEYS', keys)
      rawset(globals, 'ARGV', arguments)
      return pcall(script)
    end
    """

  /// An interpreter whose `redis.call` and `redis.pcall` go to `callback`.
  init(callback: @escaping ([Bytes]) -> ServerReply) throws {
    guard let state = luaL_newstate() else { throw ModelError(description: "no memory for Lua") }
    self.state = state
    self.callback = callback
    luaL_openlibs(state)
    let prelude = Bytes(Self.prelude)
    guard Self.load(state, prelude, "=prelude") == 0 else {
      throw ModelError(description: "the prelude does not compile: \(Self.string(state, -1)?.text ?? "?")")
    }
    lua_pushlightuserdata(state, Unmanaged.passUnretained(self).toOpaque())
    lua_pushcclosure(state, callRedis, 1)
    guard lua_pcall(state, 1, 1, 0) == 0 else {
      throw ModelError(description: "the prelude fails: \(Self.string(state, -1)?.text ?? "?")")
    }
    runner = luaL_ref(state, LUA_REGISTRYINDEX)
  }

  deinit {
    lua_close(state)
  }

  private static let digests = Mutex<[Bytes: String]>([:])

  /// The name under which Redis knows a script.
  static func digest(of source: Bytes) -> String {
    digests.withLock { known in
      if let found = known[source] { return found }
      let made = SHA1.hex(source.array)
      known[source] = made
      return made
    }
  }

  func compile(_ source: Bytes, digest: String) throws -> Result<Script, CompileError> {
    if let known = compiled[digest] { return .success(known) }
    guard Self.load(state, source, "@user_script") == 0 else {
      let problem = Self.string(state, -1)?.text ?? "?"
      pop(1)
      return .failure(CompileError(description: problem))
    }
    let script = Script(reference: luaL_ref(state, LUA_REGISTRYINDEX), digest: digest)
    compiled[digest] = script
    return .success(script)
  }

  func run(_ script: Script, keys: [Bytes], arguments: [Bytes]) throws -> ServerReply {
    lua_rawgeti(state, LUA_REGISTRYINDEX, runner)
    lua_rawgeti(state, LUA_REGISTRYINDEX, script.reference)
    push(keys)
    push(arguments)
    let status = lua_pcall(state, 3, 2, 0)
    defer { lua_settop(state, 0) }
    guard status == 0 else {
      throw ModelError(description: "Lua failed outside a script: \(Self.string(state, -1)?.text ?? "?")")
    }
    if lua_toboolean(state, -2) == 0 { return failure(of: script) }
    return try convert(at: lua_gettop(state), depth: 0)
  }

  /// What Redis answers when a script raised an error.
  private func failure(of script: Script) -> ServerReply {
    let place = " script: \(script.digest), on user_script"
    if lua_type(state, -1) == LUA_TTABLE, let text = field("err", of: lua_gettop(state)) {
      return .error(Bytes(text.text + place))
    }
    return .error(Bytes("ERR " + (Self.string(state, -1)?.text ?? "?") + place))
  }

  private static func load(_ state: OpaquePointer, _ source: Bytes, _ name: String) -> Int32 {
    source.array.withUnsafeBufferPointer { buffer in
      guard let base = buffer.baseAddress else { return luaL_loadbuffer(state, "", 0, name) }
      return base.withMemoryRebound(to: CChar.self, capacity: buffer.count) {
        luaL_loadbuffer(state, $0, buffer.count, name)
      }
    }
  }

  // MARK: Values

  private func pop(_ count: Int32) { lua_settop(state, -count - 1) }

  private func push(_ items: [Bytes]) {
    lua_createtable(state, Int32(items.count), 0)
    for (index, item) in items.enumerated() {
      Self.push(state, item)
      lua_rawseti(state, -2, Int32(index + 1))
    }
  }

  fileprivate static func push(_ state: OpaquePointer, _ item: Bytes) {
    item.array.withUnsafeBufferPointer { buffer in
      guard let base = buffer.baseAddress else { return lua_pushlstring(state, "", 0) }
      base.withMemoryRebound(to: CChar.self, capacity: buffer.count) { lua_pushlstring(state, $0, buffer.count) }
    }
  }

  /// The string, or the number as Lua writes it.
  fileprivate static func string(_ state: OpaquePointer, _ index: Int32) -> Bytes? {
    var length = 0
    guard let found = lua_tolstring(state, index, &length) else { return nil }
    return Bytes(
      Array(UnsafeRawBufferPointer(start: UnsafeRawPointer(found), count: length)))
  }

  private func field(_ name: String, of table: Int32) -> Bytes? {
    lua_pushstring(state, name)
    lua_rawget(state, table)
    defer { pop(1) }
    return lua_type(state, -1) == LUA_TSTRING ? Self.string(state, -1) : nil
  }

  /// What a script returned, as Redis turns it into a reply.
  private func convert(at index: Int32, depth: Int) throws -> ServerReply {
    guard depth < 16, lua_checkstack(state, 8) != 0 else { throw ModelError(description: "a reply that is too deep") }
    switch lua_type(state, index) {
    case LUA_TSTRING: return Self.string(state, index).map { .bulk($0) } ?? .null
    case LUA_TNUMBER:
      let number = lua_tonumber(state, index)
      guard number.magnitude < 9e18 else { throw ModelError(description: "a script returned \(number)") }
      return .integer(Int64(number))
    case LUA_TBOOLEAN: return lua_toboolean(state, index) != 0 ? .integer(1) : .null
    case LUA_TNIL: return .null
    case LUA_TTABLE: return try convertTable(at: index, depth: depth)
    default: throw ModelError(description: "a script returned a value of type \(lua_type(state, index))")
    }
  }

  private func convertTable(at index: Int32, depth: Int) throws -> ServerReply {
    if let text = field("err", of: index) { return .error(text) }
    if let text = field("ok", of: index) { return .status(text) }
    for name in ["double", "map", "set", "big_number", "verbatim_string"] {
      lua_pushstring(state, name)
      lua_rawget(state, index)
      let isThere = lua_type(state, -1) != LUA_TNIL
      pop(1)
      if isThere { throw ModelError(description: "a script returned a table with the field \(name)") }
    }
    var items: [ServerReply] = []
    while true {
      lua_rawgeti(state, index, Int32(items.count + 1))
      defer { pop(1) }
      if lua_type(state, -1) == LUA_TNIL { return .array(items) }
      items.append(try convert(at: lua_gettop(state), depth: depth + 1))
    }
  }

  /// Puts a reply on the stack as `redis.call` gives it (the conversions of RESP2).
  fileprivate static func push(_ state: OpaquePointer, _ reply: ServerReply) {
    switch reply {
    case .integer(let value): lua_pushnumber(state, Double(value))
    case .bulk(let bytes): push(state, bytes)
    case .null: lua_pushboolean(state, 0)
    case .status(let text): pushTable(state, "ok", text)
    case .error(let text): pushTable(state, "err", text)
    case .array(let items), .map(let items), .push(let items):
      lua_createtable(state, Int32(items.count), 0)
      for (index, item) in items.enumerated() {
        push(state, item)
        lua_rawseti(state, -2, Int32(index + 1))
      }
    }
  }

  private static func pushTable(_ state: OpaquePointer, _ field: String, _ text: Bytes) {
    lua_createtable(state, 0, 1)
    push(state, text)
    lua_setfield(state, -2, field)
  }

  /// A number as Redis passes it to a command: C's `%.17g`.
  fileprivate static func argument(_ number: Double) -> Bytes {
    if number == number.rounded(), number.magnitude < 1e15 { return Bytes(Int64(number)) }
    return Bytes(String(format: "%.17g", number))
  }
}

/// `redis.pcall` as Lua calls it. It never raises: Lua code does that.
private func callRedis(_ state: OpaquePointer?) -> Int32 {
  guard let state, let context = lua_touserdata(state, LUA_GLOBALSINDEX - 1) else { return 0 }
  let runtime = Unmanaged<LuaRuntime>.fromOpaque(context).takeUnretainedValue()
  var command: [Bytes] = []
  let count = lua_gettop(state)
  for index in 0..<count {
    switch lua_type(state, index + 1) {
    case LUA_TSTRING: if let bytes = LuaRuntime.string(state, index + 1) { command.append(bytes) }
    case LUA_TNUMBER: command.append(LuaRuntime.argument(lua_tonumber(state, index + 1)))
    default:
      LuaRuntime.push(state, .error("ERR Lua redis lib command arguments must be strings or integers"))
      return 1
    }
  }
  LuaRuntime.push(state, runtime.callback(command))
  return 1
}
