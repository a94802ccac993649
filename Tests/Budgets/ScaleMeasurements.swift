import LockEngine
import LockTypes

/// What one client can have much of, with some of it and with four times as much. Tests/lib/budgets.py fails where the second
/// takes more than four times as long as the first, and a little: then the cost grows with the square.
var scaleMeasurements: [Measurement] {
  [64, 256].flatMap { count in
    [
      Measurement(name: "scale/holds-that-end-\(count)") {
        let driver = EngineDriver(tier: .local(firstToken: 1))
        let names = (0..<count).map { LockName("held-\($0)") }
        return driver.sessionThatEnds { session in
          for name in names { driver.acquire(name, session: session) }
        }
      },
      Measurement(name: "scale/holds-of-one-name-that-end-\(count)") {
        let driver = EngineDriver(tier: .local(firstToken: 1))
        let name = lockName
        return driver.sessionThatEnds { session in
          for _ in 0..<count { driver.ask(name, session: session, mode: .shared) }
        }
      },
      Measurement(name: "scale/waits-that-end-\(count)") {
        let driver = EngineDriver(tier: .local(firstToken: 1), waitsPerSessionMax: count)
        let name = lockName
        driver.acquire(name)
        return driver.sessionThatEnds { session in
          for _ in 0..<count { driver.acquire(name, session: session) }
        }
      },
      Measurement(name: "scale/queue-of-\(count)") {
        let driver = EngineDriver(tier: .local(firstToken: 1), waitsPerSessionMax: count)
        let name = lockName
        return {
          for _ in 0...count { driver.acquire(name) }
          for _ in 0...count { driver.release(name) }
          driver.settle()
        }
      },
      Measurement(name: "scale/deadlock-search-over-\(count)") {
        let driver = EngineDriver(tier: .local(firstToken: 1), waitsPerSessionMax: 4 * count)
        let (first, second, third) = (LockName("first"), LockName("second"), LockName("third"))
        driver.ask(second, owner: "last")
        for index in 0..<count {
          driver.ask(first, mode: .shared, owner: "\(index)")
          driver.ask(second, owner: "\(index)")
        }
        return {
          driver.feed(.sessionOpened(SessionID(2)))
          // Who holds nothing that somebody waits for closes no circle, and nothing is searched.
          driver.ask(third, session: 2, owner: "new")
          driver.ask(third, session: 2, owner: "other")
          driver.ask(first, session: 2, owner: "new")
          driver.settle()
          driver.feed(.sessionClosed(SessionID(2)))
          driver.settle()
        }
      },
      Measurement(name: "scale/link-that-breaks-with-\(count)") {
        let driver = EngineDriver(tier: .store)
        for index in 0..<count {
          driver.acquire(LockName("held-\(index)"))
          driver.answer(granted)
        }
        return {
          driver.feed(.linkDown(.only))
          driver.settle()
          driver.feed(.linkUp(.only))
          driver.confirmRenewals()
          driver.settle()
        }
      },
    ]
  }
}

extension EngineDriver {
  /// A round in which a session comes, does something, and ends.
  fileprivate func sessionThatEnds(_ work: @escaping (UInt64) -> Void) -> () -> Void {
    var session: UInt64 = 1
    return {
      session += 1
      self.feed(.sessionOpened(SessionID(session)))
      work(session)
      self.feed(.sessionClosed(SessionID(session)))
      self.settle()
    }
  }

  /// Has the engine finish what it has put off.
  fileprivate func settle() {
    while let next = engine.nextDeadline, next <= now { feed(.timerFired) }
  }
}
