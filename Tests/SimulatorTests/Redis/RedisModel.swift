/// The model was asked for something that it does not know. It must not guess: a wrong guess would simulate a Redis
/// that does not exist.
struct ModelError: Error, CustomStringConvertible {
  var description: String
}

/// A model of one Redis server: its keys, scripts, clients and channels, with time given from outside.
///
/// It is single-threaded like the original. Its user executes one command at a time and takes what it sends, in order,
/// from ``output``. The differential tests hold it against a real server.
final class RedisModel {
  /// What an entry holds.
  enum Value: Equatable {
    case string(Bytes)
    case list([Bytes])
    /// In the order of insertion, which is the order in which Redis lists a small hash.
    case hash([(field: Bytes, value: Bytes)])
    /// By score, then by member.
    case sortedSet([(member: Bytes, score: Int64)])

    static func == (a: Value, b: Value) -> Bool {
      switch (a, b) {
      case (.string(let x), .string(let y)): x == y
      case (.list(let x), .list(let y)): x == y
      case (.hash(let x), .hash(let y)): x.elementsEqual(y) { $0.field == $1.field && $0.value == $1.value }
      case (.sortedSet(let x), .sortedSet(let y)): x.elementsEqual(y) { $0.member == $1.member && $0.score == $1.score }
      case (.string, _), (.list, _), (.hash, _), (.sortedSet, _): false
      }
    }
  }

  struct Entry: Equatable {
    var value: Value
    /// On the server's wall clock.
    var expiresAtMilliseconds: Int64?
  }

  /// Something that the server did to a connection.
  enum Output: Equatable {
    case send(connection: Int64, ServerReply)
    case close(connection: Int64)

    /// What answers a command of that connection.
    func reply(to connection: Int64) -> ServerReply? {
      guard case .send(connection, let reply) = self else { return nil }
      if case .push = reply { return nil }
      return reply
    }
  }

  /// A state in which the server refuses.
  enum Trouble: String, CaseIterable {
    case none, readOnly, loading, outOfMemory, misconfigured, busy
  }

  struct Client {
    var name: Bytes = ""
    var resp3 = false
    var channels: [Bytes] = []
  }

  /// The server's wall clock. Expiry and TIME go by it, as in the original.
  var wallMicroseconds: Int64
  var trouble = Trouble.none
  /// A command that the daemons' user may not use just now.
  var deniedCommand: String?
  /// The command comes from another user, who may do everything.
  var isOperator = false
  /// Redis before 7.2 sends a client's own message before the reply to the script that published it; later ones after.
  var ownPushesComeAfterTheReply = false
  /// The database that everybody uses. Expired keys too, until they are looked at.
  private(set) var entries: [Bytes: Entry] = [:]
  /// Another database of the server, with which the first can change places.
  private(set) var otherEntries: [Bytes: Entry] = [:]
  private(set) var clients: [Int64: Client] = [:]
  private(set) var output: [Output] = []
  private(set) var commandCount = 0

  private var lastClient: Int64 = 0
  /// How many server processes there were.
  var runCount = 1
  /// How many histories of the data there were: a replica that is promoted begins a new one.
  var historyCount = 1
  /// Whether this server was a replica before.
  var wasPromoted = false
  private var scripts: [String: LuaRuntime.Script] = [:]
  private var lua: LuaRuntime?
  private var script: ScriptContext?

  struct ScriptContext {
    var connection: Int64
    var keys: Set<Bytes>
    var hasWritten = false
    var failure: ModelError?
  }

  init(wallMicroseconds: Int64 = 1_700_000_000_000_000) {
    self.wallMicroseconds = wallMicroseconds
  }

  var nowMilliseconds: Int64 { wallMicroseconds / 1000 }

  // MARK: Connections and time

  func connect() -> Int64 {
    lastClient += 1
    clients[lastClient] = Client()
    return lastClient
  }

  func disconnect(_ connection: Int64) {
    clients[connection] = nil
  }

  /// What was sent since the last call, in order.
  func takeOutput() -> [Output] {
    defer { output.removeAll(keepingCapacity: true) }
    return output
  }

  /// The server process ends and another one starts, with the keys that it found on disk.
  func restart(with kept: [Bytes: Entry]) {
    entries = kept
    otherEntries = [:]
    clients.removeAll()
    output.removeAll()
    scripts.removeAll()
    // A server numbers its clients from 1 each time it starts.
    lastClient = 0
    runCount += 1
    // A server that has no replicas does not keep what its history is called.
    historyCount += 1
    wasPromoted = false
  }

