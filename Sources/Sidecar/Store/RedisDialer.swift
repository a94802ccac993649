import Dispatch
import Glibc
import NIOCore
import NIOPosix
import RESP
import RedisTLS
import SystemStrings

/// Makes connections to a server whose name may have several addresses.
///
/// The name is looked up anew each time, because a failover may change it. While a lookup takes long, the addresses of
/// the last one are tried; what it finds is tried beside them. Addresses are tried in turn: the next one begins when
/// one fails or has been silent for a while (RFC 8305), so a dead address costs the others little. The first connection
/// wins.
final class RedisDialer {
  /// How long an address may be silent before the next one is tried beside it, in milliseconds.
  private static let staggerMilliseconds: Int64 = 250
  /// The longest pause before failed addresses are tried again while another one is silent, in milliseconds.
  private static let pauseMillisecondsMax: Int64 = 2000

  /// A connection.
  struct Dialed {
    var channel: any Channel
    var handler: RedisChannelHandler
    /// Which address it leads to.
    var address: String
    /// How long connecting took, in milliseconds: one round trip.
    var milliseconds: Int64
  }

  /// Called exactly once; nil: nothing was reached in this round, and ``reason`` says why.
  typealias Completion = (Dialed?) -> Void

  private let loop: any EventLoop
  private let endpoint: RedisURL.Endpoint
  /// nil: connections are plain.
  private let security: LinkSecurity?
  private let clock: HostClock
  private var rotation = AddressRotation()
  /// The addresses of the last lookup, for when the next one fails or takes long.
  private var lastFound: [SocketAddress] = []
  private var lookupFailure: String?
  /// The lookup that is under way. There is one at a time: those that hang would use up threads.
  private var lookup: EventLoopFuture<Void>?
  private weak var race: Race?

  init(loop: any EventLoop, endpoint: RedisURL.Endpoint, security: LinkSecurity?, clock: HostClock) {
    self.loop = loop
    self.endpoint = endpoint
    self.security = security
    self.clock = clock
  }

  /// Whether all addresses were tried since the last pause, or none can be.
  var isRoundOver: Bool { rotation.isRoundOver || security?.failure != nil }

  /// Why there is no connection: the failures of this round.
  var reason: String {
    if let failure = security?.failure { return failure }
    let all = (lookupFailure.map { [$0] } ?? []) + rotation.reasons
    return all.isEmpty ? "not connected yet" : all.joined(separator: "; ")
  }

  /// Why a server may have closed a connection over which it has said nothing; nil: nobody knows. `scheme`: that of a URL
  /// of this kind with TLS.
  func guess(scheme: String) -> String? {
    guard let security else {
      if case .unix = endpoint { return nil }
      return "the connection was closed without a word: if the server speaks TLS here, write \(scheme)://"
    }
    return security.client?.showsCertificate == false
      ? "the connection was closed without a word: the server may want a client certificate (redis_tls_cert)" : nil
  }

  /// The server at `address` is usable.
  func succeeded(_ address: String) { rotation.succeeded(address) }

  /// What answers at `address` is of no use.
  func failed(_ address: String, _ reason: String) {
    rotation.failed(address, answered: true, reason: rotation.isAlone ? reason : "\(title(of: address)): \(reason)")
  }

  /// Connects to one of the addresses that are left in this round.
  func dial(
    timeoutMilliseconds: Int64, makeHandler: @escaping () -> RedisChannelHandler, completion: @escaping Completion
  ) {
    guard let security else {
      return dial(nil, timeoutMilliseconds: timeoutMilliseconds, makeHandler: makeHandler, completion: completion)
    }
    security.prepare(timeoutMilliseconds: timeoutMilliseconds) { client in
      guard let client else { return completion(nil) }
      self.dial(client, timeoutMilliseconds: timeoutMilliseconds, makeHandler: makeHandler, completion: completion)
    }
  }

  /// The same, with `client` for TLS.
  private func dial(
    _ client: TLSClient?, timeoutMilliseconds: Int64, makeHandler: @escaping () -> RedisChannelHandler,
    completion: @escaping Completion
  ) {
    var isWaiting = true
    let begin = {
      guard isWaiting else { return }
      isWaiting = false
      let race = Race(
        dialer: self, candidates: self.candidates(), client: client, timeoutMilliseconds: timeoutMilliseconds,
        makeHandler: makeHandler, completion: completion)
      self.race = race
      race.next()
    }
    lookUp().assumeIsolated().whenComplete { _ in begin() }
    guard isWaiting else { return }
    let patience = lastFound.isEmpty ? timeoutMilliseconds : Self.staggerMilliseconds
    loop.assumeIsolated().scheduleTask(in: .milliseconds(patience)) {
      if isWaiting { self.lookupFailure = "\(self.host) has not been looked up within \(patience) ms" }
      begin()
    }
  }

