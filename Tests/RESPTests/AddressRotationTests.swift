import RESP
import Testing

@Suite struct AddressRotationTests {
  private var rotation = AddressRotation()

  @Test mutating func theResolversOrderDecidesWhereNothingIsKnown() {
    #expect(rotation.candidates(among: ["b", "a", "b", "c"]) == ["b", "a", "c"])
    #expect(!rotation.isRoundOver)
    #expect(rotation.candidates(among: []) == [])
    #expect(rotation.isRoundOver)
  }

  @Test mutating func aReplicaIsLeftForTheOtherAddress() {
    #expect(rotation.candidates(among: ["replica", "primary"]) == ["replica", "primary"])
    rotation.failed("replica", answered: true, reason: "a replica")
    #expect(!rotation.isRoundOver)
    #expect(rotation.candidates(among: ["replica", "primary"]) == ["primary"])
    rotation.succeeded("primary")
    #expect(rotation.candidates(among: ["replica", "primary"]) == ["primary", "replica"])
  }

  @Test mutating func theGoodOneIsFirstUntilItFails() {
    let all = ["a", "b", "c"]
    _ = rotation.candidates(among: all)
    rotation.succeeded("b")
    #expect(rotation.candidates(among: all) == ["b", "a", "c"])
    rotation.failed("b", answered: false, reason: "refused")
    #expect(rotation.candidates(among: all) == ["a", "c"])
  }

  @Test mutating func eachIsTriedOnceARoundAndTheOneThatFailedLongestAgoIsFirst() {
    let all = ["a", "b", "c"]
    _ = rotation.candidates(among: all)
    for address in ["c", "a", "b"] {
      #expect(!rotation.isRoundOver)
      rotation.failed(address, answered: false, reason: "\(address) refuses")
    }
    #expect(rotation.isRoundOver)
    #expect(rotation.reasons == ["a refuses", "b refuses", "c refuses"])
    #expect(rotation.candidates(among: all) == ["c", "a", "b"])
    // The name has come to have another one.
    #expect(rotation.candidates(among: all + ["d"]) == ["d", "c", "a", "b"])
  }

  @Test mutating func onlyWhereNobodyUselessAnsweredOneIsTriedBesideAnother() {
    _ = rotation.candidates(among: ["a", "b"])
    #expect(rotation.mayRace("a"))
    rotation.failed("a", answered: false, reason: "refused")
    #expect(rotation.mayRace("a"))
    rotation.failed("a", answered: true, reason: "a replica")
    #expect(!rotation.mayRace("a"))
    rotation.succeeded("a")
    #expect(rotation.mayRace("a"))
  }

  /// After a failover the one that was a replica is the primary, and the old one may be silent.
  @Test mutating func whatAnAddressWasBeforeTheLastConnectionDoesNotCount() {
    let all = ["primary", "replica"]
    _ = rotation.candidates(among: all)
    rotation.failed("replica", answered: true, reason: "a replica")
    #expect(!rotation.mayRace("replica"))
    rotation.succeeded("primary")
    #expect(rotation.candidates(among: all) == all)
    #expect(rotation.mayRace("replica"))
    rotation.failed("replica", answered: true, reason: "a replica")
    #expect(!rotation.mayRace("replica"))
  }

  @Test mutating func whatTheNameNoLongerMeansIsForgotten() {
    _ = rotation.candidates(among: ["a", "b"])
    rotation.failed("a", answered: true, reason: "a replica")
    #expect(rotation.candidates(among: ["b", "c"]) == ["b", "c"])
    #expect(rotation.candidates(among: ["a", "b"]).contains("b"))
    #expect(rotation.mayRace("a"))
  }
}