  func flushScripts() { scripts.removeAll() }

  func flushDatabase() { entries.removeAll() }

  func flushAll() {
    entries.removeAll()
    otherEntries.removeAll()
  }

  func swapDatabases() { swap(&entries, &otherEntries) }

  /// Puts something into the database that nobody uses.
  func fillOtherDatabase(with kept: [Bytes: Entry]) { otherEntries = kept }

  /// Takes a key away, as eviction would.
  func evict(_ key: Bytes) { entries[key] = nil }

  // MARK: Keys

  /// The live entry of a key; an expired one goes away when it is looked at.
  func entry(_ key: Bytes) throws -> Entry? {
    if let script, !script.keys.contains(key), !isReadUndeclared(key, by: script.keys) {
      throw ModelError(description: "a script touched the key \(key), which is not one of its KEYS")
    }
    return peek(key)
  }

  /// Whether a script may touch a key that is none of its own.
  private func isReadUndeclared(_ key: Bytes, by keys: Set<Bytes>) -> Bool {
    // A key beside a declared one has its hash tag, and so is on the same node.
    let isBeside = { (declared: Bytes) in
      key.array.starts(with: declared.array) && key.array.dropFirst(declared.count).first == UInt8(ascii: ":")
    }
    if keys.contains(where: isBeside) { return true }
    // The epoch's key is on each node, under a tag of a slot that it serves, and so are the keys of hosts beside it; a script
    // without a shebang may read them.
    if key.array.ends(with: Self.epochSuffix) || key.contains(Self.epochSuffix + [UInt8(ascii: ":")]) { return true }
    // The trial looks for keys that are not on this node.
    return key.contains(Self.trialPart)
  }

  private static let epochSuffix = Array(":epoch".utf8)
  private static let trialPart = Array("{}probe:".utf8)

  /// ``entry(_:)`` for a look from outside.
  func peek(_ key: Bytes) -> Entry? {
    guard let found = entries[key] else { return nil }
    if let end = found.expiresAtMilliseconds, nowMilliseconds > end {
      entries[key] = nil
      return nil
    }
    return found
  }

  func store(_ key: Bytes, _ entry: Entry?) {
    entries[key] = entry
  }

  func store(_ key: Bytes, value: Value, keepingExpiryOf old: Entry?) {
    entries[key] = Entry(value: value, expiresAtMilliseconds: old?.expiresAtMilliseconds)
  }

  /// The keys that are alive.
  func liveKeys() -> [Bytes] {
    entries.keys.filter { peek($0) != nil }
  }

  // MARK: Execution

  /// Executes one command of a client. What it sends, to that client and to others, is in ``output``.
  func execute(_ command: [Bytes], from connection: Int64) throws {
    guard clients[connection] != nil else { throw ModelError(description: "no such connection \(connection)") }
    commandCount += 1
    let start = output.count
    let reply = try reply(to: command, from: connection)
    if ownPushesComeAfterTheReply {
      let (own, others) = output[start...].reduce(into: ([Output](), [Output]())) { parts, item in
        if case .send(connection, _) = item { parts.0.append(item) } else { parts.1.append(item) }
      }
      output.replaceSubrange(start..., with: others)
      if let reply { send(reply, to: connection) }
      output += own
    } else if let reply {
      send(reply, to: connection)
    }
  }

  private func send(_ reply: ServerReply, to connection: Int64) {
    if clients[connection] != nil { output.append(.send(connection: connection, reply)) }
  }

  /// The reply to a command outside a script; nil where the answer comes as a push.
  private func reply(to command: [Bytes], from connection: Int64) throws -> ServerReply? {
    guard let first = command.first else { throw ModelError(description: "an empty command") }
    let name = first.text.uppercased()
    if let refusal = denial(of: name, inScript: false) ?? refusal(of: name, inScript: false) { return refusal }
    let arguments = Array(command.dropFirst())
    switch name {
    case "HELLO": return try hello(arguments, connection)
    case "CLIENT": return try client(arguments, connection)
    case "SUBSCRIBE":
      guard clients[connection]?.resp3 == true else { throw ModelError(description: "SUBSCRIBE without RESP3") }
      for channel in arguments {
        if clients[connection]?.channels.contains(channel) == false { clients[connection]?.channels.append(channel) }
        let count = Int64(clients[connection]?.channels.count ?? 0)
        send(.push([.bulk("subscribe"), .bulk(channel), .integer(count)]), to: connection)
      }
      return nil
    case "SCRIPT": return try scriptCommand(arguments)
    case "CONFIG" where arguments == ["GET", "maxmemory-policy"]:
      return .map([.bulk("maxmemory-policy"), .bulk("noeviction")])
    case "EVAL", "EVALSHA": return try eval(name, arguments, connection)
    case "FLUSHALL", "FLUSHDB", "SWAPDB": return try databaseCommand(name, arguments)
    default: return try serverCommand(name, arguments) ?? dataCommand(name, arguments)
    }
  }

