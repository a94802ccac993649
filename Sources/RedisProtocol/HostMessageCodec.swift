import LockEngine

/// Puts what hosts say to each other into bytes: a kind, and then fields as `<length>:<bytes>`, since names, owners and
/// commands may hold anything. Whatever another daemon sends, nothing here can trap.
enum HostMessageCodec {
  /// The longest message that is read or written, in bytes.
  static let bytesMax = 65_536
  /// The longest chain that is read.
  static let stepsMax = 32

  // MARK: Writing

  static func encode(_ message: HostMessage) -> [UInt8] {
    var bytes: [UInt8] = []
    switch message {
    case .probe(let probe):
      append("probe", to: &bytes)
      append(probe.origin, to: &bytes)
      append(probe.number, to: &bytes)
      append(probe.name.bytes, to: &bytes)
      append(probe.path, to: &bytes)
    case .victim(let request, let path):
      append("victim", to: &bytes)
      append(request, to: &bytes)
      append(path, to: &bytes)
    }
    return bytes
  }

  private static func append(_ field: some Collection<UInt8>, to bytes: inout [UInt8]) {
    bytes.append(contentsOf: String(field.count).utf8)
    bytes.append(0x3A)
    bytes.append(contentsOf: field)
  }

  private static func append(_ text: String, to bytes: inout [UInt8]) { append(text.utf8, to: &bytes) }

  private static func append(_ number: some BinaryInteger, to bytes: inout [UInt8]) {
    append(String(number), to: &bytes)
  }

  /// What is not known is written as an empty field.
  private static func append(_ path: [DeadlockStep], to bytes: inout [UInt8]) {
    for step in path {
      append(step.host, to: &bytes)
      append(step.inbox, to: &bytes)
      append(step.session, to: &bytes)
      append(step.request, to: &bytes)
      append(step.pid.map { String($0) } ?? "", to: &bytes)
      append(step.command ?? "", to: &bytes)
      append(step.owner ?? "", to: &bytes)
      append(step.waitsFor.bytes, to: &bytes)
      append(step.holds?.bytes ?? [], to: &bytes)
      append(step.token, to: &bytes)
      append(step.waitedMilliseconds, to: &bytes)
    }
  }

  // MARK: Reading

  /// The message; nil when it is not understood or too long.
  static func decode(_ bytes: ArraySlice<UInt8>) -> HostMessage? {
    guard bytes.count <= bytesMax else { return nil }
    var fields = Fields(rest: bytes)
    guard let kind = fields.text() else { return nil }
    switch kind {
    case "probe":
      guard let origin = fields.text(), let number: UInt64 = fields.number(), let name = fields.name(),
        let path = fields.path()
      else { return nil }
      return .probe(DeadlockProbe(origin: origin, number: number, name: name, path: path))
    case "victim":
      guard let request: UInt64 = fields.number(), let path = fields.path() else { return nil }
      return .victim(request: request, path: path)
    default:
      return nil
    }
  }

  private struct Fields {
    var rest: ArraySlice<UInt8>

    mutating func bytes() -> ArraySlice<UInt8>? {
      guard let colon = rest.prefix(6).firstIndex(of: 0x3A), let count = Int64(decimal: rest[..<colon]),
        count >= 0, count < rest.endIndex - colon
      else { return nil }
      let end = colon + 1 + Int(count)
      defer { rest = rest[end...] }
      return rest[(colon + 1)..<end]
    }

    mutating func text() -> String? { bytes().map { String(decoding: $0, as: UTF8.self) } }

    mutating func name() -> LockName? { bytes().map { LockName(bytes: Array($0)) } }

    mutating func number<Number: BinaryInteger>() -> Number? {
      bytes().flatMap { Int64(decimal: $0) }.flatMap { Number(exactly: $0) }
    }

    mutating func path() -> [DeadlockStep]? {
      var path: [DeadlockStep] = []
      while !rest.isEmpty {
        guard path.count < HostMessageCodec.stepsMax, let step = step() else { return nil }
        path.append(step)
      }
      return path
    }

    private mutating func step() -> DeadlockStep? {
      guard let host = text(), let inbox = text(), let session: UInt64 = number(), let request: UInt64 = number(),
        let pid = text(), let command = text(), let owner = text(), let waitsFor = name(), let holds = name(),
        let token: Token = number(), let waited: Int64 = number()
      else { return nil }
      return DeadlockStep(
        host: host, inbox: inbox, session: session, request: request, pid: Int32(pid),
        command: command.isEmpty ? nil : command, owner: owner.isEmpty ? nil : owner, waitsFor: waitsFor,
        holds: holds.bytes.isEmpty ? nil : holds, token: token, waitedMilliseconds: waited)
    }
  }
}
