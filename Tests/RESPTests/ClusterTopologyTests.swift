import RESP
import Testing

@Suite struct ClusterTopologyTests {
  static let ids = ["a", "b", "c", "d"].map { String(repeating: $0, count: 40) }
  private let asked = RedisAddress(host: "10.0.0.9", port: 7000)

  private func parsed(_ lines: [String]) -> ClusterTopology? {
    ClusterTopology(nodes: Array((lines.joined(separator: "\n") + "\n").utf8), asked: asked)
  }

  // MARK: Slots

  /// The vector of the specification, and what Redis 7.0 answers to CLUSTER KEYSLOT.
  @Test func slotsAreThoseOfRedis() {
    #expect(ClusterSlot.of(tag: "123456789".utf8) == 0x31C3)
    let known = [
      ("foo", 12182), ("{user1000}.following", 3443), ("foo{}{bar}", 8363), ("foo{{bar}}zap", 4015),
      ("foo{bar}{zap}", 5061), ("", 0), ("{}", 15257), ("a}{b", 11640),
    ]
    for (key, slot) in known { #expect(ClusterSlot.of(key: Array(key.utf8)) == slot, "\(key)") }
  }

  // MARK: Nodes

  @Test func nodesAreRead() throws {
    let ids = Self.ids
    let view = try #require(
      parsed([
        "\(ids[0]) 127.0.0.1:7000@17000 myself,master - 0 1426238316232 7 connected 0-5460 10923 [5461->-\(ids[1])]",
        "\(ids[1]) 10.0.0.2:7001@17001,db-2.example,shard-id=x master,fail? - 0 0 2 connected 5461-10922",
        "\(ids[2]) [::1]:7002@17002,? slave \(ids[0]) 0 1426238316232 7 connected",
        "\(ids[3]) 10.0.0.4:7003@17003 master,fail - 0 0 3 disconnected 10924-16383",
      ]))
    #expect(view.teller == ids[0])
    #expect(
      view.nodes == [
        ClusterTopology.Node(
          id: ids[0], address: RedisAddress(host: "127.0.0.1", port: 7000), isPrimary: true, epoch: 7,
          slots: [0...5460, 10923...10923]),
        ClusterTopology.Node(
          id: ids[1], address: RedisAddress(host: "10.0.0.2", port: 7001), hostname: "db-2.example", isPrimary: true,
          isDown: true, epoch: 2, slots: [5461...10922]),
        ClusterTopology.Node(
          id: ids[2], address: RedisAddress(host: "::1", port: 7002), isPrimary: false, epoch: 7),
        ClusterTopology.Node(
          id: ids[3], address: RedisAddress(host: "10.0.0.4", port: 7003), isPrimary: true, isDown: true,
          hasFailed: true, epoch: 3,
          slots: [10924...16383]),
      ])
  }

  /// One that has met no other does not know its own address; the others cannot be reached yet, or by nobody.
  @Test func whoCannotBeReachedIsNoNode() throws {
    let view = try #require(
      parsed([
        "\(Self.ids[0]) :7000@17000 myself,master - 0 0 0 connected 0-16383",
        "\(Self.ids[1]) 10.0.0.2:7001@17001 handshake - 0 0 0 disconnected",
        "\(Self.ids[2]) :0@0 master,noaddr - 0 0 0 disconnected",
      ]))
    #expect(view.nodes.map(\.address) == [asked])
  }

  @Test(arguments: [
    "", "\n", "OK", "a b c", "\(ids[0]) 127.0.0.1:1@2 master - 0 0 0 connected",
    "\(ids[0].dropLast()) 127.0.0.1:1@2 myself,master - 0 0 0 connected",
    "\(ids[0]) 127.0.0.1:1@2 myself,master - 0 0 x connected",
    "\(ids[0]) 127.0.0.1:0@2 myself,master - 0 0 1 connected",
    "\(ids[0]) 127.0.0.1:1@2 myself,master - 0 0 1 connected\n\(ids[1]) 127.0.0.1:2@2 myself,master - 0 0 1 connected",
  ])
  func whatIsNoViewIsNone(text: String) {
    #expect(ClusterTopology(nodes: Array(text.utf8), asked: asked) == nil)
  }

  @Test func slotsThatThereAreNotAreLeftOut() throws {
    let line =
      "\(Self.ids[0]) h:1@2 myself,master - 0 0 1 connected "
      + "0-16384 5-4 x -3 99999999999999999999 7 1-2-3 [9-<-x]"
    #expect(try #require(parsed([line])).nodes[0].slots == [7...7])
  }

  // MARK: Refusals

  @Test func refusalsAreRead() {
    let known: [(String, ClusterRefusal?)] = [
      ("MOVED 3999 127.0.0.1:6381", .moved(slot: 3999, to: RedisAddress(host: "127.0.0.1", port: 6381))),
      ("MOVED 0 [::1]:7000", .moved(slot: 0, to: RedisAddress(host: "::1", port: 7000))),
      ("MOVED 1 ::1:7000", .moved(slot: 1, to: RedisAddress(host: "::1", port: 7000))),
      ("MOVED 1 :7000", .moved(slot: 1, to: nil)), ("MOVED 16384 h:1", nil), ("MOVED x h:1", nil), ("MOVED", nil),
      ("ASK 3999 127.0.0.1:6381", .isMoving), ("TRYAGAIN Multiple keys request during rehashing of slot", .isMoving),
      ("CLUSTERDOWN The cluster is down", .isDown), ("CLUSTERDOWN Hash slot not served", .isUnserved),
      ("ERR Script attempted to execute a write command while the cluster is down and readonly", .isDown),
      ("ERR Script attempted to access a non local key in a cluster node script: 1b93, on @user_script:1.", .isMoving),
      ("READONLY x", nil), ("ERR x", nil),
    ]
    for (error, refusal) in known { #expect(ClusterRefusal(error: Array(error.utf8)) == refusal, "\(error)") }
  }
}
