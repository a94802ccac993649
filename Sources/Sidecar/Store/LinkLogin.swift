import Dispatch
import LockTypes
import NIOCore
import RESP

/// What connections log in with: read anew for each connection and at each reload, from a file also when it has changed, and
/// from a program before what it gave is over. Whoever rotates a password need not tell the daemon.
///
/// While nothing can be read the login of before is used, as long as it is good, and reading is tried again with growing pauses.
final class LinkLogin {
  typealias Reading = LinkReading<LoginReader.Sources, LoginReader.Found>

  /// How often a file is looked at, in milliseconds.
  static let lookMilliseconds: Int64 = 10_000
  /// How long a connection is put off for a reading while there is a login that is good, in milliseconds. A program that hangs must
  /// not cost the leases.
  static let patienceMilliseconds: Int64 = 1000
  /// The first and the longest pause before reading is tried again, in milliseconds.
  static let pauseMillisecondsMin: Int64 = 1000
  static let pauseMillisecondsMax: Int64 = 30_000

  /// Called with each login that was found while no connection is being made.
  var onFound: (RedisLogin) -> Void = { _ in }
  /// Called with the reason when nothing could be read and the login of before is used.
  var onFailure: (String) -> Void = { _ in }
  /// Why nothing could be read the last time; nil if it could.
  private(set) var failure: String?
  /// The login of the last connection, or one that was found later.
  private(set) var current = RedisLogin()

  private let loop: any EventLoop
  private let now: () -> BootInstant
  /// As it is in force now.
  private let source: () -> RedisLoginSource
  private let reading: Reading
  /// Where ``current`` comes from; nil: from the URL, or from nowhere.
  private var known: LoginReader.Sources?
  /// When it is over, and when another one is asked for; nil: nobody knows.
  private var expiry: BootInstant?
  private var refreshAt: BootInstant?
  /// Readings that have failed since the last good one, and logins that were refused since the last that was not.
  private var failures: Int64 = 0
  private var refusals: Int64 = 0
  /// Whether what was read last was refused. The same is refused again at each attempt to connect, which is no news: the next
  /// reading would be put off again and again.
  private var isRefused = false
  /// When the next reading may come by itself, and when a program may be run for another connection.
  private var notBefore = BootInstant(nanoseconds: 0)
  private var timer: Scheduled<Void>?
  private var isStopped = false
  /// Whether nobody connects with it for now.
  private var isResting = false

  init(
    loop: any EventLoop, now: @escaping () -> BootInstant, source: @escaping () -> RedisLoginSource, reading: Reading
  ) {
    self.loop = loop
    self.now = now
    self.source = source
    self.reading = reading
  }

  convenience init(loop: any EventLoop, now: @escaping () -> BootInstant, source: @escaping () -> RedisLoginSource) {
    self.init(
      loop: loop, now: now, source: source,
      reading: Reading(loop: loop) { sources in
        let promise = loop.makePromise(of: LoginReader.Found.self)
        DispatchQueue.global().async { promise.completeWith(Result { try LoginReader.read(sources) }) }
        return promise.futureResult
      })
  }

