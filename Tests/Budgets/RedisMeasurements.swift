import LockEngine
import LockTypes
import RESP
import RedisLeases

let encoder = LeaseCommandEncoder(keyPrefix: "sidelock:", host: "host-a", instance: "0123456789abcdef")

func command(_ parts: String...) -> String {
  "*\(parts.count)\r\n" + parts.map { "$\($0.utf8.count)\r\n\($0)\r\n" }.joined()
}

/// A connection that is through with its handshake.
func readyConnection() -> RedisConnection {
  var connection = RedisConnection(
    configuration: RedisConnectionConfiguration(
      clientName: "sidelock", inbox: encoder.inboxChannel, scripts: RedisScript.leases))
  connection.connected()
  let inbox = String(decoding: encoder.inboxChannel, as: UTF8.self)
  let digests = RedisScript.leases.indices.map { index in
    let digit = String(index, radix: 16)
    return "$40\r\n" + String(repeating: digit, count: 40) + "\r\n"
  }
  let replies =
    "%6\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:8\r\n"
    + "$4\r\nmode\r\n$10\r\nstandalone\r\n$7\r\nmodules\r\n*0\r\n" + "$17\r\nrun_id:0123456789\r\n" + "%0\r\n"
    + digests.joined() + ">3\r\n$9\r\nsubscribe\r\n$\(inbox.utf8.count)\r\n\(inbox)\r\n:1\r\n"
  use(connection.drainOutput { $0.count })
  _ = Array(replies.utf8).withUnsafeBytes { connection.received($0) }
  guard connection.isReady else {
    fail("the connection does not get through its handshake")
  }
  return connection
}

let grantedReply = Array("*4\r\n$7\r\ngranted\r\n$16\r\n1764000000000001\r\n:65536\r\n:0\r\n".utf8)
let releasedReply = Array(":1\r\n".utf8)
let renewedNames = (0..<500).map { LockName("orders/2024-11-25/customer-\($0)") }
let renewedReply = Array(("*500\r\n" + String(repeating: ":1\r\n", count: 500)).utf8)

func message(_ payload: String) -> [UInt8] {
  let inbox = String(decoding: encoder.inboxChannel, as: UTF8.self)
  return Array(
    (">3\r\n$7\r\nmessage\r\n$\(inbox.utf8.count)\r\n\(inbox)\r\n$\(payload.utf8.count)\r\n\(payload)\r\n").utf8)
}

/// RESP3, the connection machine, and the words in which the engine's commands are put.
var redisMeasurements: [Measurement] {
  [
    decoding("resp/granted", grantedReply),
    decoding("resp/integers-500", renewedReply),
    exchanging(
      "redis/acquire",
      .acquire(
        name: lockName, attempt: 4_711, ask: 4_712, isTry: false,
        terms: GrantTerms(epoch: EpochID(number: 12, text: "12:host-a/0123456789abcdef:4503599627370496"))),
      grantedReply),
    exchanging(
      "redis/release", .release(name: lockName, attempt: 4_711, unused: .from(1_764_000_000_000_002)),
      releasedReply),
    exchanging(
      "redis/renew-500", .renew(renewedNames.map { LeaseReference(name: $0, attempt: 4_711) }), renewedReply),
    Measurement(name: "redis/granted-push") {
      var connection = readyConnection()
      let push = message("1;granted 4711 1764000000000001 65536 0;orders/2024-11-25/customer-4711")
      return {
        for action in push.withUnsafeBytes({ connection.received($0) }) {
          if case .message(_, let payload) = action { use(InboxMessage(payload)) }
        }
      }
    },
  ]
}

private func decoding(_ name: String, _ bytes: [UInt8]) -> Measurement {
  Measurement(name: name) {
    var decoder = RESPDecoder()
    return {
      bytes.withUnsafeBytes { decoder.append($0) }
      use(try? decoder.next())
    }
  }
}

/// A command of the engine's on its way out, and its reply on its way in.
private func exchanging(_ name: String, _ command: LeaseCommand, _ reply: [UInt8]) -> Measurement {
  Measurement(name: name) {
    var connection = readyConnection()
    return {
      _ = connection.submit(encoder.encode(command), id: 1)
      use(connection.drainOutput { $0.count })
      for action in reply.withUnsafeBytes({ connection.received($0) }) {
        if case .reply(_, let value) = action { use(LeaseReplyDecoder.decode(value, to: command)) }
      }
    }
  }
}
