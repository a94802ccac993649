import ClientProtocol
import LockEngine
import LockTypes
import RESP
import RedisLeases

/// The whole way of a request through everything of the daemon that does no I/O.
final class RequestPath {
  private let driver: EngineDriver
  private var connection = readyConnection()
  private var framer = LineFramer()
  private var decoder = RequestDecoder()
  private var writer = MessageWriter()
  private var sent: [(id: CommandID, command: LeaseCommand)] = []

  init(_ driver: EngineDriver) {
    self.driver = driver
  }

  /// A line of a client's.
  func receive(_ line: [UInt8]) {
    line.withUnsafeBytes { bytes in
      var rest = bytes
      while case .line(.request(_, let request)) = framer.next(from: &rest, { decoder.decode($0) }) {
        switch request {
        case .acquire(let params): driver.acquire(params.name)
        case .release(let name, _): driver.release(name)
        default: fail("an unexpected request")
        }
        perform()
      }
    }
  }

  /// Bytes of Redis'.
  func receive(fromRedis bytes: [UInt8]) {
    for action in bytes.withUnsafeBytes({ connection.received($0) }) {
      guard case .reply(_, let value) = action, !sent.isEmpty else { fail("an unexpected answer") }
      let (id, command) = sent.removeFirst()
      driver.feed(.replyReceived(.only, id, LeaseReplyDecoder.decode(value, to: command)))
      perform()
    }
  }

  private func perform() {
    for effect in driver.effects {
      switch effect {
      case .reply(_, _, .acquired(let lock)):
        writer.acquired(
          id: .integer(1), name: lock.name, token: lock.token, waitedMilliseconds: lock.waitedMilliseconds,
          validMilliseconds: lock.validMilliseconds)
      case .reply(_, _, .released(let name, let token, let remaining)):
        writer.released(id: .integer(2), name: name, token: token, remaining: Int64(remaining))
      case .send(_, let id, let command):
        sent.append((id, command))
        _ = connection.submit(encoder.encode(command), id: id.rawValue)
      default: fail("an unexpected effect")
      }
    }
    use(writer.bytes)
    writer.removeAll()
    if connection.hasOutput { use(connection.drainOutput { $0.count }) }
  }
}

private let releaseLineWithoutToken = line(
  #"{"jsonrpc":"2.0","id":2,"method":"release","params":{"name":"orders/2024-11-25/customer-4711"}}"#)

/// From the bytes of a client to the bytes for it.
var pathMeasurements: [Measurement] {
  [
    Measurement(name: "path/lingering-cycle") {
      let driver = EngineDriver(tier: .store, lingerMilliseconds: 3_600_000)
      driver.bringBack(lockName)
      let path = RequestPath(driver)
      return {
        path.receive(acquireLine)
        path.receive(releaseLineWithoutToken)
      }
    },
    Measurement(name: "path/cold-cycle") {
      let path = RequestPath(EngineDriver(tier: .store))
      return {
        path.receive(acquireLine)
        path.receive(fromRedis: grantedReply)
        path.receive(releaseLineWithoutToken)
        path.receive(fromRedis: releasedReply)
      }
    },
  ]
}