  /// What the user's rights forbid: in a script too, and whatever it has written before.
  private func denial(of name: String, inScript: Bool) -> ServerReply? {
    guard name == deniedCommand, !isOperator else { return nil }
    return inScript
      ? .error("ERR The user executing the script can't run this command or subcommand")
      : .error(Bytes("NOPERM this user has no permissions to run the '\(name.lowercased())' command"))
  }

  /// What the server's state forbids.
  private func refusal(of name: String, inScript: Bool) -> ServerReply? {
    switch trouble {
    case .none: return nil
    case .loading:
      if ["HELLO", "CLIENT", "SUBSCRIBE", "SCRIPT", "INFO", "CONFIG"].contains(name) { return nil }
      return inScript ? nil : .error("LOADING Redis is loading the dataset in memory")
    case .busy:
      if ["HELLO", "CLIENT"].contains(name) { return nil }
      return inScript
        ? nil : .error("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.")
    case .readOnly:
      return Self.writes.contains(name) ? .error("READONLY You can't write against a read only replica.") : nil
    case .misconfigured:
      return Self.writes.contains(name)
        ? .error("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.")
        : nil
    case .outOfMemory:
      return Self.grows.contains(name)
        ? .error("OOM command not allowed when used memory > 'maxmemory'.") : nil
    }
  }

  private static let grows: Set<String> = [
    "SET", "INCR", "INCRBY", "LPUSH", "RPUSH", "HSET", "ZADD",
  ]
  private static let writes: Set<String> = grows.union([
    "DEL", "PEXPIRE", "PERSIST", "LPOP", "RPOP", "LREM", "HDEL", "ZREM", "ZPOPMIN", "FLUSHALL", "FLUSHDB",
    "SWAPDB",
  ])

  private func hello(_ arguments: [Bytes], _ connection: Int64) throws -> ServerReply {
    guard arguments.first == "3", arguments.count == 1 || (arguments.count == 3 && arguments[1] == "SETNAME") else {
      throw ModelError(description: "HELLO \(arguments)")
    }
    clients[connection]?.resp3 = true
    if arguments.count == 3 { clients[connection]?.name = arguments[2] }
    return .map([
      .bulk("server"), .bulk("redis"), .bulk("version"), .bulk("7.0.15"), .bulk("proto"), .integer(3), .bulk("id"),
      .integer(connection), .bulk("mode"), .bulk("standalone"), .bulk("role"), .bulk("master"), .bulk("modules"),
      .array([]),
    ])
  }

  private func client(_ arguments: [Bytes], _ connection: Int64) throws -> ServerReply {
    switch (arguments.first?.text.uppercased(), arguments.count) {
    case ("ID", 1): return .integer(connection)
    case ("SETNAME", 2):
      clients[connection]?.name = arguments[1]
      return .ok
    case ("KILL", 3) where arguments[1].text.uppercased() == "ID":
      guard let id = arguments[2].integer else { return .error("ERR client-id should be greater than 0") }
      guard id != connection else { throw ModelError(description: "a client that kills itself") }
      guard clients[id] != nil else { return .integer(0) }
      disconnect(id)
      output.append(.close(connection: id))
      return .integer(1)
    default: throw ModelError(description: "CLIENT \(arguments)")
    }
  }

  func publish(_ channel: Bytes, _ message: Bytes) -> Int64 {
    var count: Int64 = 0
    for (id, client) in clients.sorted(by: { $0.key < $1.key }) where client.channels.contains(channel) {
      count += 1
      send(.push([.bulk("message"), .bulk(channel), .bulk(message)]), to: id)
    }
    return count
  }

  // MARK: Scripts

