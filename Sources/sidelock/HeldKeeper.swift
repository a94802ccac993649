import CSupervise
import Glibc
import SidelockClient

/// Keeps what was granted for as long as it is safe, for a command that has nothing else to do (``RunTimeline``).
struct HeldKeeper {
  enum End {
    /// Input ended, or what `input` stands for.
    case input
    /// The daemon told that a lock is lost.
    case told(LostNotice)
    /// The connection ended, or the daemon does not answer, in these words. `safe`: for how long nobody else can have the
    /// lock, in milliseconds; nil where that is not known.
    case unknown(String, safe: Int64?)
  }

  let granted: WaitingAcquire.Outcome
  let held: HeldLocks
  /// Called with notifications.
  let show: (ClientMachine.Event) throws -> Void

  /// Keeps it until `input` is readable and `isEnd` says that it has ended, or until it is lost or could be. `input`: -1
  /// for none.
  func keep(input: CInt, isEnd: () -> Bool) throws -> End {
    for event in granted.rest {
      try show(event)
      if case .lost(let notice) = event, held.has(notice) { return .told(notice) }
    }
    guard !held.isEmpty else { return .input }
    let daemon = granted.daemon
    var lease = granted.lease
    var questionID: Int64 = 0
    // Set when the lease was over before the daemon could be asked: this process was stopped, or the host slept.
    var answerUntil: Int64?
    while true {
      let turn = supervise_boot_milliseconds()
      let events: [ClientMachine.Event]
      do {
        let (found, isReadable) = try daemon.readWhileAlive(
          input: input, until: answerUntil ?? lease?.deadline, isHolding: true)
        if isReadable, isEnd() { return .input }
        events = found
      } catch let error as SidelockError where error.reason == .connectionLost {
        return .unknown(error.message, safe: lease.map { $0.killAt - supervise_boot_milliseconds() })
      }
      for event in events {
        guard case .reply(questionID, let answer) = event else {
          try show(event)
          if case .lost(let notice) = event, held.has(notice) { return .told(notice) }
          continue
        }
        lease?.answered(
          validMilliseconds: (try? answer.get())?["valid_ms"]?.intValue, now: supervise_boot_milliseconds())
        answerUntil = nil
      }
      let now = supervise_boot_milliseconds()
      // What has come may be half of an answer.
      guard daemon.heardAt < turn, let deadline = answerUntil ?? lease?.deadline, now >= deadline else { continue }
      if lease?.isOver(now: now) == true {
        guard lease?.isAsked == false else {
          return .unknown(
            "the daemon has not answered and the lease is about to end", safe: lease.map { $0.killAt - now })
        }
        answerUntil = now + DaemonConnection.answerMilliseconds
      }
      lease?.asked(now: now)
      // A failure to send shows up as the end of the connection at the next read.
      questionID = (try? daemon.request("ping")) ?? 0
    }
  }
}
