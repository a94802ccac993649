/// The messages that the journal's catalogue explains, by their fixed identifiers (journalctl -x).
///
/// Critical messages have none: see `LogOutput`. An identifier means the same for ever: a message that changes its
/// meaning gets a new one. A new message needs an entry in packaging/systemd/sidelock.catalog; a test compares the two.
enum JournalMessage: String, CaseIterable {
  case serving = "serving"
  case stopping = "stopping"
  case stopped = "stopped"
  case handingOver = "leaving clients and locks to the next daemon"
  case takenOver = "took over clients and locks"
  case leftUnusable = "what the daemon before left cannot be used; its locks end by their leases"
  case storeFull = "no room to keep more clients over a restart"
  case keepingFailed = "clients will not be kept over a restart"
  case lockLost = "lock lost"
  case lockBroken = "lock broken"
  case lockHeldLong = "lock held for long"
  case lockTaken = "lock taken away in Redis"
  case sessionBegan = "session began"
  case sessionOver = "session ended"
  case sessionKilled = "session ended by an administrator"
  case traced = "messages are shown to an administrator"
  case lockGranted = "lock granted"
  case lockReleased = "lock released"
  case lockAwaited = "waiting for a lock"
  case lockNotAcquired = "lock not acquired"
  case limitMet = "a limit was met"
  case halfClosedHolder = "a client has half-closed its connection and keeps locks"
  case redisConnected = "connected to Redis"
  case redisLost = "lost the connection to Redis"
  case redisMissing = "no connection to Redis"
  case redisEvicts = "Redis may evict locks when its memory is full; set maxmemory-policy to noeviction"
  case namesake = "another daemon at the same Redis has this host's name"
  case redisForgot = "Redis has other data than before; held locks are kept, and nothing new is granted for a while"
  case redisRefused = "Redis refused a command"
  case slowClientClosed = "closing a client that does not read"
  case sessionEnded = "session ended by the daemon"
  case lossEnforced = "signal to the process of a client that lost a lock"
  case unitsUnknown = "rules name units, and other processes cannot be seen"
  case fileLimitLow = "the limit of open files is below connections_max"
  case drainTimedOut = "not every lock could be given back in time; the rest end by their leases"
  case drainedWithoutRedis = "Redis cannot be reached; locks that were held end by their leases"
  case settingChanged = "setting changed"
  case settingNeedsRestart = "setting changes at the next restart"
  case settingsReloaded = "settings reloaded"
  case settingsRefused = "settings not reloaded"
  case messagesDropped = "log messages dropped"
  case messagesLeftOut = "log messages left out"

  /// The value of MESSAGE_ID: 128 random bits, once and for all.
  var identifier: String {
    switch self {
    case .serving: "72d74bc8ca5c489e9eb20aa0eabae8ec"
    case .stopping: "4b874396e4404a5e8f0e18cb35ff02f0"
    case .stopped: "2e7b905ce4624a0aa500cc0cb0f302cf"
    case .handingOver: "ab7920fbc0894857b71f654452b95a67"
    case .takenOver: "f06e49eb6a4a4f57904cb6175a9a5dc0"
    case .leftUnusable: "c508ca7396574e85b24d89b3c11f98d3"
    case .storeFull: "846b8130f67145dab0034b7292390e2c"
    case .keepingFailed: "c74d091fa64c4e1e9a9dc008ff92e730"
    case .lockLost: "144505c4199e459b96609fdc0c50649f"
    case .lockBroken: "5d0f4e0a1b0c4a6c9a3d3b8a7c5e2f61"
    case .lockHeldLong: "f3a27c6d51e84b0c8d92b6e71a4f0c35"
    case .lockTaken: "e3f0a5d8c17b4d2f9b6e40a7d95c1832"
    case .sessionBegan: "8a87cff8c735a5fce2fb56003d90f621"
    case .sessionOver: "3e3a9f78a784c37f5c80ebdfc37ee80d"
    case .sessionKilled: "7925b7b8379e98c30c8249cd743b90a8"
    case .traced: "dfed9a6fcd2d4b0daf9d5e517f7eb63b"
    case .lockGranted: "a0edb1c73a0fbe732cb1fa7707e72f33"
    case .lockReleased: "f8b0c83272672c26cda7093c9dc21a30"
    case .lockAwaited: "bcdee5e2fbbeeaa4ad0df9b621b95be6"
    case .lockNotAcquired: "71d86a4816c643a66f2bfb23b2b3ad70"
    case .limitMet: "5fe0e6938540b8f3c361e51635dd6676"
    case .halfClosedHolder: "4f2eb678acc8394d56b0fe7bdbb15745"
    case .redisConnected: "08706d9d6a394ee885c1c2b3b5b918d6"
    case .redisLost: "104cf44100214d24b803f909bbbb85b9"
    case .redisMissing: "c49b185a792b489eafa4d895edf0c0cb"
    case .redisEvicts: "cc93864e00e34119a343d0b8bb68d990"
    case .namesake: "d3b1c0a94e7f4b6d8a52c96f17e0843b"
    case .redisForgot: "1f5f0c7b9d0e4b7fa5a1c27a3c6e94d8"
    case .redisRefused: "6461fd157df3470c9578d19e5ba1b145"
    case .slowClientClosed: "697b2d6d770c4f4f9d3b3355cba66ae5"
    case .sessionEnded: "df896c7dd44345f3b9faa5c7fd37a52d"
    case .lossEnforced: "9e6264951b9140d28571bd8ae051fa10"
    case .unitsUnknown: "0ff3822edf074c57a77fdb744a78e819"
    case .fileLimitLow: "ca4df3d12eae4ff883b1809f13968479"
    case .drainTimedOut: "a9c0e18c202f4e76b3e66fc18f1e9224"
    case .drainedWithoutRedis: "96276115717248659003a48e39bf3904"
    case .settingChanged: "7226d29d3a7b47fdad5cef43c8e00cbf"
    case .settingNeedsRestart: "c61d168ff70d46debd7e7a651b05fc11"
    case .settingsReloaded: "7b313b914a044985bb6e64601c7df93d"
    case .settingsRefused: "b1618c29c772411e9cebaec5dd1f7809"
    case .messagesDropped: "1be90df1e8b34925b127679b9a079448"
    case .messagesLeftOut: "a25d6ebd8e3f4a0c9f3a7f0d1c6b52e4"
    }
  }

  /// Those that whoever logs them limits by himself, and those that an administrator alone causes, of which none may be
  /// missing.
  static let limitedElsewhere: Set<String> = Set(
    [
      sessionBegan, sessionOver, lockGranted, lockReleased, lockAwaited, lockNotAcquired, lockLost, lockBroken,
      lockTaken, messagesLeftOut,
    ].map(\.rawValue))
}
