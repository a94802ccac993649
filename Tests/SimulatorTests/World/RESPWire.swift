/// The bytes between a simulated host and the simulated server, as the server reads and writes them.
enum RESPWire {
  /// Takes the complete commands out of `bytes`, from `start` on.
  static func commands(in bytes: [UInt8], from start: inout Int) throws -> [[Bytes]] {
    var found: [[Bytes]] = []
    while let command = try command(in: bytes, from: &start) { found.append(command) }
    return found
  }

  private static func command(in bytes: [UInt8], from start: inout Int) throws -> [Bytes]? {
    var at = start
    guard let count = try header(UInt8(ascii: "*"), in: bytes, from: &at) else { return nil }
    var parts: [Bytes] = []
    parts.reserveCapacity(count)
    for _ in 0..<count {
      guard let length = try header(UInt8(ascii: "$"), in: bytes, from: &at), at + length + 2 <= bytes.count else {
        return nil
      }
      parts.append(Bytes(Array(bytes[at..<at + length])))
      at += length + 2
    }
    start = at
    return parts
  }

  private static func header(_ kind: UInt8, in bytes: [UInt8], from at: inout Int) throws -> Int? {
    guard at < bytes.count else { return nil }
    guard bytes[at] == kind else { throw ModelError(description: "a command that is none: \(bytes[at])") }
    var value = 0
    var index = at + 1
    while index < bytes.count {
      let byte = bytes[index]
      if byte == 13 {
        guard index + 1 < bytes.count else { return nil }
        at = index + 2
        return value
      }
      guard byte >= 48, byte <= 57 else { throw ModelError(description: "a length that is none") }
      value = value * 10 + Int(byte - 48)
      index += 1
    }
    return nil
  }

  static func append(_ reply: ServerReply, to bytes: inout [UInt8]) {
    switch reply {
    case .status(let text): line("+", text, &bytes)
    case .error(let text): line("-", text, &bytes)
    case .integer(let value): line(":", Bytes(value), &bytes)
    case .null: line("_", "", &bytes)
    case .bulk(let text):
      line("$", Bytes(Int64(text.count)), &bytes)
      bytes += text.array
      bytes += [13, 10]
    case .array(let items): list("*", items.count, items, &bytes)
    case .map(let items): list("%", items.count / 2, items, &bytes)
    case .push(let items): list(">", items.count, items, &bytes)
    }
  }

  private static func line(_ kind: String, _ text: Bytes, _ bytes: inout [UInt8]) {
    bytes += kind.utf8
    bytes += text.array
    bytes += [13, 10]
  }

  private static func list(_ kind: String, _ count: Int, _ items: [ServerReply], _ bytes: inout [UInt8]) {
    line(kind, Bytes(Int64(count)), &bytes)
    for item in items { append(item, to: &bytes) }
  }
}