  private func runtime() throws -> LuaRuntime {
    if let lua { return lua }
    let made = try LuaRuntime(callback: { [unowned self] in self.callFromScript($0) })
    lua = made
    return made
  }

  private func scriptCommand(_ arguments: [Bytes]) throws -> ServerReply {
    switch (arguments.first?.text.uppercased(), arguments.count) {
    case ("LOAD", 2):
      let digest = LuaRuntime.digest(of: arguments[1])
      if let problem = try load(arguments[1], digest) { return problem }
      return .bulk(Bytes(digest))
    case ("FLUSH", 1):
      flushScripts()
      return .ok
    case ("EXISTS", 2...):
      return .array(arguments.dropFirst().map { .integer(scripts[$0.text.lowercased()] == nil ? 0 : 1) })
    default: throw ModelError(description: "SCRIPT \(arguments)")
    }
  }

  /// Compiles a script; gives the error reply if that fails.
  private func load(_ source: Bytes, _ digest: String) throws -> ServerReply? {
    if scripts[digest] != nil { return nil }
    switch try runtime().compile(source, digest: digest) {
    case .success(let script):
      scripts[digest] = script
      return nil
    case .failure(let problem):
      return .error(Bytes("ERR Error compiling script (new function): \(problem.description)"))
    }
  }

  private func eval(_ name: String, _ arguments: [Bytes], _ connection: Int64) throws -> ServerReply {
    guard arguments.count >= 2 else { throw ModelError(description: "\(name) with too few arguments") }
    guard let keyCount = arguments[1].integer else { return .notAnInteger }
    if keyCount < 0 { return .error("ERR Number of keys can't be negative") }
    if keyCount > arguments.count - 2 { return .error("ERR Number of keys can't be greater than number of args") }
    let digest: String
    if name == "EVAL" {
      digest = LuaRuntime.digest(of: arguments[0])
      if let problem = try load(arguments[0], digest) { return problem }
    } else {
      digest = arguments[0].text.lowercased()
    }
    guard let compiled = scripts[digest] else {
      return .error("NOSCRIPT No matching script. Please use EVAL.")
    }
    let keys = Array(arguments[2..<2 + Int(keyCount)])
    try Self.checkSlots(keys)
    script = ScriptContext(connection: connection, keys: Set(keys))
    defer { script = nil }
    let result = try runtime().run(compiled, keys: keys, arguments: Array(arguments[(2 + Int(keyCount))...]))
    if let failure = script?.failure { throw failure }
    return result
  }

  /// All keys of one lock must be in one slot of a Redis Cluster. A command may name several locks (renewals are
  /// batched), so this checks the keys that follow a lock's key: each must have the hash tag of the key before it.
  private static func checkSlots(_ keys: [Bytes]) throws {
    for (key, before) in zip(keys.dropFirst(), keys) {
      guard let tag = hashTag(key), let previous = hashTag(before) else {
        throw ModelError(description: "one of the keys \(before) and \(key) has no hash tag")
      }
      if key.array.last != UInt8(ascii: "}"), tag != previous {
        throw ModelError(description: "the keys \(before) and \(key) are in different slots")
      }
    }
  }

  /// What stands between the first `{` and the first `}` after it, if that is anything.
  private static func hashTag(_ key: Bytes) -> ArraySlice<UInt8>? {
    guard let open = key.array.firstIndex(of: UInt8(ascii: "{")),
      let close = key.array[open...].firstIndex(of: UInt8(ascii: "}")), close > open + 1
    else { return nil }
    return key.array[(open + 1)..<close]
  }

  /// `redis.pcall` of a running script.
  private func callFromScript(_ command: [Bytes]) -> ServerReply {
    guard let first = command.first else {
      return .error("ERR Please specify at least one argument for this redis.call()")
    }
    let name = first.text.uppercased()
    do {
      if let denial = denial(of: name, inScript: true) { return denial }
      if script?.hasWritten != true, let refusal = refusal(of: name, inScript: true) { return refusal }
      let arguments = Array(command.dropFirst())
      let reply = try serverCommand(name, arguments) ?? dataCommand(name, arguments)
      if Self.writes.contains(name) { script?.hasWritten = true }
      return reply
    } catch {
      if script?.failure == nil {
        script?.failure = error as? ModelError ?? ModelError(description: "\(error)")
      }
      return .error(Bytes("MODEL \(error)"))
    }
  }
}
