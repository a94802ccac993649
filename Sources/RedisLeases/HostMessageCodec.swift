import LockEngine
import LockTypes

/// Encodes messages from host to host: a kind, and then fields as `<length>:<bytes>`, since names, owners and commands
/// may hold anything. Each step of a chain is one field with fields inside; those that a later release appends are
/// passed along with the step. Whatever another daemon sends, nothing here can trap.
enum HostMessageCodec {
  /// The longest chain that is read.
  static let stepsMax = 32

  // MARK: Writing

  static func encode(_ message: HostMessage) -> [UInt8] {
    var bytes: [UInt8] = []
    switch message {
    case .probe(let probe):
      PackedFields.append("probe", to: &bytes)
      append(probe, to: &bytes)
    case .confirm(let probe, let next):
      PackedFields.append("confirm", to: &bytes)
      PackedFields.append(UInt64(next), to: &bytes)
      append(probe, to: &bytes)
    case .confirmed(let probe):
      PackedFields.append("confirmed", to: &bytes)
      append(probe, to: &bytes)
    case .refuted(let probe):
      PackedFields.append("refuted", to: &bytes)
      append(probe, to: &bytes)
    case .victim(let path):
      PackedFields.append("victim", to: &bytes)
      append(path, to: &bytes)
    }
    return bytes
  }

  private static func append(_ probe: DeadlockProbe, to bytes: inout [UInt8]) {
    PackedFields.append(probe.number, to: &bytes)
    append(probe.path, to: &bytes)
  }

  /// What is not known is written as an empty field.
  private static func append(_ path: [DeadlockStep], to bytes: inout [UInt8]) {
    PackedFields.append(path.count, to: &bytes)
    for step in path {
      var fields: [UInt8] = []
      PackedFields.append(step.host, to: &fields)
      PackedFields.append(step.inbox, to: &fields)
      PackedFields.append(step.session, to: &fields)
      PackedFields.append(step.request, to: &fields)
      PackedFields.append(step.pid.map { String($0) } ?? "", to: &fields)
      PackedFields.append(step.command ?? "", to: &fields)
      PackedFields.append(step.owner ?? "", to: &fields)
      PackedFields.append(step.waitsFor.bytes, to: &fields)
      PackedFields.append(step.holds?.bytes ?? [], to: &fields)
      PackedFields.append(step.token, to: &fields)
      PackedFields.append(step.began?.microseconds ?? 0, to: &fields)
      PackedFields.append(fields + step.more, to: &bytes)
    }
  }

  // MARK: Reading

  /// The message; nil when it is not understood or too long.
  static func decode(_ bytes: ArraySlice<UInt8>) -> HostMessage? {
    var fields = PackedFieldReader(bytes)
    guard let kind = fields.text() else { return nil }
    switch kind {
    case "probe":
      return fields.probe().map { .probe($0) }
    case "confirm":
      guard let next: UInt64 = fields.number(), let probe = fields.probe(), next < probe.path.count else { return nil }
      return .confirm(probe, next: Int(next))
    case "confirmed":
      return fields.probe().map { .confirmed($0) }
    case "refuted":
      return fields.probe().map { .refuted($0) }
    case "victim":
      return fields.path().map { .victim(path: $0) }
    default:
      return nil
    }
  }
}

extension PackedFieldReader {
  fileprivate mutating func probe() -> DeadlockProbe? {
    guard let number: UInt64 = number(), let path = path() else { return nil }
    return DeadlockProbe(number: number, path: path)
  }

  fileprivate mutating func path() -> [DeadlockStep]? {
    guard let count: Int = number(), 0...HostMessageCodec.stepsMax ~= count else { return nil }
    var path: [DeadlockStep] = []
    for _ in 0..<count {
      guard var fields = bytes().map({ PackedFieldReader($0) }), let step = fields.step() else { return nil }
      path.append(step)
    }
    return path
  }

  private mutating func step() -> DeadlockStep? {
    guard let host = text(), let inbox = text(), let session: UInt64 = number(), let request: UInt64 = number(),
      let pid = text(), let command = text(), let owner = text(), let waitsFor = name(), let holds = name(),
      let token: Token = number(), let began: Int64 = number()
    else { return nil }
    return DeadlockStep(
      host: host, inbox: inbox, session: session, request: request, pid: Int32(pid),
      command: command.isEmpty ? nil : command, owner: owner.isEmpty ? nil : owner, waitsFor: waitsFor,
      holds: holds.bytes.isEmpty ? nil : holds, token: token,
      began: began == 0 ? nil : StoreInstant(microseconds: began), more: Array(rest))
  }
}
