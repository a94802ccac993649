import LockEngine
import LockTypes
import RESP
import RedisLeases

/// A mistake that is planted to see whether the checks find it.
enum Mistake: String, CaseIterable {
  case none
  case releaseIgnoresTheOwner, renewalTakesForeignKeys, counterIsNotKept, acquireIgnoresTheQueue
  case permitsAreNotCounted, readersIgnoreTheWriter, releaseTakesEarlierPermits, conflictIsNotSeen
  case leaseIsCountedTooLong, leaseHasTheLengthOfTheDay, clockStopsWhileSuspended, linkDownIsNotTold
  case waitsAreDatedByOwnClocks, noPlaceBehindOwnReaders, placesAreNotLookedAt, passedOnUnsurely
  // About what Redis forgets.
  case noGrace, graceIsTooShort, graceIgnoresClocks, longestNotCarried, runIdIgnored, passOnInGrace, epochNotNamed
  case reclaimWithoutCompare, noOverride, noFloor, floorPerName, sameIdForLostReply, placesAreTakenAnew
  // About hosts that are taken for dead.
  case lifeIsCountedTooLong, nothingKnownIsDeath
  // About replicas.
  case tooFewAreEnough

  var scripts: [RedisScript] {
    switch self {
    case .none, .leaseIsCountedTooLong, .leaseHasTheLengthOfTheDay, .clockStopsWhileSuspended, .linkDownIsNotTold,
      .waitsAreDatedByOwnClocks, .placesAreNotLookedAt, .graceIsTooShort, .graceIgnoresClocks, .noOverride,
      .noFloor, .floorPerName, .sameIdForLostReply, .placesAreTakenAnew, .lifeIsCountedTooLong, .tooFewAreEnough:
      RedisScript.leases
    case .nothingKnownIsDeath:
      edited(.acquire, "ends ~= nil and ends <= now_ms()", "ends == nil or ends <= now_ms()")
    case .noGrace: edited(.confirmEpoch, "is_free and 'o' or 'g'", "'o'")
    case .longestNotCarried:
      edited(
        .confirmEpoch, "math.max(its_longest, its_grace, before.longest, before.stage == 'g' and before.grace or 0)",
        "its_longest")
    case .runIdIgnored: edited(.confirmEpoch, "run ~= '-' and epoch.run == run", "true")
    case .passOnInGrace: edited(.release, "if is_open and waiting > 0", "if waiting > 0")
    // Whatever epoch it is: a data set that was put in the place of another one has an open one too.
    case .epochNotNamed:
      edited(
        .acquire, "local is_open, is_grace = stage_of(stands, ARGV[10])",
        "local is_open, is_grace = stands and string.find(stands, ';o;', 1, true), stands and string.find(stands, ';g;', 1, true)"
      )
    case .reclaimWithoutCompare:
      edited(.reclaim, "may_replace = is_grace and ARGV[at + 5] == '1'", "may_replace = true")
    case .passedOnUnsurely: edited(.release, "\n    be_sure(its_lease or 10000)", "")
    case .releaseIgnoresTheOwner: edited(.release, "if instance ~= me then return false end", "")
    case .renewalTakesForeignKeys: edited(.renew, "string.sub(value, 1, #mine) == mine", "true")
    case .counterIsNotKept: edited(.acquire, "math.max(counter, token_floor, now[1] * 1000000 + now[2]) + 1", "7")
    case .acquireIgnoresTheQueue: edited(.acquire, "if waiting == 0 and fits(my_mode) then", "if fits(my_mode) then")
    case .permitsAreNotCounted: edited(.acquire, "#holders < tonumber(string.sub(mode, 2))", "true")
    case .readersIgnoreTheWriter:
      edited(
        .acquire, "if waiting == 0 and fits(my_mode) then", "if (waiting == 0 or my_mode == 's') and fits(my_mode) then"
      )
    case .releaseTakesEarlierPermits: edited(.release, "if is_exact then return its_attempt == attempt end", "")
    case .noPlaceBehindOwnReaders:
      edited(.acquire, "\nstand_in_queue(left)", "\nif kept == tonumber(attempt) then stand_in_queue(left) end")
    case .conflictIsNotSeen:
      edited(
        .acquire, "if its_mode == 's' then return mode == 's' end", "if its_mode == 's' then return mode ~= 'x' end")
    }
  }

