import ClientProtocol
import LockEngine
import LockTypes
import Logging

/// Notices that the store has other data than before, and when it grants again: for the log, and for those who watch.
final class RecoveryNews {
  private let logger: Logger
  private let watches: WatchBook
  private var known = StoreStanding()
  /// How many epochs in a row each came soon after the one before, and when the last one came.
  private var epochsInARow = 0
  private var lastEpochAt: BootInstant?
  /// Whether the link is newer than the last look.
  private var isLinkNew = false
  /// The shards whose connections are up, and those that went down.
  private var up: Set<ShardID> = []
  private var down: Set<ShardID> = []
  /// How many of several shards grant nothing.
  private var recovering = 0

  init(logger: Logger, watches: WatchBook) {
    self.logger = logger
    self.watches = watches
  }

  /// The connection to a shard is up.
  func linkCameUp(_ shard: ShardID) {
    let wereDown = !down.isEmpty
    down.remove(shard)
    up.insert(shard)
    // Of several, all have to be.
    guard down.isEmpty, wereDown || up.count == 1 else { return }
    isLinkNew = true
    // Told anew on each link: whoever watches has been told since that it is connected.
    known.graceEnds = nil
    watches.notifyWatchers(.connected)
  }

  /// The connection to a shard is gone.
  func linkWentDown(_ shard: ShardID) {
    let wereUp = down.isEmpty
    up.remove(shard)
    down.insert(shard)
    if wereUp { watches.notifyWatchers(.disconnected) }
  }

  /// The same as ``look(at:now:)`` for a store of several shards, each with its own data.
  func look(at standings: (recovering: Int, last: StoreStanding), now: BootInstant) {
    let before = recovering
    guard standings.recovering != before || standings.last.graceEnds != known.graceEnds else { return }
    recovering = standings.recovering
    known.graceEnds = standings.last.graceEnds
    if let left = standings.last.graceLeftMilliseconds(now: now) {
      if before == 0 {
        logger.notice("\(Self.words)", metadata: ["grace_ms": "\(left)", "parts": "\(recovering)"])
      }
      watches.notifyWatchers(.recovering, retryMilliseconds: left)
    } else if before > 0 {
      logger.info("Redis grants locks again")
      watches.notifyWatchers(.connected)
    }
  }

  /// Looks at the store's data as the engine knows them now. Called in every turn.
  func look(at standing: StoreStanding, now: BootInstant) {
    guard standing != known else { return }
    let before = known
    known = standing
    if standing.epoch != before.epoch {
      let isSoon = lastEpochAt.map { now.milliseconds(since: $0) < Self.calmMilliseconds } ?? false
      epochsInARow = isSoon ? epochsInARow + 1 : 0
      lastEpochAt = now
      if epochsInARow < Self.toldInARow {
        log(standing, before: before.epoch, now: now)
      } else if epochsInARow == Self.toldInARow {
        logger.warning(
          "Redis has other data again and again; nothing new is granted until that ends, and it is not told each time",
          metadata: ["epoch": "\(standing.epoch.number)"])
      }
      isLinkNew = false
    }
    if let left = standing.graceLeftMilliseconds(now: now) {
      watches.notifyWatchers(.recovering, retryMilliseconds: left)
    } else if before.graceEnds != nil {
      if epochsInARow < Self.toldInARow {
        logger.info("Redis grants locks again", metadata: ["epoch": "\(standing.epoch.number)"])
      }
      watches.notifyWatchers(.connected)
    }
  }

  /// An epoch that comes later than that after the one before is told again.
  private static let calmMilliseconds: Int64 = 10_000
  /// So many in a row are told one by one.
  private static let toldInARow = 10

  private func log(_ standing: StoreStanding, before: EpochID, now: BootInstant) {
    let number: Logger.MetadataValue = "\(standing.epoch.number)"
    guard let left = standing.graceLeftMilliseconds(now: now) else {
      return logger.info("joined an epoch of Redis", metadata: ["epoch": number])
    }
    logger.notice(
      "\(Self.words)",
      metadata: ["epoch": number, "grace_ms": "\(left)", "why": "\(reason(before: before).rawValue)"])
  }

  /// How this host came to know of it.
  private enum Reason: String {
    /// It knew no data before.
    case new
    /// When it connected: the server was restarted, or another one took its place.
    case connected
    /// The connection stood.
    case flushed
  }

  private func reason(before: EpochID) -> Reason {
    guard before != .none else { return .new }
    return isLinkNew ? .connected : .flushed
  }

  /// What has happened, for the log and for who waits.
  static let words = "Redis has other data than before; held locks are kept, and nothing new is granted for a while"

  /// What has happened and what to do, for who was refused.
  static func words(leftMilliseconds left: Int64) -> String {
    let seconds = max(1, (left + 999) / 1000)
    return
      "Redis has other data than before; held locks are kept, and new ones are granted in \(seconds) s: try again then"
  }
}
