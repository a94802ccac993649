import LockEngine
import LockTypes
import Testing

/// What other lock systems got wrong, scripted. The numbers are the rows of the list of pitfalls that the project
/// keeps; what is tested elsewhere is not here.
@Suite struct PitfallScenarios {
  /// 1: a release falls between the answer "taken" and the moment at which the waiter becomes known.
  @Test(arguments: stride(from: -2000, through: 2000, by: 100).map { $0 })
  func aReleaseAroundTheMomentOfAskingLosesNoWakeUp(_ offsetMicroseconds: Int) throws {
    let scene = Scenario(hosts: 2)
    let holder = scene.holder(0)
    let waiter = scene.client(1)
    scene.wait(5)
    if offsetMicroseconds < 0 {
      holder.release()
      scene.waitMicroseconds(Int64(-offsetMicroseconds))
      waiter.acquire()
    } else {
      waiter.acquire()
      scene.waitMicroseconds(Int64(offsetMicroseconds))
      holder.release()
    }
    let time = try #require(scene.timeToGrant(waiter, atMostMilliseconds: 1000))
    // Two trips to Redis and back at the most: the ask that is queued, and the release that passes the lock on.
    #expect(time <= 2000)
    scene.expectSound()
  }

  /// The other host's answer takes a whole round trip more than Redis' reply.
  @Test(arguments: [250_000, 500_000, 900_000])
  func aTryOverASlowLinkGetsALeaseThatNobodyUses(_ latencyMicroseconds: Int64) throws {
    let scene = Scenario(hosts: 2, lingerMilliseconds: 60_000)
    let holder = scene.holder(0)
    for _ in 0..<2 {
      holder.release()
      scene.wait(5)
      holder.acquire()
      #expect(scene.timeToGrant(holder, atMostMilliseconds: 100) != nil)
    }
    holder.release()
    scene.wait(5)
    #expect(scene.holder == "h0/1")
    scene.world.latencyFactor = latencyMicroseconds / 500
    let client = scene.client(1)
    client.acquire(waitMilliseconds: 0)
    #expect(scene.timeToGrant(client, atMostMilliseconds: 10_000) != nil)
    scene.expectSound()
  }

  /// 2: the message that wakes a waiter is lost with its connection.
  @Test func aGrantThatIsLostWithTheConnectionIsFoundAfterTheReconnect() throws {
    let scene = Scenario(hosts: 2)
    let holder = scene.holder(0)
    let waiter = scene.client(1)
    waiter.acquire()
    scene.wait(5)
    scene.silence(1)
    holder.release()
    scene.wait(5)
    #expect(scene.holder == "h1/1")
    scene.cut(1)
    // The backoff of the reconnect, but not a whole lease.
    let time = try #require(scene.timeToGrant(waiter, atMostMilliseconds: 1000))
    #expect(time < 250_000)
    scene.expectSound()
  }

  /// 2: the connection is gone while the lock is passed on, and nobody listens when the message is sent.
  @Test func aWaiterWhoseHostReconnectsStandsInTheQueueAgain() throws {
    let scene = Scenario(hosts: 2)
    let holder = scene.holder(0)
    let waiter = scene.client(1)
    waiter.acquire()
    scene.wait(5)
    scene.cut(1)
    scene.wait(2)
    holder.release()
    scene.wait(2)
    #expect(scene.lock == nil)
    #expect(scene.timeToGrant(waiter, atMostMilliseconds: 250) != nil)
    scene.expectSound()
  }

  /// 3: nobody announces an expiry; the waiting host has its own timer.
  @Test func theLockOfADeadMachineIsTakenWhenItsLeaseEnds() throws {
    let scene = Scenario(hosts: 2, leaseMilliseconds: 1000) { $0.keepaliveMilliseconds = 60_000 }
    _ = scene.holder(0)
    let waiter = scene.client(1)
    waiter.acquire()
    scene.wait(5)
    scene.world.hosts[0].crash(silently: true)
    let time = try #require(scene.timeToGrant(waiter, atMostMilliseconds: 5000))
    #expect((900_000...1_010_000).contains(time))
    scene.expectSound()
  }

