import LockEngine
import LockTypes

/// Puts what hosts say to each other into bytes: a kind, and then fields as `<length>:<bytes>`, since names, owners and
/// commands may hold anything. Whatever another daemon sends, nothing here can trap.
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
    for step in path {
      PackedFields.append(step.host, to: &bytes)
      PackedFields.append(step.inbox, to: &bytes)
      PackedFields.append(step.session, to: &bytes)
      PackedFields.append(step.request, to: &bytes)
      PackedFields.append(step.pid.map { String($0) } ?? "", to: &bytes)
      PackedFields.append(step.command ?? "", to: &bytes)
      PackedFields.append(step.owner ?? "", to: &bytes)
      PackedFields.append(step.waitsFor.bytes, to: &bytes)
      PackedFields.append(step.holds?.bytes ?? [], to: &bytes)
      PackedFields.append(step.token, to: &bytes)
      PackedFields.append(step.began?.microseconds ?? 0, to: &bytes)
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
    var path: [DeadlockStep] = []
    while !isAtEnd {
      guard path.count < HostMessageCodec.stepsMax, let step = step() else { return nil }
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
      began: began == 0 ? nil : StoreInstant(microseconds: began))
  }
}
