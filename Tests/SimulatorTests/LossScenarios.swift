import LockEngine
import LockTypes
import Testing

/// Redis forgets, in each of the ways that there are, and nobody who holds a lock notices.
@Suite struct LossScenarios {
  enum Loss: String, CaseIterable {
    case flush, swap, evictedEpoch, restartWithData, restartEmpty, restartWithOldData, laggingReplica, clockBehind
    case clockAhead

    /// Lets it happen. The server is back a few milliseconds later.
    func strike(_ scene: Scenario) {
      let server = scene.world.server!
      let hour: Int64 = 3_600_000_000
      switch self {
      case .flush:
        scene.world.checker.forgot()
        _ = server.operate(["FLUSHALL"])
      case .swap: server.swapDatabases(with: .nothing)
      case .evictedEpoch: server.redis.evict(scene.world.checker.epochKey)
      case .restartWithData: server.restart(keeping: .all, afterMicroseconds: 5000)
      case .restartEmpty: server.restart(keeping: .nothing, afterMicroseconds: 5000)
      case .restartWithOldData: server.restart(keeping: .old(0), afterMicroseconds: 5000)
      case .laggingReplica: server.restart(keeping: .old(5_000_000), afterMicroseconds: 5000)
      case .clockBehind: server.restart(keeping: .nothing, afterMicroseconds: 5000, clock: -hour)
      case .clockAhead: server.restart(keeping: .all, afterMicroseconds: 5000, clock: hour)
      }
    }
  }

  private func scene(hosts: Int = 2) -> Scenario { Scenario(hosts: hosts, leaseMilliseconds: 1000) }

  /// The holder holds, the waiter waits, and gets the lock when it is given back.
  @Test(arguments: Loss.allCases) func whoHoldsHoldsAndWhoWaitsWaits(_ loss: Loss) throws {
    let scene = scene()
    let idle = scene.holder(1)
    idle.release()
    scene.wait(5)
    scene.world.server.rememberData()
    let holder = scene.holder(0)
    let waiter = scene.client(1)
    waiter.acquire()
    scene.wait(50)
    loss.strike(scene)
    scene.wait(6000)
    #expect(holder.wasToldLost == nil)
    #expect(waiter.holds.isEmpty)
    #expect(scene.holder == "h0/1")
    let token = try #require(holder.holds.first?.token)
    holder.release()
    #expect(scene.timeToGrant(waiter, atMostMilliseconds: 50) != nil)
    #expect(try #require(waiter.holds.first?.token) > token)
    waiter.release()
    scene.wait(5)
    scene.expectNothingLeft()
  }

  /// Who waits on several hosts is served in the order of before, whoever is the first to come back: each of them is, in turn.
  @Test(arguments: Loss.allCases, [1, 2, 3]) func waitersOfSeveralHostsKeepTheirOrder(_ loss: Loss, _ late: Int) throws
  {
    let scene = Scenario(hosts: 4, leaseMilliseconds: 1000) { $0.cohortMilliseconds = 0 }
    let holder = scene.holder(0)
    let waiters = [1, 2].map { waiter(on: $0, in: scene) }
    scene.world.server.rememberData()
    let others = [3, 0].map { waiter(on: $0, in: scene) }
    loss.strike(scene)
    // This one comes back when the others are there.
    scene.cut(late)
    scene.wait(500)
    let newcomer = waiter(on: 1, in: scene)
    scene.wait(3000)
    let all = [holder] + waiters + others + [newcomer]
    for (index, client) in all.enumerated() {
      #expect(all.map { !$0.holds.isEmpty } == all.indices.map { $0 == index })
      client.release()
      scene.wait(60)
    }
    scene.expectNothingLeft()
  }

  /// The same over two losses that follow each other: each with a clock of its own, an hour behind.
  @Test func theyKeepItOverSeveralEpochs() throws {
    let scene = Scenario(hosts: 4, leaseMilliseconds: 1000) { $0.cohortMilliseconds = 0 }
    let holder = scene.holder(0)
    var all = [holder, waiter(on: 1, in: scene)]
    for host in [2, 3] {
      Loss.clockBehind.strike(scene)
      scene.wait(host == 2 ? 3000 : 300)
      all.append(waiter(on: host, in: scene))
    }
    Loss.flush.strike(scene)
    scene.cut(1)
    scene.wait(4000)
    for (index, client) in all.enumerated() {
      #expect(all.map { !$0.holds.isEmpty } == all.indices.map { $0 == index })
      client.release()
      scene.wait(60)
    }
    scene.expectNothingLeft()
  }

  private func waiter(on host: Int, in scene: Scenario) -> SimulatedClient {
    let client = scene.client(host)
    client.acquire()
    scene.wait(20)
    return client
  }

  /// Nothing is granted until everybody who had something has had the time to take it again.
  @Test(arguments: Loss.allCases) func nobodyIsServedInTheGrace(_ loss: Loss) throws {
    let scene = scene()
    let last = scene.holder(1)
    let token = try #require(last.holds.first?.token)
    last.release()
    scene.wait(5)
    scene.world.server.rememberData()
    loss.strike(scene)
    let waiter = scene.client(0)
    waiter.acquire()
    let time = try #require(scene.timeToGrant(waiter, atMostMilliseconds: 3300))
    #expect(time >= 1_000_000)
    #expect(try #require(waiter.holds.first?.token) > token)
    waiter.release()
    scene.wait(5)
    scene.expectNothingLeft()
  }

  /// Redis forgets again and again, at every moment of the graces.
  @Test(arguments: Loss.allCases, [Int64(1), 90, 400, 700, 1015]) func lossesFollowEachOther(
    _ loss: Loss, _ every: Int64
  ) {
    let scene = scene()
    scene.world.server.rememberData()
    let holder = scene.holder(0)
    let waiter = scene.client(1)
    waiter.acquire()
    scene.wait(50)
    for _ in 0..<12 {
      loss.strike(scene)
      scene.wait(every)
    }
    scene.wait(6000)
    #expect(waiter.holds.isEmpty)
    #expect(holder.wasToldLost == nil)
    holder.release()
    #expect(scene.timeToGrant(waiter, atMostMilliseconds: 50) != nil)
    waiter.release()
    scene.wait(5)
    scene.expectNothingLeft()
  }

  /// A holder that hears nothing, and so cannot take its lock again: it is waited for until it must have lost it.
  @Test(arguments: [Loss.flush, .swap, .evictedEpoch]) func whoHearsNothingIsWaitedFor(_ loss: Loss) throws {
    let scene = scene()
    let holder = scene.holder(0)
    scene.wait(5)
    scene.silence(0)
    scene.wait(50)
    loss.strike(scene)
    let waiter = scene.client(1)
    waiter.acquire()
    #expect(scene.world.run(milliseconds: 4000) { holder.wasToldLost != nil || !waiter.holds.isEmpty })
    scene.wait(4000)
    scene.expectSound()
  }
}