  /// The addresses that are left in this round.
  private func candidates() -> [(name: String, address: SocketAddress)] {
    let byName = Dictionary(lastFound.map { (Self.name(of: $0), $0) }) { first, _ in first }
    let names = rotation.candidates(among: lastFound.map { Self.name(of: $0) })
    return names.compactMap { name in byName[name].map { (name, $0) } }
  }

  /// Looks the name up, unless that is under way already; complete when it is done, whatever came of it.
  private func lookUp() -> EventLoopFuture<Void> {
    if let lookup { return lookup }
    let done = addresses().assumeIsolated().map { found in
      self.lookupFailure = nil
      self.lastFound = found
    }.flatMapErrorThrowing { error in
      self.lookupFailure = "\(error)"
    }.nonisolated()
    lookup = done
    done.assumeIsolated().whenComplete { _ in
      self.lookup = nil
      if let race = self.race, race.isOpen { race.add(self.candidates()) }
    }
    return done
  }

  // MARK: Addresses

  /// The addresses of the server as the resolver gives them.
  private func addresses() -> EventLoopFuture<[SocketAddress]> {
    switch endpoint {
    case .unix(let path):
      return loop.makeCompletedFuture {
        guard let address = sockaddr_un(path: path) else { throw SocketAddressError.unixDomainSocketPathTooLong }
        return [SocketAddress(address)]
      }
    case .tcp(let host, let port):
      if let literal = try? SocketAddress(ipAddress: host, port: port) { return loop.makeSucceededFuture([literal]) }
      let promise = loop.makePromise(of: [SocketAddress].self)
      // It may ask servers far away, and take long.
      DispatchQueue.global().async { promise.completeWith(Result { try HostLookup.addresses(of: host, port: port) }) }
      return promise.futureResult
    case .sentinels(let set):
      return loop.makeFailedFuture(HostLookup.Failure(description: "the sentinels of '\(set.master)' were not asked"))
    case .cluster:
      return loop.makeFailedFuture(HostLookup.Failure(description: "the nodes of the cluster were not asked"))
    }
  }

  private var host: String {
    switch endpoint {
    case .unix(let path): SystemText.shown(path)
    case .tcp(let host, _): host
    case .sentinels(let set): set.master
    case .cluster(let seeds): seeds.place
    }
  }

  private static func name(of address: SocketAddress) -> String {
    address.ipAddress ?? address.pathname ?? "\(address)"
  }

  /// What messages call an address.
  fileprivate func title(of address: String) -> String {
    switch endpoint {
    case .unix(let path): SystemText.shown(path)
    case .tcp(let host, let port):
      host == address ? "\(host.contains(":") ? "[\(host)]" : host):\(port)" : "\(host):\(port) (\(address))"
    case .sentinels, .cluster: address
    }
  }

  fileprivate func cannotConnect(_ address: String, _ error: any Error, within milliseconds: Int64) {
    let words: String
    switch error {
    case let error as IOError: words = String(cString: strerror(error.errnoCode))
    case let error as TLSFailure: words = error.description
    case ChannelError.connectTimeout: words = "no connection within \(milliseconds) ms"
    default: words = "\(error)"
    }
    rotation.failed(address, answered: false, reason: "cannot connect to \(title(of: address)): \(words)")
  }

  fileprivate func mayRace(_ address: String) -> Bool { rotation.mayRace(address) }

