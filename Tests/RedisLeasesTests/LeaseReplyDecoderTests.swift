import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

/// Which reply a command has, by what its script says.
@Suite struct LeaseReplyDecoderTests {
  private let name = LockName("x")
  private var acquire: LeaseCommand { .acquire(name: name, attempt: 1, ask: 1, isTry: false, tokenFloor: 0) }
  private var reserve: LeaseCommand { .reserve(name: name, attempt: 1, tokenEnd: 10, tokenFloor: 1) }

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
          clock: StoreInstant(microseconds: 1_764_000_000_000_012)))
    #expect(decode(reply("foreign", -1), to: acquire) == .foreign(expiresInMilliseconds: nil))
    #expect(decode(reply("foreign", 500), to: acquire) == .foreign(expiresInMilliseconds: 500))
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
    #expect(decode(reply(1, 0), to: renew) == .renewed([true, false]))
    #expect(decode(reply(1, "x"), to: renew) == .renewed([true, false]))
    #expect(isNotUnderstood(decode(reply(1), to: renew)))
    #expect(isNotUnderstood(decode(reply(1, 1, 1), to: renew)))
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
