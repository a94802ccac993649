import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

/// What daemons say to each other through their inboxes.
@Suite struct HostMessageTests {
  private let encoder = LeaseCommandEncoder(keyPrefix: "sl:", host: "a", instance: "1f")

  private func message(_ command: RedisCommand) -> [UInt8] { command.parts[2] }

  private func step(_ number: UInt64, name: [UInt8], holds: [UInt8]?) -> DeadlockStep {
    DeadlockStep(
      host: "b", inbox: "b/2e", session: number, request: number + 1, pid: number == 1 ? nil : 4711,
      command: number == 1 ? nil : "back up: 5 %", owner: number == 1 ? nil : "thread 1:2",
      waitsFor: LockName(bytes: name), holds: holds.map { LockName(bytes: $0) }, token: 1_700_000_000_000_000,
      began: number == 1 ? nil : StoreInstant(microseconds: 1_700_000_000_000_012))
  }

  private var messages: [HostMessage] {
    let odd: [UInt8] = Array("5:a b\n;{%}".utf8)
    let path = [step(1, name: odd, holds: nil), step(2, name: [0x78], holds: odd)]
    return [
      .probe(DeadlockProbe(number: 3, path: path)),
      .probe(DeadlockProbe(number: .max >> 1, path: [])),
      .victim(path: path),
      .confirm(DeadlockProbe(number: 3, path: path), next: 1),
      .confirmed(DeadlockProbe(number: 3, path: path)),
      .refuted(DeadlockProbe(number: 3, path: path)),
    ]
  }

  @Test func messagesComeBackAsTheyWere() {
    for sent in messages {
      #expect(InboxMessage(message(encoder.encode(.hostMessage(inbox: "b/2e", sent)))) == .lease(.hostMessage(sent)))
    }
  }

  @Test func theyGoToTheInboxOfTheOtherDaemon() {
    let command = encoder.encode(.hostMessage(inbox: "b/2e", messages[2]))
    #expect(command.parts.prefix(2).map { String(decoding: $0, as: UTF8.self) } == ["PUBLISH", "sl:inbox:b/2e"])
  }

  @Test func damagedMessagesAreNotUnderstoodAndDoNoHarm() {
    var state: UInt64 = 88_172_645_463_325_252
    func random(_ bound: Int) -> Int {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return Int(state % UInt64(bound))
    }
    var understood = 0
    for round in 0..<20_000 {
      var bytes = message(encoder.encode(.hostMessage(inbox: "b/2e", messages[round % 6])))
      for _ in 0...random(3) {
        switch random(4) {
        case 0: bytes.removeLast(min(bytes.count, 1 + random(20)))
        case 1: bytes.insert(UInt8(truncatingIfNeeded: random(256)), at: random(bytes.count + 1))
        case 2: if !bytes.isEmpty { bytes[random(bytes.count)] = UInt8(truncatingIfNeeded: random(256)) }
        default: bytes.insert(contentsOf: "99999999999999999999:".utf8, at: random(bytes.count + 1))
        }
      }
      if InboxMessage(bytes) != nil { understood += 1 }
    }
    // A changed byte inside a name is a name all the same.
    #expect(understood > 0 && understood < 20_000)
  }

  @Test func aChainThatIsTooLongIsNotRead() {
    let path = Array(repeating: step(1, name: [0x78], holds: nil), count: 33)
    let command = encoder.encode(.hostMessage(inbox: "b/2e", .victim(path: path)))
    #expect(InboxMessage(message(command)) == nil)
    let shorter = encoder.encode(.hostMessage(inbox: "b/2e", .victim(path: Array(path.dropLast()))))
    #expect(InboxMessage(message(shorter)) != nil)
  }

  @Test func questionsAndAnswersCarryAnything() {
    let payload: [UInt8] = [0, 10, 32, 255]
    #expect(
      InboxMessage(message(encoder.call(payload, id: 5, inbox: "b/2e"))) == .call(5, from: "a/1f", payload))
    #expect(InboxMessage(message(encoder.answer(payload, id: 5, inbox: "b/2e"))) == .answer(5, payload))
    #expect(InboxMessage(Array("1;call x a/1f;y".utf8)) == nil)
    #expect(InboxMessage(Array("1;answer -1;y".utf8)) == nil)
    #expect(InboxMessage(Array("1;call".utf8)) == nil)
  }

  @Test func modesAreReadAsTheyAreWritten() {
    for mode in [HoldMode.exclusive, .shared, .permit(of: 1), .permit(of: 1_000_000)] {
      let text = "1;contended 4 9 1 b/2e \(mode == .exclusive ? "x" : mode == .shared ? "s" : capacity(mode));some name"
      #expect(
        InboxMessage(Array(text.utf8))
          == .lease(
            .contended(name: LockName("some name"), attempt: 4, ask: 9, isTry: true, inbox: "b/2e", mode: mode)))
    }
    for word in ["", "y", "p", "p0", "p-1", "xs", "p99999999999999999999"] {
      #expect(InboxMessage(Array("1;contended 4 9 1 b/2e \(word);x".utf8)) == nil)
    }
  }

  private func capacity(_ mode: HoldMode) -> String {
    if case .permit(let capacity) = mode { "p\(capacity)" } else { "" }
  }
}