  fileprivate func connect(
    to address: SocketAddress, client: TLSClient?, timeoutMilliseconds: Int64, handler: RedisChannelHandler
  ) -> EventLoopFuture<any Channel> {
    let handler = NIOLoopBound(handler, eventLoop: loop)
    let secured = client.map { _ in loop.makePromise(of: Void.self) }
    let bootstrap = ClientBootstrap(group: loop)
      .connectTimeout(.milliseconds(timeoutMilliseconds))
      // One read a turn: a turn has no more to deal with, however much there is. That many bytes are the answers about
      // 4,000 leases that were renewed, or some hundred grants.
      .channelOption(.maxMessagesPerRead, value: 1)
      .channelOption(
        .recvAllocator, value: AdaptiveRecvByteBufferAllocator(minimum: 1024, initial: 4096, maximum: 16_384)
      )
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          if let client, let secured {
            try client.secure(
              channel.pipeline.syncOperations, timeoutMilliseconds: timeoutMilliseconds, secured)
          }
          try channel.pipeline.syncOperations.addHandler(handler.value)
        }
      }
    switch endpoint {
    case .unix, .sentinels, .cluster: return bootstrap.connect(to: address)
    case .tcp:
      let connected =
        bootstrap
        .channelOption(.tcpOption(.tcp_nodelay), value: 1)
        .channelOption(.socketOption(.so_keepalive), value: 1)
        .connect(to: address)
      guard let secured else { return connected }
      connected.whenFailure { secured.fail($0) }
      return connected.flatMap { channel in secured.futureResult.map { channel } }
    }
  }

  /// One try of all addresses that are left.
  private final class Race {
    private let dialer: RedisDialer
    private var candidates: [(name: String, address: SocketAddress)]
    /// The names of all candidates so far.
    private var entered: Set<String>
    private let client: TLSClient?
    private let timeoutMilliseconds: Int64
    private let makeHandler: () -> RedisChannelHandler
    private var completion: Completion?
    private var running = 0
    /// Addresses that failed. While another one is silent they are tried again: a server that is restarted refuses for
    /// a moment, and need not wait for a dead address.
    private var failed: [(name: String, address: SocketAddress)] = []
    private var pauseMilliseconds = RedisDialer.staggerMilliseconds
    private var isPausing = false

    init(
      dialer: RedisDialer, candidates: [(name: String, address: SocketAddress)], client: TLSClient?,
      timeoutMilliseconds: Int64, makeHandler: @escaping () -> RedisChannelHandler, completion: @escaping Completion
    ) {
      self.dialer = dialer
      self.candidates = candidates
      entered = Set(candidates.map(\.name))
      self.client = client
      self.timeoutMilliseconds = timeoutMilliseconds
      self.makeHandler = makeHandler
      self.completion = completion
    }

    /// Tries the next address; with none left, and none under way, the race is lost.
    func next() {
      guard completion != nil else { return }
      guard !candidates.isEmpty else { return running == 0 ? finish(nil) : tryFailedAgainSoon() }
      let (name, address) = candidates.removeFirst()
      let handler = makeHandler()
      let began = dialer.clock.now()
      running += 1
      dialer.connect(to: address, client: client, timeoutMilliseconds: timeoutMilliseconds, handler: handler)
        .assumeIsolated().whenComplete { result in
          self.running -= 1
          switch result {
          case .success(let channel):
            guard self.completion != nil else { return channel.close(promise: nil) }
            let milliseconds = self.dialer.clock.now().milliseconds(since: began)
            self.finish(Dialed(channel: channel, handler: handler, address: name, milliseconds: milliseconds))
          case .failure(let error):
            // One that was overtaken has not failed.
            guard self.completion != nil else { return }
            self.dialer.cannotConnect(name, error, within: self.timeoutMilliseconds)
            self.failed.append((name, address))
            self.next()
          }
        }
      // The last one may be silent, and those before it have failed.
      guard let other = candidates.first else { return tryFailedAgainSoon() }
      guard dialer.mayRace(other.name) else { return }
      let left = candidates.count
      dialer.loop.assumeIsolated().scheduleTask(in: .milliseconds(RedisDialer.staggerMilliseconds)) {
        if self.candidates.count == left { self.next() }
      }
    }

    var isOpen: Bool { completion != nil }

    /// A lookup that was not waited for has ended: the new addresses that it found come next.
    func add(_ found: [(name: String, address: SocketAddress)]) {
      let new = found.filter { entered.insert($0.name).inserted }
      candidates = new + candidates
      if let first = new.first, dialer.mayRace(first.name) { next() }
    }

    private func tryFailedAgainSoon() {
      guard !failed.isEmpty, !isPausing else { return }
      isPausing = true
      dialer.loop.assumeIsolated().scheduleTask(in: .milliseconds(pauseMilliseconds)) {
        self.isPausing = false
        self.pauseMilliseconds = min(self.pauseMilliseconds * 2, RedisDialer.pauseMillisecondsMax)
        guard self.completion != nil, self.candidates.isEmpty else { return }
        swap(&self.candidates, &self.failed)
        self.next()
      }
    }

    private func finish(_ dialed: Dialed?) {
      let completion = completion
      self.completion = nil
      completion?(dialed)
    }
  }
}

/// Looks up the addresses of a name.
private enum HostLookup {
  struct Failure: Error, CustomStringConvertible {
    var description: String
  }

  static func addresses(of host: String, port: Int) throws -> [SocketAddress] {
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var list: UnsafeMutablePointer<addrinfo>?
    let status = getaddrinfo(host, String(port), &hints, &list)
    guard status == 0 else {
      throw Failure(description: "cannot find the address of \(host): \(String(cString: gai_strerror(status)))")
    }
    defer { freeaddrinfo(list) }
    var found: [SocketAddress] = []
    var entry = list
    while let info = entry?.pointee {
      entry = info.ai_next
      guard let raw = info.ai_addr else { continue }
      switch info.ai_family {
      case AF_INET:
        raw.withMemoryRebound(to: sockaddr_in.self, capacity: 1) { found.append(SocketAddress($0.pointee)) }
      case AF_INET6:
        raw.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) { found.append(SocketAddress($0.pointee)) }
      default: continue
      }
    }
    guard !found.isEmpty else { throw Failure(description: "\(host) has no address") }
    return found
  }
}
