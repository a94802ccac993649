// Start, stop, status and watchdog.

import DaemonSettings
import Glibc
import LockEngine
import NIOCore
import NIOPosix
import SystemStrings

extension SidecarCore {
  /// How long the daemon tries to give its locks back before it stops all the same, in milliseconds.
  static let drainMillisecondsMax: Int64 = 5000
  /// How long it waits for clients to take the last replies, in milliseconds.
  static let closeMillisecondsMax: Int64 = 500
  /// What the service manager is asked to wait beyond those two, in milliseconds.
  static let stopSpareMilliseconds: Int64 = 2000
  /// How long the first connection to Redis may keep the daemon from serving, in milliseconds, unless Redis may not take so
  /// long to answer. Without Redis it serves all the same, and says so.
  static let firstConnectionMillisecondsMax: Int64 = 2000
  /// How often the status is looked at, in milliseconds.
  static let statusMilliseconds: Int64 = 1000

  // MARK: Start

  /// Goes on with what a daemon before this one left, and serves on `socket` from now on.
  func start(on socket: ListeningSocket, predecessor: KeptState? = nil) -> EventLoopFuture<Void> {
    let predecessor = NIOLoopBound(predecessor, eventLoop: loop)
    let core = NIOLoopBound(self, eventLoop: loop)
    return BootTimer.make(on: loop) { [unowned self] in timerFired() }
      .flatMap { timer in
        core.value.timer = timer.value
        return core.value.takeOver(predecessor.value)
      }
      .flatMap { core.value.startLink() }
      .flatMap {
        ServerBootstrap(group: core.value.loop)
          .serverChannelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
              try channel.pipeline.syncOperations.addHandler(
                AcceptPauseHandler(logger: core.value.logger, clock: core.value.clock))
            }
          }
          .childChannelOption(.allowRemoteHalfClosure, value: true)
          .childChannelOption(
            .writeBufferWaterMark,
            value: .init(low: TurnOutput.unreadResumeBytes, high: TurnOutput.unreadPauseBytes)
          )
          .childChannelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
              try channel.pipeline.syncOperations.addHandler(
                ClientChannelHandler(registry: core.value.registry, input: core.value.input))
            }
          }
          .withBoundSocket(socket.descriptor)
      }
      .map { listener in
        // The bootstrap listens to a bound socket with a queue of 128 whatever it is told; a host has more processes.
        listen(socket.descriptor, ListeningSocket.backlog)
        core.value.listener = listener
        core.value.serving()
      }
  }

  /// Begins to connect to Redis; complete as soon as it is known whether that works.
  private func startLink() -> EventLoopFuture<Void> {
    guard case .redis(let url) = configuration.settings.backend else { return loop.makeSucceededVoidFuture() }
    let decided = loop.makePromise(of: Void.self)
    let patience = min(Self.firstConnectionMillisecondsMax, configuration.settings.live.engine.storeTimeoutMilliseconds)
    loop.scheduleTask(in: .milliseconds(patience)) { decided.succeed() }
    let link = RedisLink(
      loop: loop, url: url, keyPrefix: configuration.settings.keyPrefix, host: configuration.settings.host,
      instance: instance, timeoutMilliseconds: configuration.settings.live.engine.storeTimeoutMilliseconds,
      clock: clock, logger: logger,
      onEvent: { [unowned self] event in heard(event) }, onOutput: { [unowned self] in output.scheduleEnd() },
      onFirstOutcome: { decided.succeed() })
    store = link
    link.answerMilliseconds = { [unowned self] in
      // A link that is gone must be found out in time to save the leases.
      min(2 * engine.roundTrip.timeoutMilliseconds, configuration.settings.live.engine.leaseMilliseconds / 3)
    }
    queries.hostCalls = HostCalls(
      loop: loop, store: link,
      timeoutMilliseconds: { [unowned self] in engine.holderTimeoutMilliseconds })
    link.onInput = { [unowned self] in
      turns.begin(.redis, now: clock.now())
      output.scheduleEnd()
    }
    link.isAwaited = { [unowned self] message in
      switch message {
      case .lease(let push): engine.isAwaited(push)
      case .answer(let id, _): queries.hostCalls?.isOpen(id) == true
      case .call: false
      }
    }
    link.start()
    return decided.futureResult
  }

  func heard(_ event: StoreEvent) {
    switch event {
    case .up:
      tell(.linkUp(.only))
      watches.tell(.connected)
    case .down:
      tell(.linkDown(.only))
      watches.tell(.disconnected)
    case .sent(let command): tell(.commandSent(.only, command))
    case .reply(let command, let reply): tell(.replyReceived(.only, command, reply))
    case .push(let push): tell(.pushReceived(.only, push))
    case .call(let id, let inbox, let payload): queries.asked(id, from: inbox, payload)
    case .answer(let id, let payload): queries.hostCalls?.answered(id, payload)
    }
  }

  private func serving() {
    // Asked to stop before it had begun.
    guard life.stage == .starting else { return }
    life.stage = .serving
    room.measure()
    if rights.needsUnits { policyChanged() }
    logger.info(
      "serving",
      metadata: [
        "socket": "\(SystemText.shown(configuration.settings.socketPath))", "host": "\(configuration.settings.host)",
        "instance": "\(instance)",
      ])
    lastStatus = status
    notifier.ready(status: lastStatus)
    scheduleWatchdog()
    awaitGoodBeginning()
  }

  /// What was left has been taken over for good when Redis has answered about it and the loop still goes round. Until then
  /// the end of this process counts against it.
  private func awaitGoodBeginning(waited: Int64 = 0) {
    loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.begunWellMilliseconds)) {
      if waited < Self.begunWellMillisecondsMax, self.store?.hasAnswered == false {
        self.awaitGoodBeginning(waited: waited + Self.begunWellMilliseconds)
      } else {
        self.keeper?.begunWell()
      }
    }
  }

  /// The ping comes from the loop that does the work: when the loop hangs, so does the ping. Redis has no part in it.
  private func scheduleWatchdog() {
    guard let interval = notifier.watchdogIntervalMicroseconds else { return }
    notifier.watchdogTick()
    loop.assumeIsolated().scheduleTask(in: .microseconds(Int64(clamping: interval / 3))) { self.scheduleWatchdog() }
  }

  // MARK: Status

  var status: String {
    let gauges = engine.gauges
    var clients = "\(sessions.count) clients, \(gauges.held) held, \(gauges.waiting) waiting"
    if let settingsNote { clients += "; \(settingsNote)" }
    guard let store else { return "local; \(clients)" }
    return store.isReady ? "Redis connected; \(clients)" : "Redis unreachable (\(store.downReason ?? "")); \(clients)"
  }

  /// Something changed; the status line follows within a second. Nothing is scheduled while nothing happens.
  func scheduleStatus() {
    guard statusTask == nil, life.stage == .serving else { return }
    statusTask = loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.statusMilliseconds)) {
      self.statusTask = nil
      let status = self.status
      guard status != self.lastStatus, self.life.stage == .serving else { return }
      self.lastStatus = status
      self.notifier.status(status)
    }
  }

  // MARK: Reload

  /// Takes over what can change while clients are served; see ``Sidecar/reload(_:saved:note:)``.
  func reload(_ new: LiveSettings?, saved: [UInt8], note: String?) {
    // They may have taken so long to be read that the daemon stops by now, or has left everything to another.
    guard life.stage == .starting || life.stage == .serving else { return }
    if let new {
      let old = configuration.settings.live
      configuration.settings.live = new
      configuration.savedSettings = saved
      keeper?.settingsChanged()
      output.scheduleEnd()
      tellAside(.reconfigured(new.engine))
      store?.timeoutMilliseconds = new.engine.storeTimeoutMilliseconds
      if new.connectionsMax != old.connectionsMax { room.warnIfScarce() }
      if new.policy != old.policy { policyChanged() }
    }
    settingsNote = note
    // Before it serves, "ready" would be untrue, and follows by itself.
    guard life.stage == .serving else { return }
    lastStatus = status
    notifier.ready(status: lastStatus)
  }

  /// Uses the policy of the configuration from now on. What is held or waits is not asked about again.
  private func policyChanged() {
    rights.policyChanged()
    guard rights.needsUnits else {
      for session in sessions.values { input.resumeReading(of: session) }
      return
    }
    peers.policyChanged()
  }

  // MARK: Stop

  /// Ends where nobody has said whether another daemon follows: what announces that may fail by the same mistake in the
  /// unit for which it is restarted, and nothing is announced to a daemon that starts. What clients have is left to one
  /// that may follow. If none does, connections end with the service manager's store, and leases by themselves.
  ///
  /// - Parameter next: the settings that it would have; nil: those of this one, because its own are wrong.
  func end(before next: Settings?) {
    // After an announcement it is known that nothing can be left.
    if life.stage == .serving, !wasRestartAnnounced, handOver(to: next) { return }
    stop()
  }

  /// Gives back every lock, tells every client, and ends. While clients are left to the next daemon it changes nothing:
  /// the service manager means the same.
  func stop() {
    switch life.stage {
    case .starting:
      notifier.stopping(status: "Stopping")
      if leaveBeforeServing() { return }
      keeper?.abandon()
      return finish()
    case .serving:
      break
    case .handingOver, .handedOver, .draining, .closing, .stopped:
      return
    }
    life.stage = .draining
    keeper?.abandon()
    notifier.stopping(status: "Stopping")
    notifier.extendTimeout(
      microseconds: UInt64(Self.drainMillisecondsMax + Self.closeMillisecondsMax + Self.stopSpareMilliseconds) * 1000)
    listener?.close(promise: nil)
    for session in sessions.values where session.input.hasSpoken { output.write(to: session) { $0.draining() } }
    loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.drainMillisecondsMax)) {
      guard self.life.stage == .draining else { return }
      self.logger.warning("not every lock could be given back in time; the rest end by their leases")
      self.drained()
    }
    tell(.shutdownRequested)
  }

  /// Everything has been given back, or cannot be.
  func drained() {
    guard life.stage == .draining else { return }
    life.stage = .closing
    if let store, !store.isReady, engine.gauges.locks > 0 {
      logger.warning("Redis cannot be reached; locks that were held end by their leases")
    }
    loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.closeMillisecondsMax)) { self.finish() }
    // An empty write completes after everything before it.
    let flushed = sessions.values.map { session in
      let rest = session.output.bytes ?? session.channel.allocator.buffer(capacity: 0)
      session.output.bytes = nil
      return session.channel.writeAndFlush(rest)
    }
    EventLoopFuture.andAllComplete(flushed, on: loop).assumeIsolated().whenComplete { _ in self.finish() }
  }

  private func finish() {
    guard life.stage != .stopped else { return }
    life.stage = .stopped
    statusTask?.cancel()
    losses.killAllPending()
    store?.stop()
    timer?.close()
    for session in sessions.values { session.disconnect() }
    onStopped()
  }
}