  /// The scripts with one place of one of them changed, without the quick ways, which would bypass it.
  private func edited(_ name: ScriptName, _ old: String, _ new: String) -> [RedisScript] {
    RedisScript.leases(withQuickWays: false).map { script in
      guard script.name == name else { return script }
      let text = String(decoding: script.source, as: UTF8.self)
      precondition(text.contains(old), "the planted mistake does not fit the script any more")
      return RedisScript(name: name, source: Array(text.replacing(old, with: new).utf8))
    }
  }

  /// What is sent instead of a command.
  func changed(_ command: LeaseCommand, of host: SimulatedHost) -> LeaseCommand {
    if self == .placesAreNotLookedAt, case .checkPlaces = command { return .heartbeat }
    if let changed = changedInEpochs(command, of: host) { return changed }
    let length: (Int64) -> Int64
    switch self {
    case .leaseIsCountedTooLong: length = { $0 / 3 }
    // Whatever length was asked for before under the same attempt.
    case .leaseHasTheLengthOfTheDay: length = { _ in host.leaseMilliseconds }
    default: return command
    }
    return switch command {
    case .acquire(
      let name, let attempt, let ask, let isTry, let terms, let mode, let milliseconds, let kept, let since):
      .acquire(
        name: name, attempt: attempt, ask: ask, isTry: isTry, terms: terms, mode: mode,
        leaseMilliseconds: length(milliseconds), keeping: kept, since: since)
    case .renew(let leases, let milliseconds, let epoch):
      .renew(leases, leaseMilliseconds: length(milliseconds), epoch: epoch)
    default: command
    }
  }

  /// What is sent instead by a host that takes its epochs wrongly; nil: that is not the mistake.
  private func changedInEpochs(_ command: LeaseCommand, of host: SimulatedHost) -> LeaseCommand? {
    switch (self, command) {
    case (.graceIsTooShort, .confirmEpoch(var claim)), (.graceIgnoresClocks, .confirmEpoch(var claim)):
      claim.waitedMilliseconds = claim.waitedMilliseconds * 100 / gracePercent
      return .confirmEpoch(claim)
    case (.longestNotCarried, .confirmEpoch(var claim)):
      claim.graceMilliseconds = claim.longestLeaseMilliseconds
      return .confirmEpoch(claim)
    case (.lifeIsCountedTooLong, .confirmEpoch(var claim)):
      guard case .dead(let milliseconds) = claim.lifeSign else { return nil }
      claim.lifeSign = .dead(afterMilliseconds: milliseconds * 80 / 100)
      return .confirmEpoch(claim)
    case (.sameIdForLostReply, .confirmEpoch(var claim)):
      claim.attempt = 1
      return .confirmEpoch(claim)
    case (.noFloor, .confirmEpoch(var claim)), (.floorPerName, .confirmEpoch(var claim)):
      claim.tokenFloor = 0
      claim.tokenFloorOfNew = 0
      return .confirmEpoch(claim)
    case (
      .placesAreTakenAnew,
      .acquire(let name, let attempt, let ask, let isTry, let terms, let mode, let milliseconds, let kept, _)
    ):
      return .acquire(
        name: name, attempt: attempt, ask: ask, isTry: isTry, terms: terms, mode: mode,
        leaseMilliseconds: milliseconds, keeping: kept)
    case (.noOverride, .reclaim(var leases, let milliseconds, let epoch)):
      for index in leases.indices { leases[index].mayReplace = false }
      return .reclaim(leases, leaseMilliseconds: milliseconds, epoch: epoch)
    case (.noFloor, _): return command.above { _ in 0 }
    case (.floorPerName, _): return command.above { host.world.checker.highestHeard(by: host, $0) }
    default: return nil
    }
  }