  /// 4: an acquire whose reply was lost is asked again.
  @Test func anAcquireThatIsRepeatedCountsOnce() throws {
    let scene = Scenario(hosts: 1)
    let client = scene.client(0)
    scene.silence(0)
    client.acquire()
    scene.wait(5)
    let first = try #require(scene.lock)
    scene.cut(0)
    #expect(scene.timeToGrant(client, atMostMilliseconds: 1000) != nil)
    #expect(scene.lock == first)
    client.release()
    scene.wait(5)
    scene.expectNothingLeft()
  }

  /// 5: a time-out does not mean that the lock was not taken.
  @Test func aLockThatWasTakenUnheardIsGivenBack() throws {
    let scene = Scenario(hosts: 2)
    let client = scene.client(0)
    scene.silence(0)
    let request = client.acquire(waitMilliseconds: 50)
    scene.wait(60)
    guard case .refused = scene.answer(client, request) else {
      Issue.record("\(String(describing: scene.answer(client, request)))")
      return
    }
    #expect(scene.holder == "h0/1" || scene.lock == nil)
    scene.cut(0)
    #expect(scene.world.run(milliseconds: 1000) { scene.world.hosts[0].linkIsUp })
    scene.wait(2)
    #expect(scene.lock == nil)
    let other = scene.client(1)
    other.acquire(waitMilliseconds: 0)
    #expect(scene.timeToGrant(other, atMostMilliseconds: 10) != nil)
    scene.expectSound()
  }

  /// 7: a wait is withdrawn at every moment of its life, by cancelling it or by hanging up.
  @Test(arguments: stride(from: 0, through: 2500, by: 100).map { $0 }, [false, true])
  func aWaitThatIsWithdrawnAtAnyMomentLeavesNothing(_ offsetMicroseconds: Int, _ byHangingUp: Bool) {
    for isHeld in [false, true] {
      let scene = Scenario(hosts: 2)
      let holder = isHeld ? scene.holder(1) : nil
      let client = scene.client(0)
      scene.wait(5)
      let request = client.acquire()
      scene.waitMicroseconds(Int64(offsetMicroseconds))
      if byHangingUp {
        client.close()
      } else if client.holds.isEmpty {
        client.cancel(request)
      } else {
        client.release()
      }
      scene.wait(5)
      #expect(scene.queue == [])
      #expect(scene.holder?.hasPrefix("h0") != true)
      holder?.release()
      scene.wait(5)
      scene.expectNothingLeft()
    }
  }

  /// 8: a renewal and the release cross.
  @Test(arguments: stride(from: -1500, through: 1500, by: 100).map { $0 })
  func aRenewalAroundTheReleaseDoesNotBringTheLockBack(_ offsetMicroseconds: Int) {
    let scene = Scenario(hosts: 2, leaseMilliseconds: 3000)
    let start = scene.world.now
    let holder = scene.holder(0)
    // The lease counts from the acquire, and is renewed a third of it later.
    scene.world.run(until: start + 1_000_000 + Int64(offsetMicroseconds))
    holder.release()
    scene.wait(4)
    #expect(scene.lock == nil)
    scene.wait(4000)
    #expect(scene.lock == nil)
    scene.expectNothingLeft()
  }

  /// 12: the lease counts from the moment of sending, not from the reply.
  @Test func aReplyThatComesAfterTheLeaseIsNoGrant() throws {
    let scene = Scenario(hosts: 1, leaseMilliseconds: 1000) { $0.linkTimeoutMilliseconds = 10_000 }
    let client = scene.client(0)
    scene.wait(5)
    let start = scene.world.now
    scene.world.hosts[0].currentWire?.toHost.lastArrival = start + 1_200_000
    let request = client.acquire()
    #expect(scene.timeToGrant(client, atMostMilliseconds: 5000) != nil)
    #expect(scene.world.now > start + 1_200_000)
    guard case .acquired(let acquired) = scene.answer(client, request) else {
      Issue.record("not granted")
      return
    }
    #expect((800...850).contains(acquired.validMilliseconds ?? 0))
    scene.expectSound()
  }

  /// 12: half of the lease was spent on the way, and the client is told what is left.
  @Test func aSlowReplyShortensWhatTheClientIsTold() throws {
    let scene = Scenario(hosts: 1, leaseMilliseconds: 1000) { $0.linkTimeoutMilliseconds = 10_000 }
    let client = scene.client(0)
    scene.wait(5)
    scene.world.hosts[0].currentWire?.toHost.lastArrival = scene.world.now + 400_000
    let request = client.acquire()
    scene.wait(401)
    guard case .acquired(let acquired) = scene.answer(client, request) else {
      Issue.record("not granted")
      return
    }
    #expect((449...450).contains(acquired.validMilliseconds ?? 0))
    scene.expectSound()
  }

