import CLinux
import Glibc
import LockEngine
import LockTypes
import NIOCore
import NIOPosix

/// The clocks of the host.
enum BootClock {
  /// The current moment. The clock goes on while the host is suspended.
  static func now() -> BootInstant {
    var time = timespec()
    clock_gettime(CLOCK_BOOTTIME, &time)
    return BootInstant(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
  }

  /// Microseconds of wall clock time since 1970; for numbers that should look new after a restart, never for arithmetic
  /// on leases.
  static func wallMicroseconds() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1000
  }
}

/// The clock that the driver reads. Tests move one of their own.
struct HostClock: Sendable {
  /// The current moment, as by ``BootClock/now()``.
  let now: @Sendable () -> BootInstant
  /// Wall clock time, as by ``BootClock/wallMicroseconds()``.
  let wallMicroseconds: @Sendable () -> Int64

  static let boot = HostClock(now: BootClock.now, wallMicroseconds: BootClock.wallMicroseconds)
}

/// A timerfd on the boot clock, as a channel of the event loop: the loop's own timers stand still while the host is
/// suspended, and a lease that ended meanwhile must be told lost at once.
final class BootTimer {
  private let descriptor: CInt
  private let channel: any Channel
  private var armedFor: BootInstant?
  private var isClosed = false

  private init(descriptor: CInt, channel: any Channel) {
    self.descriptor = descriptor
    self.channel = channel
  }

  /// Makes a timer that calls `fired` on `loop`.
  static func make(on loop: any EventLoop, fired: @escaping () -> Void) -> EventLoopFuture<NIOLoopBound<BootTimer>> {
    let descriptor = boot_timer_create()
    guard descriptor >= 0 else {
      return loop.makeFailedFuture(IOError(errnoCode: errno, reason: "timerfd_create"))
    }
    let handler = NIOLoopBound(Handler(fired: fired), eventLoop: loop)
    return NIOPipeBootstrap(group: loop)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(handler.value) }
      }
      .takingOwnershipOfDescriptor(input: descriptor)
      .map { NIOLoopBound(BootTimer(descriptor: descriptor, channel: $0), eventLoop: loop) }
  }

  /// Fires at `moment`, or soon if it has passed. A timer armed for an earlier moment stays: firing early does no harm,
  /// and this saves a system call for every deadline that is put off.
  func arm(for moment: BootInstant?, now: BootInstant) {
    guard let moment, !isClosed else { return }
    if let armedFor, armedFor <= moment, armedFor > now { return }
    armedFor = moment
    // The moment 0 would disarm it.
    boot_timer_set(descriptor, max(moment.nanoseconds, 1))
  }

  /// It never fires again. Its descriptor may be another one's from now on.
  func close() {
    isClosed = true
    channel.close(promise: nil)
  }

  private final class Handler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let fired: () -> Void

    init(fired: @escaping () -> Void) {
      self.fired = fired
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      fired()
    }
  }
}
