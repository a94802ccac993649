import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

@Suite struct ClusterCellsTests {
  private func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

  /// They are a format: who has others does not exclude the rest.
  @Test func cellsAreWhatTheyAre() {
    #expect(ClusterCells.count == 64)
    #expect(
      ClusterCells.tags.map(text).joined(separator: " ")
        == "10 18 113 342 29 21 3 122 69 61 72 162 50 58 153 43 11 19 112 343 28 20 2 123 68 60 73 163 51 59 152 42 "
        + "12 102 111 119 133 23 1 9 173 63 70 78 52 142 49 41 13 103 110 118 132 22 0 8 172 62 71 79 53 143 48 40")
    for cell in 0..<64 {
      #expect(ClusterCells.slots[cell] / 256 == cell)
      #expect(ClusterCells.cell(ofSlot: ClusterCells.slots[cell]) == cell)
      #expect(ClusterCells.cell(ofSlot: (ClusterCells.slots[cell] + 1) % 16384) != cell)
    }
    #expect(ClusterCells.cell(of: LockName("foo")) == 12182 / 256)
    #expect(ClusterCells.cell(of: LockName("{a}b")) == ClusterSlot.of(tag: "{a}b".utf8) / 256)
  }

  @Test(arguments: ["orders", "a{b}c", "%7B", "}{", "{}"])
  func allKeysOfALockAreInTheSlotOfItsCell(name: String) {
    let encoders = LeaseEncoders(keyPrefix: "p:", node: "n", host: "h", instance: "1")
    let (lock, cell) = (LockName(name), ClusterCells.cell(of: LockName(name)))
    let keys = encoders[ClusterCells.shard(cell)].keys
    for key in [keys.lockKey(lock), keys.queueKey(lock), keys.fenceKey(lock), keys.epochKey] {
      #expect(ClusterSlot.of(key: key) == ClusterCells.slots[cell])
    }
    #expect(keys.name(ofLockKey: keys.lockKey(lock)) == lock)
    if name == "orders" { #expect(text(keys.lockKey(lock)) == "p:{\(text(ClusterCells.tags[cell]))}{orders}") }
  }

  @Test func messagesAreOfTheCellOfTheirLock() {
    let encoders = LeaseEncoders(keyPrefix: "p:", node: "n", host: "h", instance: "1")
    #expect(text(encoders[ClusterCells.shard(5)].inboxChannel) == "p:inbox:n:h/1")
    let name = LockName("orders")
    let shard = ClusterCells.shard(ClusterCells.cell(of: name))
    #expect(encoders.shard(of: .inUse(name: name, ask: 1), in: []) == shard)
    let news = LeasePush.epochChanged(longestLeaseMilliseconds: 1, epoch: "1:h/1:1")
    let message = { (key: String) in Array("1;epoch 1 1:h/1:1;\(key)".utf8) }
    #expect(encoders.shard(of: news, in: message("p:{\(text(ClusterCells.tags[7]))}epoch")) == ClusterCells.shard(7))
    for key in ["", "p:epoch", "p:{5}epoch", "q:{10}epoch", "p:{10"] {
      #expect(encoders.shard(of: news, in: message(key)) == nil)
    }
    let single = LeaseEncoders(LeaseCommandEncoder(keyPrefix: "p:", host: "h", instance: "1"))
    #expect(single.shard(of: news, in: message("")) == .only)
  }

  @Test func aScanFindsTheLocksOfAllCells() throws {
    let encoders = LeaseEncoders(keyPrefix: "p?:", node: "n", host: "h", instance: "1")
    let step = encoders.scan(cursor: [0x30], namePrefix: Array("a*".utf8), count: 5)
    #expect(step.parts.map(text)[3] == "p\\?:{*}{a\\**}")
    let (right, wrong) = (LockName("orders"), LockName("foo"))
    let key = { (name: LockName, of: LockName) in
      encoders[ClusterCells.shard(ClusterCells.cell(of: of))].keys.lockKey(name)
    }
    let keys = [key(right, right), key(wrong, right), key(right, right) + [0x3A], Array("p?:{x}".utf8), []]
    let reply = RESPValue.array([.blobString([0x37]), .array(keys.map { .blobString($0) })])
    let found = try #require(encoders.scanned(reply))
    #expect(found.cursor == [0x37] && found.names == [right])
  }
}

@Suite struct ClusterMachineTests {
  private static let ids = ["a", "b", "c", "d"].map { String(repeating: $0, count: 40) }
  private var machine = ClusterMachine(RedisClusterSeeds(addresses: [address(9)]))
  private var now = BootInstant(nanoseconds: 0)