  /// How much of a grace is waited for. The engine adds one per cent for clocks that run apart; with one per cent less than
  /// that, a grace lasts as long as the longest lease, if all clocks run alike.
  private var gracePercent: Int64 { self == .graceIsTooShort || self == .graceIgnoresClocks ? 99 : 100 }

  /// What may find it: whoever looks at the epochs themselves sees some mistakes before any harm is done, and these are
  /// there to show that the harm is seen too.
  var showsInHarmAlone: Bool {
    switch self {
    case .noGrace, .graceIgnoresClocks, .runIdIgnored, .passOnInGrace, .epochNotNamed, .longestNotCarried: true
    default: false
    }
  }

  /// Words of the failure that must find it: a mistake that ends a script with an error would show in any case.
  var mustBeFoundBy: String? {
    switch self {
    case .readersIgnoreTheWriter, .acquireIgnoresTheQueue: "had waited longer"
    case .placesAreNotLookedAt: "has slept"
    case .noGrace, .runIdIgnored, .passOnInGrace, .epochNotNamed, .reclaimWithoutCompare: nil
    case .graceIsTooShort: "is open after"
    case .graceIgnoresClocks, .longestNotCarried: "in Redis lock-"
    case .noOverride: "could be kept"
    case .noFloor, .floorPerName: "which was given out before"
    case .sameIdForLostReply: "a second time"
    case .placesAreTakenAnew: "stands behind"
    case .tooFewAreEnough: "have not acknowledged"
    case .none, .releaseIgnoresTheOwner, .renewalTakesForeignKeys, .counterIsNotKept, .permitsAreNotCounted,
      .releaseTakesEarlierPermits, .conflictIsNotSeen, .leaseIsCountedTooLong, .leaseHasTheLengthOfTheDay,
      .clockStopsWhileSuspended, .linkDownIsNotTold, .waitsAreDatedByOwnClocks, .noPlaceBehindOwnReaders,
      .passedOnUnsurely, .lifeIsCountedTooLong, .nothingKnownIsDeath:
      nil
    }
  }

  /// A plan in which the mistake can show.
  func plan(seed: UInt64) -> Plan {
    var plan = Plan(seed: seed)
    if self == .noPlaceBehindOwnReaders { plan.faults = [] }
    if self == .placesAreNotLookedAt { plan.faults = [.evictQueue, .loseEntry, .lostPush] }
    if self == .leaseHasTheLengthOfTheDay { plan.faults = [.leaseChange, .cut] }
    // A failure about replicas would end a run before another mistake shows.
    plan.replicaPercent = self == .tooFewAreEnough ? 60 : 0
    if self == .passedOnUnsurely { plan.faults = [.rightTaken] }
    if self == .readersIgnoreTheWriter || self == .acquireIgnoresTheQueue {
      (plan.faults, plan.sharedPercent) = ([], 60)
    }
    if [.lifeIsCountedTooLong, .nothingKnownIsDeath].contains(self) {
      (plan.leaseMilliseconds, plan.deadHostMilliseconds, plan.linkTimeoutMilliseconds) = (10_000, 1000, 250)
      // Over a slower line no connection would last.
      if plan.latencyMicroseconds.upperBound > 50_000 { plan.latencyMicroseconds = 1000...10_000 }
    } else {
      plan.deadHostMilliseconds = 0
    }
    if let faults = faultsThatShowIt { plan.faults = faults }
    if self == .clockStopsWhileSuspended { (plan.faults, plan.faultEveryMilliseconds) = ([.pauseHost], 100) }
    if self == .graceIgnoresClocks || self == .longestNotCarried { plan.losesFreshLeases() }
    if self == .epochNotNamed || self == .noOverride { plan.changesHands() }
    if self == .sameIdForLostReply {
      (plan.latencyMicroseconds, plan.faultEveryMilliseconds, plan.epochEveryMilliseconds) = (1000...10_000, 30, 0)
    }
    if self == .graceIgnoresClocks { (plan.clocksAreApart, plan.driftMax) = (true, Plan.driftLimit) }
    if self == .longestNotCarried { plan.leasesDiffer = true }
    if self == .noFloor || self == .floorPerName { plan.hasOtherClocks = true }
    if self == .conflictIsNotSeen { (plan.conflictPercent, plan.sharedPercent) = (10, 60) }
    guard self == .waitsAreDatedByOwnClocks, plan.nameCount > 1 else { return plan }
    plan.faults = []
    plan.chainPercent = 40
    plan.cancelPercent = 0
    plan.latencyMicroseconds = 30...60
    return plan
  }

