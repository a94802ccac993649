public import Logging
import NIOCore
import NIOPosix
public import SystemdSupport

/// The sidecar: a socket for clients, one connection to Redis, and the lock engine between them, on one event loop.
public final class Sidecar: Sendable {
  private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
  private let loop: any EventLoop
  private let socket: ListeningSocket
  private let core: NIOLoopBoundBox<SidecarCore?>
  private let mustStop: NIOLoopBoundBox<Bool>
  private let configuration: SidecarConfiguration
  private let notifier: Notifier
  private let logger: Logger

  /// Takes the socket's path, or the socket that was handed over; nobody is served before ``run()``.
  ///
  /// - Throws: ``SocketInUse`` when another daemon serves there, ``SocketUnavailable`` when the socket cannot be made.
  public init(configuration: SidecarConfiguration, notifier: Notifier, logger: Logger) throws {
    var configuration = configuration
    if let descriptor = configuration.listeningDescriptor {
      socket = ListeningSocket(handedOver: descriptor)
      configuration.socketPath = socket.path
    } else {
      socket = try ListeningSocket(path: configuration.socketPath, mode: configuration.socketMode)
    }
    self.configuration = configuration
    self.notifier = notifier
    self.logger = logger
    loop = group.next()
    core = .makeEmptyBox(eventLoop: loop)
    mustStop = .makeBoxSendingValue(false, eventLoop: loop)
  }

  /// Serves until it is asked to stop, and then returns. Blocks the calling thread.
  ///
  /// - Throws: what kept it from serving.
  public func run() throws {
    let stopped = loop.makePromise(of: Void.self)
    let started = loop.flatSubmit {
      // A signal may come before there is anything to stop.
      if self.mustStop.value {
        stopped.succeed()
        return self.loop.makeSucceededVoidFuture()
      }
      let core = SidecarCore(
        configuration: self.configuration, loop: self.loop, logger: self.logger, notifier: self.notifier)
      core.onStopped = { stopped.succeed() }
      self.core.value = core
      return core.start(on: self.socket)
    }
    defer { socket.remove() }
    do {
      try started.wait()
    } catch {
      stopped.succeed()
      throw error
    }
    try stopped.futureResult.wait()
    try group.syncShutdownGracefully()
  }

  /// Asks ``run()`` to give back every lock, tell every client, and return. From any thread, at any time.
  public func requestStop() {
    loop.execute {
      self.mustStop.value = true
      self.core.value?.stop()
    }
  }

  /// Uses new settings where that is possible while it serves: `connectionsMax`, `lingerMilliseconds`,
  /// `cohortHandoversMax` and `cohortMilliseconds`; the rest of `configuration` is left as it is. Then tells the
  /// service manager that the reload is over. From any thread, at any time.
  ///
  /// - Parameters:
  ///   - configuration: nil when the settings could not be used; everything stays as it is.
  ///   - note: what the status line says about it until the next reload; nil for nothing.
  public func reload(_ configuration: SidecarConfiguration?, note: String?) {
    loop.execute { self.core.value?.reload(configuration, note: note) }
  }
}
