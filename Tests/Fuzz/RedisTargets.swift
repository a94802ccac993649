import LockEngine
import LockTypes
import RESP
@testable import RedisLeases

private let limits = RESPLimits(
  blobBytesMax: 256, lineBytesMax: 128, elementCountMax: 64, replyBytesMax: 1024, depthMax: 4)
/// What the server answers is read alike whatever the scripts say, and the real ones fill most of a run with their text.
private let scripts = RedisScript.leases.map { RedisScript(name: $0.name, source: Array("return 1".utf8)) }
private let encoder = LeaseCommandEncoder(keyPrefix: "sidelock:", host: "a", instance: "0123456789abcdef")

private struct Answers: Equatable {
  var actions: [RedisConnectionAction] = []
  var pending: [UInt64] = []
}

/// A server's bytes, from the handshake on, are taken alike however they are cut; each command is answered once, or is
/// still pending at the end; nothing comes after the end.
func checkConnection(_ input: [UInt8]) {
  var choices = Choices(input)
  let seed = choices.byte()
  let commands = UInt64(choices.index(8))
  let stream = choices.remaining()
  var outcomes: [Answers] = []
  for pieces in cuts(stream, seed: seed) {
    var connection = RedisConnection(
      configuration: RedisConnectionConfiguration(
        clientName: "n", inbox: encoder.inboxChannel, scripts: scripts,
        previousClient: RedisClientIdentity(id: 5, runID: "r"), limits: limits))
    connection.connected()
    var outcome = Answers()
    var next: UInt64 = 0
    for piece in pieces {
      for byte in piece {
        // One byte at a time in both: commands are submitted at the same place of the stream.
        outcome.actions += withUnsafeBytes(of: byte) { connection.received($0) }
        while connection.isReady, next < commands, connection.submit(.plain([Array("PING".utf8)]), id: next) {
          next += 1
        }
      }
      _ = connection.takeOutput()
    }
    outcome.pending = connection.closed()
    check(outcome, submitted: next)
    outcomes.append(outcome)
  }
  if outcomes[0] != outcomes[1] { violated("the cut changes what is read") }
}

private func check(_ outcome: Answers, submitted: UInt64) {
  var answered: [UInt64] = []
  var isOver = false
  for action in outcome.actions {
    if isOver { violated("something came after the end") }
    switch action {
    case .reply(let id, let value):
      answered.append(id)
      decodeEverything(value)
    case .failed, .fault: isOver = true
    case .message(_, let payload): _ = InboxMessage(payload)
    case .ready: break
    }
  }
  if (answered + outcome.pending).sorted() != (0..<submitted).map({ $0 }) {
    violated("a command is answered twice or never")
  }
}

/// A reply may be to any command.
private func decodeEverything(_ value: RESPValue) {
  let name = LockName("x")
  let commands: [LeaseCommand] = [
    .acquire(name: name, attempt: 1, ask: 1, isTry: false, terms: GrantTerms(tokenFloor: 0)),
    .release(name: name, attempt: 1, unused: .all),
    .reserve(name: name, attempt: 1, tokenEnd: 5, terms: GrantTerms(tokenFloor: 1)),
    .renew([LeaseReference(name: name, attempt: 1), LeaseReference(name: name, attempt: 2)]), .look(name: name),
    .heartbeat,
    .checkPlaces([WaitingPlace(name: name, attempt: 1, mode: .permit(of: 2), leaseMilliseconds: 1000)]),
    .downgrade(name: name, attempt: 1, tokenEnd: 5),
    .reclaim(
      [
        ReclaimedLease(name: name, attempt: 1, mode: .shared, firstToken: 1, tokenCount: 5, mayReplace: true)
      ], leaseMilliseconds: 1000, epoch: .none),
    .confirmEpoch(
      EpochClaim(
        attempt: 1, known: .none, isFirstOfLink: true, longestLeaseMilliseconds: 1, graceMilliseconds: 1, tokenFloor: 0,
        waitedMilliseconds: 0, mayBeFirst: true)),
  ]
  for command in commands {
    if case .renewed(let held) = LeaseReplyDecoder.decode(value, to: command), case .renew(let leases, _, _) = command,
      held.count != leases.count
    {
      violated("a renewal answers for others")
    }
    if case .lostPlaces(let numbers) = LeaseReplyDecoder.decode(value, to: command),
      numbers.contains(where: { $0 != 0 })
    {
      violated("a look at places answers for others")
    }
  }
  _ = LeaseReplyDecoder.inspections(value, count: 2, me: encoder.me)
  _ = LeaseReplyDecoder.scan(value, keys: encoder.keys)
}

/// A message to an inbox is understood or is not; what another daemon says is written and read again the same.
func checkInbox(_ input: [UInt8]) {
  if let message = InboxMessage(input), case .lease(.hostMessage(let told)) = message {
    let bytes = HostMessageCodec.encode(told)
    guard let again = HostMessageCodec.decode(bytes[...]) else { violated("what was written is not understood") }
    if again != told { violated("another message was written") }
  }
  if let told = HostMessageCodec.decode(input[...]) {
    guard HostMessageCodec.decode(HostMessageCodec.encode(told)[...]) == told else {
      violated("another message was written")
    }
  }
  if let name = encoder.keys.name(ofLockKey: input), encoder.keys.lockKey(name) != input {
    violated("two keys of one lock")
  }
  let name = LockName(bytes: input)
  if !input.isEmpty, encoder.keys.name(ofLockKey: encoder.keys.lockKey(name)) != name {
    violated("a name is not that of its key")
  }
  var decoder = RESPDecoder(limits: limits)
  input.withUnsafeBytes { decoder.append($0) }
  while let value = try? decoder.next() { decodeEverything(value) }
}

/// What a node tells of its cluster, and what it answers where it does not have a slot. Whatever that is, a cell has a home that
/// is known, or none, and MOVED does not go round for ever.
func checkCluster(_ input: [UInt8]) {
  let asked = RedisAddress(host: "h", port: 1)
  var machine = ClusterMachine(RedisClusterSeeds(addresses: [asked]))
  for part in input.split(separator: 0, omittingEmptySubsequences: false) {
    if let view = ClusterTopology(nodes: Array(part), asked: asked) {
      if !view.nodes.contains(where: { $0.id == view.teller }) { violated("the teller is no node") }
      for node in view.nodes {
        if !(1...65_535).contains(node.address.port) || node.address.host.isEmpty { violated("an address is none") }
        if node.slots.contains(where: { $0.lowerBound < 0 || $0.upperBound >= ClusterSlot.count }) {
          violated("there is no such slot")
        }
      }
      _ = machine.told(view, now: BootInstant(nanoseconds: 0))
    }
    if case .moved(_, let address)? = ClusterRefusal(error: Array(part)) {
      for cell in 0..<ClusterCells.count {
        var moves = 0
        while let home = machine.home(ofCell: cell),
          machine.moved(
            slot: ClusterCells.slots[cell], to: address, by: home, random: 0, now: BootInstant(nanoseconds: 0)) != nil
        {
          moves += 1
          if moves > 2 { violated("MOVED goes round") }
        }
      }
    }
    for cell in 0..<ClusterCells.count {
      if let home = machine.home(ofCell: cell), machine.node(home) == nil { violated("a home is not known") }
    }
    if machine.nextToAsk() == nil { violated("nobody can be asked") }
  }
  if let cell = ClusterCells.cell(ofSlot: ClusterSlot.of(key: input)), !(0..<ClusterCells.count).contains(cell) {
    violated("there is no such cell")
  }
}
