import LockEngine
import LockTypes
import RESP
import TestSupport
import Testing

@testable import RedisLeases

/// Whatever is submitted is answered exactly once and sent at most once, wherever the connection breaks.
@Suite struct RedisLinkBreakTests {
  /// What became of what was submitted.
  private struct Ledger {
    var queries: [UInt64: Int] = [:]
    var leases: [UInt64: Int] = [:]
    /// By what stands in them: each has a name of its own.
    var sent: [String: Int] = [:]

    mutating func note(_ events: [RedisLinkMachine.Event]) {
      for event in events {
        switch event {
        case .reply(let id, _, _): leases[id.rawValue, default: 0] += 1
        case .answered(let id, _): queries[id, default: 0] += 1
        case .up, .refused, .message, .proved, .sent, .login, .ended: break
        }
      }
    }

    mutating func note(_ outage: RedisLinkMachine.Outage?) {
      for id in outage?.unanswered ?? [] { queries[id, default: 0] += 1 }
    }

    mutating func note(sent words: [String]) {
      for word in words where word != "PING" { sent[word, default: 0] += 1 }
    }
  }

  private func submitted(_ link: inout ScriptedLink, _ ledger: inout Ledger) {
    for id in 1...UInt64(3) { link.acquire(id, "a\(id)", of: 1000) }
    #expect(link.query(101, "GET q1") == true)
    link.renew(4, "r1", "r2")
    link.release(5, "b")
    #expect(link.query(102, "GET q2", of: 1000, weight: 256) == true)
    // Behind the share of one user.
    link.acquire(6, "c", of: 1000)
    #expect(link.query(103, "GET q3", of: 1000) == true)
    ledger.note(sent: link.read())
  }

  @Test func everythingIsAnsweredOnceWhereverTheConnectionBreaks() {
    var whole = ScriptedLink.proven()
    var nothing = Ledger()
    submitted(&whole, &nothing)
    let wire = Array((whole.asked.map(\.answer).joined() + ScriptedLink.message("x")).utf8)
    for cut in 0...wire.count {
      var link = ScriptedLink.proven()
      var ledger = Ledger()
      submitted(&link, &ledger)
      ledger.note(link.hear(Array(wire[..<cut])))
      ledger.note(sent: link.read())
      let outage = link.end()
      ledger.note(outage)
      #expect(outage?.wasReady == true)
      #expect(ledger.queries == [101: 1, 102: 1, 103: 1], "cut at \(cut)")
      #expect(ledger.leases.values.allSatisfy { $0 == 1 }, "cut at \(cut)")
      // The next connection begins with nothing of the one before.
      ledger.note(link.up())
      ledger.note(sent: link.read())
      ledger.note(link.answer(10))
      #expect(link.machine.waitingCount == 0)
      #expect(link.read() == [])
      #expect(ledger.queries == [101: 1, 102: 1, 103: 1], "cut at \(cut)")
      #expect(ledger.sent.values.allSatisfy { $0 == 1 }, "cut at \(cut): \(ledger.sent)")
      #expect(ledger.leases.count <= 6)
    }
    // And where it does not break.
    nothing.note(whole.hear(wire))
    nothing.note(sent: whole.read())
    nothing.note(whole.answer(10))
    nothing.note(whole.hear(whole.asked.map(\.answer).joined()))
    #expect(nothing.leases.count == 6 && nothing.queries == [101: 1, 102: 1, 103: 1])
    #expect(nothing.sent.count == 9 && nothing.sent.values.allSatisfy { $0 == 1 })
  }

  /// A link that is used, broken and made again at random.
  @Test(arguments: 1...12 as ClosedRange<UInt64>)
  func nothingIsForgottenOrDoneTwiceAtRandom(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var link = ScriptedLink.proven()
    var ledger = Ledger()
    var asked: Set<UInt64> = []
    var next: UInt64 = 1
    for _ in 0..<400 {
      switch Int.random(in: 0..<20, using: &random) {
      case 0..<6:
        for _ in 0..<Int.random(in: 1...60, using: &random) {
          link.acquire(next, "a\(next)", of: UInt32.random(in: 1...6, using: &random))
          next += 1
        }
      case 6..<8:
        link.renew(next, "r\(next)")
        next += 1
      case 8..<11:
        let weight = Int.random(in: 1...300, using: &random)
        if link.query(next, "GET q\(next)", of: UInt32.random(in: 1...6, using: &random), weight: weight) {
          asked.insert(next)
        }
        next += 1
      case 11..<13: ledger.note(sent: link.read())
      case 13..<18:
        ledger.note(sent: link.read())
        ledger.note(link.answer(Int.random(in: 1...300, using: &random)))
      case 18: ledger.note(link.hear(ScriptedLink.message("x")))
      default:
        guard Bool.random(using: &random) else { continue }
        ledger.note(link.end())
        if Bool.random(using: &random) { _ = link.up() } else { ledger.note(link.end()) }
      }
      if !link.machine.isReady, Bool.random(using: &random) { _ = link.up() }
    }
    ledger.note(link.end())
    #expect(ledger.queries.count == asked.count && ledger.queries.keys.allSatisfy(asked.contains))
    #expect(ledger.queries.values.allSatisfy { $0 == 1 })
    #expect(ledger.leases.values.allSatisfy { $0 == 1 })
    #expect(ledger.sent.values.allSatisfy { $0 == 1 })
    #expect(link.machine.waitingCount == 0)
  }
}
