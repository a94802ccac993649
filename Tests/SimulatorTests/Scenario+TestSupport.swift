import LockEngine
import LockTypes
import Testing

/// A simulation that a test scripts: no chance, half a millisecond from a host to Redis and as much back.
struct Scenario {
  let world: Simulation

  init(
    hosts: Int, leaseMilliseconds: Int64 = 10_000, lingerMilliseconds: Int64 = 0,
    change: (inout Plan) -> Void = { _ in }
  ) {
    var plan = Plan.scripted(
      hosts: hosts, leaseMilliseconds: leaseMilliseconds, lingerMilliseconds: lingerMilliseconds)
    change(&plan)
    world = Simulation(plan, traced: true)
    let isReady = { (host: SimulatedHost) in
      host.linkIsUp && host.engine.storeStanding().epoch != .none && host.engine.storeStanding().graceEnds == nil
    }
    let hosts = world.hosts
    let areReady = world.run(milliseconds: 100) { hosts.allSatisfy(isReady) }
    #expect(areReady)
  }

  func client(_ host: Int) -> SimulatedClient {
    let client = SimulatedClient(world: world, host: world.hosts[host])
    world.clients.append(client)
    client.open()
    return client
  }

  /// A client that holds the lock, after a grace where `limit` has room for one.
  func holder(_ host: Int, withinMilliseconds limit: Int64 = 100) -> SimulatedClient {
    let client = client(host)
    client.acquire()
    #expect(world.run(milliseconds: limit) { !client.holds.isEmpty })
    return client
  }

  func wait(_ milliseconds: Int64) { world.run(milliseconds: milliseconds) }

  func waitMicroseconds(_ span: Int64) { world.run(until: world.now + span) }

  /// How long it takes until `client` holds the lock, in microseconds.
  func timeToGrant(_ client: SimulatedClient, atMostMilliseconds limit: Int64) -> Int64? {
    let start = world.now
    return world.run(milliseconds: limit) { !client.holds.isEmpty } ? world.now - start : nil
  }

  func answer(_ client: SimulatedClient, _ request: RequestID) -> Reply? {
    for heard in client.heard { if case .reply(request, let reply) = heard { return reply } }
    return nil
  }

  /// What stands in Redis under the lock's key and in its queue.
  var lock: String? { world.checker.leaseTable()[0].lock?.text }
  var queue: [String] { world.checker.leaseTable()[0].queue.map(\.text) }
  /// The daemon that has the lock, or the first that shares it.
  var holder: String? { world.checker.leaseTable()[0].lock.flatMap { LockValue($0) }?.holders.first?.owner }

  /// Nothing gets through to the host from now on, and neither side is told.
  func silence(_ host: Int) {
    guard let wire = world.hosts[host].currentWire else { return }
    wire.toHost.limit = wire.toHost.delivered
  }

  func cut(_ host: Int) {
    guard let wire = world.hosts[host].currentWire else { return }
    wire.toHost.limit = wire.toHost.delivered
    wire.closeFromHost()
    wire.closeFromServer()
  }

  func expectSound(_ place: SourceLocation = #_sourceLocation) {
    #expect(world.failure == nil, "\(world.lastLines(60))", sourceLocation: place)
  }

  func expectNothingLeft(_ place: SourceLocation = #_sourceLocation) {
    world.checker.verifyDrained()
    expectSound(place)
  }
}

extension SimulatedClient {
  var wasToldLost: LostReason? {
    for case .notification(.lost(_, _, let reason, _, _, _)) in heard { return reason }
    return nil
  }
}
