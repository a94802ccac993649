import LockTypes
import ClientProtocol

/// A name as applications choose them.
let lockName = LockName("orders/2024-11-25/customer-4711")

func line(_ text: String) -> [UInt8] { Array((text + "\n").utf8) }

let acquireLine = line(
  #"{"jsonrpc":"2.0","id":1,"method":"acquire","params":{"name":"orders/2024-11-25/customer-4711"}}"#)
let releaseLine = line(
  #"{"jsonrpc":"2.0","id":2,"method":"release","params":{"name":"orders/2024-11-25/customer-4711","token":1764000000000001}}"#
)

/// The codec of the clients' protocol.
var protocolMeasurements: [Measurement] {
  [
    reading("request/acquire", acquireLine),
    reading(
      "request/acquire-with-everything",
      line(
        #"{"jsonrpc":"2.0","id":"request-1","method":"acquire","params":{"name":"orders/2024-11-25/customer-4711","#
          + #""wait_ms":30000,"max_hold_ms":60000,"meta":"nightly report, \"full\"","progress":true}}"#)),
    reading("request/release", releaseLine),
    reading(
      "request/refused", line(#"{"jsonrpc":"2.0","id":1,"method":"acquire","params":{"name":"orders","wait":0}}"#)),
    writing("reply/acquired") {
      $0.acquired(
        id: .integer(1), name: lockName, token: 1_764_000_000_000_001, waitedMilliseconds: 0,
        validMilliseconds: 8_499)
    },
    writing("reply/released") {
      $0.released(id: .integer(2), name: lockName, token: 1_764_000_000_000_001, remaining: 0)
    },
    writing("reply/timeout") {
      $0.failure(id: .string(Array("request-1".utf8)), .timeout) { $0.array("holders") { _ in } }
    },
  ]
}

private func reading(_ name: String, _ line: [UInt8]) -> Measurement {
  Measurement(name: name) {
    var framer = LineFramer()
    var decoder = RequestDecoder()
    return {
      line.withUnsafeBytes { bytes in
        var rest = bytes
        while case .line(let message) = framer.next(from: &rest, { decoder.decode($0) }) { use(message) }
      }
    }
  }
}

private func writing(_ name: String, _ body: @escaping (inout MessageWriter) -> Void) -> Measurement {
  Measurement(name: name) {
    var writer = MessageWriter()
    return {
      body(&writer)
      use(writer.bytes)
      writer.removeAll()
    }
  }
}
