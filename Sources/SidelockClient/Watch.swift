import SystemStrings

/// Which locks a watch is about.
public enum WatchTarget: Hashable, Sendable {
  /// The lock of this name.
  case name(String)
  /// All locks whose name begins so; with an empty prefix all locks.
  case prefix(String)

  /// Whether both are about the same locks, whose names are bytes.
  public static func == (a: WatchTarget, b: WatchTarget) -> Bool {
    switch (a, b) {
    case (.name(let a), .name(let b)), (.prefix(let a), .prefix(let b)): ExactText.isSame(a, b)
    case (.name, .prefix), (.prefix, .name): false
    }
  }

  /// Hashes the bytes.
  public func hash(into hasher: inout Hasher) {
    switch self {
    case .name(let name): hasher.combine(ExactText(name))
    case .prefix(let prefix): hasher.combine(ExactText(prefix))
    }
  }

  /// The parameters of `watch`.
  package var params: JSONValue {
    switch self {
    case .name(let name): ["name": .string(name)]
    case .prefix(let prefix): ["prefix": .string(prefix)]
    }
  }
}

/// What a watch tells.
public enum WatchEvent: Hashable, Sendable {
  /// Something happened to a lock.
  case lock(LockEvent)
  /// What the daemon has of its store has changed.
  case backend(BackendState)
  /// The daemon is about to stop.
  case draining

  /// The event in a notification, and the watch that it is for, where nil means all watches; nil when it is for no
  /// watch.
  package static func event(method: String, params: JSONValue) -> (event: WatchEvent, watch: Int64?)? {
    switch method {
    case "event":
      guard let watch = params["watch"]?.intValue, let event = LockEvent(params) else { return nil }
      return (.lock(event), watch)
    case "backend": return (.backend(BackendState(rawValue: params["state"]?.stringValue ?? "")), nil)
    case "draining": return (.draining, nil)
    default: return nil
    }
  }
}

/// Whether a daemon has its store. New states may come with newer daemons.
public struct BackendState: RawRepresentable, Hashable, Sendable {
  /// The name as it stands in the protocol.
  public var rawValue: String

  /// The state of this name.
  public init(rawValue: String) {
    self.rawValue = rawValue
  }

  /// It reaches it.
  public static let connected = BackendState(rawValue: "connected")
  /// It does not.
  public static let disconnected = BackendState(rawValue: "disconnected")
  /// It reaches it, and the store has other data than before: who holds a lock keeps it, and nothing is granted yet.
  public static let recovering = BackendState(rawValue: "recovering")
}

/// Something that happened to a lock. What does not belong to its kind is nil.
public struct LockEvent: Hashable, Sendable {
  /// The stable name of what happened: `acquired`, `released`, `lost`, `waiting`, `gave_up`, `remote`; newer daemons may
  /// tell of more.
  public var kind: String
  /// The lock.
  public var name: String
  /// The session that it happened to, as the daemon names it.
  public var session: String?
  /// The token of the hold.
  public var token: Int64?
  /// How it is held, with `acquired`.
  public var mode: LockMode?
  /// Why it was lost, with `lost`.
  public var reason: String?
  /// How many wait on this host, with `waiting` and `gave_up`.
  public var waiters: Int64?
  /// The other host that holds it, with `remote`.
  public var host: String?

  init?(_ params: JSONValue) {
    guard let kind = params["kind"]?.stringValue, let name = params["name"]?.stringValue else { return nil }
    self.kind = kind
    self.name = name
    session = params["session"]?.stringValue
    token = params["token"]?.intValue
    mode = LockMode(params)
    reason = params["reason"]?.stringValue
    waiters = params["waiters"]?.intValue
    host = params["host"]?.stringValue
  }
}

/// What happens to locks, as it happens, until the watch or its client's connection ends. For one reader.
public struct Watch: AsyncSequence, Sendable {
  /// What a watch gives.
  public typealias Element = WatchEvent
  /// It only ends.
  public typealias Failure = Never
  /// Gives one event after the other.
  public typealias AsyncIterator = AsyncStream<WatchEvent>.Iterator

  /// How many events wait for a reader; beyond that the oldest are dropped.
  public static let bufferedEventsMax = 4096

  let events: AsyncStream<WatchEvent>

  /// Begins to read.
  public func makeAsyncIterator() -> AsyncStream<WatchEvent>.Iterator {
    events.makeAsyncIterator()
  }
}
