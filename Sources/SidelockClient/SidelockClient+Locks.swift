extension SidelockClient {
  /// Waits for a lock, or for a permit of a semaphore, and takes it.
  ///
  /// When the task is cancelled, the wait is withdrawn and the call throws `CancellationError` as soon as the daemon
  /// has confirmed that nothing is held or waited for.
  ///
  /// - Parameters:
  ///   - name: the lock's name, up to 512 bytes.
  ///   - mode: how to hold it.
  ///   - wait: how long to wait.
  ///   - maxHold: after how long of holding the daemon takes the lock away; nil for no limit.
  ///   - owner: the thread or task that asks, up to 128 bytes: it gets what it holds again at once, and must release it
  ///     as often. nil: none, and then a second acquire waits like anybody else's.
  ///   - meta: a note that others see when they inspect the lock, up to 1 KiB.
  ///   - lossAction: what the daemon does to this process if the lock is lost.
  ///   - replicas: how many replicas of Redis have to have the lease, up to 16; nil: as many as the daemon's settings say. The
  ///     daemon's `replicas_timeout_ms` has to be less than the `answerTimeout` of this client.
  ///   - durability: how safely the primary and those replicas have to have it; nil: as the settings say.
  ///   - onLost: called once, on an I/O thread that it must not block, if the lock is lost before it is released.
  ///   - onWaiting: called on an I/O thread that it must not block, while the request waits and when its place changes, at
  ///     most once a second, with that place, from 1 on.
  ///   - onContended: called on an I/O thread that it must not block, when others wait for the lock and when their
  ///     number changes, at most once a second, with that number.
  /// - Throws: ``SidelockError``; among its reasons are `busy`, `timeout`, `unavailable`, `mode_conflict`, `deadlock`,
  ///   `under_replicated`, `connection_lost`.
  public func acquire(
    _ name: String, mode: LockMode = .exclusive, wait: Wait = .forever, maxHold: Duration? = nil,
    owner: String? = nil, meta: String? = nil, lossAction: LossAction = .notify, replicas: Int? = nil,
    durability: Durability? = nil, onLost: (@Sendable (LostNotice) -> Void)? = nil,
    onWaiting: (@Sendable (Int) -> Void)? = nil, onContended: (@Sendable (Int) -> Void)? = nil
  ) async throws -> Lock {
    var params = JSONObject()
    params.append("name", .string(name))
    let wish = Wish(
      mode: mode, wait: wait, maxHold: maxHold, owner: owner, meta: meta, lossAction: lossAction, replicas: replicas,
      durability: durability)
    wish.append(to: &params)
    if onWaiting != nil || onContended != nil { params.append("progress", true) }
    try Task.checkCancellation()
    let hold = Hold(onLost: onLost, onContended: onContended)
    let ticket = AcquireTicket(names: [name], params: .object(params), holds: [hold], onWaiting: onWaiting)
    return try await connection().acquire(ticket)[0]
  }

  /// Waits for several locks and takes them, all or none. Callers may name them in any order: two of them never wait for
  /// each other.
  ///
  /// - Parameters:
  ///   - names: 1 to 64 names, all different.
  ///   - wait: how long to wait for all of them together.
  ///   - onLost: called once for each of them that is lost before it is released.
  /// - Returns: the locks, in the order of `names`.
  /// - Throws: as ``acquire(_:mode:wait:maxHold:owner:meta:lossAction:replicas:durability:onLost:onWaiting:onContended:)``.
  public func acquire(
    all names: [String], mode: LockMode = .exclusive, wait: Wait = .forever, maxHold: Duration? = nil,
    owner: String? = nil, meta: String? = nil, lossAction: LossAction = .notify, replicas: Int? = nil,
    durability: Durability? = nil, onLost: (@Sendable (LostNotice) -> Void)? = nil
  ) async throws -> [Lock] {
    var params = JSONObject()
    params.append("names", .array(names.map { .string($0) }))
    let wish = Wish(
      mode: mode, wait: wait, maxHold: maxHold, owner: owner, meta: meta, lossAction: lossAction, replicas: replicas,
      durability: durability)
    wish.append(to: &params)
    try Task.checkCancellation()
    let holds = names.map { _ in Hold(onLost: onLost) }
    let ticket = AcquireTicket(names: names, params: .object(params), holds: holds)
    return try await connection().acquire(ticket)
  }

  /// Runs `body` while holding a lock, and releases the lock afterwards, whatever `body` did.
  ///
  /// `body` runs in a task of its own, which is cancelled when the lock is lost. It should then stop at once: another
  /// may have the lock ``LostNotice/graceMilliseconds`` later.
  ///
  /// - Throws: what ``acquire(_:mode:wait:maxHold:owner:meta:lossAction:replicas:durability:onLost:onWaiting:onContended:)`` throws; what `body`
  ///   throws; ``SidelockError`` of reason `lost` when the lock was lost before `body` had ended.
  public func withLock<R: Sendable>(
    _ name: String, mode: LockMode = .exclusive, wait: Wait = .forever, maxHold: Duration? = nil,
    owner: String? = nil, meta: String? = nil, replicas: Int? = nil, durability: Durability? = nil,
    onLost: (@Sendable (LostNotice) -> Void)? = nil, _ body: @escaping @Sendable (Lock) async throws -> R
  ) async throws -> R {
    let lock = try await acquire(
      name, mode: mode, wait: wait, maxHold: maxHold, owner: owner, meta: meta, replicas: replicas,
      durability: durability, onLost: onLost)
    return try await Self.hold([lock]) { try await body(lock) }
  }

  /// Runs `body` while holding several locks, and releases them afterwards, whatever `body` did. When one of them is lost
  /// the task of `body` is cancelled.
  ///
  /// - Throws: as ``withLock(_:mode:wait:maxHold:owner:meta:replicas:durability:onLost:_:)``.
  public func withLocks<R: Sendable>(
    _ names: [String], mode: LockMode = .exclusive, wait: Wait = .forever, maxHold: Duration? = nil,
    owner: String? = nil, meta: String? = nil, replicas: Int? = nil, durability: Durability? = nil,
    onLost: (@Sendable (LostNotice) -> Void)? = nil, _ body: @escaping @Sendable ([Lock]) async throws -> R
  ) async throws -> R {
    let locks = try await acquire(
      all: names, mode: mode, wait: wait, maxHold: maxHold, owner: owner, meta: meta, replicas: replicas,
      durability: durability, onLost: onLost)
    return try await Self.hold(locks) { try await body(locks) }
  }

  private static func hold<R: Sendable>(
    _ locks: [Lock], _ body: @escaping @Sendable () async throws -> R
  ) async throws -> R {
    let outcome = await run(locks, body)
    var failure: (any Error)?
    for lock in locks where !lock.isLost && !lock.hold.isReleased {
      // The body may have released it itself.
      do { try await lock.release() } catch { failure = failure ?? error }
    }
    if let notice = locks.compactMap(\.lostNotice).first {
      // The cancellation of the body would hide the reason; any other error of its own is worth more.
      if case .failure(let error) = outcome, !(error is CancellationError) { throw error }
      throw SidelockError(lost: notice)
    }
    // The body's own failure is what the caller must see.
    let result = try outcome.get()
    if let failure { throw failure }
    return result
  }

  /// Runs `body`, in a child task that a loss of a lock cancels.
  private static func run<R: Sendable>(
    _ locks: [Lock], _ body: @escaping @Sendable () async throws -> R
  ) async -> Result<R, any Error> {
    // nil: the `losses` of a lock have ended.
    await withTaskGroup(of: Result<R, any Error>?.self) { group in
      group.addTask {
        do {
          return .success(try await body())
        } catch {
          return .failure(error)
        }
      }
      for lock in locks {
        group.addTask {
          for await _ in lock.hold.losses { break }
          return nil
        }
      }
      var outcome: Result<R, any Error>?
      for await result in group {
        if let result { outcome = result }
        // `losses` also ends when the body releases the lock itself; the body then goes on.
        if outcome != nil || locks.contains(where: \.isLost) { group.cancelAll() }
      }
      return outcome ?? .failure(CancellationError())
    }
  }
}

/// What an acquire asks for besides names.
private struct Wish {
  var mode: LockMode
  var wait: SidelockClient.Wait
  var maxHold: Duration?
  var owner: String?
  var meta: String?
  var lossAction: LossAction
  var replicas: Int?
  var durability: Durability?

  func append(to params: inout JSONObject) {
    mode.append(to: &params)
    if let milliseconds = wait.milliseconds { params.append("wait_ms", .int(milliseconds)) }
    if let maxHold { params.append("max_hold_ms", .int(maxHold.holdMilliseconds)) }
    if let owner { params.append("owner", .string(owner)) }
    if let meta { params.append("meta", .string(meta)) }
    if let replicas { params.append("replicas", .int(Int64(replicas))) }
    if let durability { params.append("durability", .string(durability.rawValue)) }
    if lossAction != .notify { params.append("on_lost", .string(lossAction.rawValue)) }
  }
}
