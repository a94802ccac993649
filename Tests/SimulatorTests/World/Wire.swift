/// One TCP connection between a host and the server: bytes arrive in order in each direction, late, or never.
final class Wire {
  struct Direction {
    var sent = 0
    var delivered = 0
    /// Chunks that may still arrive, counted from the first one; what comes after is lost.
    var limit = Int.max
    var lastArrival: Int64 = 0
  }

  let id: Int
  unowned let world: Simulation
  unowned let host: SimulatedHost
  let incarnation: Int
  /// The daemon whose connection it is.
  let me: String
  var toServer = Direction()
  var toHost = Direction()
  /// Whether each side still takes it for open.
  var hostIsOpen = true
  var serverIsOpen = false
  /// Nothing gets through from now on, and neither side is told.
  var isBlackholed = false
  /// Until then the network holds bytes back, which go through late (a partition that heals).
  var heldBackUntil: Int64 = 0
  var client: Int64 = 0
  /// What the stopped server has not read yet.
  var unread: [[UInt8]] = []
  var input: [UInt8] = []
  /// The host's next connection has ended this one.
  var wasKilled = false

  init(id: Int, world: Simulation, host: SimulatedHost) {
    self.id = id
    self.world = world
    self.host = host
    self.incarnation = host.incarnation
    me = host.me
  }

  func sendToServer(_ bytes: [UInt8]) {
    guard hostIsOpen else { return }
    for part in world.split(bytes) { transmit(part, \.toServer) { $0.world.server.received(part, on: $0) } }
  }

  func sendToHost(_ bytes: [UInt8]) {
    guard serverIsOpen else { return }
    for part in world.split(bytes) { transmit(part, \.toHost) { $0.host.received(part, on: $0) } }
  }

  private func transmit(
    _ bytes: [UInt8], _ direction: ReferenceWritableKeyPath<Wire, Direction>, deliver: @escaping (Wire) -> Void
  ) {
    self[keyPath: direction].sent += 1
    if isBlackholed && heldBackUntil == 0 { return }
    let arrival = max(self[keyPath: direction].lastArrival, world.now + world.latency(), heldBackUntil)
    self[keyPath: direction].lastArrival = arrival
    let number = self[keyPath: direction].sent
    world.schedule(at: arrival) { [self] in
      guard number <= self[keyPath: direction].limit else { return }
      self[keyPath: direction].delivered = number
      deliver(self)
    }
  }

  /// Lets a random part of what is under way arrive, and nothing after it.
  func loseSome() {
    let up = world.random.pick(toServer.delivered...max(toServer.delivered, toServer.sent))
    let down = world.random.pick(toHost.delivered...max(toHost.delivered, toHost.sent))
    toServer.limit = min(toServer.limit, up)
    toHost.limit = min(toHost.limit, down)
  }

  /// Both ends are told that the connection is broken, each in its own time.
  func cut() {
    loseSome()
    closeFromHost()
    closeFromServer()
  }

  /// The server is told; what was sent before still arrives.
  func closeFromHost() {
    guard !isBlackholed else { return expireAtServer() }
    let arrival = max(toServer.lastArrival, world.now + world.latency())
    toServer.lastArrival = arrival
    world.schedule(at: arrival) { [self] in world.server.closed(self) }
  }

  /// The host is told.
  func closeFromServer() {
    guard !isBlackholed else { return }
    let arrival = max(toHost.lastArrival, world.now + world.latency())
    toHost.lastArrival = arrival
    world.schedule(at: arrival) { [self] in host.wireClosed(self) }
  }

  /// The server's keepalive finds a peer gone.
  func expireAtServer() {
    world.schedule(after: world.plan.keepaliveMilliseconds * 1000) { [self] in world.server.closed(self) }
  }
}