  /// Finds the login for a connection. The completion is called once; nil: ``failure`` says why there is none.
  func prepare(timeoutMilliseconds: Int64, _ completion: @escaping (RedisLogin?) -> Void) {
    isResting = false
    let source = source()
    guard source.mustBeRead else {
      (current, failure, known) = (source.login(), nil, nil)
      return completion(current)
    }
    // A server that is away must not have a program run, and perhaps fail, at each attempt to connect.
    if !source.command.isEmpty, now() < notBefore, known?.source == source || failures > 0 {
      return completion(failures == 0 || isGood(for: source) ? current : nil)
    }
    var completion: ((RedisLogin?) -> Void)? = completion
    let goesOn = loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.patienceMilliseconds)) { [weak self] in
      if let self, isGood(for: source) { completion.take()?(current) }
    }
    read(source, isForced: true, timeoutMilliseconds: timeoutMilliseconds) { found in
      goesOn.cancel()
      if let completion = completion.take() {
        completion(found ?? (self.isGood(for: source) ? self.current : nil))
      } else if let found, !self.isStopped {
        self.found(found)
      }
    }
  }

  /// Begins with the login of `other`, where that is good and its own is not: what is known need not be found out by each
  /// connection, and may not be to be had just now.
  func take(from other: LinkLogin) {
    let source = source()
    guard source.mustBeRead, !isGood(for: source), other.isGood(for: source) else { return }
    (current, known, expiry, refreshAt) = (other.current, other.known, other.expiry, other.refreshAt)
    notBefore = other.notBefore
  }

  /// Reads it again, because settings were read again.
  func readAgain(timeoutMilliseconds: Int64) {
    let source = source()
    (failures, refusals, isRefused) = (0, 0, false)
    guard source.mustBeRead else {
      timer?.cancel()
      return found(source.login())
    }
    look(isForced: true, timeoutMilliseconds: timeoutMilliseconds)
  }

  /// Redis has refused it, or its user lacks rights: the one that is in the file may be known to Redis in a moment.
  func wasRefused() {
    guard !isRefused else { return }
    isRefused = true
    refusals += 1
    delay()
    arm()
  }

  /// Redis has taken it.
  func wasAccepted() {
    (refusals, isRefused) = (0, false)
    arm()
  }

  func stop() {
    isStopped = true
    timer?.cancel()
  }

  /// Nobody connects with it until it is prepared again: nothing is read.
  func rest() {
    isResting = true
    timer?.cancel()
    timer = nil
  }

  // MARK: Reading

  /// Whether what was read from there may still be used.
  private func isGood(for source: RedisLoginSource) -> Bool {
    known?.source == source && refusals == 0 && expiry.map { now() < $0 } ?? true
  }

  /// Reads; the completion is given the login, or nil when it cannot be read or is the same.
  private func read(
    _ source: RedisLoginSource, isForced: Bool, timeoutMilliseconds: Int64,
    _ completion: @escaping (RedisLogin?) -> Void
  ) {
    let stamp = !isForced && refusals == 0 && known?.source == source ? known?.known : nil
    let isCommand = !source.command.isEmpty
    let patience = isCommand ? Int64(LoginReader.commandSecondsMax) * 1000 + 1000 : timeoutMilliseconds
    reading.read(LoginReader.Sources(source: source, known: stamp), timeoutMilliseconds: patience) { result in
      switch result {
      case .success(.unchanged)?:
        self.failures = 0
        completion(nil)
      case .success(.login(let login, let expiresInSeconds, let stamp))?:
        self.keep(login, LoginReader.Sources(source: source, known: stamp), expiresInSeconds)
        completion(login)
      case .failure(let error)?: self.failed("\(error)", source, completion)
      case nil:
        let what = isCommand ? "redis_credentials_command" : "redis_password_file"
        self.failed("\(what) could not be read within \(patience) ms", source, completion)
      }
      self.arm()
    }
  }

  private func keep(_ login: RedisLogin, _ sources: LoginReader.Sources, _ expiresInSeconds: Int64?) {
    (current, known, failure) = (login, sources, nil)
    failures = 0
    isRefused = false
    let now = now()
    notBefore = now.adding(milliseconds: Self.lookMilliseconds)
    if refusals > 0 { delay() }
    expiry = nil
    refreshAt = nil
    guard let expiresInSeconds else { return }
    let life = expiresInSeconds * 1000
    expiry = now.adding(milliseconds: life)
    // A minute or a fifth of its life before it is over, and for one that is short a third.
    refreshAt = now.adding(milliseconds: life - min(max(60_000, life / 5), life / 3))
    if refusals == 0 { notBefore = min(notBefore, now.adding(milliseconds: life / 3)) }
  }

  private func failed(_ reason: String, _ source: RedisLoginSource, _ completion: (RedisLogin?) -> Void) {
    failures += 1
    delay()
    failure = reason
    if isGood(for: source) { onFailure(reason) }
    completion(nil)
  }

  /// The next reading comes after a pause.
  private func delay() {
    let pause = min(Self.pauseMillisecondsMax, Self.pauseMillisecondsMin << min(max(failures, refusals) - 1, 10))
    notBefore = now().adding(milliseconds: pause)
  }

  // MARK: Looking again

  private func arm() {
    timer?.cancel()
    timer = nil
    let source = source()
    guard !isStopped, !isResting, source.mustBeRead else { return }
    let due: BootInstant
    if failures > 0 || refusals > 0 {
      due = notBefore
    } else if source.command.isEmpty {
      due = now().adding(milliseconds: Self.lookMilliseconds)
    } else if let refreshAt {
      due = refreshAt
    } else {
      return
    }
    // The loop's timers stand still while the host is suspended, so it looks at the clock now and then.
    let milliseconds = max(100, min(due.milliseconds(since: now()) + 1, Self.lookMilliseconds))
    timer = loop.assumeIsolated().scheduleTask(in: .milliseconds(milliseconds)) { [weak self] in
      guard let self, !isStopped else { return }
      if now() >= due { look(isForced: false, timeoutMilliseconds: Self.lookMilliseconds) } else { arm() }
    }
  }

  private func look(isForced: Bool, timeoutMilliseconds: Int64) {
    read(source(), isForced: isForced, timeoutMilliseconds: timeoutMilliseconds) { [weak self] login in
      if let self, let login, !isStopped { found(login) }
    }
  }

  private func found(_ login: RedisLogin) {
    current = login
    onFound(login)
  }
}
