extension LockEngine {
  /// Whether a message is about something that this host waits for, or has to know. Whoever may merely write to the inbox
  /// cannot make up many of these: an attempt cannot be guessed, and what else is waited for comes once.
  ///
  /// Any other message may be left out, and so may these, except the grant of an attempt that this host has: whoever
  /// sent it does so again, or asks the store, or a lease ends by itself.
  public func isAwaited(_ push: LeasePush) -> Bool {
    switch push {
    case .granted(let name, let attempt, _):
      // Also of one that it has already: it may have been lost and taken anew, with tokens that have to be known.
      lease(of: name, attempt: attempt) != nil
    case .contended(let name, let attempt, _, _, _, _):
      lease(of: name, attempt: attempt).map { $0.isHeld && !$0.isContended } ?? false
    case .inUse(let name, let ask):
      // Of a semaphore each holder says so.
      locks[name].map { lock in
        lock.ask == ask && (lock.conflict != nil || lock.queue.first.map { $0.isTry && $0.answersWanted <= 1 } ?? false)
      } ?? false
    case .told:
      false
    }
  }
}