  /// 13: no clock of a host is compared with Redis' clock.
  @Test func anHourBetweenTheClocksChangesNothing() {
    let histories = [Int64(0), 3_600_000_000, -3_600_000_000].map { offset -> [[SimulatedClient.Heard]] in
      let scene = Scenario(hosts: 2, leaseMilliseconds: 1000)
      scene.world.server.stepClock(byMicroseconds: offset)
      let holder = scene.holder(0)
      let waiter = scene.client(1)
      waiter.acquire()
      scene.wait(2000)
      holder.release()
      scene.wait(2000)
      waiter.release()
      scene.wait(5)
      scene.expectNothingLeft()
      return [holder, waiter].map { client in client.heard.map { Self.shifted($0, by: -offset) } }
    }
    #expect(histories[0] == histories[1])
    #expect(histories[0] == histories[2])
  }

  /// 16: tokens follow Redis' clock and move with it.
  private static func shifted(_ heard: SimulatedClient.Heard, by offset: Int64) -> SimulatedClient.Heard {
    switch heard {
    case .reply(let id, .acquired(var acquired)):
      acquired.token += offset
      return .reply(id, .acquired(acquired))
    case .reply(let id, .released(let name, let token, let remaining)):
      return .reply(id, .released(name: name, token: token + offset, remaining: remaining))
    case .reply, .notification: return heard
    }
  }

  /// 15: a suspended host wakes up; whatever comes first, the loss is told first.
  @Test(arguments: UInt64(1)...8)
  func afterASuspendLostIsToldBeforeAnythingElse(_ seed: UInt64) {
    let scene = Scenario(hosts: 2, leaseMilliseconds: 1000) { $0.seed = seed }
    let holder = scene.holder(0)
    let neighbour = scene.client(0)
    let waiter = scene.client(1)
    waiter.acquire()
    scene.wait(5)
    scene.world.hosts[0].pause()
    scene.wait(2000)
    #expect(!waiter.holds.isEmpty)
    // The daemon hears what its clients do meanwhile when it goes on.
    let attempt = neighbour.acquire(waitMilliseconds: 0)
    let release = holder.release()
    scene.world.hosts[0].resume()
    scene.wait(50)
    guard case .notification(.lost(_, _, .leaseExpired, 0, _, _))? = holder.heard.dropFirst().first else {
      Issue.record("\(holder.heard)")
      return
    }
    #expect(scene.answer(holder, release) == .refused(.lost(.leaseExpired)))
    #expect(scene.answer(neighbour, attempt) != nil)
    scene.expectSound()
  }

  /// 16: between any two grants Redis loses everything, or is started anew, or the counter alone is gone.
  @Test func tokensIncreaseWhateverRedisForgets() throws {
    let scene = Scenario(hosts: 2)
    var last: Token = 0
    for round in 0..<40 {
      let client = scene.holder(round % 2, withinMilliseconds: 25_000)
      let token = try #require(client.holds.first?.token)
      #expect(token > last)
      last = token
      client.release()
      client.close()
      scene.wait(5)
      switch round % 4 {
      case 0: _ = scene.world.server.operate(["FLUSHALL"])
      case 1: scene.world.server.redis.evict("sl:{lock-0}:fence")
      case 2: scene.world.server.stepClock(byMicroseconds: -2_000_000)
      default:
        scene.world.server.restart(keeping: round % 8 == 3 ? .nothing : .all, afterMicroseconds: 50_000)
        scene.wait(100)
        #expect(scene.world.run(milliseconds: 1000) { scene.world.hosts.allSatisfy(\.linkIsUp) })
      }
      if round % 4 == 2 {
        // The counter outlives a clock that is set back; it is not lost as well within that time.
        let next = scene.holder(0, withinMilliseconds: 25_000)
        let token = try #require(next.holds.first?.token)
        #expect(token > last)
        last = token
        next.release()
        next.close()
        scene.world.server.stepClock(byMicroseconds: 2_000_000)
        scene.wait(5)
      }
    }
    scene.expectNothingLeft()
  }
}
