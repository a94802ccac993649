import ClientProtocol
import LockEngine
import LockTypes

/// The way to the engine for the parts of the driver. They tell it facts; the core carries out what it wants done.
final class EngineDoor {
  private unowned var core: SidecarCore?

  /// Leads to the engine of `core`, which owns this door.
  func lead(to core: SidecarCore) { self.core = core }

  /// Tells the engine a fact, on behalf of a user, or nobody's.
  func tell(_ event: Event, now: BootInstant? = nil, of user: UInt32? = nil) { core?.tell(event, now: now, of: user) }

  /// Tells the engine a client's request that is answered under `message`, now or later.
  func tell(_ session: ClientSession, _ message: MessageID, _ event: (RequestID) -> Event) {
    core?.tell(session, message, event)
  }

  /// Tells the engine something about the driver, which has no effects.
  func tellAside(_ event: Event) { core?.tellAside(event) }

  /// Tells the engine that time has passed, before something is answered without it.
  func tellWhatIsDue(before work: TurnWork) { core?.tellWhatIsDue(before: work) }

  /// From `now` on the loop does `work`.
  func begins(_ work: TurnWork, now: BootInstant) { core?.begins(work, now: now) }

  /// The number of the last request; none is used twice.
  var lastRequest: UInt64 { core?.lastRequest ?? 0 }

  /// From now on requests have higher numbers than this one.
  func go(behind request: UInt64) { core?.go(behind: request) }

  /// A number for a request that the engine is not told of.
  func newRequest() -> RequestID { core?.newRequest() ?? RequestID(0) }
}
