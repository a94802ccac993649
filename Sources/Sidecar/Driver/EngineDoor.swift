import ClientProtocol
import LockEngine
import LockTypes

/// How the parts of the driver reach the engine. They feed it facts; the core carries out the effects.
final class EngineDoor {
  private unowned var core: SidecarCore?

  /// Leads to the engine of `core`, which owns this door.
  func lead(to core: SidecarCore) { self.core = core }

  /// Feeds the engine a fact, on behalf of `user`; nil: nobody's.
  func feed(_ event: Event, now: BootInstant? = nil, of user: UInt32? = nil) { core?.feed(event, now: now, of: user) }

  /// Feeds the engine a client's request that is answered under `message`, now or later.
  func feed(_ session: ClientSession, _ message: MessageID, _ event: (RequestID) -> Event) {
    core?.feed(session, message, event)
  }

  /// Feeds the engine a fact about the driver, which has no effects.
  func feedAside(_ event: Event) { core?.feedAside(event) }

  /// Feeds the engine what is due, before something is answered without it.
  func feedWhatIsDue(before work: TurnWork) { core?.feedWhatIsDue(before: work) }

  /// From `now` on the loop does `work`.
  func begins(_ work: TurnWork, now: BootInstant) { core?.begins(work, now: now) }

  /// The number of the last request; none is used twice.
  var lastRequest: UInt64 { core?.lastRequest ?? 0 }

  /// From now on requests have higher numbers than this one.
  func go(behind request: UInt64) { core?.go(behind: request) }

  /// A number for a request that the engine is not told of.
  func newRequest() -> RequestID { core?.newRequest() ?? RequestID(0) }
}
