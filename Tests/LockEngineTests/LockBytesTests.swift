import LockEngine
import LockTypes
import Testing

/// What is charged for holds and waits is enough for what is kept of them over a restart.
@Suite struct LockBytesTests {
  /// Of an entry in the log, beside the record.
  private static let entryBytes = 32

  private struct Texts {
    var name: Int
    var owner: Int?
    var meta: Int?
  }

  private static let texts: [Texts] = [
    Texts(name: 1), Texts(name: 512), Texts(name: 1, owner: 1), Texts(name: 1, meta: 1024),
    Texts(name: 512, owner: 128, meta: 1024),
  ]

  private func text(_ count: Int?) -> String? { count.map { String(repeating: "t", count: $0) } }

  private func name(_ number: Int, _ texts: Texts) -> String {
    let name = "\(Character(UnicodeScalar(UInt8(0x21 + number))))"
    return name + String(repeating: "n", count: texts.name - 1)
  }

  /// The sizes of all records, as a log has to keep them.
  private struct Sizes {
    private var sizes: [String: Int] = [:]
    var sum: Int { sizes.values.reduce(0, +) }

    mutating func commit(_ engine: LockEngine) {
      for change in engine.takeChanges(isKept: { _ in true }) {
        switch change {
        case .put(.epoch, _, _): break
        case .put(let kind, let id, let bytes): sizes["\(kind) \(id)"] = bytes.count + LockBytesTests.entryBytes
        case .remove(let kind, let id): sizes["\(kind) \(id)"] = nil
        }
      }
    }
  }

  @Test(arguments: [true, false])
  func theRecordsTakeNoMoreThanHalf(isLocal: Bool) {
    for texts in Self.texts {
      let script = Script(
        EngineConfiguration(tier: isLocal ? .local(firstToken: 1) : .store), linkUp: false)
      script.engine.recordChanges()
      if !isLocal { script.feed(.linkUp(.only)) }
      script.feed(.sessionOpened(alice, uid: 1000))
      script.feed(.sessionOpened(bob, uid: 1001))
      var sizes = Sizes()
      func check(_ what: String) {
        sizes.commit(script.engine)
        let most = script.engine.recordBytesMax
        #expect(sizes.sum > most / 8 && sizes.sum <= most, "\(what), \(texts)")
      }
      let (owner, meta) = (text(texts.owner), text(texts.meta))
      for number in 0..<8 {
        let mode: HoldMode = number < 3 ? .exclusive : number < 6 ? .shared : .permit(of: 5)
        script.acquire(
          alice, name(number, texts), mode: mode, wait: 1_000_000, maxHold: 1_000_000, owner: owner, meta: meta)
        if !isLocal { script.reply(granted(Token(100 + 10 * number))) }
      }
      #expect(script.engine.gauges.held == 8)
      check("holds")
      for number in 0..<8 {
        let mode: HoldMode = number < 6 ? .exclusive : .permit(of: 5)
        script.acquire(
          bob, name(number % 6, texts), mode: mode, wait: 1_000_000, maxHold: 1_000_000, owner: owner, meta: meta)
      }
      check("waits")
      script.acquire(
        bob, all: (0..<6).map { name($0, texts) }, wait: 1_000_000, owner: owner.map { $0 + "2" }, meta: meta)
      check("a wait for several")
    }
  }
}
