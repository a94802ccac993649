/// Every bound of the client protocol, with its unit in its name. `initialize` tells the client most of them.
///
/// A change here goes into `protocol/README.md` and `protocol/openrpc.json`, too.
public enum Limits {
  /// The version of the protocol that this code speaks.
  public static let protocolVersion: Int64 = 1

  /// Bytes of one line, either way, without its line end.
  public static let lineBytesMax = 65_536
  /// Bytes that may come without a line end before the connection is closed.
  public static let unendedBytesMax = 1_048_576
  /// Objects and arrays inside each other, the outermost one included.
  public static let nestingMax = 16

  /// Bytes of a request's `id` when it is a string, as UTF-8 after unescaping.
  public static let idBytesMax = 128
  /// The greatest magnitude of any integer in the protocol: 2^53 - 1, which every JSON parser keeps exact.
  public static let integerMax: Int64 = 9_007_199_254_740_991

  /// Bytes of a lock's name, as UTF-8. A prefix of names may have as many, and may be empty.
  public static let nameBytesMax = 512
  /// Names in one `acquire`.
  public static let namesMax = 64
  /// Bytes of all `names` of one `acquire` together, as written in the request: its reply repeats them and must fit
  /// into a line.
  public static let namesWrittenBytesMax = 60_000
  /// Bytes of an `owner`, as UTF-8.
  public static let ownerBytesMax = 128
  /// The greatest capacity of a counting semaphore.
  public static let permitsMax: Int64 = 1_000_000
  /// Bytes of the `reason` of a `break`, as UTF-8.
  public static let breakReasonBytesMax = 256
  /// Bytes of the name of a session, as `initialize` tells it.
  public static let sessionBytesMax = 64
  /// Watches of one session.
  public static let watchesPerSessionMax = 64
  /// Bytes of the note that a client attaches to a hold, as UTF-8.
  public static let metaBytesMax = 1_024
  /// The longest `wait_ms`, in milliseconds: a year. To wait longer, leave it out.
  public static let waitMillisecondsMax: Int64 = 31_536_000_000
  /// The longest `max_hold_ms`, in milliseconds: a year.
  public static let maxHoldMillisecondsMax: Int64 = 31_536_000_000

  /// Bytes of `client.name` and of `client.version` in `initialize`, each, as UTF-8.
  public static let clientTextBytesMax = 128
  /// The shortest `keepalive_ms`, in milliseconds.
  public static let keepaliveMillisecondsMin: Int64 = 1_000
  /// The longest `keepalive_ms`, in milliseconds: a day.
  public static let keepaliveMillisecondsMax: Int64 = 86_400_000

  /// The greatest number of locks that one `list` may ask for.
  public static let listCountMax: Int64 = 1_000
  /// The number of locks that a `list` without `limit` asks for.
  public static let listCountDefault: Int64 = 100
  /// Bytes of a `cursor`, as UTF-8.
  public static let cursorBytesMax = 2_048

  /// Requests of one session that are not yet answered.
  public static let requestsInFlightMax = 128

  /// Members that one error names; `data.unknown_count` tells how many there were in all.
  public static let reportedNamesMax = 32
  /// Bytes of a client's own text that an error repeats; what is longer is cut and ends in `…`.
  public static let reportedTextBytesMax = 128
  /// Waiters that `inspect` shows.
  public static let shownWaitersMax = 16
  /// Tokens that one reply lists.
  public static let toldTokensMax = 1_024
  /// Holders that the answer to `break` lists as `taken`.
  public static let toldTakenMax = 100
  /// Bytes of a text about a process or host (its command line, its unit) that a reply shows; what is longer is cut.
  public static let shownTextBytesMax = 256

  static let requestsInFlightName: StaticString = "requests_in_flight"

  /// The bounds that `initialize` tells, under its names for them, with their defaults.
  public static let told: [(name: StaticString, limit: Int64)] = [
    ("line_bytes", Int64(lineBytesMax)),
    ("unended_bytes", Int64(unendedBytesMax)),
    ("nesting", Int64(nestingMax)),
    ("id_bytes", Int64(idBytesMax)),
    ("name_bytes", Int64(nameBytesMax)),
    ("names", Int64(namesMax)),
    ("owner_bytes", Int64(ownerBytesMax)),
    ("permits", permitsMax),
    ("meta_bytes", Int64(metaBytesMax)),
    ("reason_bytes", Int64(breakReasonBytesMax)),
    ("wait_ms", waitMillisecondsMax),
    ("max_hold_ms", maxHoldMillisecondsMax),
    ("list_limit", listCountMax),
    (requestsInFlightName, Int64(requestsInFlightMax)),
    ("watches_per_session", Int64(watchesPerSessionMax)),
  ]
}