  private static func address(_ number: Int) -> RedisAddress { RedisAddress(host: "10.0.0.1", port: 7000 + number) }

  /// Nodes with their epochs and slots, as one of them tells.
  private func view(by teller: Int, _ nodes: [(Int, epoch: UInt64, slots: [ClosedRange<Int>])]) -> ClusterTopology {
    ClusterTopology(
      nodes: nodes.map {
        ClusterTopology.Node(
          id: Self.ids[$0.0], address: Self.address($0.0), isPrimary: true, epoch: $0.epoch, slots: $0.slots)
      }, teller: Self.ids[teller])
  }

  private static let halves: [(Int, epoch: UInt64, slots: [ClosedRange<Int>])] = [
    (0, 1, [0...8191]), (1, 2, [8192...16383]),
  ]

  private mutating func told(_ view: ClusterTopology) -> [Int] { machine.told(view, now: now) }

  private mutating func moved(slot: Int, to address: RedisAddress?, by id: ClusterTopology.NodeID) -> Int? {
    machine.moved(slot: slot, to: address, by: id, random: 0, now: now)
  }

  private func home(_ cell: Int) -> Int? { machine.home(ofCell: cell).flatMap { Self.ids.firstIndex(of: $0) } }

  @Test mutating func theFirstViewIsBelieved() {
    #expect(machine.nextToAsk() == Self.address(9) && machine.orphanCount == 64)
    #expect(told(view(by: 0, Self.halves)) == Array(0..<64))
    #expect(machine.primaries == [Self.ids[0], Self.ids[1]] && machine.orphanCount == 0 && machine.moveCount == 0)
    #expect(machine.cells(of: Self.ids[1]) == Array(32..<64))
    #expect(told(view(by: 1, Self.halves)).isEmpty)
    // Everybody is asked in turn.
    #expect(
      Set((0..<3).compactMap { _ in machine.nextToAsk() }) == [Self.address(0), Self.address(1), Self.address(9)])
  }

  /// Whose answer is awaited, or who is asked in another way, is passed over.
  @Test mutating func whoIsLeftOutIsNotAsked() {
    _ = told(view(by: 0, Self.halves))
    let asked = (0..<3).map { _ in machine.nextToAsk(without: { $0 == Self.address(1) }) }
    #expect(Set(asked) == [Self.address(0), Self.address(9)])
    #expect(machine.nextToAsk(without: { _ in true }) == nil)
  }

  /// The primary that was cut off goes on to tell how things were.
  @Test mutating func anEarlierClaimIsNotBelieved() {
    _ = told(view(by: 0, Self.halves))
    let after = [Self.halves[1], (2, epoch: 3, slots: [0...8191])]
    #expect(told(view(by: 1, after)) == Array(0..<32))
    #expect(home(0) == 2 && machine.moveCount == 32)
    for _ in 0..<2 { #expect(told(view(by: 0, Self.halves)).isEmpty) }
    #expect(home(0) == 2 && told(view(by: 1, after)).isEmpty)
    for _ in 0..<5 { #expect(told(view(by: 0, Self.halves + [(2, epoch: 0, slots: [])])).isEmpty) }
    // It has heard of it.
    #expect(told(view(by: 0, after)).isEmpty)
  }

  @Test mutating func whoHadItCanSayThatItIsGone() {
    _ = told(view(by: 0, Self.halves))
    #expect(told(view(by: 1, [(0, 1, []), Self.halves[1]])).isEmpty)
    #expect(told(view(by: 0, [(0, 1, []), Self.halves[1]])) == Array(0..<32))
    #expect(machine.orphanCount == 32)
    #expect(told(view(by: 0, [(0, 1, []), (1, 2, [0...16383])])) == Array(0..<32))
    #expect(machine.orphanCount == 0)
  }

  /// A cluster that was made anew counts from the beginning.
  @Test mutating func aClusterThatWasMadeAnewIsBelievedInTheEnd() {
    _ = told(view(by: 0, [(0, 8, [0...16383])]))
    // Its node is not known there at all.
    var anew = view(by: 1, [(1, 1, [0...16383])])
    anew.nodes[0].address = Self.address(0)
    for _ in 0..<2 { #expect(told(anew).isEmpty) }
    #expect(told(view(by: 0, [(0, 8, [0...16383])])).isEmpty)
    for _ in 0..<2 { #expect(told(anew).isEmpty) }
    #expect(told(anew) == Array(0..<64))
    _ = moved(slot: ClusterCells.slots[3], to: nil, by: Self.ids[1])
    #expect(home(3) == nil)
    for _ in 0..<2 { #expect(told(view(by: 2, [(1, 1, []), (2, 0, [0...16383])])).isEmpty) }
    #expect(told(view(by: 2, [(1, 1, []), (2, 0, [0...16383])])) == [3])
  }

  /// An address was given to a node of another cluster, or the URL names nodes of two.
  @Test mutating func anotherClusterIsNotBelieved() {
    _ = told(view(by: 0, Self.halves))
    let other = view(by: 2, [(2, 90, [0...8191]), (3, 91, [8192...16383])])
    for _ in 0..<5 {
      #expect(told(other).isEmpty && machine.isToldOfAnother)
      #expect(told(view(by: 1, Self.halves)).isEmpty && !machine.isToldOfAnother)
    }
    for _ in 0..<5 { #expect(told(other).isEmpty && machine.isToldOfAnother) }
    #expect(home(0) == 0 && machine.node(Self.ids[2]) == nil)
    // One that shares a node with this one is the same.
    #expect(told(view(by: 2, [Self.halves[1], (2, 90, [0...8191])])) == Array(0..<32))
  }

  /// `CLUSTER DELSLOTS` and `ADDSLOTS` give away by hand what a dead primary had, and no node's epoch changes.
  @Test mutating func slotsOfADeadPrimaryAreGivenAwayByHand() {
    _ = told(view(by: 0, Self.halves))
    var after = view(by: 0, [(0, 1, [0...16383]), (1, 2, [])])
    for _ in 0..<5 { #expect(told(after).isEmpty) }
    after.nodes[1].hasFailed = true
    for _ in 0..<2 { #expect(told(after).isEmpty) }
    #expect(told(after) == Array(32..<64))
  }

  /// A node that was taken out of its cluster serves nothing, and says nothing about which one is meant.
  @Test mutating func aNodeThatIsAloneIsNoCluster() {
    #expect(told(view(by: 3, [(3, 0, [])])).isEmpty)
    #expect(told(view(by: 0, Self.halves)) == Array(0..<64))
    #expect(told(view(by: 3, [(3, 0, [])])).isEmpty && machine.isToldOfAnother)
    #expect(told(view(by: 0, Self.halves)).isEmpty && machine.orphanCount == 0)
  }

  // MARK: CLUSTERDOWN

  @Test mutating func whatAPrimaryRefusesIsNotServed() {
    _ = told(view(by: 0, Self.halves))
    machine.refused(cell: 5, by: Self.ids[1], isOfNode: true, words: "no")
    #expect(!machine.isAnyRefused)
    machine.refused(cell: 5, by: Self.ids[0], isOfNode: false, words: "CLUSTERDOWN Hash slot not served")
    #expect(machine.refusal(ofCell: 5) == "10.0.0.1:7000: CLUSTERDOWN Hash slot not served")
    #expect(machine.refusal(ofCell: 4) == nil)
    // It says that of all that it has, and takes it back the same way.
    machine.refused(cell: 6, by: Self.ids[0], isOfNode: true, words: "CLUSTERDOWN The cluster is down")
    #expect((0..<32).allSatisfy { machine.refusal(ofCell: $0) != nil })
    #expect((32..<64).allSatisfy { machine.refusal(ofCell: $0) == nil })
    machine.refused(cell: 7, by: Self.ids[0], isOfNode: false, words: "CLUSTERDOWN Hash slot not served")
    machine.answered(cell: 40)
    #expect(machine.refusal(ofCell: 6) != nil)
    machine.answered(cell: 6)
    #expect((0..<64).filter { machine.refusal(ofCell: $0) != nil } == [7])
    machine.answered(cell: 7)
    #expect(!machine.isAnyRefused)
  }

  @Test mutating func slotsThatNobodyServesAreNamed() {
    _ = told(view(by: 0, Self.halves))
    let slot = ClusterCells.slots[5]
    _ = moved(slot: slot, to: nil, by: Self.ids[0])
    #expect(machine.orphanWords == "no primary of the cluster serves slot \(slot), where a part of the locks is")
    _ = moved(slot: ClusterCells.slots[7], to: nil, by: Self.ids[0])
    #expect(
      machine.orphanWords == "no primary of the cluster serves slot \(slot) and 1 more, where parts of the locks are")
  }

  /// What it has refused is nothing that the next one refuses.
  @Test mutating func aRefusalGoesWithThePrimary() {
    _ = told(view(by: 0, Self.halves))
    machine.refused(cell: 5, by: Self.ids[0], isOfNode: true, words: "no")
    _ = told(view(by: 1, [Self.halves[1], (2, epoch: 3, slots: [0...8191])]))
    #expect(!machine.isAnyRefused)
    machine.refused(cell: 5, by: Self.ids[2], isOfNode: false, words: "no")
    _ = moved(slot: ClusterCells.slots[5], to: nil, by: Self.ids[2])
    #expect(!machine.isAnyRefused)
  }

  // MARK: MOVED

  @Test mutating func whatAPrimarySaysOfItsOwnSlotIsBelievedAtOnce() {
    _ = told(view(by: 0, Self.halves))
    let slot = ClusterCells.slots[5]
    #expect(moved(slot: slot + 1, to: Self.address(1), by: Self.ids[0]) == nil)
    #expect(moved(slot: slot, to: Self.address(1), by: Self.ids[1]) == nil)
    #expect(home(5) == 0)
    #expect(moved(slot: slot, to: Self.address(1), by: Self.ids[0]) == 5)
    #expect(home(5) == 1 && machine.moveCount == 1)
    // The other nodes have not heard of it.
    #expect(told(view(by: 0, [(0, 1, [0...8191]), (1, 3, [8192...16383] + [slot...slot])])).isEmpty)
  }

  /// Two that send a command to each other.
  @Test mutating func aLoopEndsWithNobodyUntilSomebodyTells() {
    _ = told(view(by: 0, Self.halves))
    let slot = ClusterCells.slots[5]
    #expect(moved(slot: slot, to: Self.address(1), by: Self.ids[0]) == 5)
    #expect(moved(slot: slot, to: Self.address(0), by: Self.ids[1]) == 5)
    #expect(home(5) == nil && machine.orphanCount == 1)
    #expect(moved(slot: slot, to: Self.address(0), by: Self.ids[1]) == nil)
    #expect(told(view(by: 1, Self.halves)) == [5])
    #expect(home(5) == 0 && !machine.isAnyRefused)
    // One that has carried out a command is believed again.
    machine.answered(cell: 5)
    #expect(moved(slot: slot, to: Self.address(1), by: Self.ids[0]) == 5)
    #expect(home(5) == 1)
  }

  /// Nobody mends what they say of each other: the part rests, for longer each time, whatever is told of it.
  @Test mutating func whoIsSentInACircleRests() {
    _ = told(view(by: 0, Self.halves))
    let slot = ClusterCells.slots[5]
    var rests: [Int64] = []
    for round in 0..<12 {
      let teller = home(5) ?? -1
      #expect(moved(slot: slot, to: Self.address(1 - teller), by: Self.ids[teller]) == 5)
      if round == 0 { continue }
      #expect(home(5) == nil)
      let began = now
      while home(5) == nil {
        _ = told(view(by: 1, Self.halves))
        if home(5) == nil { now = now.adding(milliseconds: 25) }
      }
      rests.append(now.milliseconds(since: began))
      #expect(machine.isSentInCircle(5) == (round >= 3) && (machine.refusal(ofCell: 5) != nil) == (round >= 3))
    }
    #expect(rests == [0, 25, 50, 100, 200, 400, 800, 1000, 1000, 1000, 1000])
    let words = "10.0.0.1:7000 and 10.0.0.1:7001 each say that the other one has slot \(slot)"
    #expect(machine.refusal(ofCell: 5)?.hasPrefix(words) == true)
    // The others are where they were.
    #expect(machine.orphanCount == 0 && home(4) == 0)
    machine.answered(cell: 5)
    #expect(!machine.isAnyRefused && !machine.isSentInCircle(5))
    #expect(moved(slot: slot, to: Self.address(1), by: Self.ids[0]) == 5)
    #expect(home(5) == 1)
  }

  @Test mutating func aPrimaryThatIsNotKnownHasToBeToldOf() {
    _ = told(view(by: 0, Self.halves))
    #expect(moved(slot: ClusterCells.slots[5], to: Self.address(3), by: Self.ids[0]) == 5)
    #expect(home(5) == nil)
    let slot = ClusterCells.slots[5]
    #expect(told(view(by: 0, Self.halves + [(3, epoch: 4, slots: [slot...slot])])) == [5])
    #expect(home(5) == 0 || home(5) == 3)
  }
}
