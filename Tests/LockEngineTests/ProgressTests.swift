import LockEngine
import LockTypes
import Testing

/// However many wait for a lock or share it, those who want to hear how its queue stands are told by some in each turn.
@Suite struct ProgressTests {
  private static let steps = 16

  private func script(_ sessions: SessionID...) -> Script {
    let script = Script(.withSlices(of: Self.steps, .local(firstToken: 1)), linkUp: false)
    for session in sessions { script.open(session) }
    return script
  }

  /// Whom the engine tells what: the request and its place, or the token and how many wait.
  private typealias Told = (waiting: [(request: RequestID, place: Int)], contended: [(token: Token, waiters: Int)])

  private func told(_ effects: [Effect]) -> Told {
    var told: Told = ([], [])
    for case .notify(_, let notification) in effects {
      switch notification {
      case .waiting(let request, _, let place, _, _): told.waiting.append((request, place))
      case .contended(_, let token, let waiters): told.contended.append((token, waiters))
      case .lost, .transferred: break
      }
    }
    return told
  }

  /// Fires the timer until nothing is due any more, and gives what was told each time.
  private func settle(_ script: Script, atMost turns: Int = 10_000) -> [Told] {
    var all: [Told] = []
    while let next = script.engine.nextDeadline, all.count < turns {
      script.now = max(script.now, next)
      script.feed(.timerFired)
      all.append(told(script.take()))
    }
    return all
  }

  /// To find those who want to hear takes steps, too.
  @Test(arguments: [true, false]) func aLongQueueIsLookedThroughInSlices(ofHolders: Bool) {
    let script = script(alice, bob, carol)
    if ofHolders {
      for _ in 0..<6400 { script.acquire(alice, mode: .shared) }
      script.acquire(bob, mode: .shared, progress: true)
    } else {
      script.acquire(alice)
      for _ in 0..<6400 { script.acquire(alice) }
      script.acquire(bob, progress: true)
    }
    _ = settle(script)
    _ = script.take()
    if ofHolders { script.acquire(carol) } else { script.release(alice) }
    #expect(told(script.take()).contended.isEmpty)
    let turns = settle(script)
    #expect(turns.count >= 6400 / 32 / Self.steps)
    if ofHolders {
      #expect(turns.flatMap(\.contended).map(\.waiters) == [1])
    } else {
      #expect(turns.flatMap(\.waiting).map(\.place) == [6400])
    }
  }

  @Test func manyWhoShareALockAreToldInSlices() {
    let script = script(alice, bob, carol)
    for _ in 0..<400 { script.acquire(alice, mode: .shared, progress: true) }
    _ = script.take()
    script.acquire(bob)
    let first = told(script.take()).contended
    let later = settle(script).map(\.contended)
    #expect(later.allSatisfy { $0.count <= Self.steps } && first.count <= Self.steps)
    let all = first + later.flatMap { $0 }
    #expect(Set(all.map(\.token)).count == 400 && all.count == 400 && all.allSatisfy { $0.waiters == 1 })
  }

  /// Some who stand in the queue, told or not, leave it between two turns.
  @Test func placesAreRightThoughOthersLeaveMeanwhile() {
    let script = script(alice, bob, carol)
    script.acquire(alice)
    var queue = (0..<400).map { _ in script.acquire(bob, progress: true) }
    var known: [RequestID: Int] = [:]
    func hear(_ told: Told) {
      for (request, place) in told.waiting { known[request] = place }
    }
    hear(told(script.take()))
    script.release(alice)
    queue.removeFirst()
    hear(told(script.take()))
    for turn in 0..<10 {
      script.now = max(script.now, script.engine.nextDeadline ?? script.now)
      script.feed(.timerFired)
      let news = told(script.take())
      hear(news)
      // Whoever is told is told the place that is his at that time.
      for (request, place) in news.waiting { #expect(queue.firstIndex(of: request) == place - 1) }
      // One who was told, the one who would be told next, and one behind.
      let next = (news.waiting.last?.place ?? 0) + 1
      for place in [next + 20, next, 1 + turn % 2] where place <= queue.count {
        script.cancel(bob, queue.remove(at: place - 1))
      }
      hear(told(script.take()))
    }
    for news in settle(script) {
      #expect(news.waiting.count <= Self.steps)
      hear(news)
    }
    #expect(queue.count > 350)
    for (index, request) in queue.enumerated() { #expect(known[request] == index + 1) }
  }

  /// Holders that leave between two turns are passed over.
  @Test func whoLeavesALockIsNotTold() throws {
    let script = script(alice, bob)
    for _ in 0..<400 { script.acquire(alice, mode: .shared, progress: true) }
    var tokens = script.take().compactMap(\.grantedToken)
    script.acquire(bob)
    var contended: [Token] = []
    func hear() {
      let news = told(script.take()).contended.map(\.token)
      #expect(news.allSatisfy { tokens.contains($0) })
      contended += news
    }
    hear()
    for _ in 0..<8 {
      try #require(contended.count + Self.steps < tokens.count)
      // The time goes on before the release is looked at. So these are the next one then, and the last.
      for token in [tokens[contended.count + Self.steps], tokens[tokens.count - 1]] {
        script.release(alice, token: token)
        hear()
        tokens.removeAll { $0 == token }
      }
    }
    while let next = script.engine.nextDeadline, next <= script.now {
      script.feed(.timerFired)
      hear()
    }
    #expect(tokens.count == 384 && Set(contended).count == contended.count)
    #expect(Set(tokens).isSubset(of: contended))
  }
}
