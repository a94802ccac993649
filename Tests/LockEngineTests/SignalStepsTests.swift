import LockEngine
import LockTypes
import Testing

/// Losses with `on_lost`, which the driver enforces by signals.
@Suite struct SignalStepsTests {
  /// To send a signal to a process takes as long as many steps, once for each session.
  @Test func fewProcessesAreSentSignalsInOneTurn() {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 1)) { $0.stepsPerSlice = 16 }, linkUp: false)
    let sessions = (1...40).map { SessionID($0) }
    for session in sessions {
      script.open(session)
      for index in 0..<4 { script.acquire(session, "\(session.rawValue) \(index)", maxHold: 100, onLost: .kill) }
    }
    _ = script.take()
    script.now = script.now.adding(milliseconds: 100)
    var (known, losses, most): (Set<SessionID>, Int, Int) = ([], 0, 0)
    while losses < 160, script.engine.nextDeadline.map({ $0 <= script.now }) == true {
      script.feed(.timerFired)
      var sessions: Set<SessionID> = []
      for case .notify(let session, .lost) in script.take() {
        sessions.insert(session)
        losses += 1
      }
      most = max(most, sessions.subtracting(known).count)
      known.formUnion(sessions)
    }
    #expect(losses == 160 && most == 1)
  }
}
