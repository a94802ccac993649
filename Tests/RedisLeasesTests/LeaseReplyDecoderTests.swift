import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

/// Which reply a command has, by what its script says.
@Suite struct LeaseReplyDecoderTests {
  private let name = LockName("x")
  private var acquire: LeaseCommand {
    .acquire(name: name, attempt: 1, ask: 1, isTry: false, terms: GrantTerms(tokenFloor: 0))
  }
  private var reserve: LeaseCommand { .reserve(name: name, attempt: 1, tokenEnd: 10, terms: GrantTerms(tokenFloor: 1)) }

  private func reply(_ parts: Any...) -> RESPValue { .array(parts.map(value)) }

  private func value(_ part: Any) -> RESPValue {
    if let number = part as? Int { return .integer(Int64(number)) }
    return .blobString(Array("\(part)".utf8))
  }

  private func decode(_ reply: RESPValue, to command: LeaseCommand) -> LeaseReply {
    LeaseReplyDecoder.decode(reply, to: command)
  }

  private func isNotUnderstood(_ reply: LeaseReply) -> Bool {
    if case .failed(let failure) = reply, case .transient(let words) = failure {
      words.hasSuffix("that is not understood")
    } else {
      false
    }
  }

  @Test func anAcquireIsGrantedQueuedOrRefused() {
    #expect(
      decode(reply("granted", "1764000000000001", 65536, 1), to: acquire)
        == .granted(LeaseGrant(token: 1_764_000_000_000_001, tokenCount: 65_536, othersWait: true)))
    #expect(
      decode(reply("queued", "b/2e", -2, 1, "1764000000", "12"), to: acquire)
        == .queued(
          holderHost: "b", holderExpiresInMilliseconds: 0, listeners: 1,
          place: PlaceSight(clock: StoreInstant(microseconds: 1_764_000_000_000_012))))
    #expect(
      decode(reply("queued", "", 9, 0, "1764000000", "12", 1), to: acquire)
        == .queued(
          holderHost: "", holderExpiresInMilliseconds: 9, listeners: 0,
          place: PlaceSight(clock: StoreInstant(microseconds: 1_764_000_000_000_012), isNew: false)))
    #expect(decode(reply("foreign", -1), to: acquire) == .foreign(expiresInMilliseconds: nil))
    #expect(decode(reply("foreign", 500), to: acquire) == .foreign(expiresInMilliseconds: 500))
    #expect(
      decode(reply("foreign", 500, "1764000000", "12"), to: acquire)
        == .foreign(
          expiresInMilliseconds: 500, place: PlaceSight(clock: StoreInstant(microseconds: 1_764_000_000_000_012))))
    #expect(decode(reply("conflict", "p3", 2), to: acquire) == .conflict(.permit(of: 3), listeners: 2))
    #expect(decode(reply("stale", 7), to: acquire) == .stale(attempt: 7))
    for wrong in [
      reply("granted", "x", 1, 1), reply("granted", 1, 1), reply("queued", "b/2e", 1, 1, "1764000000", "1000000"),
      reply("conflict", "y", 1), reply("stale", -1), reply("taken"), reply(), .null, .integer(1),
    ] {
      #expect(isNotUnderstood(decode(wrong, to: acquire)))
    }
  }

  @Test func whatIsReservedIsNoGrantAndNoRenewal() {
    #expect(
      decode(reply("granted", 20, 10, 0), to: reserve)
        == .reserved(LeaseGrant(token: 20, tokenCount: 10, othersWait: false)))
    #expect(decode(.integer(0), to: reserve) == .reserved(nil))
    #expect(decode(reply("foreign", 500), to: reserve) == .foreign(expiresInMilliseconds: 500))
    #expect(isNotUnderstood(decode(.integer(1), to: reserve)))
    #expect(isNotUnderstood(decode(.null, to: reserve)))
  }

  @Test func aRenewalAnswersForEachOfItsLeasesAndForNoOther() {
    let renew = LeaseCommand.renew([LeaseReference(name: name, attempt: 1), LeaseReference(name: name, attempt: 2)])
    #expect(decode(reply(1, 0), to: renew) == .renewed([.held, .lost]))
    #expect(decode(reply(1, "x"), to: renew) == .renewed([.held, .lost]))
    #expect(decode(reply(2, 3), to: renew) == .renewed([.missing, .lost]))
    #expect(decode(reply("other_epoch"), to: renew) == .otherEpoch)
    #expect(isNotUnderstood(decode(reply(1), to: renew)))
    #expect(isNotUnderstood(decode(reply(1, 1, 1), to: renew)))
  }

  @Test func whatWasReclaimedIsAnsweredLikeARenewal() {
    let lease = ReclaimedLease(
      name: name, attempt: 1, mode: .exclusive, firstToken: 1, tokenCount: 5, mayReplace: true)
    for leases in [[lease], [lease, lease]] {
      let reclaim = LeaseCommand.reclaim(leases, leaseMilliseconds: 1000, epoch: .none)
      #expect(decode(reply("other_epoch"), to: reclaim) == .otherEpoch)
      #expect(isNotUnderstood(decode(reply(1, 1, 1), to: reclaim)))
    }
    #expect(
      decode(reply(1, 0), to: .reclaim([lease, lease], leaseMilliseconds: 1000, epoch: .none))
        == .renewed([.held, .lost]))
  }

  @Test func anotherEpochIsToldToWhateverNamesOne() {
    let place = WaitingPlace(name: name, attempt: 1, mode: .shared, leaseMilliseconds: 1000)
    for command in [acquire, reserve, .downgrade(name: name, attempt: 1, tokenEnd: 5), .checkPlaces([place])] {
      #expect(decode(reply("other_epoch"), to: command) == .otherEpoch)
      #expect(decode(reply("other_epoch", 1), to: command) != .otherEpoch)
    }
    #expect(decode(reply("other_epoch"), to: .release(name: name, attempt: 1, unused: .all)) == .done)
  }

  @Test func anEpochIsTold() {
    let confirm = LeaseCommand.confirmEpoch(
      EpochClaim(
        attempt: 1, known: .none, isFirstOfLink: true, longestLeaseMilliseconds: 1, graceMilliseconds: 1, tokenFloor: 0,
        waitedMilliseconds: 0, mayBeFirst: true))
    #expect(
      decode(reply("epoch", "5", "5:a/1f:3", "g", "60000", "10000", "9007199254740991", 1_764_000_000, 12), to: confirm)
        == .epoch(
          EpochSight(
            id: EpochID(number: 5, text: "5:a/1f:3"), isOpen: false, graceMilliseconds: 60_000,
            longestLeaseMilliseconds: 10_000, tokenFloor: 9_007_199_254_740_991,
            clock: StoreInstant(microseconds: 1_764_000_000_000_012))))
    guard case .epoch(let sight) = decode(reply("epoch", 1, "1:a/1f:3", "o", 0, 0, 0, 0, 0), to: confirm) else {
      Issue.record("not understood")
      return
    }
    #expect(sight.isOpen)
    for wrong in [
      reply("epoch", 5, "5:a/1f:3", "x", 1, 1, 1, 1, 1), reply("epoch", 5, "6:a/1f:3", "o", 1, 1, 1, 1, 1),
      reply("epoch", 0, "0:a/1f:3", "o", 1, 1, 1, 1, 1), reply("epoch", -5, "-5:a/1f:3", "o", 1, 1, 1, 1, 1),
      reply("epoch", "9007199254740992", "9007199254740992:a/1f:3", "o", 1, 1, 1, 1, 1),
      reply("epoch", 5, "5:a/1f:3", "o", 9_000_000_000_000, 1, 1, 1, 1),
      reply("epoch", 5, "5:a/1f:3", "o", 1, 9_000_000_000_000, 1, 1, 1),
      reply("epoch", 5, "5:a/1f:3", "o", 1, 1, "9007199254740992", 1, 1),
      reply("epoch", 5, "5:a/1f:3", "o", 1, 1, -1, 1, 1),
      reply("epoch", 5, "5:a/1f:3", "o", -1, 1, 1, 1, 1), reply("epoch", 5, "5:a/1f:3", "o", 1, 1, 1, 1, 1_000_000),
      reply("epoch", 5, "5:a/1f:3", "o", 1, 1, 1, 1), reply("other_epoch"), reply(), .null, .integer(1),
    ] {
      #expect(isNotUnderstood(decode(wrong, to: confirm)))
    }
  }

  @Test func placesAreThoseOfTheCommand() {
    let place = WaitingPlace(name: name, attempt: 1, mode: .shared, leaseMilliseconds: 1000)
    #expect(decode(reply(2), to: .checkPlaces([place, place])) == .lostPlaces([1]))
    #expect(decode(reply(), to: .checkPlaces([place])) == .lostPlaces([]))
    #expect(isNotUnderstood(decode(reply(2), to: .checkPlaces([place]))))
    #expect(isNotUnderstood(decode(reply(0), to: .checkPlaces([place]))))
  }

  @Test func whatSaysNothingIsDone() {
    for command in [
      LeaseCommand.release(name: name, attempt: 1, unused: .all), .downgrade(name: name, attempt: 1, tokenEnd: 5),
      .answerInUse(name: name, ask: 1, inbox: "b/2e"), .heartbeat,
    ] {
      #expect(decode(.integer(1), to: command) == .done)
    }
    #expect(decode(reply("12", "34"), to: .clock) == .clock(StoreInstant(microseconds: 12_000_034)))
  }

  @Test func anErrorAnswersEveryCommandAlike() {
    for command in [acquire, reserve, .release(name: name, attempt: 1, unused: .all), .renew([]), .clock] {
      #expect(decode(.simpleError(Array("OOM no".utf8)), to: command) == .failed(.transient("OOM no")))
    }
  }
}