  private var faultsThatShowIt: [Fault]? {
    switch self {
    case .noGrace: [.flushAll, .swapDatabase]
    case .epochNotNamed: [.swapDatabase]
    case .graceIsTooShort: [.flushAll, .pauseHost]
    case .graceIgnoresClocks, .longestNotCarried: [.forgetFreshLease]
    case .runIdIgnored: [.failover, .restartWithOldData]
    case .lifeIsCountedTooLong: [.pauseHost, .cut, .blackhole]
    case .nothingKnownIsDeath: [.evictEpoch]
    case .passOnInGrace: [.failover, .restartWithOldData, .swapDatabase]
    case .noOverride: [.failover, .restartWithOldData]
    case .reclaimWithoutCompare: [.evictLock]
    case .noFloor, .floorPerName: [.restartWithoutData, .failover]
    case .sameIdForLostReply: [.flushAll, .cut]
    case .placesAreTakenAnew: [.flushAll, .restartWithoutData]
    default: nil
    }
  }

  /// What is heard instead of a reply.
  func changed(_ reply: LeaseReply, of host: SimulatedHost) -> LeaseReply {
    if gracePercent < 100, case .epoch(var sight) = reply {
      sight.graceMilliseconds = sight.graceMilliseconds * gracePercent / 100
      return .epoch(sight)
    }
    guard self == .waitsAreDatedByOwnClocks else { return reply }
    func ofThisHost(_ clock: StoreInstant) -> StoreInstant {
      StoreInstant(microseconds: clock.microseconds + Int64(host.index) * 10_000_000)
    }
    return switch reply {
    case .clock(let clock): .clock(ofThisHost(clock))
    case .queued(let holder, let expires, let listeners, let place):
      .queued(
        holderHost: holder, holderExpiresInMilliseconds: expires, listeners: listeners,
        place: place.map { PlaceSight(clock: ofThisHost($0.clock), isNew: $0.isNew) })
    default: reply
    }
  }

  func engineConfiguration(_ plan: Plan, leaseMilliseconds: Int64) -> EngineConfiguration {
    var configuration = plan.engine
    configuration.settings.leaseMilliseconds =
      self == .leaseIsCountedTooLong ? leaseMilliseconds * 3 : leaseMilliseconds
    return configuration
  }
}

extension LeaseCommand {
  /// The same with another floor for tokens. `floor` gives that of a lock.
  fileprivate func above(_ floor: (LockName) -> Token) -> LeaseCommand {
    func terms(_ terms: GrantTerms, _ name: LockName) -> GrantTerms {
      GrantTerms(epoch: terms.epoch, tokenFloor: floor(name))
    }
    return switch self {
    case .acquire(
      let name, let attempt, let ask, let isTry, let its, let mode, let milliseconds, let kept, let since):
      .acquire(
        name: name, attempt: attempt, ask: ask, isTry: isTry, terms: terms(its, name), mode: mode,
        leaseMilliseconds: milliseconds, keeping: kept, since: since)
    case .release(let name, let attempt, let unused, let isExact, let its):
      .release(name: name, attempt: attempt, unused: unused, isExact: isExact, terms: terms(its, name))
    case .downgrade(let name, let attempt, let tokenEnd, let its):
      .downgrade(name: name, attempt: attempt, tokenEnd: tokenEnd, terms: terms(its, name))
    case .reserve(let name, let attempt, let tokenEnd, let its):
      .reserve(name: name, attempt: attempt, tokenEnd: tokenEnd, terms: terms(its, name))
    case .renew, .confirmEpoch, .reclaim, .answerInUse, .heartbeat, .checkPlaces, .clock, .look, .hostMessage: self
    }
  }
}
