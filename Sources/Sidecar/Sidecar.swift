import CEventLoop
public import DaemonSettings
import Glibc
import LockEngine
public import Logging
import NIOCore
import NIOPosix
public import SystemdSupport
import SystemStrings

/// The sidecar: a socket for clients, one connection to Redis, and the lock engine between them, on one event loop.
public final class Sidecar: Sendable {
  private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
  let loop: any EventLoop
  private let socket: ListeningSocket
  let life: NIOLoopBoundBox<Lifecycle?>
  private let mustStop: NIOLoopBoundBox<Bool>
  private let configuration: SidecarConfiguration
  /// The tokens to give without Redis; nil with it.
  private let tokens: LocalTokenReservation?
  private let left: LeftDescriptors
  private let notifier: Notifier
  private let logger: Logger

  /// Takes the socket's path, or the socket that was handed over; nobody is served before ``run()``.
  ///
  /// - Parameter left: what the service manager kept of a daemon before this one.
  /// - Throws: ``SocketInUse`` when another daemon serves there, ``SocketUnavailable`` when the socket cannot be made,
  ///   ``LocalTokensUnavailable`` when tokens might not rise.
  public init(
    configuration: SidecarConfiguration, left: LeftDescriptors = LeftDescriptors([]), notifier: Notifier, logger: Logger
  ) throws {
    self.left = left
    var configuration = configuration
    if let descriptor = configuration.listeningDescriptor {
      socket = ListeningSocket(handedOver: descriptor)
      configuration.settings.socketPath = socket.path
    } else {
      let settings = configuration.settings
      socket = try ListeningSocket(path: settings.socketPath, mode: settings.socketMode, group: settings.socketGroup)
    }
    do {
      tokens =
        switch configuration.settings.backend {
        case .local:
          try LocalTokenReservation.begin(
            configuration.settings, wallMicroseconds: BootClock.wallMicroseconds(), logger: logger)
        case .redis: nil
        }
    } catch {
      socket.remove()
      throw error
    }
    if socket.isForRootAlone {
      logger.info(
        "only root may connect",
        metadata: [
          "socket": "\(SystemText.shown(socket.path))",
          "help": "--socket-group GROUP lets its members connect, --socket-mode 0666 everybody of this host",
        ])
    }
    self.configuration = configuration
    self.notifier = notifier
    self.logger = logger
    loop = group.next()
    life = .makeEmptyBox(eventLoop: loop)
    mustStop = .makeBoxSendingValue(false, eventLoop: loop)
  }

  /// Serves until asked to stop. Blocks the calling thread. The event loop is not shut down; it ends with the process.
  ///
  /// - Throws: what kept it from serving.
  public func run() throws {
    let stopped = loop.makePromise(of: Void.self)
    let started = loop.flatSubmit {
      event_shares_begin()
      // A signal may come before there is anything to stop.
      if self.mustStop.value {
        stopped.succeed()
        return self.loop.makeSucceededVoidFuture()
      }
      let store = DescriptorStore { name in getenv(name).map { SystemText.text(cString: $0) } }
      let predecessor = Predecessor.read(self.left, self.configuration, store, logger: self.logger)
      var tokens = self.tokens
      do { try tokens?.goBehind(SavedState.nextLocalToken(numbers: predecessor?.numbers ?? [])) } catch {
        return self.loop.makeFailedFuture(error)
      }
      let life = Lifecycle(
        configuration: self.configuration, loop: self.loop, logger: self.logger, notifier: self.notifier,
        predecessor: predecessor, store: store, tokens: tokens)
      life.onStopped = { stopped.succeed() }
      self.life.value = life
      // The loop goes round until the process ends, and may have something to do for it at any moment: a turn to end, a
      // connection that closes, an answer of Redis. So it is never freed, however this ends.
      _ = Unmanaged.passRetained(life)
      return life.start(on: self.socket, predecessor: predecessor)
    }
    defer { socket.remove() }
    started.whenFailure { stopped.fail($0) }
    // Other threads (signals, `/proc`, the resolver) hand results to the loop at any moment. On a loop that is shut
    // down NIO writes an error to stderr, and traps where that fails. So the loop is not shut down.
    try stopped.futureResult.wait()
  }

  /// Asks ``run()`` to give back every lock, tell every client, and return. From any thread, at any time.
  public func requestStop() {
    loop.execute {
      self.mustStop.value = true
      self.life.value?.stop()
    }
  }

  /// Asks ``run()`` to return when nobody has said whether another daemon follows. Clients and locks are left to one
  /// that may follow, as by ``requestHandOver(to:)``; where that is impossible, everything is given back as by
  /// ``requestStop()``. From any thread, at any time.
  ///
  /// - Parameter next: the settings of the daemon that may follow; nil when they are wrong or unknown.
  public func requestEnd(before next: Settings?) {
    loop.execute {
      self.mustStop.value = true
      self.life.value?.end(before: next)
    }
  }

  /// Asks ``run()`` to leave clients and locks to the daemon that follows, and to return. Nothing happens where no
  /// service manager keeps them, or where the next daemon's locks would be other ones. From any thread, at any time.
  ///
  /// - Parameter next: the settings of the next daemon; nil when they are wrong or unknown: it goes on with this one's.
  public func requestHandOver(to next: Settings?) {
    loop.execute {
      self.life.value?.handOverForRestart(to: next)
    }
  }

  /// Uses other settings from now on. Then tells the service manager that the reload is over. From any thread, at any
  /// time.
  ///
  /// - Parameters:
  ///   - settings: nil when the settings could not be used; everything stays as it is.
  ///   - saved: all settings for the daemon that follows, as ``SidecarConfiguration/savedSettings``.
  ///   - note: what the status line says about it until the next reload; nil for nothing.
  public func reload(_ settings: LiveSettings?, saved: [UInt8], note: String?) {
    loop.execute { self.life.value?.reload(settings, saved: saved, note: note) }
  }
}
